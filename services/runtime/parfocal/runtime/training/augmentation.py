"""Changes that make more of few images: of the view (the same for all that belongs to an image) and of intensities.

Flips and quarter turns are exact: no value changes. Warps (any angle, zoom, shear, shift, elastic deformation) are
interpolated: images linearly, labels and classes by the nearest pixel, so that no new number appears. Everything is
drawn anew for each patch, from numbers that follow from the seed, the epoch and the step alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

# Between the points of an elastic deformation, in parts of a patch and, at least, in pixels.
_ELASTIC_PARTS: Final = 4
_ELASTIC_LEAST: Final = 8
# Steps in which the place of a point in a deformed patch is found; each makes the error smaller by a factor of two.
_INVERSION_STEPS: Final = 20


class Change(BaseModel):
    """One kind of change: how strong it is at most, in its own unit, and how often a patch is given it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strength: float = Field(default=0.0, ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)

    def drawn(self, rng: np.random.Generator) -> float:
        """Return a number from -1 to 1 times the strength, or 0 where the patch is left as it is.

        Two numbers are drawn whatever the settings, so that what comes after does not depend on them.
        """
        chance, value = rng.random(), rng.uniform(-1, 1)
        return float(value * self.strength) if chance < self.probability else 0.0


@dataclass(frozen=True)
class Warp:
    """The place of the image that each pixel of a patch shows.

    A pixel p, counted from the patch's first one, shows the place ``c + matrix (p - c) + shift + elastic(p)``, where c
    is the middle of the patch.

    Attributes
    ----------
    shape
        Shape of the patch in pixels (Y, X).
    matrix, shift
        (2, 2) and (2,), for (y, x) in pixels.
    elastic
        (2, rows, columns): displacements in pixels at the points of a grid that spans the patch; None for none.
    """

    shape: tuple[int, int]
    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    elastic: NDArray[np.float64] | None = None

    @functools.cached_property
    def places(self) -> NDArray[np.float64]:
        """The places (2, Y, X) that the pixels show, in pixels from the first one; source and targets share it."""
        pixels = np.stack(np.meshgrid(*(np.arange(length, dtype=np.float64) for length in self.shape), indexing="ij"))
        return self._of(pixels.reshape(2, -1)).reshape(pixels.shape)

    def move(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Return where in the patch places of the image are seen.

        Parameters
        ----------
        points
            (N, 2): y and x in pixels from the upper left corner of the patch's first pixel.
        """
        wanted = np.asarray(points, np.float64).T - 0.5  # of the middles of pixels
        middle = self._middle()
        inverse = np.linalg.inv(self.matrix)
        found = inverse @ (wanted - middle - self.shift[:, None]) + middle
        if self.elastic is not None:
            for _ in range(_INVERSION_STEPS):
                found = found + inverse @ (wanted - self._of(found))
        return np.asarray(found.T + 0.5)

    def kept_inside(self, corner: Sequence[int], region: Sequence[tuple[int, int]]) -> Warp:
        """Return the warp moved so far that the patch shows nothing from beyond a region, if that is large enough.

        Parameters
        ----------
        corner
            The patch's first pixel along Y and X.
        region
            First and end pixel along Y and X.
        """
        places = self.places
        shift = self.shift.copy()
        for axis, (first, (start, stop)) in enumerate(zip(corner, region, strict=True)):
            low, high = places[axis].min() + first, places[axis].max() + first
            if high - low <= stop - 1 - start:
                shift[axis] += max(0.0, start - low) - max(0.0, high - (stop - 1))
        return replace(self, shift=shift)

    def _middle(self) -> NDArray[np.float64]:
        return (np.array(self.shape, np.float64)[:, None] - 1) / 2

    def _of(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        middle = self._middle()
        places = self.matrix @ (pixels - middle) + middle + self.shift[:, None]
        if self.elastic is not None:
            lengths = np.maximum(np.array(self.shape)[:, None] - 1, 1)
            grid = pixels / lengths * (np.array(self.elastic.shape[1:])[:, None] - 1)
            places = places + np.stack(
                [ndimage.map_coordinates(each, grid, order=3, mode="nearest") for each in self.elastic]
            )
        return np.asarray(places)


@dataclass(frozen=True)
class View:
    """Change of view of one patch: the part of the image that it shows is warped, and then turned.

    Attributes
    ----------
    swap, mirror_y, mirror_x, mirror_z
        Whether Y and X are swapped and which axes are mirrored thereafter.
    warp
        None for none.
    """

    swap: bool = False
    mirror_y: bool = False
    mirror_x: bool = False
    mirror_z: bool = False
    warp: Warp | None = None

    def turn(self, array: NDArray[Any], axes: str) -> NDArray[Any]:
        """Return the turned view of a patch that is already warped."""
        y, x = axes.index("Y"), axes.index("X")
        mirrored = {"Z": self.mirror_z, "Y": self.mirror_y, "X": self.mirror_x}
        index = tuple(slice(None, None, -1) if mirrored.get(axis) else slice(None) for axis in axes)
        return (np.swapaxes(array, y, x) if self.swap else array)[index]

    def move(self, points: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """Return where in the patch places of the image are seen.

        Parameters
        ----------
        points
            (N, 2): y and x in pixels from the upper left corner of the patch's first pixel.
        shape
            Shape of the patch in pixels (Y, X).
        """
        if self.warp is not None:
            points = self.warp.move(points).astype(np.asarray(points).dtype)
        moved = np.array(points[:, ::-1] if self.swap else points)
        for axis, mirrored in enumerate((self.mirror_y, self.mirror_x)):
            if mirrored:
                moved[:, axis] = shape[axis] - moved[:, axis]
        return moved


UNCHANGED: Final = View()


class Augmentation(BaseModel):
    """Changes that are drawn for each patch.

    Attributes
    ----------
    flip, rotate90, flip_z
        Exact changes: mirrored in Y and X, turned by quarter turns where the patch is square, turned over in Z.
    angle, shear
        Warps in degrees.
    zoom
        Magnified or reduced by up to the factor 1 + strength.
    shift
        Shift as a fraction of the side length of the patch.
    elastic
        Displacements in pixels, at most a sixth of the distance between the points of the grid they are drawn on.
    scale, gamma
        Normalised intensities are multiplied with, or raised to the power of, up to 1 + strength or its inverse.
    offset, noise
        Offset added to all pixels, and standard deviation of the noise added to each, both in normalised intensity.
    blur
        Standard deviation in pixels of a Gaussian along Y and X.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: bool = True
    rotate90: bool = True
    flip_z: bool = False
    angle: Change = Change()
    zoom: Change = Change()
    shear: Change = Change()
    shift: Change = Change()
    elastic: Change = Change()
    scale: Change = Change()
    offset: Change = Change()
    gamma: Change = Change()
    noise: Change = Change()
    blur: Change = Change()

    @property
    def warps(self) -> bool:
        """Whether any patch is warped."""
        changes = (self.angle, self.zoom, self.shear, self.shift, self.elastic)
        return any(change.strength and change.probability for change in changes)

    @property
    def varies(self) -> bool:
        """Whether any intensity changes."""
        changes = (self.scale, self.offset, self.gamma, self.noise, self.blur)
        return any(change.strength and change.probability for change in changes)

    def view(self, draw: int, shape: tuple[int, int], rng: np.random.Generator) -> View:
        """Return the change of view of one patch.

        Parameters
        ----------
        draw
            Number of the exact change, 0 to 7: all symmetries of a square; without flips, the four rotations.
        shape
            Shape of the patch in pixels (Y, X).
        rng
            Source of the warp.
        """
        square = shape[0] == shape[1]
        quarter = bool(draw & 1) and self.rotate90 and square
        mirror_y, mirror_x = (bool(draw & 2), bool(draw & 4)) if self.flip else (False, False)
        if not self.flip and self.rotate90 and square:
            mirror_y = mirror_x = bool(draw & 2)  # both together are half a turn
        return View(
            swap=quarter,
            # A quarter turn is a transposition and one mirror.
            mirror_y=quarter != mirror_y,
            mirror_x=mirror_x,
            mirror_z=self.flip_z and bool(rng.integers(2)),
            warp=self._warp(shape, rng) if self.warps else None,
        )

    def vary_intensity(self, rng: np.random.Generator, source: NDArray[np.float32], axes: str) -> NDArray[np.float32]:
        """Return a normalised batch whose patches are changed in intensity, each in its own way.

        Parameters
        ----------
        rng
            Source of the draw.
        source
            float32 patches, with the batch axis in front.
        axes
            Axes of one patch, e.g. "ZYX" or "YXS".
        """
        if not self.varies:
            return source
        varied = np.empty_like(source)
        for number, patch in enumerate(source):
            gamma, scale = ((1 + abs(value)) ** np.sign(value) for value in map(self._change(rng), ("gamma", "scale")))
            offset, blur, noise = map(self._change(rng), ("offset", "blur", "noise"))
            changed = patch
            if gamma != 1:
                changed = np.where(changed > 0, np.maximum(changed, 0) ** np.float32(gamma), changed)
            changed = changed * np.float32(scale) + np.float32(offset)
            if blur:
                sigma = [abs(blur) if axis in "YX" else 0.0 for axis in axes]
                changed = ndimage.gaussian_filter(changed, sigma, mode="nearest")
            if noise:
                changed = changed + rng.standard_normal(patch.shape, dtype=np.float32) * np.float32(abs(noise))
            varied[number] = changed
        return varied

    def _change(self, rng: np.random.Generator) -> Any:
        def drawn(name: str) -> float:
            change: Change = getattr(self, name)
            return change.drawn(rng)

        return drawn

    def _warp(self, shape: tuple[int, int], rng: np.random.Generator) -> Warp:
        angle, zoom, shear, shift_y, shift_x, elastic = map(
            self._change(rng), ("angle", "zoom", "shear", "shift", "shift", "elastic")
        )
        turn, slant = math.radians(angle), math.tan(math.radians(shear))
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        factor = (1 + abs(zoom)) ** -np.sign(zoom)
        matrix = rotation @ np.array([[1.0, 0.0], [slant, 1.0]]) * factor
        step = max(_ELASTIC_LEAST, min(shape) / _ELASTIC_PARTS)
        grid = [max(2, round(length / step) + 1) for length in shape]
        numbers = rng.uniform(-1, 1, (2, *grid))  # drawn whether or not they are used
        width = min(abs(elastic), step / 6)
        shift = np.array([shift_y * shape[0], shift_x * shape[1]])
        return Warp(shape, matrix, shift, numbers * width if width else None)


def warp_array(
    array: NDArray[Any],
    axes: str,
    window: Sequence[slice],
    region: Sequence[tuple[int, int]],
    warp: Warp,
    *,
    nearest: bool,
    fill: float | None = None,
) -> NDArray[Any]:
    """Return the part of an image that a warped patch shows.

    Parameters
    ----------
    array
        The image, usually memory-mapped; no more of it is read than the patch shows.
    axes
        Axes of the array.
    window
        Region of the patch without the warp, one slice for each axis.
    region
        First and end pixel along Y and along X beyond which nothing is read: the rest is another image's, or
        validates. What the patch shows from beyond is mirrored.
    warp
        Warp of the patch.
    nearest
        Take the nearest pixel, for labels and classes; else interpolate linearly, as float32.
    fill
        Value of what lies beyond the region; None mirrors.

    Returns
    -------
    NDArray
        Patch of the shape of the window; of the dtype of the array if `nearest`, otherwise float32.
    """
    y, x = axes.index("Y"), axes.index("X")
    corner = np.array([window[y].start, window[x].start], np.float64)[:, None, None]
    places = warp.places + corner
    beyond = np.zeros(places.shape[1:], bool)
    read = list(window)
    for axis, place, (start, stop) in zip((y, x), places, region, strict=True):
        beyond |= (place < start - 0.5) | (place > stop - 0.5)
        place[...] = _mirrored(place, start, stop)
        first, last = math.floor(place.min()), math.ceil(place.max())
        place -= first
        read[axis] = slice(first, last + 1)
    part = np.asarray(array[tuple(read)])
    planes = np.moveaxis(part, (y, x), (-2, -1))
    result = np.empty((*planes.shape[:-2], *warp.shape), part.dtype if nearest else np.float32)
    for index in np.ndindex(planes.shape[:-2]):
        plane = planes[index] if nearest else planes[index].astype(np.float32)
        ndimage.map_coordinates(plane, places, output=result[index], order=0 if nearest else 1, mode="nearest")
    if fill is not None:
        result[..., beyond] = fill
    return np.moveaxis(result, (-2, -1), (y, x))


def _mirrored(places: NDArray[np.float64], start: int, stop: int) -> NDArray[np.float64]:
    """Return places mirrored at the first and at the last pixel until all lie between them."""
    span = stop - start - 1
    if span == 0:
        return np.full_like(places, start)
    folded = np.mod(places - start, 2 * span)
    return np.asarray(np.where(folded > span, 2 * span - folded, folded) + start)


def moved_box(corners: NDArray[Any], view: View, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the boxes around the ellipses that fill boxes, after a change of view.

    A box around the turned box would grow by up to 41 %; objects seldom reach into the corners of their boxes.

    Parameters
    ----------
    corners
        (N, 4): y and x of the first and of the end pixel, from the upper left corner of the patch.
    view
        The change of view.
    shape
        Shape of the patch in pixels (Y, X).
    """
    corners = np.asarray(corners, np.float64)
    if view.warp is None:
        opposite = [view.move(part, shape) for part in (corners[:, :2], corners[:, 2:])]
        return np.concatenate([np.minimum(*opposite), np.maximum(*opposite)], axis=1)
    middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    around = np.stack([(math.sin(t), math.cos(t)) for t in np.linspace(0, 2 * math.pi, 32, endpoint=False)])
    points = (middle[:, None] + half[:, None] * around).reshape(-1, 2)
    outline = view.move(points, shape).reshape(len(corners), len(around), 2)
    return np.concatenate([outline.min(axis=1), outline.max(axis=1)], axis=1)
