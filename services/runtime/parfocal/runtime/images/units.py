"""Lengths as files write them, in micrometres: one table for every spelling of every unit."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_POWERS: Final = {
    **{"y": -24, "z": -21, "a": -18, "f": -15, "p": -12, "n": -9, "µ": -6, "m": -3, "c": -2, "d": -1, "": 0},
    **{"da": 1, "h": 2, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18, "Z": 21, "Y": 24},
}
_PREFIXES: Final = {
    **{"yocto": "y", "zepto": "z", "atto": "a", "femto": "f", "pico": "p", "nano": "n", "micro": "µ", "milli": "m"},
    **{"centi": "c", "deci": "d", "": "", "deca": "da", "deka": "da", "hecto": "h", "kilo": "k", "mega": "M"},
    **{"giga": "G", "tera": "T", "peta": "P", "exa": "E", "zetta": "Z", "yotta": "Y"},
}
# In metres. Those of the OME schema besides the decimal ones, and what programs write instead.
_OTHERS: Final = {
    1e-10: ("Å", "Å", "Angstrom", "Ångström", "Ångstrom", "ang", "A"),
    1e-6: ("u", "mu", "micron", "mic"),
    0.0254: ("in", "inch", "inche", '"'),
    2.54e-5: ("thou", "mil"),
    0.0254 / 12: ("li", "line"),
    0.0254 / 72: ("pt", "point"),
    0.3048: ("ft", "foot", "feet"),
    0.9144: ("yd", "yard"),
    1609.344: ("mi", "mile"),
    149_597_870_700.0: ("ua", "au"),
    9_460_730_472_580_800.0: ("ly",),
    3.0856775814913673e16: ("pc", "parsec"),
}
UNCALIBRATED: Final = frozenset({"", "pixel", "pixels", "px", "voxel", "reference frame", "none", "unit"})
"""Units of images whose pixel size nobody has set."""


def _spellings() -> Iterator[tuple[str, float]]:
    for name, symbol in _PREFIXES.items():
        metres = 10.0 ** _POWERS[symbol]
        yield f"{symbol}m", metres
        yield f"{name}meter", metres
        yield f"{name}metre", metres
    yield "um", 1e-6
    for metres, names in _OTHERS.items():
        for name in names:
            yield name, metres


_EXACT: Final = {unicodedata.normalize("NFKC", name): metres * 1e6 for name, metres in _spellings()}
# In capitals or not, where only one unit is meant: "Mm" is not "mm", which is the usual one.
_FOLDED: Final = {name.casefold(): length for name, length in reversed(_EXACT.items())} | {
    name.casefold(): _EXACT[name] for name in ("pm", "mm", "zm", "ym", "m")
}


def micrometres(unit: str) -> float | None:
    """Return how long a unit of length is, in micrometres; None where it is no known one.

    Parameters
    ----------
    unit
        As a file writes it: "nm", "µm" with either of its two characters or escaped as ImageJ does, "microns",
        "NANOMETER", "inch", "Å".
    """
    text = re.sub(r"\\+u([0-9A-Fa-f]{4})", lambda match: chr(int(match[1], 16)), unit)
    # NFKC makes one of the two characters for micro, and one of the two for Ångström.
    text = unicodedata.normalize("NFKC", text).strip().strip(".[]()").strip()
    text = text.replace("Âμ", "μ").replace("�m", "μm")  # UTF-8 read as Latin-1, and lost altogether
    if text in _EXACT:
        return _EXACT[text]
    folded = text.casefold()
    for name in (folded, folded.removesuffix("s")):
        if name in _FOLDED:
            return _FOLDED[name]
    return None


def is_length(value: object) -> bool:
    """Return whether a value or its text is a finite number, as `length_in_micrometres` reads it; also 0."""
    return (text := _number(value)) is not None and math.isfinite(float(text))


def length_in_micrometres(value: object, unit: str) -> float | None:
    """Return a length in micrometres; None where the value is no number above or below 0, or the unit is unknown.

    Parameters
    ----------
    value
        A number or its text, with a decimal point or comma. The sign says in which direction a stage or scanner moved,
        and nothing of the length: it is left out.
    unit
        See `micrometres`.
    """
    scale = micrometres(unit)
    text = _number(value)
    if scale is None or text is None:
        return None
    length = abs(float(text) * scale)
    return length if math.isfinite(length) and length > 0 else None


def _number(value: object) -> str | None:
    """Return the text of a number with a decimal point; None where the value is none."""
    text = str(value).strip().replace(",", ".")
    return text if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text) else None
