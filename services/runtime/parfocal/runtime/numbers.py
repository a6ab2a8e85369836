"""Numbers that people and files write."""

from __future__ import annotations


def whole_number(text: str, most_digits: int = 18) -> int | None:
    """Return the number that a text of the digits 0 to 9 is, or None for any other text or a longer one.

    Python itself takes digits of other scripts too, and refuses numbers of more than 4,300 digits with an error. 18
    digits fit into the 64 bits of the contract, 9 into 32.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= most_digits else None
