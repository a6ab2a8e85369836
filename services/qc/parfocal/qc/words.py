"""Numbers as sentences have them."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """Return "1 image" or "3 images"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
