"""Pieces of figures of objects: their outlines, coloured by what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from skimage.segmentation import find_boundaries

from parfocal.qc.metrics.objects.instances import InstanceScore, Matches
from parfocal.qc.metrics.objects.outcomes import Outcome, outcome_layers
from parfocal.runtime.images.scratch import release

# Of Okabe and Ito's palette, which can be told apart with any colour vision.
COLOURS: Final[dict[Outcome, tuple[float, float, float]]] = {
    "true positive": (0.0, 0.62, 0.45),
    "false negative": (0.9, 0.62, 0.0),
    "false positive": (0.8, 0.47, 0.65),
    "split": (0.34, 0.71, 0.91),
    "merged": (0.94, 0.89, 0.26),
}
_LARGEST_SHOWN: Final = 1024
_LARGEST_FINE: Final = 512


def draw_mistakes(
    axes: Axes,
    source: npt.NDArray[Any],
    target: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    score: InstanceScore,
    matches: Matches,
) -> None:
    """Draw an image (Y, X) with the outlines of its objects in `COLOURS`, by what became of them."""
    layers = [
        (target if layer.of_target else prediction, layer.ids, COLOURS[layer.outcome])
        for layer in outcome_layers(score, matches)
    ]
    draw_outlines(axes, source, layers)


def draw_outlines(
    axes: Axes,
    source: npt.NDArray[Any],
    layers: Sequence[tuple[npt.NDArray[Any], Sequence[int] | npt.NDArray[Any], tuple[float, float, float]]],
) -> None:
    """Draw an image (Y, X) with outlines; of each layer a label image, the labels to outline, and their colour."""
    image = picture(source)
    # Panels have fewer pixels than large images, and lines of one pixel would come out broken.
    mode = "thick" if max(image.shape) > _LARGEST_FINE else "inner"
    for labels, chosen, colour in layers:
        image[find_boundaries(np.where(np.isin(labels, chosen), labels, 0), mode=mode)] = colour
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()


def picture(source: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return an image (Y, X) or (Y, X, colours) as RGB from 0 to 1 by its own 0.1 and 99.9 percentiles."""
    low, high = np.percentile(source, [0.1, 99.9])
    scaled = np.clip((source - low) / (high - low if high > low else 1), 0, 1)
    if scaled.ndim == 3:
        return np.array(scaled[..., :3])
    # Dimmed, so that outlines stand out on bright objects too.
    return np.repeat(0.85 * scaled[..., np.newaxis], 3, axis=-1)


def plane_shown(target: npt.NDArray[Any], prediction: npt.NDArray[Any], matches: Matches) -> int | None:
    """Return which plane of a volume to show: that with the most pixels of mistakes, else of objects."""
    if target.ndim == 2:
        return None
    counts = []
    for mine, theirs in zip(target, prediction, strict=True):
        wrong = np.isin(mine, matches.false_negatives) | np.isin(theirs, matches.false_positives)
        counts.append((int(np.count_nonzero(wrong)), int(np.count_nonzero(mine > 0))))
        release(target)
        release(prediction)
    mistakes, objects = np.transpose(counts)
    return int(np.argmax(mistakes if mistakes.any() else objects))


def part_shown(
    source: npt.NDArray[Any], labels: Sequence[npt.NDArray[Any]], plane: int | None
) -> list[npt.NDArray[Any]]:
    """Return source and label images cut to a plane, and to the centre of a large one.

    Parameters
    ----------
    source
        Image of the spatial shape of the label images; leading channels are averaged, trailing colours are kept.
    labels
        Images (Y, X) or (Z, Y, X) of one shape.
    plane
        Along Z; None for images.
    """
    at: tuple[int, ...] = () if plane is None else (plane,)
    shown = [image[at] for image in labels]
    window = window_shown(shown[0].shape)
    if source.ndim > labels[0].ndim and source.shape[-1] not in (3, 4):
        part: tuple[Any, ...] = (slice(None), *at, *window)
        cut = source[part].mean(axis=0)
    else:
        cut = source[at][window]
    return [np.asarray(cut), *(np.asarray(image[window]) for image in shown)]


def window_shown(shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the centre of an image, at most 1024 pixels along each axis."""
    starts = (max(0, (length - _LARGEST_SHOWN) // 2) for length in shape)
    return tuple(slice(start, min(length, start + _LARGEST_SHOWN)) for start, length in zip(starts, shape, strict=True))
