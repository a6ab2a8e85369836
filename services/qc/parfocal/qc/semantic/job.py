"""Evaluation of predicted classes and of probabilities of foreground, by pixels, outlines and what they separate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, Item, read_inputs, read_label_target, read_source
from parfocal.qc.evaluation.room import Held
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import of_prediction
from parfocal.qc.evaluation.statistics import compare
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.bands import by_blocks
from parfocal.qc.metrics.objects.agreement import bland_altman
from parfocal.qc.metrics.objects.confusion import Matrix, confusion_matrix, mean_over_classes, pixel_accuracy
from parfocal.qc.metrics.objects.semantic import Areas, boundary_f
from parfocal.qc.metrics.objects.topology import compare_regions
from parfocal.qc.semantic.baselines import choose_baselines
from parfocal.qc.semantic.figure import semantic_figure
from parfocal.qc.semantic.judge import (
    DEFINITION,
    choose_threshold,
    error_map,
    judge,
    predicted_classes,
    read_prediction,
    without_foreground,
    write_curve,
)
from parfocal.qc.semantic.metrics import METRICS, SHOWN
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.qc.semantic.report import class_rows, class_tables, write_class_tables
from parfocal.qc.semantic.scheme import choose_scheme
from parfocal.runtime.images.files import Image, open_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.report.content import Block
from parfocal.runtime.store.evaluations import EvaluationSummary, Kind, PairedDifference


@dataclass(frozen=True)
class ScoredClasses:
    """One test image: what is kept of it once its pixels are gone.

    `pixels` are those of each class that were given each class, by kind and, of further baselines, by their name.
    `curve` is what other thresholds would have given; None where no probabilities of foreground were predicted.
    """

    item: Item
    rows: Sequence[ScoreRow]
    pixels: Mapping[str, Matrix]
    curve: NDArray[np.int64] | None


def evaluate(context: JobContext) -> None:
    """Judge the classes of the job's prediction by its targets."""
    run_evaluation(context, SemanticJudge)


class SemanticJudge(Judge[SemanticParameters, Item, ScoredClasses]):
    """Class images and foreground masks, or probabilities of foreground that are cut at a threshold."""

    metrics = METRICS
    shown = SHOWN
    headline = ("iou", "dice", "boundary_f1")
    pixel_bytes = 55
    held = Held(pixels=2**24, planes=20)
    definition = DEFINITION

    def inputs(self) -> Inputs[Item]:
        """Return the test images of the first target."""
        return read_inputs(self.context, first_target_only=True)

    def prepare(self, inputs: Inputs[Item]) -> None:
        """Find out which classes there are and where probabilities are cut, and prepare the baselines."""
        self._scheme = choose_scheme(inputs, self.parameters)
        self.definition = f"{DEFINITION} {self._scheme.sentence}"  # type: ignore[misc] # of this evaluation alone
        self._baselines = choose_baselines(self.context, inputs, self._scheme)
        self._threshold = choose_threshold(inputs, self.parameters)

    def score(self, item: Item) -> ScoredClasses:
        """Score the classes of one image, and write its error map."""
        labelled = read_label_target(item, self.scratch)
        target = self._scheme.target(labelled.pixels, name=f"{item.label} (target)", scratch=self.scratch)
        with of_prediction(item.label):
            predicted, curve = self._predicted(item, target)
        others = self._baselines.apply(read_source(item.source, self.scratch), target.ndim, self.scratch)
        images: dict[Kind, NDArray[np.int8]] = {"baseline": others[self._baselines.best], "prediction": predicted}
        pixels = {kind: confusion_matrix(target, each, self._scheme.count) for kind, each in (images | others).items()}
        rows = tuple(
            ScoreRow(item.label, kind, self._values(target, each, pixels[kind])) for kind, each in images.items()
        )
        if self.parameters.maps:
            path = self.folder / "maps" / f"{item.label}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            mistakes = error_map(target, predicted, self.scratch)
            write_image(path, Image(mistakes, labelled.axes, labelled.pixel_size), labels=True)
        return ScoredClasses(item, rows, pixels, curve)

    def _values(self, target: NDArray[np.int8], found: NDArray[np.int8], pixels: Matrix) -> dict[str, float]:
        def masks(number: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
            mine = by_blocks(lambda truth: truth == number, [target], bool, self.scratch)
            both = [target, found]
            return mine, by_blocks(lambda truth, guess: (truth >= 0) & (guess == number), both, bool, self.scratch)

        present = [number for number in range(1, self._scheme.count) if pixels[number].any() or pixels[:, number].any()]
        outlines = [boundary_f(*masks(number), tolerance=self.parameters.boundary_tolerance) for number in present]
        of_background = self.parameters.separated == "background"
        regions = compare_regions(target, found, of_background=of_background, scratch=self.scratch)
        total = max(1, int(pixels.sum()))
        return {
            "iou": mean_over_classes(pixels, lambda areas: areas.iou),
            "dice": mean_over_classes(pixels, lambda areas: areas.dice),
            "boundary_f1": float(np.mean(outlines)) if outlines else 1.0,
            "precision": mean_over_classes(pixels, lambda areas: areas.precision),
            "recall": mean_over_classes(pixels, lambda areas: areas.recall),
            "pixel_accuracy": pixel_accuracy(pixels),
            "vi_split": regions.split,
            "vi_merge": regions.merge,
            "regions": float(regions.target),
            "predicted_regions": float(regions.prediction),
            "foreground_fraction": int(pixels[1:].sum()) / total,
            "predicted_fraction": int(pixels[:, 1:].sum()) / total,
        }

    def _predicted(self, item: Item, target: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.int64] | None]:
        prediction = read_prediction(item, self.scratch)
        return predicted_classes(item.label, target, prediction, self._threshold, self._scheme, self.scratch)

    def verdict(self, part: Part[ScoredClasses], left_out: Mapping[str, str]) -> Judgement:  # noqa: ARG002
        """Judge the predicted classes."""
        return judge(
            part.scores,
            _pooled(part)["prediction"],
            _curve(part),
            self._threshold,
            self.parameters,
            part.unscorable,
            names=self._scheme.names,
            baseline=self._baselines.title,
        )

    def thresholds(self) -> SemanticParameters:
        """Return what the verdict asked for, and how classes are made and compared."""
        return self.parameters

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return what is compared with, and how it was chosen."""
        return self._baselines.describe()

    def note(self, part: Part[ScoredClasses]) -> str:
        """Say what the means are of, and where probabilities were cut."""
        pooled, threshold = _pooled(part)["prediction"], self._threshold
        cut = ""
        if _curve(part) is not None:
            cut = f" The threshold of the probability was {threshold.value:g}, chosen by {threshold.chosen_by}."
        of = "" if self._scheme.binary else ", both as means over the classes but the background"
        return (
            f"Means over the images; over all pixels together IoU {mean_over_classes(pooled, lambda a: a.iou):.3f} and "
            f"Dice {mean_over_classes(pooled, lambda a: a.dice):.3f}{of}. Outlines may be "
            f"{self.parameters.boundary_tolerance:g} px off.{cut} The baseline is {self._baselines.title}, the best "
            "baseline on the training images."
        )

    def comparisons(self, part: Part[ScoredClasses]) -> Sequence[PairedDifference]:
        """Return the IoU against that of the baseline."""
        return [compare(part.images, part.scores["baseline"], "baseline", "iou")]

    def failed(self, part: Part[ScoredClasses]) -> Sequence[str]:
        """Return the images with foreground in which none was predicted."""
        return without_foreground(part.images)

    def details(self, part: Part[ScoredClasses]) -> dict[str, Any]:
        """Return the scores over all pixels, by class and of each baseline, and where probabilities were cut."""
        pooled = _pooled(part)
        ratios = {
            name: {
                "iou": mean_over_classes(matrix, lambda areas: areas.iou),
                "dice": mean_over_classes(matrix, lambda areas: areas.dice),
            }
            for name, matrix in pooled.items()
        }
        return {
            "pooled": {kind: ratios[kind] for kind in ("baseline", "prediction")},
            "baselines": {name: ratios[name] for name in self._baselines.by_name},
            "classes": class_rows(self._scheme.names, pooled["prediction"]),
            "confusion": {"classes": list(self._scheme.names), "pixels": pooled["prediction"].tolist()},
            "agreement": _agreement(part),
            "threshold": None if _curve(part) is None else asdict(self._threshold),
        }

    def draw(self, part: Part[ScoredClasses], summary: EvaluationSummary, suffix: str) -> None:
        """Draw the worst image, so that nobody is shown a lucky one, and write the tables of classes and thresholds."""
        curve, worst = _curve(part), part.of(part.worst.image)
        if curve is not None:
            write_curve(self.folder / "curve.csv", curve)
        pooled = _pooled(part)["prediction"]
        write_class_tables(self.folder, self._scheme.names, pooled)
        item = worst.item
        target = self._scheme.target(
            open_image(item.target, self.scratch, labels=True).pixels, name=item.label, scratch=self.scratch
        )
        found, _ = self._predicted(item, target)
        figure = semantic_figure(
            open_image(item.source, self.scratch).pixels,
            error_map(target, found, self.scratch),
            name=item.label,
            images=summary.images,
            iou=part.worst.values["iou"],
            curve=None if curve is None else [Areas(*row).iou for row in curve.tolist()],
            threshold=self._threshold.value,
            pixel_size=item.pixel_size,
            confusion=None if self._scheme.binary else (self._scheme.names, pooled),
        )
        save_png(figure, self.folder / f"figure{suffix}.png")

    def tables(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield the scores of each class, which was taken for which, and what the baselines reached."""
        yield from class_tables(summary)


def _pooled(part: Part[ScoredClasses]) -> dict[str, Matrix]:
    """Return the pixels of all images together, by kind and by the names of baselines."""
    return {name: np.sum([each.pixels[name] for each in part.scored], axis=0) for name in part.scored[0].pixels}


def _curve(part: Part[ScoredClasses]) -> NDArray[np.int64] | None:
    """Return the counts over all images at each of the thresholds; None where masks were predicted."""
    curves = [each.curve for each in part.scored if each.curve is not None]
    return np.sum(curves, axis=0) if curves else None


def _agreement(part: Part[ScoredClasses]) -> dict[str, Any]:
    """Return how well the foreground's part of each image agrees with that of the target (Bland and Altman 1986)."""
    predicted, annotated = (
        np.array([image.values[name] for image in part.images])
        for name in ("predicted_fraction", "foreground_fraction")
    )
    return asdict(bland_altman(predicted, annotated))
