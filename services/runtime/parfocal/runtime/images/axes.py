"""The meaning of an array's dimensions: from a file's letters to those of Parfocal."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images._tiff import UnusableError

ORDER = "TCZYXS"
_SAY_AXES: Final = "Export it as a single-image OME-TIFF; or say what its axes are (for example --axes ZYX)."


def name_axes(shape: tuple[int, ...], axes: str, rgb: bool) -> str:
    """Translate a file's axes to letters of `ORDER`, ``_`` for those to drop; UnusableError when impossible."""
    letters = ""
    for axis, length in zip(axes, shape, strict=True):
        if axis in "YX":
            letters += axis
        elif length == 1:
            letters += "_"
        elif axis == "S":
            letters += "S" if rgb and length in (3, 4) else "C"
        else:
            letters += "Z" if axis in "QI" else axis  # QI: more planes, and nothing says of what
    named = letters.replace("_", "")
    unknown = sorted(set(named) - set(ORDER))
    if unknown:
        raise UnusableError(
            f"it has axes {axes} of shape {shape}, and {', '.join(unknown)} is not one of T, C, Z, Y, X", _SAY_AXES
        )
    if len(set(named)) != len(named) or "Y" not in named or "X" not in named:
        raise UnusableError(f"its axes {axes} of shape {shape} do not say which dimension is which", _SAY_AXES)
    return letters


def override_axes(shape: tuple[int, ...], axes: str, rgb: bool, given: str) -> tuple[str, str]:
    """Translate a file's axes to letters of `ORDER` as somebody says they are.

    Parameters
    ----------
    shape, axes, rgb
        Of the file, see `name_axes`.
    given
        The axes that the image has, e.g. "ZYX". They replace what the file says of planes (T, C, Z), in the order in
        which it has them; rows, columns and colours are never replaced. Where that does not fit, the file's hold.

    Returns
    -------
    tuple
        The letters as `name_axes` returns them, and what the file declares, where that was replaced; else "".
    """
    try:
        guessed = letters = name_axes(shape, axes, rgb)
        # What is guessed gives way: planes of which nothing is said, and planes that are said to be colours.
        letters = "".join(
            "?" if letter in "ZC" and (axis in "QI" or (axis == "S" and place < axes.index("Y"))) else letter
            for place, (axis, letter) in enumerate(zip(axes, guessed, strict=True))
        )
    except UnusableError:
        guessed = ""
        letters = "".join(
            each if each in "YX" or (each == "S" and rgb) else "_" if length == 1 else "?"
            for each, length in zip(axes, shape, strict=True)
        )
        if letters.count("Y") != 1 or letters.count("X") != 1 or len(letters.replace("_", "")) != len(given):
            raise
    named = letters.replace("_", "")
    free = [letter for letter in given if letter not in named]
    replaced = [letter for letter in letters if letter not in f"{given}_"]
    if not free or len(named) != len(given) or not set(free) <= set("TCZ") or not set(replaced) <= set("TCZ?"):
        return guessed or name_axes(shape, axes, rgb), ""
    following = iter(free)
    found = "".join(next(following) if letter in replaced else letter for letter in letters)
    return found, "" if found == guessed else (guessed or letters.replace("?", "Z")).replace("_", "")


def arrange(pixels: NDArray[Any], letters: str, axes: str) -> NDArray[Any]:
    """Drop the axes named ``_`` in `letters` and bring the others into the order of `axes`."""
    dropped = tuple(index for index, letter in enumerate(letters) if letter == "_")
    pixels = np.squeeze(pixels, axis=dropped)
    named = letters.replace("_", "")
    return np.transpose(pixels, [named.index(axis) for axis in axes])
