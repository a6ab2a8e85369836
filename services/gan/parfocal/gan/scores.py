"""Scores of whole images against their targets, by which the best epoch of pix2pix is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.ssim import mean_ssim, ssim_map


def structural_similarity(prediction: NDArray[Any], target: NDArray[Any]) -> float:
    """Return the mean structural similarity of two normalised images over their channels, at most 1; see `ssim_map`.

    Parameters
    ----------
    prediction, target
        Images of one shape (Y, X, channels), at least 11 pixels along each side.
    """
    channels = zip(np.moveaxis(prediction, -1, 0), np.moveaxis(target, -1, 0), strict=True)
    return float(np.mean([mean_ssim(ssim_map(first, second)) for first, second in channels]))
