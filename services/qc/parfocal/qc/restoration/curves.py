"""frc.csv, the table of Fourier correlation curves: written image by image, read onto one scale of frequencies."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.images.resolution import FourierCorrelation
from parfocal.runtime.store.evaluations import KINDS, Kind

_COLUMNS: Final = (
    "image",
    "kind",
    "frequency_per_px",
    "frequency_per_um",
    "correlation",
    "correlation_smoothed",
    "coefficients",
)
_STEPS: Final = 400
"""Frequencies at which the curves of all images are compared; images of other sizes have other rings."""

WriteCurve = Callable[[str, Kind, FourierCorrelation, float | None], None]
"""Write the curve of an image (its label) and kind; the pixel size is in micrometres, None where it is unknown."""


@contextmanager
def curve_writer(path: Path) -> Iterator[WriteCurve]:
    """Write the heading, then one line for each ring of each curve that is given."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)

        def write(label: str, kind: Kind, curve: FourierCorrelation, pixel_size: float | None) -> None:
            columns = (curve.frequency, curve.correlation, curve.smoothed, curve.coefficients)
            for frequency, correlation, smoothed, coefficients in zip(*columns, strict=True):
                physical = f"{frequency / pixel_size:.6g}" if pixel_size else ""
                curves = f"{correlation:.6g}", f"{smoothed:.6g}"
                writer.writerow([label, kind, f"{frequency:.6g}", physical, *curves, int(coefficients)])

        yield write


@dataclass(frozen=True)
class Curves:
    """The smoothed curves of all images on one scale of frequencies.

    Attributes
    ----------
    unit
        "µm" where every image has a pixel size, else "pixel"; frequencies are cycles per this length.
    frequency
        Rising, shape (steps,), float64.
    by_kind
        Correlation of each image, float32 (images, steps); NaN where an image has no such frequency.
    """

    unit: str
    frequency: npt.NDArray[np.float64]
    by_kind: Mapping[Kind, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class _Read:
    """One smoothed curve; `pixels` and `physical` are its frequencies."""

    kind: str
    pixels: npt.NDArray[np.float64]
    physical: npt.NDArray[np.float64] | None
    smoothed: npt.NDArray[np.float64]


def read_curves(path: Path, role: str = "") -> Curves | None:
    """Read frc.csv, one curve at a time; None where no image was large enough for a curve.

    Parameters
    ----------
    path
        The table that `curve_writer` wrote.
    role
        Only images of this target, whose labels begin with it; all where it is empty.
    """
    limits: dict[str, tuple[float, float]] = {}
    physical = True
    for curve in _read(path, role):
        physical = physical and curve.physical is not None
        for unit, values in (("pixel", curve.pixels), ("µm", curve.physical)):
            if values is not None:
                low, high = limits.get(unit, (np.inf, 0.0))
                limits[unit] = min(low, float(values[0])), max(high, float(values[-1]))
    if not limits:
        return None
    unit = "µm" if physical else "pixel"
    frequency = np.linspace(*limits[unit], _STEPS)
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    for curve in _read(path, role):
        rings = curve.physical if physical and curve.physical is not None else curve.pixels
        values = np.interp(frequency, rings, curve.smoothed, left=np.nan, right=np.nan)
        found.setdefault(curve.kind, []).append(values.astype(np.float32))
    return Curves(unit, frequency, {kind: np.array(found[kind]) for kind in KINDS if kind in found})


def _read(path: Path, role: str) -> Iterator[_Read]:
    image, kind, pixels, physical, _, smoothed, _ = _COLUMNS
    with path.open(encoding="utf-8", newline="") as file:
        for (label, name), lines in groupby(csv.DictReader(file), key=lambda line: (line[image], line[kind])):
            if role and not label.startswith(f"{role}/"):
                continue
            rows = [(line[pixels], line[physical], line[smoothed]) for line in lines]
            known = all(row[1] for row in rows)
            yield _Read(
                name,
                np.array([float(row[0]) for row in rows]),
                np.array([float(row[1]) for row in rows]) if known else None,
                np.array([float(row[2]) for row in rows]),
            )
