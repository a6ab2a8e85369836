"""The baseline of translations without pairs: inputs whose intensities are distributed as those of the other kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32
from parfocal.runtime.errors import InvalidInputError

_QUANTILES: Final = np.linspace(0, 100, 1001)


@dataclass(frozen=True)
class IntensityMatch:
    """Maps each quantile of the intensities of one kind of image to that of the other, pixel by pixel.

    Attributes
    ----------
    known
        float64 (Q,): quantiles of the mean over the channels of inputs.
    wanted
        float64 (Q, channels): those of each channel of the other kind.
    images
        Number of inputs it was fitted to.
    """

    known: npt.NDArray[np.float64]
    wanted: npt.NDArray[np.float64]
    images: int

    def apply(self, image: npt.NDArray[Any]) -> Float32:
        """Return an input (Y, X, channels) with the intensities and the channels of the other kind."""
        grey = image.mean(axis=2, dtype=np.float64)
        mapped = [np.interp(grey, self.known, channel) for channel in self.wanted.T]
        return np.stack(mapped, axis=2).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Return what it is and what it was fitted to, as plain JSON types."""
        return {"name": "matched intensities", "chosen_on": "training images", "images": self.images}


def fit_intensity_match(sources: Iterable[npt.NDArray[Any]], targets: Iterable[npt.NDArray[Any]]) -> IntensityMatch:
    """Return the match of two kinds of images, every one of which counts alike.

    Parameters
    ----------
    sources, targets
        Images (Y, X, channels), taken one by one; those of one kind have the same channels.

    Raises
    ------
    InvalidInputError
        There are no images of one kind.
    """
    known = [np.percentile(image.mean(axis=2, dtype=np.float64), _QUANTILES) for image in sources]
    wanted = [np.percentile(image, _QUANTILES, axis=(0, 1)) for image in targets]
    if not known or not wanted:
        raise InvalidInputError("There are no training images of both kinds to match intensities with.")
    return IntensityMatch(np.mean(known, axis=0), np.mean(wanted, axis=0), len(known))
