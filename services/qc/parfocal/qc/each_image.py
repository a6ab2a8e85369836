"""The loop of an evaluation: every test image scored on all cores, in order, while the job says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from parfocal import v1
from parfocal.qc.job import Item
from parfocal.qc.metrics.parallel import map_bounded, workers_for
from parfocal.runtime.jobs.context import JobContext

Scored = TypeVar("Scored")


def score_images(
    context: JobContext,
    items: Sequence[Item],
    score: Callable[[Item], Scored],
    shown: Callable[[Scored], Mapping[str, float]],
) -> Iterator[Scored]:
    """Yield what `score` returns for each image, in their order, and report it.

    Parameters
    ----------
    score
        Called in a thread. Large images are scored one by one, so that memory suffices.
    shown
        Returns the few numbers by which the job's progress tells of an image.

    Raises
    ------
    CancelledError
        The job was cancelled meanwhile.
    """
    scored = map_bounded(score, items, workers_for(item.shape for item in items))
    for number, (item, each) in enumerate(zip(items, scored, strict=True), start=1):
        context.check_cancelled()
        context.report_image(
            v1.ImageCompleted(name=item.label, metrics=shown(each)),
            v1.Progress(stage="scoring", step=number, steps=len(items), fraction=number / len(items)),
        )
        yield each
