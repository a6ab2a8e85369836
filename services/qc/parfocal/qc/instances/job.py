"""Evaluation of objects: predicted label images are matched with those of the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, Item, read_inputs, read_label_target
from parfocal.qc.evaluation.room import Held
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import of_prediction
from parfocal.qc.evaluation.statistics import compare
from parfocal.qc.evaluation.training_images import training_pairs
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.evaluation.words import count
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.instances.class_figure import class_figure
from parfocal.qc.instances.classes import (
    ObjectClasses,
    class_remarks,
    class_values,
    pool_classes,
    predicted_class_images,
    score_classes,
    summarise_classes,
    with_class_images,
    write_class_tables,
)
from parfocal.qc.instances.figure import instance_figure, overlay_figure
from parfocal.qc.instances.judge import (
    DEFINITION,
    counts_json,
    distance_values,
    image_values,
    judge,
    level_remarks,
    pool,
    rank,
    without_objects,
    write_levels_csv,
)
from parfocal.qc.instances.metrics import CLASS_METRICS, COUNTED, METRICS, SHOWN
from parfocal.qc.instances.parameters import InstanceParameters, InstanceThresholds
from parfocal.qc.instances.report import pictures
from parfocal.qc.instances.sizes import size_classes, target_outcomes, write_sizes_csv
from parfocal.qc.metrics.baselines.otsu import choose_otsu
from parfocal.qc.metrics.objects.classes import ClassCounts
from parfocal.qc.metrics.objects.instances import Counts, InstanceScore, Matches, f1_parts, score_instances
from parfocal.qc.metrics.objects.outcomes import error_map, outcome_layers
from parfocal.runtime.images.files import Image, open_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.report.content import Block
from parfocal.runtime.store.evaluations import EvaluationSummary, ImageScore, PairedDifference

# Enough to choose one of six thresholds.
_BASELINE_IMAGES: Final = 50


@dataclass(frozen=True)
class ScoredObjects:
    """One test image, by kind: what is kept of it once its pixels are gone.

    `classes` are those of its objects, None where they are not known or not predicted.
    """

    item: Item
    rows: Sequence[ScoreRow]
    scores: Mapping[str, InstanceScore]
    matches: Mapping[str, Matches]
    sizes: NDArray[np.float64]
    classes: ObjectClasses | None


def evaluate(context: JobContext) -> None:
    """Judge the objects of the job's prediction by its targets."""
    run_evaluation(context, InstanceJudge)


class InstanceJudge(Judge[InstanceParameters, Item, ScoredObjects]):
    """Objects, and their classes where they have some."""

    metrics = METRICS
    shown = SHOWN
    counted = COUNTED
    headline = ("mean_accuracy",)
    pixel_bytes = 40
    held = Held(pixels=2**24, planes=10)
    definition = DEFINITION

    def inputs(self) -> Inputs[Item]:
        """Return the test images with their label and class images."""
        inputs = with_class_images(self.context, read_inputs(self.context, first_target_only=True))
        self._with_classes = bool(predicted_class_images(inputs))
        if any(item.predicted_classes for item in inputs.items):
            self.metrics = METRICS + CLASS_METRICS  # type: ignore[misc] # of this evaluation alone
        return inputs

    def prepare(self, inputs: Inputs[Item]) -> None:
        """Choose Otsu's threshold on images of the training."""
        pairs = training_pairs(self.context, inputs, inputs.roles[0], validation=False)
        self._otsu = choose_otsu(islice(pairs, _BASELINE_IMAGES), f1_parts)

    def score(self, item: Item) -> ScoredObjects:
        """Match the objects of one image, and write its error map and its overlay."""
        level = self.parameters.iou
        source, labelled = open_image(item.source, self.scratch).pixels, read_label_target(item, self.scratch)
        target = labelled.pixels
        match = partial(score_instances, target, name=item.label, levels=[level])
        # The baseline first: what is wrong with the target shows there.
        baseline = self._otsu.apply(source, target.ndim, self.scratch)
        scores = {"baseline": match(baseline)}
        with of_prediction(item.label):
            prediction = self._labels(item.prediction)
            scores["prediction"] = match(prediction)
        matches = {kind: score.overlap.match(level) for kind, score in scores.items()}
        values, theirs = (
            image_values(scores[kind], level) | distance_values(target, image, matches[kind], labelled.pixel_size)
            for kind, image in (("prediction", prediction), ("baseline", baseline))
        )
        classes = score_classes(item, target, prediction, matches["prediction"], self.scratch)
        if classes is not None:
            values |= class_values(classes.counts)
        rows = (ScoreRow(item.label, "baseline", theirs), ScoreRow(item.label, "prediction", values))
        sizes = target_outcomes(scores["prediction"].overlap, matches["prediction"])
        scored = ScoredObjects(item, rows, scores, matches, sizes, classes)
        if self.parameters.maps:
            self._draw(scored, source, labelled, prediction)
        return scored

    def rank(self, image: ImageScore) -> tuple[float, ...]:
        """Order by F1, then by the number of objects."""
        return rank(image)

    def verdict(self, part: Part[ScoredObjects], left_out: Mapping[str, str]) -> Judgement:  # noqa: ARG002
        """Judge the predicted objects, and say how often their classes are right."""
        judgement = judge(part.scores, self._counts(part), self.thresholds(), part.unscorable)
        remarks = level_remarks(_pooled(part), self.parameters.iou)
        if self._with_classes:
            known = sum(each.classes is not None for each in part.scored)
            remarks += class_remarks(_classes(part), known, len(part.scored))
        return replace(judgement, remarks=(*judgement.remarks, *remarks))

    def thresholds(self) -> InstanceThresholds:
        """Return the thresholds of the verdict."""
        return self.parameters.thresholds()

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return the threshold, and how it was chosen."""
        return self._otsu.describe()

    def note(self, part: Part[ScoredObjects]) -> str:
        """Say what counts as found, and what was found over all images together."""
        counts = self._counts(part)
        return (
            f"At IoU {self.parameters.iou:g}, as means over the images. Over all images together: {counts.tp} of "
            f"{counts.tp + counts.fn} objects found, {count(counts.fp, 'false positive')} (objects that are not "
            f"there), F1 {counts.f1:.3f}. The baseline is Otsu's threshold."
        )

    def comparisons(self, part: Part[ScoredObjects]) -> Sequence[PairedDifference]:
        """Return the F1 against that of Otsu's threshold."""
        return [compare(part.images, part.scores["baseline"], "baseline", "f1")]

    def failed(self, part: Part[ScoredObjects]) -> Sequence[str]:
        """Return the images with objects in which none was predicted."""
        return without_objects(part.images)

    def headlines(self, part: Part[ScoredObjects], summary: EvaluationSummary) -> dict[str, float]:
        """Return F1 and panoptic quality over the objects of all images, and the mean of the accuracies."""
        numbers: dict[str, float] = {}
        for kind in self.kinds:
            counts = _pooled(part)[kind][self.parameters.iou]
            numbers |= {
                f"{kind}_f1": counts.f1,
                f"{kind}_mean_accuracy": summary.metrics[kind]["mean_accuracy"].mean,
                f"{kind}_panoptic_quality": counts.panoptic_quality,
            }
        classes = _classes(part)
        if classes is not None and classes.accuracy is not None:
            numbers["prediction_class_accuracy"] = classes.accuracy
        return numbers

    def details(self, part: Part[ScoredObjects]) -> dict[str, Any]:
        """Return the counts over all images by IoU level, the scores by size, and those of classes."""
        details: dict[str, Any] = {
            "pooled": {
                kind: {f"{level:g}": counts_json(counts) for level, counts in levels.items()}
                for kind, levels in _pooled(part).items()
            },
            "sizes": [asdict(each) for each in size_classes([each.sizes for each in part.scored])],
        }
        classes = _classes(part)
        return details if classes is None else {**details, "classes": summarise_classes(classes)}

    def draw(self, part: Part[ScoredObjects], summary: EvaluationSummary, suffix: str) -> None:
        """Write the tables over all images, draw the worst image, so that nobody is shown a lucky one, and classes."""
        write_levels_csv(self.folder / "levels.csv", _pooled(part))
        write_sizes_csv(self.folder / "sizes.csv", size_classes([each.sizes for each in part.scored]))
        worst = part.of(part.worst.image)
        figure = instance_figure(
            open_image(worst.item.source, self.scratch).pixels,
            *(self._labels(path) for path in (worst.item.target, worst.item.prediction)),
            score=worst.scores["prediction"],
            matches=worst.matches["prediction"],
            level=self.parameters.iou,
            pooled=_pooled(part),
            name=worst.item.label,
            images=summary.images,
            pixel_size=worst.item.pixel_size,
        )
        save_png(figure, self.folder / f"figure{suffix}.png")
        if (classes := _classes(part)) is not None:
            write_class_tables(self.folder, classes)
            self._draw_classes(part.scored, classes)

    def pictures(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield the scores of classes, and the overlays of the worst images."""
        return pictures(self.folder, summary)

    def _counts(self, part: Part[ScoredObjects]) -> Counts:
        return _pooled(part)["prediction"][self.parameters.iou]

    def _labels(self, path: Path) -> NDArray[Any]:
        return open_image(path, self.scratch, labels=True).pixels

    def _draw(self, scored: ScoredObjects, source: NDArray[Any], labelled: Image, prediction: NDArray[Any]) -> None:
        """Write error map and overlay of one image, in the thread that has its pixels: figures share no state."""
        score, matches, item = scored.scores["prediction"], scored.matches["prediction"], scored.item
        target = labelled.pixels
        map_path = self.folder / "maps" / f"{item.label}.tif"
        overlay_path = self.folder / "overlays" / f"{item.label}.png"
        for path in (map_path, overlay_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        mistakes = error_map(target, prediction, outcome_layers(score, matches), self.scratch)
        write_image(map_path, Image(mistakes, labelled.axes, labelled.pixel_size), labels=True)
        figure = overlay_figure(source, target, prediction, score, matches, name=item.label, pixel_size=item.pixel_size)
        save_png(figure, overlay_path)

    def _draw_classes(self, scored: Sequence[ScoredObjects], pooled: ClassCounts) -> None:
        """Draw the image with the most objects of a wrong class; of several the one with the most of known class."""
        shown = [(each, each.classes) for each in scored if each.classes is not None]
        worst, classes = max(
            shown, key=lambda each: (each[1].counts.known - each[1].counts.right, each[1].counts.known)
        )
        figure = class_figure(
            open_image(worst.item.source, self.scratch).pixels,
            self._labels(worst.item.prediction),
            worst.matches["prediction"],
            classes,
            pooled,
            name=worst.item.label,
            images=len(shown),
            pixel_size=worst.item.pixel_size,
        )
        save_png(figure, self.folder / "classes.png")


def _pooled(part: Part[ScoredObjects]) -> dict[str, dict[float, Counts]]:
    """Return by kind and IoU level the counts over the objects of all images."""
    return {kind: pool(each.scores[kind] for each in part.scored) for kind in ("baseline", "prediction")}


def _classes(part: Part[ScoredObjects]) -> ClassCounts | None:
    return pool_classes(each.classes.counts for each in part.scored if each.classes is not None)
