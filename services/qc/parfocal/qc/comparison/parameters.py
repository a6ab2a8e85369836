"""Parameters of the comparison of evaluations."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import Field

from parfocal.runtime.methods.service import Parameters

COMPARE: Final = "parfocal.qc.comparison.job:compare"
"""Function that workers run for the comparison of any kind of quality control."""


class ComparisonParameters(Parameters):
    """Parameters of a comparison; each kind of evaluation names its metrics."""

    compared_with: ClassVar[tuple[Literal["input", "baseline"], ...]] = ("baseline",)
    """Baselines to compare with; the input is one if it is an image of the same kind."""
    scoring: ClassVar[tuple[str, ...]] = ()
    """Parameters of an evaluation that change its scores; the others are thresholds of the verdict."""
    draw: ClassVar[str] = "parfocal.qc.comparison.figure:images_figure"
    """Function that draws the best and the worst image, as "module:function": a `DrawImages`."""
    load: ClassVar[str] = "parfocal.qc.comparison.images:load_images"
    """Function that reads targets and predictions for it: a `Load`."""

    metrics: tuple[str, ...]
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        title="Error accepted",
        description="Accepted probability, over all tests of the comparison together, of calling a difference real "
        "although it is chance. Confidence intervals have the level 1 - alpha: 95 % for 0.05.",
    )
    references: bool = Field(
        default=True,
        title="Compare with references",
        description="Also compare the models with the baseline and, where it makes sense, with the input. Without "
        "these there are fewer statistical tests, so that fewer images can show a difference between models.",
    )
    figures: bool = Field(
        default=True,
        title="Pictures",
        description="Write the picture of the best and the worst image with the predictions of all models.",
    )
