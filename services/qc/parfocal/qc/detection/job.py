"""Evaluation of detections: predicted boxes are matched with annotated ones, class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.detection.baseline import choose_boxes
from parfocal.qc.detection.figure import (
    confusion_figure,
    counts_figure,
    curves_figure,
    detection_figure,
    layers,
    overlay_figure,
)
from parfocal.qc.detection.judge import DEFINITION, best_confidence, judge, rank_image, without_detections
from parfocal.qc.detection.metrics import COUNTED, METRICS, SHOWN
from parfocal.qc.detection.parameters import DetectionParameters, DetectionThresholds
from parfocal.qc.detection.report import pictures, tables
from parfocal.qc.detection.scoring import KindScore, ScoredBoxes, Totals, image_values, total
from parfocal.qc.detection.tables import summarise, write_tables
from parfocal.qc.evaluation.inputs import AnnotatedItem, Inputs, read_annotated_inputs
from parfocal.qc.evaluation.room import Held, Sized, SizedImage
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import of_prediction
from parfocal.qc.evaluation.statistics import compare
from parfocal.qc.evaluation.training_images import training_annotations, training_dataset
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.objects.detections import (
    centre_offsets,
    class_counts,
    confusion,
    levels_with,
    match_boxes,
    outcomes,
)
from parfocal.qc.metrics.objects.instances import Counts
from parfocal.runtime.datasets.boxes import Boxes, read_boxes
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import open_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.prediction.box_files import DETECTIONS
from parfocal.runtime.prediction.detections import read_detections
from parfocal.runtime.report.content import Block
from parfocal.runtime.store.evaluations import EvaluationSummary, ImageScore, PairedDifference

# Enough to choose one of six thresholds.
_BASELINE_IMAGES: Final = 50


def evaluate(context: JobContext) -> None:
    """Judge the detections of the job's prediction by the boxes of the dataset."""
    run_evaluation(context, DetectionJudge)


class DetectionJudge(Judge[DetectionParameters, AnnotatedItem, ScoredBoxes]):
    """Boxes with a class and a confidence."""

    metrics = METRICS
    shown = SHOWN
    counted = COUNTED
    headline = ("f1",)
    definition = DEFINITION
    # 200 MB more than a process without an image in jobs at 2,000 and at 4,000 px a side.
    pixel_bytes = 50
    held = Held(pixels=2**22, planes=0)

    def __init__(self, context: JobContext, parameters: DetectionParameters, folder: Any) -> None:
        super().__init__(context, parameters, folder)
        self._known: dict[tuple[str, ...], Totals] = {}

    def inputs(self) -> Inputs[AnnotatedItem]:
        """Return the annotated test images with the tables of detections."""
        return read_annotated_inputs(self.context, DETECTIONS)

    def sized(self, inputs: Inputs[AnnotatedItem]) -> Sequence[Sized]:
        """Return the planes of the test images: channels and colours are averaged band by band."""
        return [SizedImage(item.label, item.plane) for item in inputs.items]

    def prepare(self, inputs: Inputs[AnnotatedItem]) -> None:
        """Find out which classes there are, and choose Otsu's threshold on images of the training."""
        assert inputs.dataset is not None
        _, trained_on = training_dataset(self.context, inputs)
        self._annotated = inputs.dataset.classes
        self._training = trained_on.class_counts.get("train", {})
        further = {*_predicted_classes(inputs.items), *trained_on.classes} - {*self._annotated}
        self._names = [*self._annotated, *sorted(further)]
        images = training_annotations(self.context, inputs, _BASELINE_IMAGES)
        pairs = (
            (
                open_image(image.source, self.scratch).pixels,
                read_boxes(image.annotation, trained_on.classes, image.plane).corners,
            )
            for image in images
        )
        self._baseline = choose_boxes(pairs, self.parameters.iou, self._names, self._training, self.scratch)
        self._levels = levels_with(self.parameters.iou)

    def score(self, item: AnnotatedItem) -> ScoredBoxes:
        """Match the boxes of one image, and draw them."""
        truth = read_boxes(item.annotation, self._annotated, item.plane)
        source = open_image(item.source, self.scratch).pixels
        baseline = self._score(truth, self._baseline.find(source, self.scratch))
        with of_prediction(item.label):
            prediction = self._score(truth, self._read(item))
        offsets = {
            kind: centre_offsets(truth, each.found, each.outcome)
            for kind, each in (("baseline", baseline), ("prediction", prediction))
        }
        rows = (
            ScoreRow(item.label, "baseline", _values(item, baseline, offsets["baseline"])),
            ScoreRow(item.label, "prediction", _values(item, prediction, offsets["prediction"])),
        )
        table = confusion(truth, prediction.matches, prediction.outcome, len(self._names))
        kinds = {"baseline": baseline, "prediction": prediction}
        scored = ScoredBoxes(item, rows, truth, kinds, table, offsets["prediction"])  # type: ignore[arg-type]
        if self.parameters.maps:
            self._draw(scored, source)
        return scored

    def rank(self, image: ImageScore) -> tuple[float, ...]:
        """Order by F1, then by the number of objects."""
        return rank_image(image)

    def verdict(self, part: Part[ScoredBoxes], left_out: Mapping[str, str]) -> Judgement:  # noqa: ARG002
        """Judge the detections."""
        return judge(part.scores, self._totals(part), self.thresholds(), self._training, part.unscorable)

    def thresholds(self) -> DetectionThresholds:
        """Return the thresholds of the verdict."""
        return self.parameters.thresholds()

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return the threshold and the class, and how they were chosen."""
        return self._baseline.describe()

    def note(self, part: Part[ScoredBoxes]) -> str:
        """Say what counts as found, and what was found over all images together."""
        counts = self._totals(part).pooled()
        least = self.parameters.confidence
        asked = f" and confidence {least:g} or more" if least else ""
        classes = f", as the class {self._baseline.name}" if len(self._names) > 1 else ""
        return (
            f"At IoU {self.parameters.iou:g}{asked}, as means over the images. Over all images together: {counts.tp} "
            f"true positives, {counts.fn} false negatives, {counts.fp} false positives, F1 {counts.f1:.3f}. The "
            f"baseline is Otsu's threshold: boxes around connected pixels{classes}."
        )

    def comparisons(self, part: Part[ScoredBoxes]) -> Sequence[PairedDifference]:
        """Return the F1 against that of Otsu's threshold."""
        return [compare(part.images, part.scores["baseline"], "baseline", "f1")]

    def failed(self, part: Part[ScoredBoxes]) -> Sequence[str]:
        """Return the images with objects in which nothing was detected."""
        return without_detections(part.images)

    def headlines(self, part: Part[ScoredBoxes], summary: EvaluationSummary) -> dict[str, float]:  # noqa: ARG002
        """Return F1 over the objects of all images, and the mean average precisions."""
        totals = self._totals(part)
        numbers: dict[str, float] = {}
        for kind in self.kinds:
            numbers[f"{kind}_f1"] = totals.pooled(kind).f1
            if totals.annotated.any():
                numbers[f"{kind}_map_50"] = totals.mean_precision(0.5, kind)
                numbers[f"{kind}_map_50_95"] = totals.mean_precision(None, kind)
        return numbers

    def details(self, part: Part[ScoredBoxes]) -> dict[str, Any]:
        """Return what all images say together, and the confidence that would have been the best."""
        totals = self._totals(part)
        best = best_confidence(totals)
        return {
            **summarise(totals),
            "best_confidence": None if best is None else {"confidence": round(best[0], 4), "f1": best[1]},
            "training_boxes": dict(self._training),
        }

    def draw(self, part: Part[ScoredBoxes], summary: EvaluationSummary, suffix: str) -> None:
        """Write the tables and figures over all images, and draw the worst, so that nobody is shown a lucky one."""
        totals, worst = self._totals(part), part.of(part.worst.image)
        write_tables(self.folder, totals, part.scored)
        score = worst.kinds["prediction"]
        figure = detection_figure(
            open_image(worst.item.source, self.scratch).pixels,
            layers(worst.truth, score.found, score.outcome, self._names),
            score.outcome.counts,
            name=worst.item.label,
            images=summary.images,
            plane=worst.item.plane,
            pixel_size=worst.item.pixel_um[0],
        )
        save_png(figure, self.folder / f"figure{suffix}.png")
        curves = curves_figure(totals, self.parameters.iou, self.parameters.confidence)
        save_png(curves, self.folder / "curves.png")
        numbers = [each.kinds["prediction"].outcome.counts for each in part.scored]
        predicted, annotated = (
            np.array(each, np.int64)
            for each in ([one.tp + one.fp for one in numbers], [one.tp + one.fn for one in numbers])
        )
        save_png(counts_figure(predicted, annotated, totals.agreement), self.folder / "counts.png")
        if len(self._names) > 1:
            save_png(confusion_figure(totals), self.folder / "confusion.png")

    def tables(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield average precisions and classes."""
        return tables(summary)

    def pictures(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield the curves, the agreement of counts, and the overlays of the worst images."""
        return pictures(self.folder, summary)

    def _totals(self, part: Part[ScoredBoxes]) -> Totals:
        """Return what all images say together, computed once."""
        key = tuple(each.item.label for each in part.scored)
        if key not in self._known:
            self._known[key] = total(part.scored, self._names, self.parameters.iou, self.parameters.confidence)
        return self._known[key]

    def _read(self, item: AnnotatedItem) -> Detections:
        table = read_detections(item.prediction, f"{item.label} (prediction)")
        classes = np.array([self._names.index(name) for name in table.names], np.int64)
        return Detections(table.corners, classes, table.confidence)

    def _score(self, truth: Boxes, found: Detections) -> KindScore:
        matches = match_boxes(truth, found, len(self._names), self._levels)
        outcome = outcomes(truth, found, matches, self.parameters.iou, self.parameters.confidence)
        return KindScore(found, matches, outcome, class_counts(truth, matches, outcome, len(self._names)))

    def _draw(self, scored: ScoredBoxes, source: NDArray[Any]) -> None:
        """Write the overlay of one image, in the thread that has its pixels: figures share no state."""
        path = self.folder / "overlays" / f"{scored.item.label}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        score = scored.kinds["prediction"]
        figure = overlay_figure(
            source,
            layers(scored.truth, score.found, score.outcome, self._names),
            score.outcome.counts,
            name=scored.item.label,
            plane=scored.item.plane,
            pixel_size=scored.item.pixel_um[0],
        )
        save_png(figure, path)


def _values(item: AnnotatedItem, score: KindScore, offsets: NDArray[np.float64]) -> dict[str, float]:
    return image_values(item, sum(score.counts, Counts()), len(score.outcome.wrong_class), offsets)


def _predicted_classes(items: Sequence[AnnotatedItem]) -> set[str]:
    """Return the names of all classes that were detected; what cannot be read is told when it is scored."""
    found: set[str] = set()
    for item in items:
        try:
            found |= {*read_detections(item.prediction).names}
        except InvalidInputError:
            continue
    return found
