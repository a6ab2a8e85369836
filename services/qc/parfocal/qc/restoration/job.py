"""Evaluation of restored and translated images: predictions beside their targets, inputs and a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

from numpy.typing import NDArray

from parfocal.qc.evaluation.channels import split_channels
from parfocal.qc.evaluation.inputs import Inputs, Item, read_inputs, read_source
from parfocal.qc.evaluation.room import Held
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.training_images import (
    require_grey_targets,
    trained_on_pairs,
    training_dataset,
    training_pairs,
    unpaired_images,
    warn_of_samples,
)
from parfocal.qc.evaluation.verdict import Judgement, listed
from parfocal.qc.figures.drawing import centre, save_png
from parfocal.qc.metrics.bands import SAMPLED, is_large, sample_windows
from parfocal.qc.metrics.baselines.blind import BlindGaussian, choose_blind_gaussian
from parfocal.qc.metrics.baselines.gaussian import BaselineChoice, NothingToFitError, best_gaussian_sigma
from parfocal.qc.metrics.baselines.linear import LinearPredictor, fit_linear_predictor, match_moments
from parfocal.qc.metrics.images.fit import with_range
from parfocal.qc.metrics.images.foreground import FOREGROUND_METHOD
from parfocal.qc.metrics.images.restoration import maps_within
from parfocal.qc.metrics.parallel import HELD_PIXELS, HELD_PLANES
from parfocal.qc.restoration.background import background_shift
from parfocal.qc.restoration.examples import EXAMPLE_PIXELS, Example, examples_figure
from parfocal.qc.restoration.figure import Whole, restoration_figure
from parfocal.qc.restoration.judge import DEFINITION, baseline_note, judge, summarise
from parfocal.qc.restoration.metrics import BY_KEY, METRICS, PRIMARY, SHOWN, region_of, score_of
from parfocal.qc.restoration.parameters import (
    RestorationParameters,
    RestorationThresholds,
    TranslationParameters,
    TranslationThresholds,
)
from parfocal.qc.restoration.report import pictures, regions_table
from parfocal.qc.restoration.scoring import (
    Baseline,
    ImageScores,
    collect_scores,
    score_item,
    shown_input,
    versions,
    windows_each,
)
from parfocal.runtime.images.files import open_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.report.content import Block
from parfocal.runtime.store.evaluations import (
    KINDS,
    EvaluationSummary,
    ImageScore,
    Kind,
    PairedDifference,
    direction_note,
)


def evaluate(context: JobContext) -> None:
    """Judge the job's prediction by its targets."""
    run_evaluation(context, RestorationJudge)


class RestorationJudge(Judge[RestorationParameters | TranslationParameters, Item, ImageScores]):
    """Restored or translated images, each target by itself."""

    metrics = METRICS
    shown = SHOWN
    headline = ("psnr", "ssim", "nrmse", "ssim_inside")
    pixel_bytes = 90
    held = Held(pixels=HELD_PIXELS, planes=HELD_PLANES)
    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    definition = DEFINITION

    def inputs(self) -> Inputs[Item]:
        """Return the test images of all targets, each of their channels as a target of its own."""
        return split_channels(self.context, read_inputs(self.context))

    def prepare(self, inputs: Inputs[Item]) -> None:
        """Choose the baseline of each target on images of the training."""
        self._baselines: dict[str, Baseline] = {}
        self._windows = windows_each(len(inputs.items))
        for role in inputs.roles:
            require_grey_targets(self.context, inputs, role)
            if isinstance(self.parameters, TranslationParameters):
                self._baselines[role] = self._linear(inputs, role)
            else:
                self._baselines[role] = self._gaussian(inputs, role)

    def _gaussian(self, inputs: Inputs[Item], role: str) -> BaselineChoice | BlindGaussian:
        """Return the filter that suits the validation images; all training images where those show nothing.

        A model that never saw targets is compared with a filter that was chosen without them.
        """
        if not trained_on_pairs(self.context, inputs, role):
            return choose_blind_gaussian(self._sources(inputs, role))
        if inputs.validation_regions:
            try:
                return best_gaussian_sigma(training_pairs(self.context, inputs, role, validation=True))
            except NothingToFitError:
                self.context.warn(
                    f"No target of the validation images ({role}) has any contrast, as happens in sparse images: the "
                    "Gaussian filter was chosen on all training images."
                )
        choice = best_gaussian_sigma(training_pairs(self.context, inputs, role, validation=False))
        return replace(choice, chosen_on="training images")

    def _sources(self, inputs: Inputs[Item], role: str) -> Iterator[NDArray[Any]]:
        """Yield the inputs of a target, of large ones the windows that stand for them."""
        for item in inputs.items:
            if item.role == role:
                source = read_source(item.source, self.scratch)
                warn_of_samples(self.context, item.shape)
                for window in sample_windows(item.shape):
                    part: tuple[Any, ...] = ..., *window
                    yield source[part]

    def _linear(self, inputs: Inputs[Item], role: str) -> LinearPredictor:
        """Return the linear predictor of a target, which knows as much as the model: pairs, or only images of both."""
        _, dataset = training_dataset(self.context, inputs)
        if "train" not in dataset.unpaired:
            return fit_linear_predictor(training_pairs(self.context, inputs, role, validation=False))
        sources, targets = (unpaired_images(self.context, inputs, each) for each in (inputs.source_role, role))
        return match_moments(sources, targets, len(inputs.items[0].shape))

    def score(self, item: Item) -> ImageScores:
        """Score one image as input, baseline and prediction."""
        maps = self.folder / "maps" if self.parameters.maps else None
        return score_item(item, self._baselines[item.role], windows=self._windows, folder=maps, scratch=self.scratch)

    def collect(self, stream: Iterator[ImageScores], items: Sequence[Item]) -> list[ImageScores]:
        """Add MicroSSIM, which is fitted to the whole set and can score an image only when all have been seen."""
        shapes = (item.shape for item in items)
        return collect_scores(self.context, stream, self._baselines, shapes, self.folder)

    def verdict(self, part: Part[ImageScores], left_out: Mapping[str, str]) -> Judgement:  # noqa: ARG002
        """Judge the predictions of one target."""
        rows = (row for each in part.scored for row in each.rows)
        return judge(summarise(rows), self.thresholds(), part.unscorable)

    def thresholds(self) -> RestorationThresholds | TranslationThresholds:
        """Return the thresholds of the verdict."""
        return self.parameters.thresholds()

    def baseline(self, role: str) -> dict[str, Any]:
        """Return what the baseline is, and how it was chosen."""
        return self._baselines[role].describe()

    def note(self, part: Part[ImageScores]) -> str:
        """Say which way is better, how the baseline was chosen, and what was taken of large images."""
        sampled = [each.item.label for each in part.scored if is_large(each.item.shape)]
        resolution = f" The resolution of {listed(sampled)} is that of {SAMPLED}." if sampled else ""
        return direction_note(BY_KEY[key] for key in SHOWN) + baseline_note(self.baseline(part.role)) + resolution

    def comparisons(self, part: Part[ImageScores]) -> Sequence[PairedDifference]:
        """Return the prediction against input and baseline, over the whole image."""
        return summarise(row for each in part.scored for row in each.rows).comparisons

    def details(self, part: Part[ImageScores]) -> dict[str, Any]:
        """Return the comparisons inside the foreground, and how much background there is."""
        summary = summarise(row for each in part.scored for row in each.rows)
        shift = background_shift(part.images)
        return {
            "inside": [asdict(each) for each in summary.inside],
            "foreground": None if shift is None else {"method": FOREGROUND_METHOD, **asdict(shift)},
        }

    def draw(self, part: Part[ImageScores], summary: EvaluationSummary, suffix: str) -> None:
        """Draw the worst image, so that nobody is shown a lucky one, and the best and the median one."""
        primary = BY_KEY[PRIMARY].title
        which = f"Worst of {summary.images} images by {primary}: " if summary.images > 1 else ""
        self._draw(part.of(part.worst.image), which, f"figure{suffix}.png")
        examples = [self._example(why, part.of(label)) for why, label in typical(part.images).items()]
        if examples:
            save_png(examples_figure(examples), self.folder / f"examples{suffix}.png")

    def tables(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:
        """Yield the scores inside and outside the foreground."""
        if table := regions_table(summary, role):
            yield table

    def pictures(self, summary: EvaluationSummary, role: str) -> Iterator[Block]:
        """Yield examples, Fourier correlation and reliability."""
        return pictures(self.folder, summary, role)

    def _draw(self, scored: ImageScores, which: str, file: str) -> None:
        item, name = scored.item, f"{which}{scored.item.label}"
        target = open_image(item.target, self.scratch).pixels
        images = dict(versions(item, self._baselines[item.role], target.ndim, self.scratch))
        index = None
        if target.ndim == 3:
            index = _planes(scored)[0]
            name += f", plane {index}"
            target, images = target[index], {kind: image[index] for kind, image in images.items()}
        scores, inside = {}, {}
        for kind in images:
            row = _row_of(scored, kind, index)
            scores[str(kind)], inside[str(kind)] = score_of(row), region_of(row)
            fraction = row.values["foreground_fraction"]
        window, ranged = centre(*target.shape), with_range(target)
        figure = restoration_figure(
            {kind: image[window] for kind, image in {**images, "target": target}.items()},
            scores,
            {str(kind): maps_within(image, ranged, scores[kind], window) for kind, image in images.items()},
            name=name,
            pixel_size=item.pixel_size,
            baseline=str(self.baseline(item.role)["name"]),
            foreground=target[window] >= scored.threshold,
            inside=inside,
            whole=Whole(target.shape, fraction),
        )
        save_png(figure, self.folder / file)

    def _example(self, why: str, scored: ImageScores) -> Example:
        item = scored.item
        target, prediction = (open_image(path, self.scratch).pixels for path in (item.target, item.prediction))
        source = shown_input(read_source(item.source, self.scratch), target.ndim)
        heading = f"{why.capitalize()} image by {BY_KEY[PRIMARY].title}: {item.label}"
        index = None
        if target.ndim == 3:
            planes = _planes(scored)
            index = planes[(len(planes) - 1) // 2]
            heading += f", its median plane {index}"
            source, target, prediction = source[index], target[index], prediction[index]
        window = centre(*target.shape, largest=EXAMPLE_PIXELS)
        score = score_of(_row_of(scored, "prediction", index))
        return Example(
            heading,
            source[window],
            prediction[window],
            target[window],
            maps_within(prediction, with_range(target), score, window).rse,
            score_of(_row_of(scored, "input", index)),
            score,
            item.pixel_size,
        )


def _row_of(scored: ImageScores, kind: Kind, plane: int | None) -> ScoreRow:
    """Return the row of one version of an image, or of a plane of a stack."""
    return next(row for row in scored.rows if row.kind == kind and row.slice == plane)


def _planes(scored: ImageScores) -> list[int]:
    """Return the planes of a stack that have a score, the worst first."""
    rows = [row for row in scored.rows if row.kind == "prediction"]
    return [row.slice for row in sorted(rows, key=lambda row: row.value(PRIMARY)) if row.slice is not None]


def typical(scores: Sequence[ImageScore]) -> dict[str, str]:
    """Return the names of the best and the median image in the primary metric, where there are such besides the worst.

    Of an even number the median is the lower of the two in the middle.
    """
    ordered = [score.image for score in sorted(scores, key=lambda score: score.values[PRIMARY])]
    chosen = {"best": ordered[-1], "median": ordered[(len(ordered) - 1) // 2]}
    return {why: image for why, image in chosen.items() if image != ordered[0]}
