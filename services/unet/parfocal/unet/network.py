"""The U-Nets as the runtime drives them. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks.torch import TorchFiles, TorchLearner, prepare
from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Batch, Implementation, ModelView, Opened, Selection, ValidationImage
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Outputs, Unit, Window
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.portable import Portable
from parfocal.runtime.methods.thresholds import THRESHOLDS, threshold_counts
from parfocal.runtime.prediction.object_tiling import find_in_blocks
from parfocal.runtime.prediction.tiling import Geometry, Pixels, Tiling, apply_tiled, per_axis
from parfocal.runtime.prediction.unit import Normalised
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.batches import PatchBatches
from parfocal.runtime.training.data import open_classes
from parfocal.unet.losses import dice_score, training_loss
from parfocal.unet.modules import Unet2D, Unet3D
from parfocal.unet.parameters import (
    Unet2DParameters,
    Unet3DParameters,
    UnetParameters,
    UnetPredictionParameters,
    class_values,
    written_values,
)
from parfocal.unet.regions import clean_in_blocks, find_instances, smallest_dtype
from parfocal.unet.thresholds import best_threshold, ious
from parfocal.unet.weights import balanced_weights, pixel_weights

_LARGEST_TILE = 2**20
_SHOWN = 3


class UnetLearner(TorchLearner):
    """A U-Net with its loss; batches have the class of each pixel and its weight as targets."""

    def __init__(self, module: torch.nn.Module, outputs: int, parameters: UnetParameters, device: Device) -> None:
        optimiser = torch.optim.Adam(module.parameters(), lr=parameters.learning_rate)
        super().__init__({"network": module}, {"optimiser": optimiser}, parameters.seed, device)
        self._name = parameters.loss
        self._classes = outputs

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of optimisation and return loss and Dice coefficient of the batch before it."""
        logits = self.forward(self.modules["network"], batch.input)
        classes, weights = self._targets(batch)
        dice = dice_score(logits, classes)
        return {"loss": self.step("optimiser", training_loss(self._name, logits, classes, weights)), "dice": dice}

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return loss and Dice coefficient of a batch."""
        logits = self.infer(self.modules["network"], batch.input)
        classes, weights = self._targets(batch)
        return {
            "loss": float(training_loss(self._name, logits, classes, weights)),
            "dice": dice_score(logits, classes),
        }

    def portable_module(self) -> torch.nn.Module:
        """Return the network with what turns its output into probabilities."""
        network = self.modules["network"]
        return torch.nn.Sequential(network, torch.nn.Softmax(1) if self._classes > 1 else torch.nn.Sigmoid())

    def _targets(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        classes, weights = (torch.from_numpy(each).to(self.device) for each in batch.targets)
        return classes, weights


class Unet(TorchFiles, Implementation[UnetParameters, UnetLearner]):
    """Common parts of U-Nets in two and three dimensions."""

    kept: ClassVar[Mapping[str, Selection]] = {"best": Selection(), "best-dice": Selection("val_dice", "higher")}
    one_in_total: ClassVar[bool]
    """Whether balanced class weights add up to 1, as in the notebook for volumes; else their mean over pixels is 1."""

    @abstractmethod
    def network(self, parameters: Any, inputs: int, outputs: int) -> torch.nn.Module:
        """Return a new network."""

    def open(self, data: DatasetView, parameters: UnetParameters) -> Opened[UnetParameters]:
        """Return images with class images in patches, and the weight of each class."""
        values = class_values(parameters, data.manifest)
        opened = open_classes(data, parameters, self.normaliser, values=values, ignored=parameters.ignore_value)
        written = written_values(values)
        counts = _count_classes(opened, len(written))
        if missing := [str(value) for value, number in zip(written, counts, strict=True) if not number]:
            text = f"No pixel of the training images has the class {', '.join(missing)}"
            if len(written) - len(missing) < 2:
                raise InvalidInputError(
                    f"{text}: two or more classes are required. Annotate more, or use other images."
                )
            data.warn(f"{text}: the model cannot find it.")
        measured: dict[str, Any] = {"class_values": list(written)}
        if parameters.ignore_value is not None:
            measured["ignore_value"] = parameters.ignore_value
        if parameters.balanced:
            measured["class_weights"] = balanced_weights(counts, one_in_total=self.one_in_total)
        size = opened.record.pixel_size_um
        anisotropy = size[2] / size[0] if size and size[0] and size[2] else 1.0
        if "Z" in data.axes:
            measured["anisotropy"] = round(anisotropy, 4)
        return replace(opened, parameters=parameters.resolved(anisotropy), facts=opened.facts.with_measured(**measured))

    def prepare(self, batch: Batch, parameters: UnetParameters, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return the class of each pixel, below 0 where it is not known, and its weight in the cross-entropy."""
        classes = np.asarray(batch.targets[..., 0], np.int64)
        weights = pixel_weights(
            classes,
            facts.measured.get("class_weights"),
            parameters.boundary_weight,
            parameters.boundary_width,
            facts.measured.get("anisotropy", 1.0),
        )
        return replace(batch, targets=(classes, weights))

    def build(self, parameters: UnetParameters, facts: Facts) -> UnetLearner:
        """Return a new network with its loss."""
        prepare(parameters.seed)
        module = self.network(parameters, facts.input_channels, _outputs(facts))
        return UnetLearner(module, _outputs(facts), parameters, self.device)

    def geometry(self, parameters: Any, facts: Facts) -> Geometry:
        """Return sizes and overlap: tiles are exact."""
        return Geometry(divisor=parameters.divisor, overlap=parameters.reach, output_channels=_outputs(facts))

    def probability(
        self, learner: UnetLearner, image: Pixels, parameters: UnetParameters, facts: Facts, tiling: Tiling
    ) -> NDArray[np.float32]:
        """Return the probability of each class, last, in a normalised image of any size."""
        return probabilities(apply_tiled(learner, image, self.geometry(parameters, facts), tiling))

    def calibrate(
        self, learner: UnetLearner, images: Iterator[ValidationImage], parameters: UnetParameters, facts: Facts
    ) -> Facts:
        """Return the facts with the threshold that gives the highest IoU of the foreground over all validation images.

        Several classes have no threshold: the most probable one is taken.
        """
        if _outputs(facts) > 1:
            return facts
        counts = np.zeros((len(THRESHOLDS), 3), np.int64)
        for image in images:
            found = self.probability(learner, image.input, parameters, facts, Tiling(_LARGEST_TILE))
            counts += threshold_counts(image.targets[..., 0], found[..., 1])
        curve = ious(counts)
        return facts.with_measured(
            threshold=best_threshold(curve), iou_by_threshold=[round(value, 5) for value in curve.tolist()]
        )

    def figures(
        self, learner: UnetLearner, images: Iterator[ValidationImage], parameters: UnetParameters, facts: Facts
    ) -> Mapping[str, Any]:
        """Return the IoU over the threshold, and what is found in some validation images beside their targets."""
        from parfocal.unet.figures import Overlay, validation_figure  # drawing takes a second to load

        overlays = []
        for _, image in zip(range(_SHOWN), images, strict=False):
            found = self.probability(learner, image.input, parameters, facts, Tiling(_LARGEST_TILE))
            classes = predicted_classes(found, facts.measured.get("threshold", 0.5))
            overlays.append(Overlay(image.name, image.input, image.targets[..., 0], classes))
        return {"validation": validation_figure(overlays, facts.measured)}

    def portable(self, learner: UnetLearner, model: ModelView) -> Portable:  # noqa: ARG002
        """Return what the probabilities of the network stand for."""
        geometry, values = self.geometry(model.parameters, model.facts), model.facts.measured["class_values"]
        if geometry.output_channels == 1:
            threshold = model.facts.measured.get("threshold", 0.5)
            channels = ["foreground"]
            meaning = (
                f"The probability, 0 to 1, that a pixel is foreground. The threshold that fitted the validation images "
                f"best is {threshold:g}: a pixel that reaches it is foreground."
            )
        else:
            channels = [f"class_{value}" for value in values]
            meaning = "The probability, 0 to 1, of each class, named by its grey value in the training masks."
        dimensions = len(model.axes)
        return Portable(
            channels, meaning, per_axis(geometry.divisor, dimensions), per_axis(geometry.overlap, dimensions)
        )

    def predict(
        self, learner: UnetLearner, unit: Unit, model: ModelView, parameters: PredictionParameters, outputs: Outputs
    ) -> None:
        """Hand over the class of each pixel and what is asked for besides: probabilities, and single objects."""
        assert isinstance(parameters, UnetPredictionParameters)
        facts = model.facts
        source = Normalised(unit, model.normaliser)
        logits = apply_tiled(learner, source, self.geometry(model.parameters, facts), Tiling.of(unit))
        threshold = parameters.threshold or facts.measured.get("threshold", 0.5)
        lengths = unit.pixel_size.lengths(len(unit.shape)) if unit.pixel_size is not None else None
        classes = unit.scratch.zeros(unit.shape, np.uint8)
        for window in blocks(unit.shape):
            classes[window] = predicted_classes(probabilities(logits[window]), threshold)
            release(classes)
            release(logits)
        classes = clean_in_blocks(classes, parameters, lengths, unit.scratch)
        values = facts.measured["class_values"]
        dtype = smallest_dtype(values)
        prediction = outputs.image("prediction", dtype=dtype, values="none")
        for window in blocks(unit.shape):
            prediction.write(np.array(values, dtype)[classes[window]], window)
        if parameters.probabilities:
            shape = (max(2, logits.shape[-1]), *unit.shape)
            sink = outputs.image("probability", shape=shape, axes="C" + unit.axes, values="none")
            for window in blocks(unit.shape):
                sink.write(np.moveaxis(probabilities(logits[window]), -1, 0), (slice(None), *window))
                release(logits)
        if parameters.instances != "none":

            def find(window: Window, on_tile: Callable[[int, int], None]) -> Objects:  # noqa: ARG001
                found = find_instances(np.asarray(classes[window]), probabilities(logits[window]), parameters, lengths)
                release(logits)
                return found

            outputs.objects(find_in_blocks(find, unit.shape, scratch=unit.scratch), name="instances")


class UnetOfImages(Unet):
    """The U-Net of the notebook for images."""

    one_in_total = False

    def network(self, parameters: Unet2DParameters, inputs: int, outputs: int) -> torch.nn.Module:
        """Return a new network."""
        return Unet2D(inputs, outputs, parameters.first_filters, parameters.poolings)


class UnetOfVolumes(Unet):
    """The U-Net of the notebook for volumes."""

    one_in_total = True

    def network(self, parameters: Unet3DParameters, inputs: int, outputs: int) -> torch.nn.Module:
        """Return a new network."""
        scales = parameters.scales
        strides = [tuple(np.floor_divide(*pair).tolist()) for pair in zip(scales[1:], scales, strict=False)]
        return Unet3D(inputs, outputs, parameters.first_filters, strides)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of each class, last, of which two have a single logit, that of the foreground."""
    if logits.shape[-1] == 1:
        foreground = special.expit(logits[..., 0])
        return np.stack([1 - foreground, foreground], axis=-1)
    return np.asarray(special.softmax(logits, axis=-1), np.float32)


def predicted_classes(probability: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Return the class of each pixel: of two, foreground where it reaches a threshold, else the most probable one."""
    if probability.shape[-1] == 2:
        return np.where(probability[..., 1] >= threshold, 1, 0).astype(np.uint8)
    found: NDArray[np.uint8] = np.argmax(probability, axis=-1).astype(np.uint8)
    return found


def _outputs(facts: Facts) -> int:
    """Return the channels of the network's output: the foreground of two classes, or one for each of several."""
    classes = 1 + facts.targets[0].classes
    return 1 if classes <= 2 else classes


def _count_classes(opened: Opened[Any], classes: int) -> NDArray[np.int64]:
    """Return how many pixels each class has in the parts that training is done on."""
    assert isinstance(opened.batches, PatchBatches)
    sampler = opened.batches.sampler
    assert sampler.targets is not None
    counts = np.zeros(classes, np.int64)
    for region in sampler.regions:
        window = tuple(slice(*bounds) for bounds in zip(region.start, region.stop, strict=True))
        part = np.asarray(sampler.targets[region.index][0])[window]
        counts += np.bincount(part[part >= 0], minlength=classes)
    return counts
