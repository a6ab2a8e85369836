"""Evaluation of reconstructions without ground truth: by the frames they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, files_below, predicted_files
from parfocal.qc.evaluation.publish import write_maps
from parfocal.qc.evaluation.room import Held
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.run import Judge, Part, run_evaluation
from parfocal.qc.evaluation.score_each import LeftOutError, of_prediction
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.localisation.figure import reconstruction_figure
from parfocal.qc.localisation.judge import BLIND_DEFINITION, judge_blind
from parfocal.qc.localisation.metrics import BLIND_METRICS, BLIND_SHOWN
from parfocal.qc.localisation.parameters import ReconstructionParameters, ReconstructionThresholds
from parfocal.qc.metrics.baselines.spots import SpotBaseline
from parfocal.qc.metrics.images.reconstructions import (
    FrameError,
    mean_frame,
    render,
    score_against_frames,
    upsampling_of,
)
from parfocal.qc.metrics.images.resolution import FourierCorrelation, fourier_correlation
from parfocal.runtime.datasets.coordinates import Localisations, read_localisations
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, PixelSize, image_stem, inspect_image, open_image, read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.prediction.inputs import InputFile, fetch_input, list_inputs
from parfocal.runtime.prediction.outputs import LOCALISATIONS
from parfocal.runtime.store.evaluations import EvaluationSummary, ImageScore, Kind
from parfocal.runtime.store.manifests import (
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    FileEntry,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.store import Location

_BLOCKS: Final = 20
"""Blocks of frames that are given to the two halves by turns: within a block emitters stay on."""


@dataclass(frozen=True)
class StackItem:
    """One predicted stack: the frames, the super-resolved image and the table of localisations."""

    label: str
    source: InputFile
    image: FileEntry
    table: FileEntry
    source_sha256: str
    shape: tuple[int, ...]
    role: str = ""


@dataclass(frozen=True)
class ScoredReconstruction:
    """One stack that was scored."""

    item: StackItem
    rows: tuple[ScoreRow, ...]


def evaluate(context: JobContext) -> None:
    """Judge the reconstructions of the job's prediction by the frames."""
    run_evaluation(context, ReconstructionJudge)


class ReconstructionJudge(Judge[ReconstructionParameters, StackItem, ScoredReconstruction]):
    """Super-resolved images with tables of localisations, and nothing to compare with but the frames."""

    metrics = BLIND_METRICS
    shown = BLIND_SHOWN
    headline = ("rsp", "frc_nm")
    definition = BLIND_DEFINITION
    held = Held(pixels=0, planes=1, banded=False)
    # For each pixel of the super-resolved image, 40 in a job at 4,000 px of it a side; frames come one by one.
    pixel_bytes = 45

    def bytes_of(self, image: StackItem) -> int:
        """Return the memory for a pixel of the camera."""
        # What is no multiple is told when the stack is scored.
        upsampling = max(1, inspect_image(self._image_file(image)).shape[-1] // image.shape[-1])
        return self.pixel_bytes * upsampling**2

    def inputs(self) -> Inputs[StackItem]:
        """Return the predicted stacks with their frames."""
        spec = self.context.job.evaluation
        self._place = Location.parse(spec.prediction_uri)
        store = self.context.store
        prediction = ResultManifest.read(store, self._place / RESULT_MANIFEST)
        model, role = None, "source"
        if prediction.model_uri:
            model = ModelManifest.read(store, Location.parse(prediction.model_uri) / MODEL_MANIFEST)
            role = model.source
        items, without = self._items(prediction, role)
        failed = {image_stem(Path(image.input)): image.reason for image in prediction.images if image.reason}
        return Inputs(
            None,
            model,
            prediction,
            role,
            items,
            left_out=dict.fromkeys([*without, *failed], "not predicted"),
            input_uri=prediction.input_uri,
            split=prediction.split,
            images_of="stacks without ground truth",
        )

    def prepare(self, inputs: Inputs[StackItem]) -> None:
        """Nothing can be chosen without emitters: the baseline has its usual threshold."""
        del inputs
        self._baseline = SpotBaseline(threshold=6.0)

    def score(self, item: StackItem) -> ScoredReconstruction:
        """Score one stack, and write its map."""
        stack = self._stack(item)
        assert stack.pixel_size is not None
        mean = mean_frame(stack.pixels)
        if not np.ptp(mean):
            raise LeftOutError(f"{item.label} has frames without contrast.", "no contrast")
        found = self._baseline.find(stack.pixels)
        with of_prediction(item.label):
            ours = self._localisations(item, stack)
            image = self._image(item)
            upsampling = upsampling_of(image.shape, mean.shape)
            error = score_against_frames(image, mean)
            curve = _halves(ours, stack, upsampling)
        theirs = score_against_frames(render(found, (mean.shape[0], mean.shape[1]), upsampling), mean)
        if self.parameters.maps:
            size = PixelSize(stack.pixel_size.x, stack.pixel_size.y)
            like = Image(stack.pixels[0], "YX", size)
            write_maps(self.folder / "maps", item.label, {"rse": error.difference}, like)
        return ScoredReconstruction(
            item,
            (
                _row(item, "baseline", theirs, _halves(found, stack, upsampling), len(found.frame), stack, upsampling),
                _row(item, "prediction", error, curve, len(ours.frame), stack, upsampling),
            ),
        )

    def verdict(self, part: Part[ScoredReconstruction], left_out: Mapping[str, str]) -> Judgement:
        """Say whether anything speaks against the reconstructions."""
        return judge_blind(part.images, self.thresholds(), left_out, part.unscorable)

    def verdict_of_test(self, judgement: Judgement, inputs: Inputs[StackItem]) -> Judgement:  # noqa: ARG002
        """Return the judgement as it is: stacks without ground truth cannot give too good a verdict."""
        return judgement

    def thresholds(self) -> ReconstructionThresholds:
        """Return the thresholds of the verdict."""
        return self.parameters.thresholds()

    def baseline(self, role: str) -> dict[str, Any]:  # noqa: ARG002
        """Return the threshold of the fits."""
        return self._baseline.describe()

    def note(self, part: Part[ScoredReconstruction]) -> str:  # noqa: ARG002
        """Say how the numbers are read."""
        return (
            "RSP: 1 is an image that, blurred again, looks like the mean of its frames. RSE: in grey values, lower is "
            "better. Resolution: lower is better; it measures how well two halves of the frames agree, not whether "
            "they are right. The baseline fits a Gaussian to every local maximum by itself."
        )

    def failed(self, part: Part[ScoredReconstruction]) -> list[str]:
        """Return the stacks in which nothing was located."""
        return [image.image for image in part.images if not image.values["localisations"]]

    def rank(self, image: ImageScore) -> tuple[float, ...]:
        """Order by the correlation with the frames."""
        return (image.values["rsp"],)

    def draw(self, part: Part[ScoredReconstruction], summary: EvaluationSummary, suffix: str) -> None:
        """Draw the worst stack."""
        item = part.of(part.worst.image).item
        stack, image = self._stack(item), self._image(item)
        assert stack.pixel_size is not None
        mean = mean_frame(stack.pixels)
        upsampling = upsampling_of(image.shape, mean.shape)
        figure = reconstruction_figure(
            mean,
            image,
            score_against_frames(image, mean).difference,
            _halves(self._localisations(item, stack), stack, upsampling),
            1e3 * stack.pixel_size.x / upsampling,
            name=item.label,
            images=summary.images,
            pixel_size=stack.pixel_size.x,
        )
        save_png(figure, self.folder / f"figure{suffix}.png")

    def _items(self, prediction: ResultManifest, role: str) -> tuple[list[StackItem], list[str]]:
        """Return the predicted stacks, and the names of those without a prediction."""
        if not prediction.input_uri:
            raise InvalidInputError(
                "This prediction does not record its inputs, so that it cannot be compared with its frames. Give the "
                "frames together with the predicted images."
            )
        inputs = {
            image_stem(Path(item.name)): item
            for item in list_inputs(self.context.store, prediction.input_uri, prediction.split, role)
        }
        digests = {image_stem(Path(image.input)): image.input_sha256 for image in prediction.images}
        tables = files_below(prediction, f"{LOCALISATIONS}/", (".csv",))
        items = [
            StackItem(
                stem,
                source,
                entry,
                tables[stem],
                digests.get(stem, ""),
                inspect_image(fetch_input(self.context, source)).shape,
            )
            for stem, entry in sorted(predicted_files(prediction, prediction.targets[0]).items())
            if (source := inputs.get(stem)) is not None and stem in tables
        ]
        if not items:
            raise InvalidInputError(
                f"This prediction has an image NAME.tif and a table {LOCALISATIONS}/NAME.csv of no stack of "
                f"{prediction.input_uri}. Predict these stacks first."
            )
        return items, sorted(set(inputs) - {item.label for item in items})

    def _stack(self, item: StackItem) -> Image:
        stack = open_image(fetch_input(self.context, item.source), self.scratch)
        if stack.pixels.ndim != 3:
            raise InvalidInputError(f"{item.label} has axes {stack.axes}, where a stack of frames is required.")
        if stack.pixel_size is None:
            raise InvalidInputError(
                f"{item.label} has no pixel size, which localisations require. Save it in the file (in Fiji: Image > "
                "Properties)."
            )
        return stack

    def _image(self, item: StackItem) -> NDArray[Any]:
        return read_image(self._image_file(item)).pixels

    def _image_file(self, item: StackItem) -> Path:
        return self.context.cache.fetch(self.context.store, self._place, item.image)

    def _localisations(self, item: StackItem, stack: Image) -> Localisations:
        assert stack.pixel_size is not None
        table = self.context.cache.fetch(self.context.store, self._place, item.table)
        return read_localisations(table, (stack.pixel_size.y, stack.pixel_size.x), stack.pixels.shape)


def _halves(found: Localisations, stack: Image, upsampling: int) -> FourierCorrelation:
    """Return the Fourier ring correlation of the localisations of two halves of the frames."""
    frames, height, width = stack.pixels.shape
    length = max(1, frames // _BLOCKS)
    second = (found.frame // length) % 2 == 1
    halves = (
        Localisations(found.frame[chosen], found.y[chosen], found.x[chosen], found.intensity[chosen])
        for chosen in (~second, second)
    )
    return fourier_correlation(*(render(half, (height, width), upsampling) for half in halves))


def _row(
    item: StackItem,
    kind: Kind,
    error: FrameError,
    curve: FourierCorrelation,
    count: int,
    stack: Image,
    upsampling: int,
) -> ScoreRow:
    assert stack.pixel_size is not None
    pixel_nm = 1e3 * stack.pixel_size.x
    values = {
        "rsp": error.rsp,
        "rse": error.rse,
        "blur_nm": error.sigma * pixel_nm,
        "localisations": float(count),
        "frc_nm": curve.resolution * pixel_nm / upsampling,
    }
    return ScoreRow(item.label, kind, {name: value for name, value in values.items() if not np.isnan(value)})
