"""The losses of SplineDist in TensorFlow. Imported by workers only."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from parfocal.stardist.splines import SAMPLES, cubic_b_spline

_EPSILON = 1e-7
# Weight of the distances of control points at pixels of the background, which keeps them finite.
_BACKGROUND = 1e-4


def probability_loss(target: Any, predicted: Any) -> Any:
    """Return the mean binary cross-entropy of object probabilities, without pixels whose target is negative."""
    target = tf.cast(target, tf.float32)
    known = tf.cast(target >= 0, tf.float32)
    chance = tf.clip_by_value(tf.cast(predicted, tf.float32), _EPSILON, 1 - _EPSILON)
    entropy = -(target * tf.math.log(chance) + (1 - target) * tf.math.log(1 - chance))
    return tf.reduce_sum(known * entropy) / tf.maximum(tf.reduce_sum(known), 1)


def contour_loss(target: Any, predicted: Any) -> Any:
    """Return the distance between predicted and labelled contours, at each pixel, weighted by the object probability.

    A closed contour has no first point, so the samples of the target are counted from where the two contours fit
    best: the shift with the least sum of squared distances.

    Parameters
    ----------
    target
        (B, Y, X, 2 n + 1): y and then x of the n samples of the contour relative to the pixel, and the weight.
    predicted
        (B, Y, X, 2 M): distance and angle of each of M = n / `SAMPLES` control points, one after the other.

    Returns
    -------
    tensor
        (B, Y, X): mean absolute difference of coordinates in pixels, divided by the mean weight, and a small penalty
        on the distances of control points in the background.
    """
    samples = SAMPLES * (predicted.shape[-1] // 2)
    weight = tf.cast(target[..., -1], tf.float32)
    wanted = tf.reshape(tf.cast(target[..., :-1], tf.float32), (-1, 2, samples))
    predicted = tf.cast(predicted, tf.float32)
    distance, angle = predicted[..., ::2], predicted[..., 1::2]
    points = tf.stack([distance * tf.cos(angle), distance * tf.sin(angle)], axis=-2)
    curve = tf.reshape(_sampled(points), (-1, 2, samples))
    wanted = tf.gather(tf.transpose(wanted, (0, 2, 1)), _best_order(curve, wanted), batch_dims=1)
    difference = tf.reduce_mean(tf.abs(tf.transpose(curve, (0, 2, 1)) - wanted), axis=(1, 2))
    foreground = weight * tf.reshape(difference, tf.shape(weight)) / (tf.reduce_mean(weight) + _EPSILON)
    return foreground + _BACKGROUND * tf.reduce_mean((1 - weight)[..., tf.newaxis] * tf.abs(distance), axis=-1)


def _sampled(points: Any) -> Any:
    """Return `SAMPLES` points of the curve for each control point along the last axis.

    By sums of shifted control points: a product of matrices would be rounded where a training is in bfloat16.
    """
    phase = np.arange(SAMPLES) / SAMPLES
    # Control point m + back contributes to the samples from m on, up to m + 1.
    parts = [
        tf.roll(points, -step, axis=-1)[..., tf.newaxis] * cubic_b_spline(phase - step).astype(np.float32)
        for step in (-1, 0, 1, 2)
    ]
    shape = tf.concat([tf.shape(points)[:-1], [SAMPLES * points.shape[-1]]], axis=0)
    return tf.reshape(tf.add_n(parts), shape)


def _best_order(curve: Any, wanted: Any) -> Any:
    """Return the order, (P, n), in which the samples of each target contour are nearest to those of the curve.

    The sum of squared distances is least where the circular correlation of the coordinates is largest.
    """
    samples = curve.shape[-1]
    spectrum = tf.math.conj(tf.signal.rfft(curve)) * tf.signal.rfft(wanted)
    correlation = tf.signal.irfft(tf.reduce_sum(spectrum, axis=1), fft_length=[samples])
    shift = tf.stop_gradient(tf.argmax(correlation, axis=-1, output_type=tf.int32))
    return (shift[:, tf.newaxis] + tf.range(samples)) % samples
