"""Names as people give them are drawn as they are, and no report loses a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import SERVICE
from matplotlib.figure import Figure

from parfocal.runtime.methods.implementation import Example
from parfocal.runtime.store.manifests import KeptWeights, ModelManifest
from parfocal.runtime.training.report import write_training_report

ROWS = [{"epoch": n, "loss": 1 / n, "val_loss": 2 / n, "learning_rate": 1e-3, "seconds": 1.5} for n in (1, 2)]


@pytest.mark.parametrize(
    "name", ["Ba$$in_00", "100$%$ serum", "$\\frac{$", "a$b", "_hidden", "x^2_{i}", "{} %s {0}", "\\$", "µ–é"]
)
def test_names_are_drawn_as_they_are(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    drawn: list[str] = []
    text, suptitle = Figure.text, Figure.suptitle

    def note(how: Any) -> Any:
        def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
            made = how(self, *arguments, **keywords)
            if name in made.get_text():
                drawn.append(made.get_text())
                assert not made.get_parse_math()
            return made

        return call

    monkeypatch.setattr(Figure, "text", note(text))
    monkeypatch.setattr(Figure, "suptitle", note(suptitle))
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)
    examples = (Example(name, "source", image), Example(name, "target", image))
    assert write_training_report(tmp_path, model, SERVICE.method("fake-2d"), ROWS, examples) == ""
    assert (tmp_path / "training_report.pdf").read_bytes().startswith(b"%PDF")
    assert len(drawn) >= 2


def test_a_report_that_cannot_be_drawn_is_a_warning(tmp_path: Path) -> None:
    shapeless = Example("a", "source", np.zeros((0, 16), np.uint16))  # no pixels to draw
    told = write_training_report(tmp_path, model_of("a"), SERVICE.method("fake-2d"), ROWS, [shapeless])
    assert "training.csv" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training.csv"]


def model_of(name: str) -> ModelManifest:
    """Return a model of a dataset and with a warning of that name."""
    return ModelManifest(
        project="p",
        model="m",
        version=1,
        service="fake",
        method="fake-2d",
        job="j",
        parameters={"source": name},
        axes="YX",
        normaliser={"rule": "percentile"},
        dataset_uri=f"s3://d/p/{name}/1",
        weights={"best": KeptWeights(epoch=1, metric="val_loss", value=2.0)},
        epochs=2,
        warnings=(f"{name} was left out",),
    )
