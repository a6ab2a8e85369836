"""Numbers as sentences have them."""

from __future__ import annotations


def count(number: int, what: str) -> str:
    """Return "1 image" or "3 images"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def none_of(number: int, what: str) -> str:
    """Return "None of the 3 predictions", or "No prediction" where there is only one."""
    return f"None of the {number} {what}s" if number > 1 else f"No {what}"


def worst_of(images: int, metric: str) -> str:
    """Return "the worst of 9 images by PSNR", or "the only image"."""
    return f"the worst of {images} images by {metric}" if images > 1 else "the only image"
