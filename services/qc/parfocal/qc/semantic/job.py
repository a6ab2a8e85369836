"""Evaluation of foreground masks and of probabilities of foreground, pixel by pixel and along the outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, Item, read_inputs, read_label_target, training_pairs
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import of_prediction
from parfocal.qc.evaluation.statistics import compare
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.baselines.otsu import choose_otsu
from parfocal.qc.metrics.objects.semantic import Areas, Mask, areas, boundary_f, foreground, iou_parts
from parfocal.qc.semantic.figure import semantic_figure
from parfocal.qc.semantic.judge import (
    DEFINITION,
    choose_threshold,
    cut_mask,
    error_map,
    judge,
    read_prediction,
    without_foreground,
    write_curve,
)
from parfocal.qc.semantic.metrics import METRICS, SHOWN
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.evaluations import EvaluationSummary, Kind, PairedDifference

# Enough to choose one of six thresholds.
_BASELINE_IMAGES: Final = 50


@dataclass(frozen=True)
class ScoredMask:
    """One test image: what is kept of it once its pixels are gone.

    `curve` is what other thresholds would have given; None where a mask was predicted.
    """

    item: Item
    rows: Sequence[ScoreRow]
    areas: Mapping[Kind, Areas]
    curve: NDArray[np.int64] | None


def evaluate(context: JobContext) -> None:
    """Judge the masks of the job's prediction by its targets."""
    run_evaluation(context, SemanticJudge)


class SemanticJudge(Judge[SemanticParameters, Item, ScoredMask]):
    """Foreground masks, or probabilities that are cut at a threshold."""

    metrics = METRICS
    shown = SHOWN
    headline = ("iou", "dice", "boundary_f1")
    definition = DEFINITION

    def inputs(self) -> Inputs[Item]:
        """Return the test images of the first target."""
        return read_inputs(self.context, first_target_only=True)

    def prepare(self, inputs: Inputs[Item]) -> None:
        """Choose Otsu's threshold on images of the training, and find out where probabilities are cut."""
        pairs = training_pairs(self.context, inputs, inputs.roles[0], validation=False)
        self._otsu = choose_otsu(islice(pairs, _BASELINE_IMAGES), iou_parts)
        self._threshold = choose_threshold(inputs, self.parameters)

    def score(self, item: Item) -> ScoredMask:
        """Score the mask of one image, and write its error map."""
        source, labelled = read_image(item.source).pixels, read_label_target(item)
        target = foreground(labelled.pixels, name=f"{item.label} (target)")
        with of_prediction(item.label):
            mask, curve = cut_mask(item.label, target, read_prediction(item), self._threshold)
        masks: dict[Kind, Mask] = {"baseline": self._otsu.apply(source, target.ndim) > 0, "prediction": mask}
        counted = {kind: areas(target, each) for kind, each in masks.items()}
        rows = tuple(
            ScoreRow(
                item.label,
                kind,
                {
                    "iou": counted[kind].iou,
                    "dice": counted[kind].dice,
                    "boundary_f1": boundary_f(target, each, self.parameters.boundary_tolerance),
                    "precision": counted[kind].precision,
                    "recall": counted[kind].recall,
                    "foreground_fraction": float(target.mean()),
                    "predicted_fraction": float(each.mean()),
                },
            )
            for kind, each in masks.items()
        )
        if self.parameters.maps:
            path = self.folder / "maps" / f"{item.label}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, Image(error_map(target, mask), labelled.axes, labelled.pixel_size))
        return ScoredMask(item, rows, counted, curve)

    def verdict(self, part: Part[ScoredMask], left_out: Mapping[str, str]) -> Judgement:  # noqa: ARG002
        """Judge the predicted foreground."""
        pooled = _pooled(part)["prediction"]
        return judge(part.scores, pooled, _curve(part), self._threshold, self.parameters, part.unscorable)

    def thresholds(self) -> SemanticParameters:
        """Return what the verdict asked for, and how masks are made and compared."""
        return self.parameters

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return the threshold, and how it was chosen."""
        return self._otsu.describe()

    def note(self, part: Part[ScoredMask]) -> str:
        """Say what the means are of, and where probabilities were cut."""
        pooled, threshold = _pooled(part)["prediction"], self._threshold
        cut = ""
        if _curve(part) is not None:
            cut = f" Probabilities were cut at {threshold.value:g}, chosen by {threshold.chosen_by}."
        return (
            f"Means over the images; over all pixels together IoU {pooled.iou:.3f} and Dice {pooled.dice:.3f}. "
            f"Outlines may be {self.parameters.boundary_tolerance:g} px off.{cut} Otsu's threshold needs no training."
        )

    def comparisons(self, part: Part[ScoredMask]) -> Sequence[PairedDifference]:
        """Return the IoU against that of Otsu's threshold."""
        return [compare(part.images, part.scores["baseline"], "baseline", "iou")]

    def failed(self, part: Part[ScoredMask]) -> Sequence[str]:
        """Return the images with foreground in which none was predicted."""
        return without_foreground(part.images)

    def details(self, part: Part[ScoredMask]) -> dict[str, Any]:
        """Return the scores over all pixels together, and where probabilities were cut."""
        return {
            "pooled": {kind: {"iou": each.iou, "dice": each.dice} for kind, each in _pooled(part).items()},
            "threshold": None if _curve(part) is None else asdict(self._threshold),
        }

    def draw(self, part: Part[ScoredMask], summary: EvaluationSummary, suffix: str) -> None:
        """Draw the worst image, so that nobody is shown a lucky one, and write the curve over thresholds."""
        curve, worst = _curve(part), part.of(part.worst.image)
        if curve is not None:
            write_curve(self.folder / "curve.csv", curve)
        item = worst.item
        source = read_image(item.source).pixels
        target, prediction = read_image(item.target, labels=True).pixels, read_prediction(item)
        mask, _ = cut_mask(item.label, target > 0, prediction, self._threshold)
        figure = semantic_figure(
            source,
            error_map(target > 0, mask),
            name=item.label,
            images=summary.images,
            iou=part.worst.values["iou"],
            curve=None if curve is None else [Areas(*row).iou for row in curve.tolist()],
            threshold=self._threshold.value,
            pixel_size=item.pixel_size,
        )
        save_png(figure, self.folder / f"figure{suffix}.png")


def _pooled(part: Part[ScoredMask]) -> dict[Kind, Areas]:
    """Return the counts over the pixels of all images, by kind."""
    kinds: tuple[Kind, ...] = ("baseline", "prediction")
    return {kind: sum((each.areas[kind] for each in part.scored), Areas()) for kind in kinds}


def _curve(part: Part[ScoredMask]) -> NDArray[np.int64] | None:
    """Return the counts over all images at each of the thresholds; None where masks were predicted."""
    curves = [each.curve for each in part.scored if each.curve is not None]
    return np.sum(curves, axis=0) if curves else None
