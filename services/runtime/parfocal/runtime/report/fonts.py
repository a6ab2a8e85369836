"""The font of reports and figures: the one that Matplotlib brings, so that both look the same on every machine."""

from __future__ import annotations

from functools import cache
from typing import Final

from matplotlib.font_manager import FontProperties, findfont, get_font

FONT: Final = "DejaVuSans"


def drawable(text: str) -> str:
    """Return a text in which "?" stands for each character that the font lacks and would draw as a box."""
    known = _known_characters()
    return "".join(character if ord(character) in known else "?" for character in text)


@cache
def _known_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(weight="bold"))).get_charmap())
