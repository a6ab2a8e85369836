"""YOLOv2 as the runtime drives it. What is not YOLO belongs to the runtime. Imported by workers only: loads PyTorch."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.frameworks.torch import TorchFiles, TorchLearner, prepare
from parfocal.runtime.methods.average_precision import average_precision, match_by_score
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import (
    Arrays,
    Batch,
    Implementation,
    ModelView,
    Opened,
    Selection,
    ValidationImage,
)
from parfocal.runtime.methods.outputs import Detections, Outputs, Unit
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.box_tiling import find_boxes, suppress_overlaps
from parfocal.runtime.prediction.tiling import Pixels, Tiling
from parfocal.runtime.prediction.unit import Normalised
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.annotated import open_boxes
from parfocal.yolo.boxes import GridTargets, assign, decode, measure_anchors
from parfocal.yolo.loss import TensorTargets, yolo_loss
from parfocal.yolo.modules import BACKBONE, FullYolo, TinyYolo
from parfocal.yolo.parameters import CELL, YoloParameters, YoloPredictionParameters

MEAN_AVERAGE_PRECISION = "mAP"
BACKBONE_ONLY = "backbone_only"
"""Measured of a model that has nothing but a backbone: it can begin a training and not predict."""
# Of the measurement that selects weights: everything that ranks, and the overlaps of PASCAL VOC.
_LEAST_SCORE, _MOST_OVERLAP, _MATCH = 0.005, 0.45, 0.5
_ASSESSED_PIXELS = 1024**2


class YoloLearner(TorchLearner):
    """One of the networks with its optimiser and loss.

    Parameters
    ----------
    module
        Maps (B, channels, Y, X) to the raw boxes of the grid.
    anchors
        (A, 2): width and height in cells.
    parameters
        Parameters of the training.
    device
        Device on which the network is computed.
    """

    def __init__(
        self, module: nn.Module, anchors: NDArray[np.float64], parameters: YoloParameters, device: Device
    ) -> None:
        optimiser = torch.optim.Adam(module.parameters(), lr=parameters.learning_rate)
        super().__init__({"network": module}, {"optimiser": optimiser}, parameters.seed, device)
        self.anchors = anchors
        self._anchors = torch.from_numpy(anchors.astype(np.float32)).to(self.device)
        self._warmup_epochs = parameters.warmup_epochs
        self.warm_up = self._warmup_epochs > 0

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate, and whether the training is in its warm-up."""
        super().begin_epoch(epoch, learning_rate)
        self.warm_up = epoch < self._warmup_epochs

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of optimisation and return loss and penalties of the batch before it."""
        losses = self._losses(self.forward(self.modules["network"], batch.input), batch.targets, warm_up=self.warm_up)
        self.step("optimiser", losses["loss"])
        return {name: float(value.detach()) for name, value in losses.items()}

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return loss and penalties of a batch, never with those of the warm-up: all epochs can be compared."""
        losses = self._losses(self.infer(self.modules["network"], batch.input), batch.targets, warm_up=False)
        return {name: float(value) for name, value in losses.items()}

    def detect(self, tile: NDArray[np.float32], least_score: float, most_overlap: float) -> Detections:
        """Return the boxes in one tile (Y, X, channels) whose sides are multiples of 32 pixels."""
        found = decode(self.predict_batch(tile[np.newaxis])[0], self.anchors, least_score)
        return suppress_overlaps(found, most_overlap)

    def _losses(self, raw: torch.Tensor, targets: GridTargets, *, warm_up: bool) -> dict[str, torch.Tensor]:
        tensors = TensorTargets(
            **{name: torch.from_numpy(value).to(self.device) for name, value in vars(targets).items()}
        )
        return yolo_loss(raw, tensors, self._anchors, warm_up=warm_up)


class YoloV2(TorchFiles, Implementation[YoloParameters, YoloLearner]):
    """YOLOv2 with the full network."""

    kept: ClassVar[Mapping[str, Selection]] = {
        "best": Selection(MEAN_AVERAGE_PRECISION, "higher"),
        "best-loss": Selection(),
    }
    network: ClassVar[type[FullYolo] | type[TinyYolo]] = FullYolo

    def open(self, data: DatasetView, parameters: YoloParameters) -> Opened[YoloParameters]:
        """Return images with their boxes, and what was measured on these: anchors, largest box, names of the classes.

        Raises
        ------
        InvalidInputError
            An image or annotation is not usable, or no validation image has a box to measure the training by.
        """
        names = parameters.chosen_classes(data.manifest.classes)
        opened = open_boxes(
            data, parameters, self.normaliser, classes=names, least_side=max(parameters.smallest_box, 1e-3)
        )
        corners = np.concatenate([boxes.corners for boxes in opened.batches.annotations])  # type: ignore[attr-defined]
        sizes = (corners[:, 2:] - corners[:, :2])[:, ::-1].astype(np.float64)
        if not any(len(image.targets.corners) for image in opened.validation_images()):
            raise InvalidInputError(
                "None of the images held out for validation has a box, so that the model could not be validated. "
                "Choose another seed or a larger validation_fraction, or annotate more images.",
                [Violation("validation_fraction", "holds out no image with a box")],
            )
        anchors = measure_anchors(sizes, parameters.anchors, parameters.seed)
        facts = opened.facts.with_measured(
            anchors_px=np.round(anchors, 2).tolist(), largest_box_px=float(sizes.max()), class_names=list(names)
        )
        return replace(opened, facts=facts)

    def prepare(self, batch: Batch, parameters: YoloParameters, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return a batch with the cells and anchors that answer for its objects."""
        grid = batch.input.shape[1] // CELL, batch.input.shape[2] // CELL
        return replace(batch, targets=assign(batch.targets, _anchors(facts), grid))

    def build(self, parameters: YoloParameters, facts: Facts) -> YoloLearner:
        """Return a new network."""
        prepare(parameters.seed)
        anchors = _anchors(facts)
        outputs = len(anchors) * (5 + len(facts.measured["class_names"]))
        module = self.network(facts.input_channels, outputs, parameters.first_filters)
        return YoloLearner(module, anchors, parameters, self.device)

    def initialise(self, learner: YoloLearner, facts: Facts, weights: Arrays, initial: Facts) -> None:
        """Give a new learner the weights of an earlier model, but for what depends on other classes or channels.

        The last layer begins anew where the classes or the number of anchors are others. A network for colours becomes
        one for grey images that gives the same for colours that are all alike.
        """
        own, taken = learner.weights(), dict(weights)
        first = next(iter(own))
        if facts.input_channels == 1 and initial.input_channels > 1:
            taken[first] = taken[first].sum(axis=1, keepdims=True)
            initial = initial.model_copy(update={"inputs": facts.inputs})
        same_classes = facts.measured["class_names"] == initial.measured["class_names"]
        if not same_classes or taken["head.bias"].shape != own["head.bias"].shape:
            taken |= {name: value for name, value in own.items() if name.startswith("head.")}
        if initial.measured.get(BACKBONE_ONLY):
            taken = own | {name: value for name, value in taken.items() if name.startswith(BACKBONE)}
        super().initialise(learner, facts, taken, initial)

    def assess_every(self, parameters: YoloParameters) -> int:
        """Return after how many epochs the mean average precision is measured."""
        return parameters.map_every

    def assess(
        self,
        learner: YoloLearner,
        images: Iterator[ValidationImage],
        parameters: YoloParameters,  # noqa: ARG002
        facts: Facts,
    ) -> dict[str, float]:
        """Return the mean average precision at an intersection over union of 0.5, of the classes with objects."""
        pairs = [
            (_find(learner, image.input, facts, Tiling(_ASSESSED_PIXELS), _LEAST_SCORE, _MOST_OVERLAP), image.targets)
            for image in images
        ]
        values = [_class_precision(pairs, number) for number in range(len(facts.measured["class_names"]))]
        known = [value for value in values if not math.isnan(value)]
        return {MEAN_AVERAGE_PRECISION: float(np.mean(known))} if known else {}

    def predict(
        self, learner: YoloLearner, unit: Unit, model: ModelView, parameters: PredictionParameters, outputs: Outputs
    ) -> None:
        """Hand over the boxes of one image."""
        assert isinstance(parameters, YoloPredictionParameters)
        if model.facts.measured.get(BACKBONE_ONLY):
            raise InvalidInputError(
                "The model is only a backbone and cannot predict. Start a training from it, and predict with the "
                "trained model."
            )
        found = _find(
            learner,
            Normalised(unit, model.normaliser),
            model.facts,
            Tiling.of(unit),
            parameters.confidence_threshold,
            parameters.overlap_threshold,
        )
        outputs.detections(found, model.facts.measured["class_names"])


class TinyYoloV2(YoloV2):
    """YOLOv2 with the small network."""

    network = TinyYolo


def _find(
    learner: YoloLearner, image: Pixels, facts: Facts, tiling: Tiling, least_score: float, most_overlap: float
) -> Detections:
    """Return the boxes of a normalised image (Y, X, channels) of any size."""
    # Half of the largest object, the cell by which neighbouring cores reach into each other, and one to see around it.
    margin = math.ceil(facts.measured["largest_box_px"] / 2 / CELL) * CELL + 2 * CELL
    detect = functools.partial(learner.detect, least_score=least_score, most_overlap=most_overlap)
    return find_boxes(detect, image, tiling, divisor=CELL, margin=margin, most_overlap=most_overlap)


def _class_precision(pairs: list[tuple[Detections, Boxes]], number: int) -> float:
    """Return the average precision of one class over all images; NaN where it has no objects."""
    scores, matched, positives = [], [], 0
    for found, truth in pairs:
        mine, theirs = found.classes == number, truth.classes == number
        scores.append(found.confidence[mine])
        matched.append(match_by_score(found.corners[mine], scores[-1], truth.corners[theirs], _MATCH))
        positives += int(theirs.sum())
    return average_precision(np.concatenate(scores), np.concatenate(matched), positives)


def _anchors(facts: Facts) -> NDArray[np.float64]:
    """Return the anchors (A, 2), width and height in cells."""
    return np.asarray(facts.measured["anchors_px"], np.float64) / CELL
