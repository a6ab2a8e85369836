"""Evaluation of localisations: located emitters are matched with true ones, frame by frame."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import (
    AnnotatedImage,
    AnnotatedItem,
    Inputs,
    annotated_images,
    fetch_annotated,
    predicted_files,
    read_annotated_inputs,
)
from parfocal.qc.evaluation.publish import write_maps
from parfocal.qc.evaluation.room import Held
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import of_prediction
from parfocal.qc.evaluation.statistics import compare
from parfocal.qc.evaluation.training_images import training_annotations
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.localisation.figure import density_figure, localisation_figure
from parfocal.qc.localisation.judge import DEFINITION, judge, without_localisations
from parfocal.qc.localisation.metrics import COUNTED, METRICS, SHOWN
from parfocal.qc.localisation.parameters import LocalisationParameters, LocalisationThresholds
from parfocal.qc.localisation.scoring import KINDS, KindScore, ScoredStack, by_density, densities, pooled, values_of
from parfocal.qc.metrics.baselines.spots import SpotBaseline, choose_spots
from parfocal.qc.metrics.images.reconstructions import ImageScore as PictureScore
from parfocal.qc.metrics.images.reconstructions import mean_frame, render, score_against_truth, upsampling_of
from parfocal.qc.metrics.objects.localisations import match_stack
from parfocal.runtime.datasets.coordinates import Localisations, read_localisations
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, PixelSize, inspect_image, open_image, read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.prediction.outputs import LOCALISATIONS
from parfocal.runtime.report.content import Block, Heading, Picture, Table
from parfocal.runtime.store.evaluations import EvaluationSummary, ImageScore, PairedDifference
from parfocal.runtime.store.store import Location

_BASELINE_FRAMES: Final = 20
_RENDERED: Final = 8
"""Pixels of a rendering along one of the camera where a prediction has no image."""
_MAPS: Final = ("truth", "ssim", "rse")


def evaluate(context: JobContext) -> None:
    """Judge the localisations of the job's prediction by the emitters of the dataset."""
    run_evaluation(context, LocalisationJudge)


class LocalisationJudge(Judge[LocalisationParameters, AnnotatedItem, ScoredStack]):
    """Tables of located emitters."""

    metrics = METRICS
    shown = SHOWN
    counted = COUNTED
    headline = ("efficiency", "jaccard", "rmse_nm")
    definition = DEFINITION
    held = Held(pixels=0, planes=1, banded=False)
    # For each pixel of the super-resolved image, in jobs at 2,000 to 4,000 px of it a side; frames come one by one.
    pixel_bytes = 150

    def inputs(self) -> Inputs[AnnotatedItem]:
        """Return the test stacks with their emitters and the tables of localisations."""
        inputs = read_annotated_inputs(self.context, LOCALISATIONS)
        self._images = predicted_files(inputs.prediction, inputs.prediction.targets[0])
        return inputs

    def bytes_of(self, image: AnnotatedItem) -> int:
        """Return the memory for a pixel of the camera."""
        path = self._image_file(image)
        # What is no multiple is told when the stack is scored.
        upsampling = _RENDERED if path is None else max(1, inspect_image(path).shape[-1] // image.plane[1])
        return self.pixel_bytes * upsampling**2

    def prepare(self, inputs: Inputs[AnnotatedItem]) -> None:
        """Choose the threshold of the baseline on frames of the training."""
        known = training_annotations(self.context, inputs, 1)
        if not known and inputs.dataset is not None:
            # A model that was trained on simulated frames has no annotated ones.
            uri = self.context.job.evaluation.dataset_uri
            there = annotated_images(inputs.dataset, "train", inputs.source_role)
            known = fetch_annotated(self.context, uri, inputs.dataset, dict(list(there.items())[:1]))
        self._baseline = self._chosen(known[0]) if known else SpotBaseline(threshold=6.0)

    def score(self, item: AnnotatedItem) -> ScoredStack:
        """Match the localisations of one stack, and compare its image."""
        truth = read_localisations(item.annotation, _pixel_um(item), item.shape)
        stack = open_image(item.source, self.scratch)
        baseline = self._baseline.find(stack.pixels)
        with of_prediction(item.label):
            found = read_localisations(item.prediction, _pixel_um(item), item.shape)
            image, upsampling = self._image(item, found)
            rendered = render(truth, item.plane, upsampling)
            picture = score_against_truth(image, rendered)
        kinds = {
            kind: KindScore(each, match_stack(each, truth, item.shape[0], _pixel_nm(item), self.parameters.radius_nm))
            for kind, each in zip(KINDS, (baseline, found), strict=True)
        }
        pictures = {"baseline": score_against_truth(render(baseline, item.plane, upsampling), rendered)}
        pictures["prediction"] = picture
        rows = tuple(
            ScoreRow(item.label, kind, values_of(kinds[kind].counts.numbers()) | _numbers(pictures[kind]))
            for kind in KINDS
        )
        if self.parameters.maps:
            self._write_maps(item, stack, rendered, picture)
        crowd = {kind: densities(each.found, truth, item.shape[0], _pixel_nm(item)) for kind, each in kinds.items()}
        return ScoredStack(item, rows, truth, kinds, densities(truth, truth, item.shape[0], _pixel_nm(item)), crowd)

    def verdict(self, part: Part[ScoredStack], left_out: Mapping[str, str]) -> Judgement:  # noqa: ARG002
        """Judge the localisations."""
        together = {kind: pooled(part.scored, kind) for kind in KINDS}
        return judge(part.scores, together, self.thresholds(), self._chance(part), part.unscorable)

    def thresholds(self) -> LocalisationThresholds:
        """Return the thresholds of the verdict."""
        return self.parameters.thresholds()

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return the threshold of the fits, and how it was chosen."""
        return self._baseline.describe()

    def note(self, part: Part[ScoredStack]) -> str:
        """Say what counts as found, and what was found over all stacks together."""
        ours, theirs = (pooled(part.scored, kind) for kind in ("prediction", "baseline"))
        return (
            f"Within {self.parameters.radius_nm:g} nm, as means over the stacks. Over all stacks together: {ours.tp} "
            f"true positives, {ours.fn} false negatives, {ours.fp} false positives, Jaccard index {ours.jaccard:.3f}, "
            f"efficiency {ours.efficiency:.1f} %; of the fits {theirs.jaccard:.3f} and {theirs.efficiency:.1f} %. The "
            "baseline fits a Gaussian to every local maximum by itself."
        )

    def comparisons(self, part: Part[ScoredStack]) -> Sequence[PairedDifference]:
        """Return the efficiency against that of the fits."""
        return [compare(part.images, part.scores["baseline"], "baseline", "efficiency")]

    def failed(self, part: Part[ScoredStack]) -> Sequence[str]:
        """Return the stacks with emitters in which nothing was located."""
        return without_localisations(part.images)

    def rank(self, image: ImageScore) -> tuple[float, ...]:
        """Order by efficiency, then by the number of emitters."""
        return image.values["efficiency"], -image.values["target_emitters"]

    def details(self, part: Part[ScoredStack]) -> dict[str, Any]:
        """Return the numbers over all stacks, and by density."""
        return {
            "pooled": {kind: values_of(pooled(part.scored, kind)) for kind in KINDS},
            "density": {kind: by_density(part.scored, kind) for kind in KINDS},
            "emitters_within_radius": self._chance(part),
            "widefield": self._widefield(part),
        }

    def draw(self, part: Part[ScoredStack], summary: EvaluationSummary, suffix: str) -> None:
        """Write the figure of the worst stack, the effect of density, and the tables."""
        worst = part.of(part.worst.image)
        item, score = worst.item, worst.kinds["prediction"]
        image, upsampling = self._image(item, score.found)
        figure = localisation_figure(
            open_image(item.source, self.scratch).pixels,
            image,
            render(worst.truth, item.plane, upsampling),
            worst.truth,
            score.found,
            score.counts,
            name=item.label,
            images=summary.images,
            pixel_size=item.pixel_um[0],
        )
        save_png(figure, self.folder / f"figure{suffix}.png")
        rows: dict[str, Any] = {kind: summary.details["density"][kind] for kind in KINDS}
        if rows["prediction"]:
            save_png(density_figure(rows), self.folder / "density.png")
            self._write_density(rows)
        self._write_frames(part)

    def tables(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:  # noqa: ARG002
        """Yield the table of densities."""
        rows = summary.details["density"]["prediction"]
        if not rows:
            return
        yield Heading("By density")
        columns = ("Emitters per µm² around", "Emitters", "Jaccard index", "Recall", "Precision", "RMSE (nm)")
        yield Table(
            columns,
            [
                (
                    f"{row['from_per_um2']:.1f} to {row['to_per_um2']:.1f}",
                    f"{row['target_emitters']:.0f}",
                    *(f"{row[name]:.3f}" for name in ("jaccard", "recall", "precision")),
                    f"{row['rmse_nm']:.1f}" if "rmse_nm" in row else "",
                )
                for row in rows
            ],
            frozenset(columns[1:]),
            "True emitters of the same frame within 500 nm of each emitter. A false positive counts at its own "
            "position.",
        )

    def pictures(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:
        """Yield the effect of density."""
        del summary, role
        if (self.folder / "density.png").exists():
            yield Picture(self.folder / "density.png", "Detection and error by density of emitters.", small=True)

    def _chosen(self, image: AnnotatedImage) -> SpotBaseline:
        stack = open_image(image.source, self.scratch).pixels
        truth = read_localisations(image.annotation, _pixel_um(image), image.shape)
        numbers = np.unique(np.linspace(0, len(stack) - 1, min(len(stack), _BASELINE_FRAMES)).round().astype(int))
        pairs = [(stack[number], truth.of_frame(number)) for number in numbers.tolist()]
        return choose_spots(pairs, _pixel_nm(image), self.parameters.radius_nm)

    def _image(self, item: AnnotatedItem, found: Localisations) -> tuple[NDArray[Any], int]:
        """Return the super-resolved image and its upsampling; rendered localisations where there is none."""
        path = self._image_file(item)
        if path is None:
            return render(found, item.plane, _RENDERED), _RENDERED
        image = read_image(path).pixels
        if image.ndim != 2:
            raise InvalidInputError(f"The image has shape {image.shape}, where a single plane (Y, X) is required.")
        return image, upsampling_of(image.shape, item.plane)

    def _image_file(self, item: AnnotatedItem) -> Path | None:
        """Return the super-resolved image; None where the prediction has none."""
        entry = self._images.get(item.label)
        place = Location.parse(self.context.job.evaluation.prediction_uri)
        return None if entry is None else self.context.cache.fetch(self.context.store, place, entry)

    def _write_maps(
        self, item: AnnotatedItem, stack: Image, rendered: NDArray[np.float32], picture: PictureScore
    ) -> None:
        factor = rendered.shape[1] / item.plane[1]
        y, x = (length / factor for length in _pixel_um(item))
        like = Image(stack.pixels[0], "YX", PixelSize(x, y))
        maps = dict(zip(_MAPS, (rendered, picture.similarity, picture.difference), strict=True))
        write_maps(self.folder / "maps", item.label, maps, like)

    def _chance(self, part: Part[ScoredStack]) -> float:
        """Return how many emitters lie within the radius of any place, on average over all frames."""
        emitters = sum(len(each.truth.frame) for each in part.scored)
        area = sum(
            each.item.shape[0] * float(np.prod(np.multiply(each.item.plane, _pixel_nm(each.item))))
            for each in part.scored
        )
        return float(emitters / area * np.pi * self.parameters.radius_nm**2)

    def _widefield(self, part: Part[ScoredStack]) -> dict[str, dict[str, float]]:
        """Return by stack how the mean frame compares with the rendered truth, as the notebook reports it."""
        found = {}
        for each in part.scored:
            _, upsampling = self._image(each.item, each.kinds["prediction"].found)
            mean = mean_frame(open_image(each.item.source, self.scratch).pixels)
            fine = mean.repeat(upsampling, axis=0).repeat(upsampling, axis=1)
            found[each.item.label] = _numbers(
                score_against_truth(fine, render(each.truth, each.item.plane, upsampling))
            )
        return found

    def _write_density(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        with (self.folder / "density.csv").open("w", encoding="utf-8", newline="") as file:
            columns = ["kind", "from_per_um2", "to_per_um2", *(metric.key for metric in METRICS[:10])]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows({"kind": kind, **row} for kind, table in rows.items() for row in table)

    def _write_frames(self, part: Part[ScoredStack]) -> None:
        """Write what was found in every frame."""
        with (self.folder / "frames.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "frame", "kind", "true_positives", "false_positives", "false_negatives"])
            for each in part.scored:
                for kind, score in each.kinds.items():
                    columns = (score.counts.tp, score.counts.fp, score.counts.fn)
                    for number, row in enumerate(np.column_stack(columns).tolist(), start=1):
                        writer.writerow([each.item.label, number, kind, *row])


def _pixel_um(image: AnnotatedImage) -> tuple[float, float]:
    x, y, _ = image.pixel_um
    if x is None or y is None:
        raise InvalidInputError(
            f"{image.label} has no pixel size, which localisations require. Save it in the file (in Fiji: Image > "
            "Properties)."
        )
    return y, x


def _pixel_nm(image: AnnotatedImage) -> tuple[float, float]:
    y, x = _pixel_um(image)
    return 1e3 * y, 1e3 * x


def _numbers(score: PictureScore) -> dict[str, float]:
    return {
        "image_ssim": score.ssim,
        "image_psnr": score.psnr,
        "image_nrmse_zerocost": score.nrmse_zerocost,
    }
