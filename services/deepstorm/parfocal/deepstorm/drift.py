"""Drift of a sample during the recording, from cross-correlation of reconstructions of parts of the stack.

The method is redundant cross-correlation (Wang et al., Optics Express 22, 15982-15991 (2014),
doi:10.1364/OE.22.015982): the shift between each two parts is measured, and the places of all parts are their
least-squares solution, so that one bad shift does not displace all that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

_STEPS: Final = 20
"""Parts of a pixel to which shifts are measured."""


def measure_drift(parts: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Return where the sample is in each part, float64 (parts, 2): y and x in pixels, 0 in the first.

    Parameters
    ----------
    parts
        Reconstructions (Y, X) of consecutive parts of a stack; parts without contrast are passed over.
    """
    count = len(parts)
    shown = [number for number, part in enumerate(parts) if np.ptp(part) > 0]
    rows: list[NDArray[np.float64]] = []
    shifts: list[NDArray[np.float64]] = []
    for place, first in enumerate(shown):
        for second in shown[place + 1 :]:
            row = np.zeros(count)
            row[first], row[second] = -1, 1
            rows.append(row)
            # The plain cross-correlation: spectra of points are all noise beyond their resolution.
            shift, *_ = phase_cross_correlation(parts[second], parts[first], upsample_factor=_STEPS, normalization=None)
            shifts.append(np.asarray(shift, np.float64))
    if not rows:
        return np.zeros((count, 2))
    places = np.linalg.lstsq(np.stack(rows), np.stack(shifts), rcond=None)[0]
    places -= places[shown[0]]
    known = np.array(shown)
    return np.stack([np.interp(np.arange(count), known, places[known, axis]) for axis in (0, 1)], axis=1)


def drift_of_frames(places: NDArray[np.float64], lengths: Sequence[int]) -> NDArray[np.float64]:
    """Return the drift of every frame, float64 (frames, 2), linear between the middles of the parts.

    Before the first middle and behind the last one it goes on as between the two next to it. The first frame is the
    reference.

    Parameters
    ----------
    places
        (parts, 2): what `measure_drift` returns.
    lengths
        Frames of each part.
    """
    ends = np.cumsum([0, *lengths])
    middles = (ends[:-1] + ends[1:] - 1) / 2
    frames = np.arange(ends[-1])
    if len(places) < 2:
        return np.zeros((len(frames), 2))
    piece = np.clip(np.searchsorted(middles, frames) - 1, 0, len(middles) - 2)
    part = ((frames - middles[piece]) / (middles[piece + 1] - middles[piece]))[:, np.newaxis]
    drift = places[piece] + part * (places[piece + 1] - places[piece])
    return np.asarray(drift - drift[0])
