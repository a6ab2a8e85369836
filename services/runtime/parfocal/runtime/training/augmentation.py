"""Changes that make more of few images: flips and quarter turns in the plane, and intensities.

Changes of view are exact: no interpolation takes place and no value changes, so whatever is true of an image stays
true of its changed view. Intensities are changed only where the target does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class Augmentation(BaseModel):
    """Which changes of view are drawn, each with equal chance; Z is never turned over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: bool = Field(default=True, description="Mirror patches left-right and top-bottom at random.")
    rotate90: bool = Field(default=True, description="Turn square patches by 0, 90, 180 or 270 degrees at random.")

    intensity: bool = Field(default=False, description="Change gain, offset and noise of the source at random.")

    def apply(
        self, rng: np.random.Generator, arrays: Sequence[NDArray[Any]], axes: Sequence[str]
    ) -> tuple[NDArray[Any], ...]:
        """Change all arrays of one patch in the same way.

        One number is drawn whatever the settings, so that the random numbers after it do not depend on them.

        Parameters
        ----------
        rng
            Source of the draw.
        arrays
            Source and targets of one patch, with equal lengths along Y and X.
        axes
            The axes of each array, e.g. ``("YXS", "YX")``.

        Returns
        -------
        tuple of NDArray
            Views of the arrays. Quarter turns are left out where a patch is not square.
        """
        return self.turn(int(rng.integers(8)), arrays, axes)

    def turn(self, draw: int, arrays: Sequence[NDArray[Any]], axes: Sequence[str]) -> tuple[NDArray[Any], ...]:
        """Apply change number `draw` of the eight: bit 1 turns by 90 degrees, bits 2 and 4 mirror Y and X.

        The eight are all the ways a square can be laid on itself; without flips, the four that are pure turns.
        """
        turned = []
        for array, letters in zip(arrays, axes, strict=True):
            y, x = letters.index("Y"), letters.index("X")
            quarter = bool(draw & 1) and self.rotate90 and array.shape[y] == array.shape[x]
            mirror_y, mirror_x = (bool(draw & 2), bool(draw & 4)) if self.flip else (False, False)
            if not self.flip and self.rotate90 and array.shape[y] == array.shape[x]:
                mirror_y = mirror_x = bool(draw & 2)  # both together are half a turn
            index = [slice(None)] * array.ndim
            if quarter != mirror_y:  # a quarter turn is a transposition and one mirror
                index[y] = slice(None, None, -1)
            if mirror_x:
                index[x] = slice(None, None, -1)
            turned.append((np.swapaxes(array, y, x) if quarter else array)[tuple(index)])
        return tuple(turned)

    def vary_intensity(self, rng: np.random.Generator, source: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a normalised batch with a gain of 0.6 to 2, an offset of -0.2 to 0.2 and noise, drawn for each patch.

        The ranges, and noise of a standard deviation of up to 0.02, are those of the StarDist example notebooks.
        """
        if not self.intensity:
            return source
        shape = (len(source), *(1,) * (source.ndim - 1))
        gain, offset, width = rng.uniform((0.6, -0.2, 0), (2, 0.2, 0.02), (len(source), 3)).T.astype(np.float32)
        noise = rng.standard_normal(source.shape, dtype=np.float32)
        varied: NDArray[np.float32] = (
            source * gain.reshape(shape) + offset.reshape(shape) + noise * width.reshape(shape)
        )
        return varied
