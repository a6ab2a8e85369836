"""The StarDist network. What is not StarDist belongs to the runtime. Imported by workers only: it loads TensorFlow."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from csbdeep.utils import save_json
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from parfocal.runtime.bases.objects import ObjectImplementation
from parfocal.runtime.frameworks import keras
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Arrays, Batch, ModelView, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.objects import Objects, compact_labels
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.portable import Portable
from parfocal.runtime.methods.service import thread_count
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.store.facts import Facts
from parfocal.stardist.class_targets import class_targets
from parfocal.stardist.parameters import (
    NetworkParameters,
    PlanarParameters,
    StarDist2DParameters,
    StarDist3DParameters,
    StarDistPredictionParameters,
)
from stardist import (
    Rays_GoldenSpiral,
    models,
    non_maximum_suppression,
    non_maximum_suppression_3d,
    polygons_to_label,
    polyhedron_to_label,
)
from stardist.geometry import star_dist, star_dist3D
from stardist.utils import calculate_extents, edt_prob, fill_label_holes

THRESHOLDS = "thresholds.json"
_LEAST_DISTANCE = 1e-3
DEFAULT_THRESHOLDS = {"prob": 0.5, "nms": 0.4}
# Objects whose centre is nearer to the edge of the image, in pixels of the grid, are left out, as stardist does.
_BORDER = 2
# stardist measures distances on labels of 16 bits.
_LARGEST_LABEL = 2**16 - 1


# Convolutions before each output that stay in float32: the heads, the features they share, and what these are made of.
# With two, objects whose probability is near the threshold were found or not: F1 changed by 0.004 instead of 0.001.
_TAIL = 3


class StarDistLearner(keras.KerasLearner):
    """A compiled StarDist network, with stardist's own object around it for prediction."""

    def __init__(self, stardist: Any, seed: int, device: Device) -> None:
        super().__init__(stardist.keras_model, seed, device, _TAIL)
        self.stardist = stardist

    @property
    def overlaps(self) -> tuple[int, ...]:
        """How far the network looks along each axis of an image, in pixels, as stardist measures it once."""
        axes = self.stardist.config.axes.replace("C", "")
        return tuple(int(length) for length in self.stardist._axes_tile_overlap(axes))

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probability, distances and, if any, classes one after the other in the last axis, on the grid."""
        return np.concatenate([np.asarray(output) for output in self._predict(inputs)], axis=-1)

    def portable_output(self, inputs: Any) -> Any:
        """Return probability and distances, which stardist keeps above 0, one after the other in the last axis."""
        probability, distances = super().portable_output(inputs)[:2]
        return keras.keras.ops.concatenate([probability, keras.keras.ops.maximum(distances, _LEAST_DISTANCE)], axis=-1)


class StarDist(keras.KerasFiles, ObjectImplementation[Any, StarDistLearner]):
    """Common parts of networks in two and three dimensions, for polygons and splines.

    Attributes
    ----------
    kind
        Class of stardist's own object around a network.
    calibration_pixels
        Number of pixels of validation images on which thresholds are chosen; more would take longer without a better
        choice of two numbers.
    """

    kind: ClassVar[Any]
    calibration_pixels: ClassVar[int] = 2**24
    normaliser = Normaliser(low=1.0)

    def build(self, parameters: Any, facts: Facts) -> StarDistLearner:
        """Return a new network."""
        config = self._config(parameters, facts)
        keras.prepare(parameters.seed, self.device)
        model = self.kind(config, name=None, basedir=None)
        self._compile(model, keras.keras.optimizers.Adam(learning_rate=parameters.learning_rate))
        return StarDistLearner(model, parameters.seed, self.device)

    def save(self, folder: Path, parameters: Any, facts: Facts, weights: Mapping[str, Arrays]) -> None:
        """Write a stardist model folder: `stardist.models.StarDist2D(None, NAME, BASEDIR)` opens it."""
        save_json(vars(self._config(parameters, facts)), str(folder / "config.json"))
        save_json(_thresholds(facts), str(folder / THRESHOLDS))
        super().save(folder, parameters, facts, weights)

    def load(self, folder: Path, model: ModelView, weights: str) -> StarDistLearner:
        """Return the saved network with its thresholds; only arrays are read from the files."""
        learner: StarDistLearner = super().load(folder, model, weights)
        learner.stardist.thresholds = _thresholds(model.facts)
        return learner

    def clean_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Fill the holes of objects, which star-convex shapes cannot have; negative pixels stay as they are."""
        # stardist would fill what unknown pixels enclose as well, and so lose the part of an image that was labelled.
        filled = fill_label_holes(np.maximum(labels, 0))
        return np.where(labels < 0, labels, filled).astype(labels.dtype)

    def prepare(self, batch: Batch, parameters: Any, facts: Facts, rng: np.random.Generator) -> Batch:  # noqa: ARG002
        """Return a batch with the targets of the loss.

        They are object probability, outlines with the probability as their weight, and, if they are trained on,
        classes, all on the network's grid.
        """
        targets = batch.targets
        labels = np.maximum(targets[..., 0], 0).astype(np.int32)
        if labels.max() > _LARGEST_LABEL:
            labels = np.stack([compact_labels(image) for image in labels])
        on_grid = tuple(slice(None, None, step) for step in self._grid(parameters))
        probability = np.stack([self._probability(image, on_grid, parameters) for image in labels])[..., np.newaxis]
        outlines = np.empty((*probability.shape[:-1], self._outline_channels(parameters) + 1), dtype=np.float32)
        # Made beside the training step, whose threads are in the way of as many others: they wait for each other.
        with _openmp().limit(limits=max(1, thread_count() // 4), user_api="openmp"):
            for number, image in enumerate(labels):
                outlines[number, ..., :-1] = self._outline_targets(image, parameters)
        outlines[..., -1:] = probability
        # Pixels with negative labels count for nothing.
        ignored = targets[..., :1][(slice(None), *on_grid)] < 0
        prepared = [np.where(ignored, np.float32(-1), probability.astype(np.float32)), outlines]
        if parameters.classes:
            grid = self._grid(parameters)
            prepared.append(class_targets(labels, targets[..., 1], parameters.classes, grid, ignored))
        return replace(batch, targets=tuple(prepared))

    def calibrate(
        self,
        learner: StarDistLearner,
        images: Iterator[ValidationImage],
        parameters: Any,  # noqa: ARG002
        facts: Facts,
    ) -> Facts:
        """Return the facts with the two thresholds that give the best accuracy on validation images."""
        chosen: list[tuple[NDArray[np.float32], NDArray[np.int32]]] = []
        pixels = 0
        for each in images:
            labels = np.maximum(each.targets[..., 0], 0).astype(np.int32)
            if chosen and pixels + labels.size > self.calibration_pixels:
                break
            chosen.append((each.input[..., 0] if facts.input_channels == 1 else each.input, labels))
            pixels += labels.size
        thresholds = dict(DEFAULT_THRESHOLDS)
        if any(labels.any() for _, labels in chosen):
            found = learner.stardist.optimize_thresholds(
                [image for image, _ in chosen],
                [labels for _, labels in chosen],
                predict_kwargs={"show_tile_progress": False},
                optimize_kwargs={"verbose": 0},
                save_to_json=False,
            )
            thresholds = {"prob": _inside(found["prob"]), "nms": _inside(found["nms"])}
        return with_thresholds(facts, thresholds)

    def find_objects(
        self, learner: StarDistLearner, image: NDArray[np.float32], parameters: PredictionParameters, tiling: Tiling
    ) -> Objects:
        """Return the objects; where an image is tiled, proposals of all tiles compete, so each object comes once."""
        assert isinstance(parameters, StarDistPredictionParameters)
        axes = learner.stardist.config.axes
        if image.ndim < len(axes):
            axes = axes.replace("C", "")
        spatial = image.shape[: learner.stardist.config.n_dim]
        labels, found = learner.stardist.predict_instances(
            image,
            axes=axes,
            prob_thresh=parameters.probability_threshold or None,
            nms_thresh=parameters.overlap_threshold or None,
            n_tiles=_tiles(spatial, tiling.most_pixels, learner) + (1,) * (image.ndim - len(spatial)),
            show_tile_progress=lambda tiles, disable, total: _watched(tiles, total, tiling),  # noqa: ARG005
        )
        if tiling.on_tile is not None:
            tiling.on_tile(1, 1)
        classes = found.get("class_prob")
        return Objects(
            labels,
            np.asarray(found["prob"], np.float32),
            self._outlines(found),
            None if classes is None else np.asarray(classes, np.float32),
            self._splines(found),
        )

    def portable(self, learner: StarDistLearner, model: ModelView) -> Portable:
        """Return how objects follow from probability and distances."""
        config = learner.stardist.config
        dimensions, thresholds = len(model.axes), _thresholds(model.facts)
        kwargs: dict[str, Any] = {
            "prob_threshold": thresholds["prob"],
            "nms_threshold": thresholds["nms"],
            "n_rays": config.n_rays,
            "grid": [int(step) for step in config.grid],
            "b": _BORDER,
        }
        if dimensions == len("ZYX"):
            kwargs["anisotropy"] = [float(each) for each in config.anisotropy]
        return _Labels(
            channels=["objects"],
            meaning="Label image: 0 is background, each object has a whole number of its own.",
            divisor=[int(length) for length in learner.stardist._axes_div_by(model.axes)],
            overlap=learner.overlaps,
            steps=[{"id": "stardist_postprocessing", "kwargs": kwargs}],
            labels=True,
        )

    @staticmethod
    def _training(parameters: NetworkParameters) -> dict[str, Any]:
        """Return what the configuration file says of the training."""
        return {
            "train_foreground_only": parameters.foreground_fraction,
            "train_epochs": parameters.epochs,
            "train_learning_rate": parameters.learning_rate,
            "train_batch_size": parameters.batch_size,
            "train_tensorboard": False,
        }

    def _compile(self, model: Any, optimizer: Any) -> None:
        """Give a network its losses and the optimiser."""
        model.prepare_for_training(optimizer)

    def _splines(self, found: Any) -> NDArray[np.float32] | None:  # noqa: ARG002
        """Return the control points of what was found; None where outlines are no splines."""
        return None

    @abstractmethod
    def _config(self, parameters: Any, facts: Facts) -> Any: ...

    @abstractmethod
    def _grid(self, parameters: Any) -> tuple[int, ...]: ...

    @abstractmethod
    def _probability(
        self, labels: NDArray[np.int32], on_grid: tuple[slice, ...], parameters: Any
    ) -> NDArray[np.float32]: ...

    @abstractmethod
    def _outline_channels(self, parameters: Any) -> int: ...

    @abstractmethod
    def _outline_targets(self, labels: NDArray[np.int32], parameters: Any) -> NDArray[np.float32]: ...

    @abstractmethod
    def _outlines(self, found: Any) -> list[NDArray[np.float32]]: ...


class Planar(StarDist):
    """Common parts of networks for polygons and splines in planes."""

    def _config(self, parameters: PlanarParameters, facts: Facts) -> Any:
        return models.Config2D(
            axes="YX" if facts.input_channels == 1 else "YXC",
            n_channel_in=facts.input_channels,
            n_rays=parameters.outline_outputs,
            grid=self._grid(parameters),
            n_classes=parameters.classes or None,
            unet_n_depth=parameters.network_depth,
            unet_n_filter_base=parameters.first_filters,
            train_patch_size=parameters.patch_shape("YX"),
            **self._training(parameters),
        )

    def _grid(self, parameters: PlanarParameters) -> tuple[int, ...]:
        return (parameters.grid, parameters.grid)

    def _probability(
        self,
        labels: NDArray[np.int32],
        on_grid: tuple[slice, ...],
        parameters: PlanarParameters,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        return np.asarray(edt_prob(labels[on_grid]), np.float32)

    def _outlines(self, found: Any) -> list[NDArray[np.float32]]:
        return list(np.moveaxis(found["coord"], 1, -1).astype(np.float32)) if len(found["prob"]) else []


class StarDist2D(Planar):
    """StarDist with polygons."""

    kind = models.StarDist2D

    def _outline_channels(self, parameters: StarDist2DParameters) -> int:
        return parameters.rays

    def _outline_targets(self, labels: NDArray[np.int32], parameters: StarDist2DParameters) -> NDArray[np.float32]:
        return np.asarray(star_dist(labels, parameters.rays, mode="cpp", grid=self._grid(parameters)))


class StarDist3D(StarDist):
    """StarDist with polyhedra."""

    kind = models.StarDist3D

    def resolve(self, parameters: StarDist3DParameters, labels: Iterable[NDArray[Any]]) -> StarDist3DParameters:
        """Measure the anisotropy where it is not given: the ratio of the objects' median width and depth."""
        if parameters.anisotropy:
            return parameters
        known = (np.maximum(image, 0) for image in labels)
        extents = calculate_extents([image for image in known if image.any()])
        measured = float(np.mean(extents[1:]) / extents[0])
        return parameters.model_copy(update={"anisotropy": round(measured, 3)})

    def _config(self, parameters: StarDist3DParameters, facts: Facts) -> Any:
        anisotropy = (parameters.anisotropy or 1.0, 1.0, 1.0)
        network = (
            {"unet_n_depth": parameters.network_depth, "unet_n_filter_base": parameters.first_filters}
            if parameters.backbone == "unet"
            else {"resnet_n_filter_base": parameters.first_filters}
        )
        return models.Config3D(
            axes="ZYX" if facts.input_channels == 1 else "ZYXC",
            n_channel_in=facts.input_channels,
            rays=Rays_GoldenSpiral(parameters.rays, anisotropy=anisotropy),
            grid=self._grid(parameters),
            n_classes=parameters.classes or None,
            anisotropy=anisotropy,
            backbone=parameters.backbone,
            train_patch_size=parameters.patch_shape("ZYX"),
            **network,
            **self._training(parameters),
        )

    def _grid(self, parameters: StarDist3DParameters) -> tuple[int, ...]:
        return (1, parameters.grid, parameters.grid)

    def _probability(
        self, labels: NDArray[np.int32], on_grid: tuple[slice, ...], parameters: StarDist3DParameters
    ) -> NDArray[np.float32]:
        return np.asarray(edt_prob(labels, anisotropy=(parameters.anisotropy or 1.0, 1.0, 1.0))[on_grid], np.float32)

    def _outline_channels(self, parameters: StarDist3DParameters) -> int:
        return parameters.rays

    def _outline_targets(self, labels: NDArray[np.int32], parameters: StarDist3DParameters) -> NDArray[np.float32]:
        rays = Rays_GoldenSpiral(parameters.rays, anisotropy=(parameters.anisotropy or 1.0, 1.0, 1.0))
        return np.asarray(star_dist3D(labels, rays, mode="cpp", grid=self._grid(parameters)))

    def _outlines(self, found: Any) -> list[NDArray[np.float32]]:  # noqa: ARG002
        return []


class _Labels(Portable):
    """Objects as stardist makes them of probability and distances."""

    def finish(self, output: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return label images, with a last axis of length 1, of the network's output for a batch."""
        kwargs = self.steps[0]["kwargs"]
        grid = tuple(kwargs["grid"])
        options = {
            "grid": grid,
            "prob_thresh": kwargs["prob_threshold"],
            "nms_thresh": kwargs["nms_threshold"],
            "b": kwargs["b"],
            "verbose": False,
        }
        labels = []
        for image in output:
            probability, distances = image[..., 0], np.ascontiguousarray(image[..., 1:])
            shape = tuple(np.multiply(probability.shape, grid).tolist())
            if len(grid) == len("YX"):
                points, kept, rays = non_maximum_suppression(distances, probability, **options)
                labels.append(polygons_to_label(rays, points, prob=kept, shape=shape))
            else:
                sphere = Rays_GoldenSpiral(kwargs["n_rays"], anisotropy=tuple(kwargs["anisotropy"]))
                points, kept, rays = non_maximum_suppression_3d(distances, probability, sphere, **options)
                found = polyhedron_to_label(rays, points, rays=sphere, prob=kept, shape=shape, verbose=False)
                labels.append(compact_labels(found))
        return np.stack(labels)[..., np.newaxis].astype(np.int32)


@functools.cache
def _openmp() -> ThreadpoolController:
    """Return the controller of the threads that stardist computes with; to look for them takes some milliseconds."""
    return ThreadpoolController()


def _tiles(shape: Sequence[int], most_pixels: int, learner: StarDistLearner) -> tuple[int, ...]:
    """Return into how many pieces each axis is cut, so that none has many more pixels than allowed.

    Where less is allowed than the overlap computed around a piece, pieces are as long as that: an image in pieces of a
    few pixels would be computed hundreds of times.
    """
    edge = max(1, int(most_pixels ** (1 / len(shape))))
    if max(shape) <= edge:
        return (1,) * len(shape)
    return tuple(math.ceil(length / max(edge, least)) for length, least in zip(shape, learner.overlaps, strict=True))


def _watched(tiles: Iterable[Any], total: int, tiling: Tiling) -> Iterator[Any]:
    for number, tile in enumerate(tiles):
        if tiling.on_tile is not None:
            tiling.on_tile(number, total)
        yield tile


def _inside(threshold: float) -> float:
    """Keep a threshold where stardist accepts it."""
    return float(np.clip(threshold, 0.01, 0.99))


def with_thresholds(facts: Facts, thresholds: Mapping[str, float]) -> Facts:
    """Return the facts with thresholds that are named as stardist names them."""
    return facts.with_measured(probability_threshold=thresholds["prob"], overlap_threshold=thresholds["nms"])


def _thresholds(facts: Facts) -> dict[str, float]:
    """Return the thresholds as stardist names them, its usual ones where none were chosen."""
    names = {"prob": "probability_threshold", "nms": "overlap_threshold"}
    return {name: facts.measured.get(ours, DEFAULT_THRESHOLDS[name]) for name, ours in names.items()}
