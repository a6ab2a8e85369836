"""Deep-STORM as the runtime drives it. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from parfocal.deepstorm.estimating import Estimate, estimate_scene
from parfocal.deepstorm.heatmaps import SPIKE, heat_map, locate
from parfocal.deepstorm.modules import DIVISOR, SIGHT, DeepStormModule, deep_storm_loss
from parfocal.deepstorm.parameters import DeepStormParameters, DeepStormPredictionParameters, SimulationParameters
from parfocal.deepstorm.reconstructing import Reconstruction
from parfocal.deepstorm.simulating import SimulatedBatches, limited, scale_of, scene_of
from parfocal.runtime.datasets.findings import some
from parfocal.runtime.datasets.pairs import check_images
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.frameworks.torch import SupervisedLearner, TorchFiles, prepare
from parfocal.runtime.images.drift import training_statistics
from parfocal.runtime.methods.implementation import (
    Batch,
    Batches,
    Example,
    Implementation,
    ModelView,
    Opened,
    TrainingDataRecord,
    ValidationImage,
)
from parfocal.runtime.methods.localisation_matching import jaccard, match_places
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.outputs import Outputs, Unit
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.tiling import Geometry, Tiling, apply_tiled
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.annotated import open_coordinates
from parfocal.runtime.training.data import normalised_port

P = TypeVar("P", DeepStormParameters, SimulationParameters)
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(1, 25))
_RADIUS_NM: Final = 250.0
_USUAL_RADIUS_PX: Final = 2.5
_ASSESSED_FRAMES: Final = 40
_ASSESSED_PIXELS: Final = 2**20
_VALIDATION_STEPS: Final = 8
_SHOWN_FRAMES: Final = 20


@dataclass(frozen=True)
class FewerSteps:
    """Batches whose epochs end after some steps. Which ones they are changes from epoch to epoch."""

    batches: Batches
    steps_per_epoch: int

    @property
    def validation_steps(self) -> int:
        """Validation batches."""
        return self.batches.validation_steps

    def batch(self, epoch: int, step: int) -> Batch:
        """Return a training batch."""
        return self.batches.batch(epoch, step)

    def validation_batch(self, step: int) -> Batch:
        """Return a validation batch."""
        return self.batches.validation_batch(step)


class _Network(TorchFiles, Implementation[P, SupervisedLearner]):
    """Common parts of both methods, whatever the origin of the training frames."""

    normaliser: ClassVar[Normaliser] = Normaliser(rule="stack")

    def prepare(self, batch: Batch, parameters: P, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return a batch with the heat maps of its emitters."""
        shape = (batch.input.shape[1], batch.input.shape[2])
        maps = [heat_map(located.y, located.x, shape, parameters.upsampling) for located in batch.targets]
        return replace(batch, targets=np.stack(maps)[..., np.newaxis])

    def build(self, parameters: P, facts: Facts) -> SupervisedLearner:  # noqa: ARG002
        """Return a new network with its optimiser and loss."""
        prepare(parameters.seed)
        module = DeepStormModule(parameters.upsampling, parameters.first_filters)
        optimiser = torch.optim.Adam(module.parameters(), lr=parameters.learning_rate, eps=1e-7)
        return SupervisedLearner(module, optimiser, deep_storm_loss, parameters.seed, self.device)

    def geometry(self, parameters: P) -> Geometry:
        """Return legal sizes and how far an output sees, in pixels of the camera."""
        upsampling = parameters.upsampling
        return Geometry(
            divisor=DIVISOR // math.gcd(DIVISOR, upsampling),
            overlap=math.ceil(SIGHT / upsampling),
            output_channels=1,
            scale=upsampling,
        )

    def calibrate(
        self, learner: SupervisedLearner, images: Iterator[ValidationImage], parameters: P, facts: Facts
    ) -> Facts:
        """Return the facts with the threshold that gives the highest Jaccard index on validation frames.

        Emitters are matched within 250 nm, or 2.5 pixels where their size is not known. Besides, the standard
        deviation of the places along each axis is measured on the pairs.
        """
        radius = _RADIUS_NM / nm if (nm := facts.measured.get("pixel_size_nm")) else _USUAL_RADIUS_PX
        counts = np.zeros((len(THRESHOLDS), 3), np.int64)
        squares: list[list[float]] = [[] for _ in THRESHOLDS]
        for number, image in enumerate(images):
            if number == _ASSESSED_FRAMES:
                break
            output = self.apply(learner, image.input, parameters, _ASSESSED_PIXELS)
            y, x, confidence = locate(output, parameters.upsampling, THRESHOLDS[0])
            true = np.column_stack([image.targets.y, image.targets.x])
            for place, threshold in enumerate(THRESHOLDS):
                kept = confidence >= threshold
                mine, theirs, distance = match_places(np.column_stack([y[kept], x[kept]]), true, radius)
                counts[place] += len(mine), int(kept.sum()) - len(mine), len(true) - len(theirs)
                squares[place] += (distance**2).tolist()
        indices = [jaccard(*each) for each in counts.tolist()]
        best = int(np.argmax(indices))
        measured: dict[str, Any] = {
            "threshold": THRESHOLDS[best],
            "jaccard": [round(value, 4) for value in indices],
            "thresholds": list(THRESHOLDS),
        }
        if squares[best]:
            # Of both axes together; each has half of it.
            measured["localisation_sd_px"] = round(math.sqrt(float(np.mean(squares[best])) / 2), 4)
        return facts.with_measured(**measured)

    def apply(
        self,
        learner: SupervisedLearner,
        frame: NDArray[np.float32],
        parameters: P,
        most_pixels: int,
    ) -> NDArray[np.float32]:
        """Return the output of the network for a normalised frame (Y, X, 1): (Y * upsampling, X * upsampling)."""
        output: NDArray[np.float32] = apply_tiled(learner, frame, self.geometry(parameters), Tiling(most_pixels))[
            ..., 0
        ]
        return output

    def predict(
        self,
        learner: SupervisedLearner,
        unit: Unit,
        model: ModelView,
        parameters: PredictionParameters,
        outputs: Outputs,
    ) -> None:
        """Hand over the super-resolved image of one stack, its localisations, their density and number by frame."""
        assert isinstance(parameters, DeepStormPredictionParameters)
        trained, measured = model.parameters, model.facts.measured
        frames, height, width = unit.shape

        def read(number: int) -> NDArray[Any]:
            frame: NDArray[Any] = unit.read((slice(number, number + 1), slice(0, height), slice(0, width)))[0]
            return frame

        constants = model.normaliser.fit_stack(frames, read)
        made = Reconstruction(
            outputs,
            (frames, height, width),
            upsampling=trained.upsampling,
            pixel_size=unit.pixel_size,
            sd=measured.get("localisation_sd_px"),
            segments=min(parameters.drift_segments, frames) if parameters.drift_correction else 0,
        )
        threshold = parameters.threshold or measured["threshold"]
        with made:
            for number in range(frames):
                frame = read(number)
                normalised = model.normaliser.apply(frame, constants)[..., np.newaxis]
                output = np.maximum(self.apply(learner, normalised, trained, unit.most_pixels), 0)
                found = locate(
                    output,
                    trained.upsampling,
                    threshold,
                    neighbourhood=parameters.neighbourhood,
                    centroid=parameters.centroid,
                )
                made.add(number, frame, (output / SPIKE).astype(np.float32), *found)
                unit.report(number + 1, frames)
            made.finish()


class DeepStorm(_Network[DeepStormParameters]):
    """Deep-STORM trained on localisations."""

    def open(self, data: DatasetView, parameters: DeepStormParameters) -> Opened[DeepStormParameters]:
        """Return patches of frames with the emitters in them."""
        opened = open_coordinates(data, parameters, self.normaliser)
        steps = math.ceil(parameters.patches_per_epoch / parameters.batch_size)
        batches = FewerSteps(opened.batches, min(steps, opened.batches.steps_per_epoch))
        size = opened.record.pixel_size_um
        assert size is not None
        assert size[0] is not None
        facts = opened.facts.with_measured(pixel_size_nm=1e3 * size[0])
        return replace(opened, batches=batches, facts=facts)


class SimulatedDeepStorm(_Network[SimulationParameters]):
    """Deep-STORM trained on simulated frames."""

    def open(self, data: DatasetView, parameters: SimulationParameters) -> Opened[SimulationParameters]:
        """Return simulated patches that resemble the user's stacks.

        Raises
        ------
        InvalidInputError
            The stacks do not say what the parameters leave open.
        """
        role = parameters.roles(data.manifest).source
        folder = data.fetch(role)
        least = {"Y": parameters.patch_size, "X": parameters.patch_size}
        report = check_images(
            folder / role, axes="TYX", min_size=least, min_images=data.minimum_images, reading=data.reading
        )
        for warning in dict.fromkeys(report.warnings):
            data.warn(warning)
        size = report.images[0].pixel_size
        pixel_nm = parameters.pixel_size_nm or (1e3 * size.x if size is not None else 0)
        if not pixel_nm:
            raise InvalidInputError(
                f"{report.images[0].path.name} has no pixel size. Save it in the file (in Fiji: Image > Properties), "
                "or set pixel_size_nm.",
                [Violation("pixel_size_nm", "is required, because the stack does not state it")],
            )
        data.progress("decoding the stacks")
        stacks = [data.decode(image.path) for image in report.images]
        data.progress("estimating the shape of the spots")
        values = self._values(data, parameters, stacks, pixel_nm)
        scene = scene_of(values, pixel_nm)
        shape = stacks[0].shape[1:]
        constants = scale_of(scene, shape, parameters.seed)
        batches = SimulatedBatches(
            role=role,
            scene=scene,
            constants=constants,
            patch=parameters.patch_size,
            batch_size=parameters.batch_size,
            steps_per_epoch=math.ceil(parameters.patches_per_epoch / parameters.batch_size),
            validation_steps=min(_VALIDATION_STEPS, math.ceil(parameters.patches_per_epoch / parameters.batch_size)),
            seed=parameters.seed,
        )
        shown = [stack[number] for stack in stacks for number in _spread(len(stack), _SHOWN_FRAMES)]
        statistics = training_statistics(shown)
        example, _ = scene.frame(np.random.default_rng(parameters.seed), limited(shape))
        stems = [image.stem for image in report.images]
        regions = [{"index": number, "stem": stem} for number, stem in enumerate(stems)]
        return Opened(
            batches,
            parameters,
            Facts(inputs=(normalised_port(role, [constants]),), targets=()).with_measured(
                pixel_size_nm=pixel_nm, simulated=scene.describe(pixel_nm)
            ),
            TrainingDataRecord(
                split={"by": "simulation", "seed": parameters.seed, "training": regions, "validation": []},
                statistics=statistics.model_dump() if statistics is not None else {},
                pixel_size_um=(pixel_nm / 1e3, pixel_nm / 1e3, None),
                examples=(Example(stems[0], role, stacks[0][0]), Example("simulated frame", role, example)),
            ),
            lambda: iter(batches.validation_images(shape)),
        )

    def _values(
        self, data: DatasetView, parameters: SimulationParameters, stacks: Sequence[NDArray[Any]], pixel_nm: float
    ) -> dict[str, float]:
        """Return the parameters of the simulation; those that are 0 are estimated, as the median over stacks."""
        found = []
        for stack in stacks:
            data.check_cancelled()
            found.append(estimate_scene(stack, parameters.photons_spread, parameters.adc_per_photon or None))
        of: dict[str, Callable[[Estimate], float | None]] = {
            "psf_sigma_nm": lambda each: None if each.psf_sigma is None else each.psf_sigma * pixel_nm,
            "photons": lambda each: each.photons,
            "density": lambda each: None if each.density is None else each.density * (1e3 / pixel_nm) ** 2,
            "adc_per_photon": lambda each: each.gain,
            "read_noise": lambda each: each.read_noise,
            "offset": lambda each: each.offset,
        }
        values, unknown = parameters.model_dump(), []
        for name, get in of.items():
            if values[name]:
                continue
            known = [value for each in found if (value := get(each)) is not None and value > 0]
            if known:
                values[name] = float(np.median(known))
            elif name not in ("read_noise", "offset"):
                unknown.append(name)
        if unknown:
            raise InvalidInputError(
                f"{some(unknown)} could not be estimated from these stacks: their frames differ by too little, or by "
                "noise alone. Give what you know of your microscope, or use stacks in which emitters blink.",
                [Violation(name, "could not be estimated from the stacks") for name in unknown],
            )
        return values


def _spread(count: int, most: int) -> list[int]:
    numbers: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return numbers
