"""DenoiSeg as the runtime drives it: denoising and segmentation by one network. Imported by workers only.

Buchholz, Prakash, Schmidt, Krull and Jug, "DenoiSeg: joint denoising and segmentation" (ECCV workshops 2020). Written
from the publication on csbdeep's U-Net, because the authors' library does not run with these versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

import numpy as np
import tensorflow as tf
from csbdeep.internals.blocks import unet_block
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import softmax

from parfocal.n2v.masking import Masking
from parfocal.n2v.modules import receptive_field
from parfocal.n2v.parameters import DenoiSegParameters, DenoiSegPredictionParameters
from parfocal.runtime.bases.objects import ObjectImplementation
from parfocal.runtime.frameworks import keras
from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.methods.implementation import Batch, ModelView, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Outputs, Unit, Window
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.prediction.object_tiling import find_in_blocks
from parfocal.runtime.prediction.tiling import Geometry, Tiling, apply_tiled
from parfocal.runtime.prediction.unit import Normalised
from parfocal.runtime.store.facts import Facts

THRESHOLD: Final = "probability_threshold"
"""Name among the measured facts of the probability from which on a pixel belongs to an object."""
_USUAL_THRESHOLD: Final = 0.5
# Of the publication: what is chosen from, the overlap that counts as found, and the weight of pixels between objects.
_THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(2, 20))
_FOUND: Final = 0.5
_CLASS_WEIGHTS: Final = (1.0, 1.0, 5.0)
_BACKGROUND, _FOREGROUND, _BORDER = range(3)
# Pixels in which thresholds are compared.
_CALIBRATION_PIXELS: Final = 2**23
_LARGEST_TILE: Final = 2**20


class DenoiSeg(keras.KerasFiles, ObjectImplementation[DenoiSegParameters, keras.KerasLearner]):
    """csbdeep's U-Net with one output for the restored pixel and three for its class."""

    normaliser: ClassVar[Normaliser] = Normaliser(rule="z-score")

    def clean_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return labels with -1, which counts for nothing, in all of an image without objects: nobody drew any."""
        return labels if (labels > 0).any() else np.full_like(labels, -1)

    def prepare(self, batch: Batch, parameters: DenoiSegParameters, facts: Facts, rng: np.random.Generator) -> Batch:
        """Return a batch with hidden pixels.

        Its targets have six channels: these pixels, where they are, and the weights of background, foreground and
        border, one of them above 0 where somebody drew objects; last, whether anybody did.
        """
        source, labels = batch.input[..., 0], batch.targets[..., 0]
        masked, mask = Masking(
            percent=parameters.masked_percent,
            replacement="uniform",
            radius=parameters.neighborhood_radius,
            hidden=np.empty((0, 2), np.intp),
        ).apply(rng, source)
        classes = np.stack([pixel_classes(image) for image in labels])
        drawn = labels >= 0
        weights = np.diag(_CLASS_WEIGHTS).astype(np.float32)[classes] * drawn[..., np.newaxis]
        targets = np.concatenate(
            [np.stack([source * mask, mask], -1), weights, drawn[..., np.newaxis].astype(np.float32)], -1
        )
        return Batch({facts.source: masked[..., np.newaxis]}, targets, batch.size)

    def build(self, parameters: DenoiSegParameters, facts: Facts) -> keras.KerasLearner:
        """Return a new network."""
        keras.prepare(parameters.seed, self.device)
        keras.keras.backend.reset_uids()
        inputs = keras.keras.Input((None, None, facts.input_channels), name="input")
        values = unet_block(
            parameters.network_depth,
            parameters.first_filters,
            (parameters.kernel_size,) * 2,
            batch_norm=True,
        )(inputs)
        outputs = keras.keras.layers.Conv2D(4, 1, activation="linear")(values)
        model = keras.keras.Model(inputs, outputs)
        optimizer = keras.keras.optimizers.Adam(parameters.learning_rate)
        model.compile(optimizer=optimizer, loss=denoiseg_loss(parameters.denoising_weight))
        return keras.KerasLearner(model, parameters.seed, self.device)

    def calibrate(
        self,
        learner: keras.KerasLearner,
        images: Iterator[ValidationImage],
        parameters: DenoiSegParameters,
        facts: Facts,
    ) -> Facts:
        """Return the facts with the threshold that gives the best precision on annotated validation images."""
        chosen: list[tuple[NDArray[np.float32], NDArray[Any]]] = []
        pixels = 0
        for each in images:
            labels = each.targets[..., 0]
            if not (labels > 0).any() or (chosen and pixels + labels.size > _CALIBRATION_PIXELS):
                continue
            output = apply_tiled(learner, each.input, self.geometry(parameters), Tiling(_LARGEST_TILE))
            chosen.append((softmax(output[..., 1:], axis=-1)[..., _FOREGROUND], labels))
            pixels += labels.size
        if not chosen:
            return facts.with_measured(**{THRESHOLD: _USUAL_THRESHOLD})
        scores = [
            np.mean([average_precision(label(each > level), real) for each, real in chosen]) for level in _THRESHOLDS
        ]
        return facts.with_measured(**{THRESHOLD: _THRESHOLDS[int(np.argmax(scores))]})

    def geometry(self, parameters: DenoiSegParameters) -> Geometry:
        """Return sizes and the receptive field."""
        overlap = receptive_field(depth=parameters.network_depth, kernel=parameters.kernel_size, blur_pool=False)
        return Geometry(divisor=2**parameters.network_depth, overlap=overlap, output_channels=4)

    def find_objects(
        self,
        learner: keras.KerasLearner,  # noqa: ARG002
        image: NDArray[np.float32],
        parameters: PredictionParameters,
        tiling: Tiling,  # noqa: ARG002
    ) -> Objects:
        """Return the objects in the probability of foreground (Y, X): what hangs together above the threshold."""
        assert isinstance(parameters, DenoiSegPredictionParameters)
        labels = label(image > parameters.probability_threshold)
        numbers = np.arange(1, labels.max(initial=0) + 1)
        means = ndimage.mean(image, labels, numbers) if len(numbers) else []
        return Objects(labels, np.asarray(means, np.float32))

    def predict(
        self,
        learner: keras.KerasLearner,
        unit: Unit,
        model: ModelView,
        parameters: PredictionParameters,
        outputs: Outputs,
    ) -> None:
        """Hand over objects, the restored image in the grey values of the input, and the probabilities of classes."""
        assert isinstance(parameters, DenoiSegPredictionParameters)
        source = Normalised(unit, model.normaliser)
        output = apply_tiled(learner, source, self.geometry(model.parameters), Tiling.of(unit))
        threshold = parameters.probability_threshold or float(model.facts.measured.get(THRESHOLD, _USUAL_THRESHOLD))
        chosen = parameters.model_copy(update={THRESHOLD: threshold})

        def find(window: Window, on_tile: Callable[[int, int], None]) -> Objects:
            probability = softmax(output[window][..., 1:], axis=-1)[..., _FOREGROUND]
            return self.find_objects(learner, probability, chosen, Tiling(unit.most_pixels, on_tile))

        outputs.objects(find_in_blocks(find, unit.shape, scratch=unit.scratch))
        denoised = outputs.image("denoised")
        probability = outputs.image("probability", shape=(3, *unit.shape), axes="CYX", values="none")
        for window in blocks(unit.shape):
            part = output[window]
            denoised.write(model.normaliser.undo(part[..., 0], source.constants), window)
            probability.write(np.moveaxis(softmax(part[..., 1:], axis=-1), -1, 0), (slice(None), *window))
            release(output)


def denoiseg_loss(denoising_weight: float) -> Any:
    """Return the loss: the share of denoising times the squared error in hidden pixels, and that of segmentation.

    Segmentation counts the weighted cross entropy of the pixels that are annotated, where the publication divides by
    all: with two annotated images out of a hundred nothing of it would be left.
    """

    def loss(targets: Any, outputs: Any) -> Any:
        values, mask, weights, drawn = tf.split(targets, [1, 1, 3, 1], axis=-1)
        outputs = tf.cast(outputs, tf.float32)
        denoising = tf.reduce_sum(tf.square(values - outputs[..., :1] * mask)) / tf.reduce_sum(mask)
        entropy = -tf.reduce_sum(weights * tf.nn.log_softmax(outputs[..., 1:]))
        segmentation = tf.math.divide_no_nan(entropy, tf.reduce_sum(drawn))
        return denoising_weight * denoising + (1 - denoising_weight) * segmentation

    return loss


def pixel_classes(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Return for each pixel of an integer label image (Y, X) whether it is background 0, foreground 1 or border 2.

    The border is one pixel wide and lies outside objects; where two touch, the outermost pixels of both belong to it.
    """
    known = np.maximum(labels, 0)
    inside = known > 0
    sides, around = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), bool)
    changes = _least(known, sides) != _most(known, sides)
    # Inside an object only where another one is beside it: background left out, there are two labels around.
    contact = _least(np.where(inside, known, np.iinfo(known.dtype).max), around) != _most(known, around)
    border = changes & (~inside | contact)
    return np.where(border, _BORDER, np.where(inside, _FOREGROUND, _BACKGROUND))


def _least(labels: NDArray[Any], around: NDArray[np.bool_]) -> NDArray[Any]:
    return np.asarray(ndimage.grey_erosion(labels, footprint=around, mode="nearest"))


def _most(labels: NDArray[Any], around: NDArray[np.bool_]) -> NDArray[Any]:
    return np.asarray(ndimage.grey_dilation(labels, footprint=around, mode="nearest"))


def label(foreground: NDArray[Any]) -> NDArray[np.int32]:
    """Return the pieces of a mask (Y, X) that hang together by their sides, numbered from 1."""
    found, _ = ndimage.label(foreground)
    return np.asarray(found, np.int32)


def average_precision(found: NDArray[Any], real: NDArray[Any]) -> float:
    """Return TP / (TP + FP + FN) of two label images, an object being found that is overlapped by more than half.

    Overlap is intersection over union, above 0.5 in one pair at most. Nothing found where nothing is gives 1. Pixels
    that are not annotated, negative in `real`, are ignored.
    """
    found, real = np.where(real < 0, 0, found), np.maximum(real, 0)
    sizes, wanted = (np.bincount(each.ravel())[1:] for each in (found, real))
    together = (found > 0) & (real > 0)
    pairs, shared = np.unique(np.stack([found[together], real[together]]), axis=1, return_counts=True)
    union = sizes[pairs[0] - 1] + wanted[pairs[1] - 1] - shared
    true = int((shared / union > _FOUND).sum())
    objects = int((sizes > 0).sum() + (wanted > 0).sum()) - true
    return true / objects if objects else 1.0
