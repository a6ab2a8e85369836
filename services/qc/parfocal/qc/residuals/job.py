"""Evaluation without targets: what was removed from each input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, predicted_files
from parfocal.qc.evaluation.publish import write_maps
from parfocal.qc.evaluation.room import Held
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import LeftOutError, of_prediction
from parfocal.qc.evaluation.training_images import warn_of_samples
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.bands import sample_windows
from parfocal.qc.metrics.baselines.blind import choose_blind_gaussian
from parfocal.qc.metrics.images.residuals import NoNoiseError, ResidualScore, score_residual
from parfocal.qc.residuals.figure import residual_figure
from parfocal.qc.residuals.judge import DEFINITION, judge, rank
from parfocal.qc.residuals.metrics import METRICS, SHOWN
from parfocal.qc.residuals.parameters import ResidualParameters, ResidualThresholds
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, image_stem, inspect_image, open_image
from parfocal.runtime.images.scratch import release
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.prediction.inputs import InputFile, fetch_input, list_inputs
from parfocal.runtime.store.evaluations import EvaluationSummary, ImageScore, Kind
from parfocal.runtime.store.manifests import (
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    FileEntry,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.store import Location

_BASELINE_IMAGES: Final = 50
# Fields of `ResidualScore` that have another key in tables.
_KEYS: Final = {"neighbours": "autocorrelation", "clipped": "clipped_fraction"}


@dataclass(frozen=True)
class Pair:
    """One predicted image and the input it was made from; there is no target."""

    label: str
    source: InputFile
    prediction: FileEntry
    source_sha256: str
    shape: tuple[int, ...]
    role: str = ""


@dataclass(frozen=True)
class ScoredResidual:
    """One image that was scored."""

    item: Pair
    rows: tuple[ScoreRow, ...]


def evaluate(context: JobContext) -> None:
    """Judge the job's prediction by its own inputs; the evaluation is not added to a model."""
    run_evaluation(context, ResidualJudge)


class ResidualJudge(Judge[ResidualParameters, Pair, ScoredResidual]):
    """Restored images without targets."""

    metrics = METRICS
    shown = SHOWN
    headline = ("agreement", "structure", "sharpness", "noise_left")
    definition = DEFINITION
    held = Held(pixels=2**22, planes=0)
    # At most 590 MB, by tracemalloc on planes of 4 and of 20 million pixels.
    pixel_bytes = 140

    def inputs(self) -> Inputs[Pair]:
        """Return the predicted images with their inputs."""
        context = self.context
        self._place = Location.parse(context.job.evaluation.prediction_uri)
        prediction = ResultManifest.read(context.store, self._place / RESULT_MANIFEST)
        model = None
        if prediction.model_uri:
            model = ModelManifest.read(context.store, Location.parse(prediction.model_uri) / MODEL_MANIFEST)
        role = model.source if model is not None else "source"
        pairs, without = _pairs(context, prediction, role)
        failed = (image_stem(Path(image.input)) for image in prediction.images if image.reason)
        self._unlike = [image_stem(Path(image.input)) for image in prediction.images if image.drift]
        return Inputs(
            None,
            model,
            prediction,
            role,
            pairs,
            left_out=dict.fromkeys([*without, *failed], "not predicted"),
            input_uri=prediction.input_uri,
            split=prediction.split,
            images_of="images without targets",
        )

    def prepare(self, inputs: Inputs[Pair]) -> None:
        """Choose the Gaussian filter that foretells each pixel best from its neighbours."""
        self._gaussian = choose_blind_gaussian(islice(self._sources(inputs.items), _BASELINE_IMAGES))

    def score(self, item: Pair) -> ScoredResidual:
        """Score the residual of one image, and write its maps."""
        source = self._source(item)
        try:
            # The baseline first: what is wrong with the input shows there.
            baseline = self._gaussian.apply(source.pixels, self.scratch)
            theirs = score_residual(source.pixels, baseline, name=item.label, scratch=self.scratch)[0]
            del baseline  # its file goes with it
        except NoNoiseError as error:
            raise LeftOutError(error.message, error.why) from error
        with of_prediction(item.label):
            ours, found = score_residual(source.pixels, self._prediction(item), name=item.label, scratch=self.scratch)
        if self.parameters.maps:
            maps = {"residual": found.residual, "deviation": found.deviation}
            write_maps(self.folder / "maps", item.label, maps, source)
        return ScoredResidual(item, (_row(item.label, "baseline", theirs), _row(item.label, "prediction", ours)))

    def rank(self, image: ImageScore) -> tuple[float, ...]:
        """Order by agreement, then by structure in the residual."""
        return rank(image)

    def verdict(self, part: Part[ScoredResidual], left_out: Mapping[str, str]) -> Judgement:
        """Say whether anything speaks against the predictions."""
        return judge(part.images, self.thresholds(), self._unlike, left_out, part.unscorable)

    def verdict_of_test(self, judgement: Judgement, inputs: Inputs[Pair]) -> Judgement:  # noqa: ARG002
        """Return the judgement as it is: images without targets cannot give too good a verdict."""
        return judgement

    def thresholds(self) -> ResidualThresholds:
        """Return the thresholds of the verdict."""
        return self.parameters.thresholds()

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return the filter, and how it was chosen."""
        return self._gaussian.describe()

    def note(self, part: Part[ScoredResidual]) -> str:  # noqa: ARG002
        """Say how the numbers are read."""
        return (
            "Agreement: higher is better. Structure: noise alone gives 1. Sharpness: 1 keeps what the input has. Noise "
            "left and autocorrelation: near 0 is better. The Gaussian filter has the sigma that predicts each pixel "
            f"best from its neighbours, {self._gaussian.sigma:.2f} px."
        )

    def draw(self, part: Part[ScoredResidual], summary: EvaluationSummary, suffix: str) -> None:
        """Draw the worst image, so that nobody is shown a lucky one."""
        pair = part.of(part.worst.image).item
        source, prediction = self._source(pair), self._prediction(pair)
        score, maps = score_residual(source.pixels, prediction, name=pair.label, scratch=self.scratch)
        size = source.pixel_size.x if source.pixel_size is not None else None
        figure = residual_figure(
            source.pixels, prediction, maps, score, name=pair.label, images=summary.images, pixel_size=size
        )
        save_png(figure, self.folder / f"figure{suffix}.png")

    def _sources(self, pairs: Sequence[Pair]) -> Iterator[NDArray[Any]]:
        """Yield the inputs; of large planes windows, one after the other."""
        for pair in pairs:
            pixels = self._open(fetch_input(self.context, pair.source)).pixels
            plane = pixels.shape[-2:]
            warn_of_samples(self.context, plane)
            for window in sample_windows(plane):
                part: tuple[Any, ...] = ..., *window
                yield pixels[part]
                release(pixels)

    def _source(self, pair: Pair) -> Image:
        source = self._open(fetch_input(self.context, pair.source))
        if "S" in source.axes or "C" in source.axes:
            raise InvalidInputError(
                f"{pair.label} has channels (axes {source.axes}): residuals are judged in grey images and their "
                "stacks. Choose images without channels."
            )
        return source

    def _prediction(self, pair: Pair) -> NDArray[Any]:
        return self._open(self.context.cache.fetch(self.context.store, self._place, pair.prediction)).pixels

    def _open(self, path: Path) -> Image:
        return open_image(path, self.scratch)


def _pairs(context: JobContext, prediction: ResultManifest, role: str) -> tuple[list[Pair], list[str]]:
    """Return the predicted images with their inputs, by name, and the names of inputs without a prediction."""
    if not prediction.input_uri:
        raise InvalidInputError(
            "This prediction does not record its inputs, so that it cannot be compared with them. Give the inputs "
            "together with the predicted images."
        )
    inputs = {
        image_stem(Path(item.name)): item
        for item in list_inputs(context.store, prediction.input_uri, prediction.split, role)
    }
    digests = {image_stem(Path(image.input)): image.input_sha256 for image in prediction.images}
    pairs = [
        Pair(stem, source, entry, digests.get(stem, ""), inspect_image(fetch_input(context, source)).shape)
        for stem, entry in sorted(predicted_files(prediction, prediction.targets[0]).items())
        if (source := inputs.get(stem)) is not None
    ]
    if not pairs:
        raise InvalidInputError(f"No predicted image has the name of an image of {prediction.input_uri}.")
    return pairs, sorted(set(inputs) - {pair.label for pair in pairs})


def _row(label: str, kind: Kind, score: ResidualScore) -> ScoreRow:
    values = {_KEYS.get(name, name): value for name, value in asdict(score).items() if isinstance(value, float)}
    defined = {metric.key: values[metric.key] for metric in METRICS if not math.isnan(values.get(metric.key, math.nan))}
    return ScoreRow(label, kind, defined, failed=score.failed or None)
