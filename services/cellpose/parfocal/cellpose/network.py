"""Cellpose as the runtime drives it. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TQDM_DISABLE", "1")  # the library's progress bars would fill the log

import numpy as np
import torch
from numpy.typing import NDArray

from cellpose.resnet_torch import CPnet
from parfocal.cellpose.calibration import best_thresholds
from parfocal.cellpose.flows import FlowBatches, cached_flows, flow_fields
from parfocal.cellpose.operator_weights import find_weights, licence_of
from parfocal.cellpose.parameters import (
    Cellpose3DParameters,
    Cellpose3DPredictionParameters,
    CellposeParameters,
    CellposePredictionParameters,
    usual_thresholds,
)
from parfocal.cellpose.planes import cut_planes
from parfocal.cellpose.segmentation import (
    find_masks,
    image_flows,
    object_probability,
    stitched,
    volume_flows,
)
from parfocal.cellpose.state_dict import DIAMETERS, fit_state, read_state, save_state
from parfocal.runtime.bases.objects import ObjectImplementation
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks.torch import TorchLearner, prepare
from parfocal.runtime.images.memmaps import write_memmap
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView, Opened, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outlines import trace_outlines
from parfocal.runtime.methods.outputs import Outputs, Unit
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.batches import PatchBatches
from parfocal.runtime.training.sampler import FixedPatches, PatchSampler

_LEAST_CHANNELS: Final = 2  # Cellpose's networks take cytoplasm and nucleus, the second empty where there is none
_LEVELS: Final = 4
_OUTPUTS: Final = 3
_FLOW_FACTOR: Final = 5.0
_LEAST_DIAMETER: Final = 5.0
_CALIBRATION_PIXELS: Final = 2**22
_ALL_PIXELS: Final = 2**62
_UNCHANGED: Final = NormaliserConstants(offset=(0.0,), scale=(1.0,))


class Network(CPnet):
    """The network of Cellpose, whose missing channels are taken as empty, and which returns nothing but its output."""

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Return (batch, 3, Y, X): flow along Y, flow along X, logit."""
        missing = self.nchan - data.shape[1]
        output: torch.Tensor = super().forward(torch.nn.functional.pad(data, (0, 0, 0, 0, 0, missing)))[0]
        return output


class CellposeLearner(TorchLearner):
    """The network with its loss; batches have three targets: object or not, flows, and what is known.

    Attributes
    ----------
    parameters, facts
        Parameters and facts that the network was built for.
    """

    def __init__(self, module: Network, parameters: CellposeParameters, facts: Facts, device: Device) -> None:
        optimiser = torch.optim.AdamW(
            [weight for weight in module.parameters() if weight.requires_grad],
            lr=parameters.learning_rate,
            weight_decay=parameters.weight_decay,
        )
        super().__init__({"network": module}, {"optimiser": optimiser}, parameters.seed, device)
        self.parameters = parameters
        self.facts = facts

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of optimisation and return the losses of the batch before it."""
        losses = self._losses(self.forward(self.modules["network"], batch.input), batch)
        self.step("optimiser", losses["loss"])
        return {name: float(value.detach()) for name, value in losses.items()}

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return the losses of a batch."""
        losses = self._losses(self.infer(self.modules["network"], batch.input), batch)
        return {name: float(value) for name, value in losses.items()}

    def _losses(self, output: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        return flow_loss(output, *(torch.from_numpy(each).to(self.device) for each in batch.targets))


def flow_loss(
    output: torch.Tensor, cell: torch.Tensor, flows: torch.Tensor, known: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the loss of Cellpose and its two parts.

    Half the mean squared difference to five times the flows, and the binary cross-entropy of the logit. Pixels that
    nobody annotated count for nothing; where all are known, it is `cellpose.train._loss_fn_seg`.

    Parameters
    ----------
    output
        (batch, 3, Y, X): flow along Y and X, logit.
    cell, known
        (batch, Y, X): 1 in objects, and 1 where that is known.
    flows
        (batch, 2, Y, X), of length 1 in objects.
    """
    pixels = known.sum().clamp(min=1)
    errors = (output[:, :2] - _FLOW_FACTOR * flows) ** 2
    flow = (errors.sum(dim=1) * known).sum() / (4 * pixels)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(output[:, 2], cell, reduction="none")
    inside = (entropy * known).sum() / pixels
    return {"loss": flow + inside, "flow": flow, "cell": inside}


class Cellpose(ObjectImplementation[Any, CellposeLearner]):
    """Common parts of the methods for images and volumes."""

    normaliser = Normaliser(low=1.0, high=99.0)

    def __init__(self, device: Device | None = None) -> None:
        super().__init__(device)
        # Of the operator; read when a training opens its data, for a model that is loaded brings its own.
        self._initial: Arrays = {}

    def open(self, data: DatasetView, parameters: Any) -> Opened[Any]:
        """Return images and label images in patches, scaled so that objects have the size that the network expects."""
        opened = super().open(data, parameters)
        assert isinstance(opened.batches, PatchBatches)
        measured: dict[str, Any] = {}
        if parameters.initial_weights:
            path = find_weights(parameters.initial_weights)
            licence = licence_of(path)
            data.warn(f"The training starts from the weights {path.name!r}. {licence}")
            self._initial = read_state(path)
            measured |= {"initial_weights": path.name, "initial_weights_licence": licence}
            if (own := self._initial.get(DIAMETERS[0])) is not None:
                parameters = parameters.model_copy(update={"mean_diameter": round(float(own[0]), 3)})
        sampler = opened.batches.sampler
        assert sampler.targets is not None
        labels = [targets[0] for targets in sampler.targets]
        diameter = parameters.diameter or typical_diameter(labels, data)
        measured["diameter"] = round(diameter, 3)
        measured |= self._measured(parameters, opened)
        sampler = replace(sampler, magnification=parameters.mean_diameter / measured["diameter"])
        batches = replace(opened.batches, sampler=sampler, validation=_of(sampler, opened.batches.validation))
        facts = opened.facts.with_measured(**measured)
        return replace(opened, batches=self._with_flows(batches, data), parameters=parameters, facts=facts)

    def build(self, parameters: Any, facts: Facts) -> CellposeLearner:
        """Return a new network with its loss."""
        prepare(parameters.seed)
        channels = max(_LEAST_CHANNELS, facts.input_channels)
        filters = [parameters.first_filters * 2**level for level in range(_LEVELS)]
        module = Network([channels, *filters], _OUTPUTS, 3, diam_mean=parameters.mean_diameter)
        module.diam_labels.data[:] = facts.measured.get("diameter", parameters.mean_diameter)
        learner = CellposeLearner(module, parameters, facts, self.device)
        if self._initial:
            self.initialise(learner, facts, fit_state(parameters.initial_weights, self._initial, learner), facts)
        return learner

    def initialise(self, learner: CellposeLearner, facts: Facts, weights: Arrays, initial: Facts) -> None:
        """Give a new learner the weights of an earlier model; the diameters stay those of its own images.

        Models of single and of two channels have the same network.
        """
        own = learner.weights()
        if not np.allclose(own[DIAMETERS[0]], weights[DIAMETERS[0]], atol=0.01):
            raise InvalidInputError(f"It was trained with mean_diameter {float(weights[DIAMETERS[0]][0]):g}.")
        known, channels = (max(_LEAST_CHANNELS, each.input_channels) for each in (initial, facts))
        if known != channels:
            raise InvalidInputError(f"It reads {initial.input_channels} channels and these images have {channels}.")
        learner.set_weights({**weights, **{name: own[name] for name in DIAMETERS}})

    def save(self, folder: Path, parameters: Any, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write files that Cellpose opens: `CellposeModel(pretrained_model=FILE)`."""
        for name, arrays in weights.items():
            save_state(_file(folder, name), arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> CellposeLearner:
        """Return the saved network; nothing but arrays is read from the file."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(read_state(_file(folder, weights)))
        return learner

    def prepare(self, batch: Batch, parameters: Any, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return a batch with the targets of the loss: object or not, flows, and what is known."""
        labels = batch.targets[..., 0]
        if batch.targets.shape[-1] == 3:
            flows = np.moveaxis(batch.targets[..., 1:], -1, 1) * (labels > 0)[:, np.newaxis]
        else:
            flows = np.stack(list(flow_fields(labels)))
        targets = ((labels > 0), flows, (labels >= 0))
        return replace(batch, targets=tuple(np.ascontiguousarray(each, np.float32) for each in targets))

    def calibrate(
        self, learner: CellposeLearner, images: Iterator[ValidationImage], parameters: Any, facts: Facts
    ) -> Facts:
        """Return the facts with the thresholds that give the best accuracy on validation images."""
        chosen: list[tuple[NDArray[np.float32], NDArray[Any]]] = []
        pixels = 0
        for each in images:
            labels = np.maximum(each.targets[..., 0], 0).astype(np.int32)
            if chosen and pixels + labels.size > _CALIBRATION_PIXELS:
                break
            if labels.any():
                chosen.append((self._flows(learner, each.input, self._prediction(), Tiling(_ALL_PIXELS)), labels))
                pixels += labels.size
        scale = parameters.mean_diameter / facts.measured["diameter"]
        return facts.with_measured(**best_thresholds(chosen, scale)) if chosen else facts

    def find_objects(
        self,
        learner: CellposeLearner,
        image: NDArray[np.float32],
        parameters: PredictionParameters,
        tiling: Tiling,
    ) -> Objects:
        """Return the objects in one normalised image or volume."""
        assert isinstance(parameters, CellposePredictionParameters)
        pixels = image if image.ndim > self._dimensions else image[..., np.newaxis]
        flows = self._flows(learner, pixels, parameters, tiling)
        labels = self._masks(learner, flows, parameters)
        outlines = trace_outlines(labels.astype(np.int32)) if labels.ndim == 2 else ()
        return Objects(labels, object_probability(labels, flows[..., -1]), outlines)

    _dimensions = 2

    def _prediction(self) -> CellposePredictionParameters:
        return CellposePredictionParameters()

    def _measured(self, parameters: Any, opened: Opened[Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return what is measured on the data besides the diameter."""
        return {}

    def _with_flows(self, batches: PatchBatches, data: DatasetView) -> Any:  # noqa: ARG002
        """Return the batches, with flows beside the labels where they are computed once for all epochs."""
        return batches

    def _flows(
        self,
        learner: CellposeLearner,
        image: NDArray[np.float32],
        parameters: CellposePredictionParameters,
        tiling: Tiling,
    ) -> NDArray[np.float32]:
        """Return what the network says of an image, channels last: components of the flow, and the logit."""
        scale = network_scale(learner, parameters)
        return image_flows(learner.predict_batch, image, scale, tiling)

    def _masks(
        self, learner: CellposeLearner, flows: NDArray[np.float32], parameters: CellposePredictionParameters
    ) -> NDArray[Any]:
        chosen = thresholds(learner, parameters)
        return find_masks(
            flows,
            scale=network_scale(learner, parameters),
            minimum_size=parameters.minimum_size,
            largest_fraction=parameters.largest_fraction,
            cell_threshold=chosen["cell_threshold"],
            flow_threshold=chosen["flow_threshold"],
        )


class Cellpose2D(Cellpose):
    """Cellpose for images: flows are computed once for each image, and turned with the patches."""

    def _with_flows(self, batches: PatchBatches, data: DatasetView) -> FlowBatches:
        sampler = batches.sampler
        assert sampler.targets is not None
        labels = [targets[0] for targets in sampler.targets]

        def keep(number: int, flows: NDArray[np.float32]) -> NDArray[Any]:
            return write_memmap(data.scratch / "flows" / f"{number}.npy", flows)

        def advance(done: int) -> None:
            data.check_cancelled()
            data.progress(f"computing flows: image {done + 1} of {len(labels)}")

        flows = cached_flows(labels, keep, advance)
        sampler = replace(
            sampler,
            targets=[(drawn, *field) for drawn, field in zip(labels, flows, strict=True)],
            # Flows are interpolated, and keep their lengths; labels are not.
            target_constants=[(None, _UNCHANGED, _UNCHANGED)] * len(labels),
        )
        return FlowBatches(replace(batches, sampler=sampler, validation=_of(sampler, batches.validation)))


class Cellpose3D(Cellpose):
    """Cellpose for volumes: trained on planes of three orientations, whose flows are computed with each batch."""

    _dimensions = 3

    def prepare(self, batch: Batch, parameters: Any, facts: Facts, rng: np.random.Generator) -> Batch:
        """Return one plane of each orientation out of each block, with the targets of the loss."""
        labels = np.asarray(batch.targets[..., 0])
        stretch = facts.measured.get("anisotropy", 1.0) * (
            parameters.mean_diameter / facts.measured.get("diameter", parameters.mean_diameter)
        )
        blocks = zip(batch.input, labels, strict=True)
        planes = list(itertools.chain.from_iterable(cut_planes(*block, stretch, rng) for block in blocks))
        sources, drawn = (np.stack(each) for each in zip(*planes, strict=True))
        role = next(iter(batch.inputs))
        flat = Batch({role: np.ascontiguousarray(sources, np.float32)}, drawn[..., np.newaxis], len(planes))
        return super().prepare(flat, parameters, facts, rng)

    def predict(
        self,
        learner: CellposeLearner,
        unit: Unit,
        model: ModelView,
        parameters: PredictionParameters,
        outputs: Outputs,
    ) -> None:
        """Hand over the objects in one volume, whose own pixel size says how far apart its planes are."""
        assert isinstance(parameters, Cellpose3DPredictionParameters)
        size = unit.pixel_size
        if not parameters.anisotropy and size is not None and size.z and size.x:
            parameters = parameters.model_copy(update={"anisotropy": size.z / size.x})
        super().predict(learner, unit, model, parameters, outputs)

    def _prediction(self) -> CellposePredictionParameters:
        return Cellpose3DPredictionParameters()

    def _measured(self, parameters: Cellpose3DParameters, opened: Opened[Any]) -> dict[str, Any]:
        size = opened.record.pixel_size_um
        known = size[2] / size[0] if size and size[0] and size[2] else 1.0
        return {"anisotropy": round(parameters.anisotropy or known, 4)}

    def _flows(
        self,
        learner: CellposeLearner,
        image: NDArray[np.float32],
        parameters: CellposePredictionParameters,
        tiling: Tiling,
    ) -> NDArray[np.float32]:
        assert isinstance(parameters, Cellpose3DPredictionParameters)
        scale = network_scale(learner, parameters)
        if parameters.assembly == "orthogonal":
            anisotropy = parameters.anisotropy or learner.facts.measured.get("anisotropy", 1.0)
            return volume_flows(learner.predict_batch, image, scale, anisotropy, tiling)
        planes = []
        for number, plane in enumerate(image):
            planes.append(image_flows(learner.predict_batch, plane, scale, Tiling(tiling.most_pixels)))
            if tiling.on_tile is not None:
                tiling.on_tile(number + 1, len(image))
        return np.stack(planes)

    def _masks(
        self, learner: CellposeLearner, flows: NDArray[np.float32], parameters: CellposePredictionParameters
    ) -> NDArray[Any]:
        assert isinstance(parameters, Cellpose3DPredictionParameters)
        if parameters.assembly == "orthogonal":
            return super()._masks(learner, flows, parameters)
        single = parameters.model_copy(update={"minimum_size": 0})
        planes = [super(Cellpose3D, self)._masks(learner, plane, single) for plane in flows]
        return stitched(planes, parameters.stitch_threshold, parameters.minimum_size)


def network_scale(learner: CellposeLearner, parameters: CellposePredictionParameters) -> float:
    """Return the scale at which the network sees an image: its objects have the mean diameter then."""
    mean = learner.parameters.mean_diameter
    return float(mean / (parameters.diameter or learner.facts.measured.get("diameter", mean)))


def thresholds(learner: CellposeLearner, parameters: CellposePredictionParameters) -> dict[str, float]:
    """Return the thresholds that were asked for, else those of the model."""
    return {
        name: usual if (asked := getattr(parameters, name)) is None else asked
        for name, usual in usual_thresholds(learner.facts.measured).items()
    }


def typical_diameter(labels: list[NDArray[Any]], data: DatasetView) -> float:
    """Return the mean over all images of the diameter of a disc with the objects' median area, in pixels.

    Of volumes it is that of the objects' sections in YX planes. Objects of less than 5 pixels are taken for 5, as in
    Cellpose.
    """
    found = []
    for image in labels:
        data.check_cancelled()
        planes = image if image.ndim == 3 else image[np.newaxis]
        sizes = [np.unique(plane[plane > 0], return_counts=True)[1] for plane in map(np.asarray, planes)]
        areas = np.concatenate(sizes)
        if len(areas):
            found.append(max(_LEAST_DIAMETER, float(np.median(np.sqrt(areas)) * 2 / np.sqrt(np.pi))))
    return float(np.mean(found))


def _of(sampler: PatchSampler, patches: FixedPatches) -> FixedPatches:
    """Return the same patches, cut by another sampler."""
    return replace(patches, sampler=sampler)


def _file(folder: Path, weights: str) -> Path:
    return folder / f"weights_{weights}.cellpose"
