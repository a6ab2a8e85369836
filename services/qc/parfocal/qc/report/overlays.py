"""The pictures of single images that kinds of quality control of objects put into their reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from parfocal.runtime.report.content import Block, Picture
from parfocal.runtime.store.evaluations import METRICS_FILE, EvaluationSummary

_MOST_OVERLAYS: Final = 6


def worst_overlays(folder: Path, summary: EvaluationSummary) -> Iterator[Block]:
    """Yield `folder`/overlays/IMAGE.png of the worst images, but for the very worst, which has a figure of its own."""
    scores = summary.scores((folder / METRICS_FILE).read_text(encoding="utf-8"))["prediction"]
    primary = summary.primary
    worst_first = sorted(scores, key=lambda image: scores[image][primary.key])
    paths = {image: folder / "overlays" / f"{image}.png" for image in worst_first}
    shown = [image for image, path in paths.items() if path.exists()][1 : _MOST_OVERLAYS + 1]
    for image in shown:
        yield Picture(paths[image], f"{image}: {primary.title} {primary.text(scores[image][primary.key])}.", small=True)
