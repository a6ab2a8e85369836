"""The verdict of a quality control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    """Whether the model can be trusted, and why.

    `reasons` say what decided; `remarks` say what a reader should know besides.
    """

    verdict: Literal["passed", "failed"]
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
