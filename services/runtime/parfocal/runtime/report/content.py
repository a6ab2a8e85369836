"""Elements of a report, for PDF and HTML alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

Tone = Literal["passed", "failed", "note"]

SIGNS: Final[Mapping[Tone, str]] = {"passed": "\N{CHECK MARK} ", "failed": "\N{BALLOT X} ", "note": ""}
"""Before the title of a notice, so that its tone shows without colour."""


@dataclass(frozen=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A box that is seen first: a title and its sentences. Its tone shows in words and a sign, not by colour alone."""

    tone: Tone
    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under `columns`; the columns in `numbers` are aligned to the right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG file with what it shows in words; as wide as the page allows, or `small`, so that two fit a page."""

    path: Path
    caption: str
    small: bool = False


Block = Heading | Text | Notice | Table | Picture


@dataclass(frozen=True)
class Report:
    """A report: its title, what it is about as names and values, and its blocks in order of reading."""

    title: str
    facts: Mapping[str, str]
    blocks: Sequence[Block] = field(default_factory=tuple)
