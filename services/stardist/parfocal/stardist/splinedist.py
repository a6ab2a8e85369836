"""SplineDist: StarDist's network with outlines that are splines. Imported by workers only: it loads TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.bases.objects import ObjectImplementation
from parfocal.runtime.methods.implementation import ModelView
from parfocal.runtime.methods.portable import Portable
from parfocal.runtime.store.facts import Facts
from parfocal.stardist.network import Planar, StarDistLearner
from parfocal.stardist.parameters import SplineDist2DParameters
from parfocal.stardist.spline_loss import contour_loss, probability_loss
from parfocal.stardist.splines import SAMPLES, contours, control_points, curves
from parfocal.stardist.suppression import pixels_inside, suppress
from stardist import models
from stardist.matching import matching_dataset
from stardist.models.base import weighted_categorical_crossentropy
from stardist.nms import _ind_prob_thresh

# Radius of the circle that a new network draws everywhere, in grid steps.
_FIRST_RADIUS = 4
# Proposals are not made so near to the border of an image, in grid steps, as with StarDist.
_BORDER = 2
_OVERLAPS = (0.3, 0.4, 0.5)
_IOUS = (0.3, 0.5, 0.7)
# Thresholds that are tried, as parts of the largest probability: after a short training none may reach 0.5.
_PARTS = np.linspace(0.3, 0.95, 14)
_LEAST_PROBABILITY = 0.05
# Curves that are drawn together: large images have a million of them.
_AT_ONCE = 1000


class SplineModel(models.StarDist2D):
    """stardist's object around a network whose outlines are splines: their numbers may be negative."""

    def _predict_sparse_generator(
        self,
        img: NDArray[np.float32],
        prob_thresh: float | None = None,
        axes: str | None = None,
        normalizer: Any = None,
        n_tiles: Sequence[int] | None = None,
        show_tile_progress: Any = True,
        b: int = _BORDER,
        **predict_kwargs: Any,
    ) -> Iterator[Any]:
        """Yield None for each tile and then what is proposed above the threshold.

        That is probabilities, outlines, probabilities of classes, if any, and places in pixels.
        """
        threshold = self.thresholds.prob if prob_thresh is None else prob_thresh
        predict_kwargs.setdefault("verbose", 0)
        x, _, axes_net, _, _, resizer, n_tiles, grid, _, _, predict, tiles = self._predict_setup(
            img, axes, normalizer, n_tiles, show_tile_progress, predict_kwargs
        )
        whole = tuple(slice(0, length) for length in x.shape)
        shape = [length // step for length, step in zip(x.shape, grid, strict=False)]
        found: list[tuple[NDArray[Any], ...]] = []
        for tile, source, target in tiles()[0] if math.prod(n_tiles) > 1 else [(x, whole, whole)]:
            inner, place = (
                tuple(slice(each.start // step, each.stop // step) for each, step in zip(part, grid, strict=False))
                for part in (source, target)
            )
            probability, *outputs = (output[inner] for output in predict(tile))
            border = [
                (b if each.start == 0 else -1, b if each.stop == length else -1)
                for each, length in zip(place, shape, strict=True)
            ]
            chosen = _ind_prob_thresh(probability[..., 0], threshold, b=border)
            points = (np.argwhere(chosen) + [each.start for each in place]) * grid
            found.append((probability[..., 0][chosen], *(output[chosen] for output in outputs), points))
            yield None
        every = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        inside = resizer.filter_points(x.ndim, every[-1], axes_net)
        yield tuple(each[inside] for each in every)

    def _instances_from_prediction(
        self,
        img_shape: tuple[int, int],
        prob: NDArray[np.float32],
        dist: NDArray[np.float32],
        points: NDArray[np.int64],
        prob_class: NDArray[np.float32] | None = None,
        nms_thresh: float | None = None,
        **_: Any,
    ) -> tuple[NDArray[np.int32], dict[str, Any]]:
        """Return the label image and what belongs to its objects, the surest first."""
        proposals = Proposals(prob, dist, points, img_shape)
        labels, kept = proposals.choose(self.thresholds.nms if nms_thresh is None else nms_thresh)
        splines = proposals.splines[kept]
        chosen = proposals.order[kept]
        found = {
            "prob": prob[chosen],
            "points": points[chosen],
            "coord": np.moveaxis(curves(splines), -1, 1),
            "splines": splines,
        }
        if prob_class is not None:
            found["class_prob"] = prob_class[chosen]
        return labels, found

    def optimize_thresholds(
        self,
        images: Sequence[NDArray[np.float32]],
        targets: Sequence[NDArray[np.int32]],
        **unused: Any,  # noqa: ARG002
    ) -> dict[str, float]:
        """Return the thresholds with the best mean accuracy at IoU 0.3, 0.5 and 0.7, as stardist chooses them.

        The surest proposal comes first in the choice among them, so one choice with the lowest probability has the
        results for all higher ones.
        """
        found = []
        for image, labels in zip(images, targets, strict=True):
            tiles = self._guess_n_tiles(image)
            *_, (probability, outlines, *_, points) = self._predict_sparse_generator(
                image, _LEAST_PROBABILITY, n_tiles=tiles, show_tile_progress=False
            )
            found.append((probability, outlines, points, labels.shape))
        largest = max(float(each[0].max(initial=0)) for each in found)
        proposed = [Proposals(*each, threshold=largest * _PARTS[0]) for each in found]
        best, score = {"prob": self.thresholds.prob, "nms": self.thresholds.nms}, 0.0
        for overlap in _OVERLAPS:
            chosen = [each.choose(overlap) for each in proposed]
            for threshold in (largest * _PARTS).tolist():
                counts = [
                    np.count_nonzero(each.probability[kept] > threshold)
                    for each, (_, kept) in zip(proposed, chosen, strict=True)
                ]
                predicted = [
                    np.where(labels <= count, labels, 0) for (labels, _), count in zip(chosen, counts, strict=True)
                ]
                results = matching_dataset(list(targets), predicted, thresh=_IOUS, show_progress=False)
                accuracy = float(np.mean([result.accuracy for result in results]))
                if accuracy > score:
                    best, score = {"prob": threshold, "nms": overlap}, accuracy
        return best


class Proposals:
    """Proposals in one image, the most probable first.

    Parameters
    ----------
    probability, parameters, points
        (N,), (N, 2 M) and (N, 2): what the network says at these places in pixels.
    shape
        Shape of the image in pixels.
    threshold
        Proposals that are not surer are left out.

    Attributes
    ----------
    order
        The places of the proposals in what was given.
    probability
        (N,), falling.
    splines
        (N, M, 2): control points as y and x in pixels.
    """

    def __init__(
        self,
        probability: NDArray[np.float32],
        parameters: NDArray[np.float32],
        points: NDArray[np.int64],
        shape: tuple[int, int],
        threshold: float = 0.0,
    ) -> None:
        order = np.argsort(-probability, kind="stable")
        self.order = order[probability[order] > threshold]
        self.probability = probability[self.order]
        self.splines = control_points(parameters[self.order], points[self.order])
        self._shape = shape

    def choose(self, overlap: float) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the label image of the proposals that are kept, and which ones these are, the surest first."""
        parts = (self.splines[start : start + _AT_ONCE] for start in range(0, len(self.splines), _AT_ONCE))
        regions = (region for part in parts for region in pixels_inside(curves(part), self._shape))
        kept = suppress(regions, self._shape, overlap)
        return kept.labels, kept.indices


class SplineDist2D(Planar):
    """SplineDist: outlines are closed cubic B-splines, so that they may have dents, waists and arms."""

    kind = SplineModel
    # Every proposal is painted for each of the overlaps that are tried.
    calibration_pixels = 2**21

    def portable(self, learner: StarDistLearner, model: ModelView) -> Portable:
        """Refuse: no other program makes objects of control points."""
        return ObjectImplementation.portable(self, learner, model)

    def _compile(self, model: Any, optimizer: Any) -> None:
        config = model.config
        _draw_circles(model.keras_model.get_layer("dist"), _FIRST_RADIUS * config.grid[0])
        losses = [probability_loss, contour_loss]
        if config.n_classes is not None:
            losses.append(weighted_categorical_crossentropy(config.train_class_weights, ndim=2))
        model.keras_model.compile(optimizer, loss=losses, loss_weights=list(config.train_loss_weights))

    def _config(self, parameters: Any, facts: Facts) -> Any:
        config = super()._config(parameters, facts)
        # As SplineDist's own configuration has them.
        config.n_params = parameters.outline_outputs
        config.contoursize_max = SAMPLES * parameters.control_points
        return config

    def _outline_channels(self, parameters: SplineDist2DParameters) -> int:
        return 2 * SAMPLES * parameters.control_points

    def _outline_targets(self, labels: NDArray[np.int32], parameters: SplineDist2DParameters) -> NDArray[np.float32]:
        """Return at each pixel on the grid the contour of its object relative to the pixel, y and then x; 0 outside."""
        on_grid = labels[:: parameters.grid, :: parameters.grid]
        lines = contours(labels, SAMPLES * parameters.control_points)
        targets = np.zeros((*on_grid.shape, self._outline_channels(parameters)), np.float32)
        inside = on_grid > 0
        places = parameters.grid * np.argwhere(inside).astype(np.float32)
        relative = lines[on_grid[inside]] - places[:, np.newaxis]
        targets[inside] = np.moveaxis(relative, -1, 1).reshape(len(relative), targets.shape[-1])
        return targets

    def _splines(self, found: Any) -> NDArray[np.float32] | None:
        return np.asarray(found["splines"], np.float32)


def _draw_circles(layer: Any, radius: float) -> None:
    """Have a new network draw about the same circle everywhere, so that all pixels count control points alike."""
    count = layer.bias.shape[0] // 2
    angles = 2 * np.pi * np.arange(count) / count
    layer.bias.assign(np.stack([np.full(count, radius), angles], axis=-1).ravel())
