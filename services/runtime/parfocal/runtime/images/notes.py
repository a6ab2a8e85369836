"""What happened to an image on its way from a file: whatever was dropped, converted or guessed has a name here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

NOTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "metadata-ignored": "The metadata do not fit the pixels, which were read without them",
        "axes-overridden": "The axes that files declare were replaced by those that you gave",
        "axes-guessed": "Stacks that do not say what their planes are were taken for planes along Z",
        "alpha-dropped": "Opaque alpha channels were left out",
        "white-is-zero": "Images of few bits stored as white is zero were inverted: white is the highest value",
        "inverted-table": "Images are to be shown inverted (white is zero), their values were taken as they are stored",
        "transparent-value": "One value of the images stands for transparency, which was left out: its pixels have "
        "that value",
        "calibration-ignored": "ImageJ shows the grey values calibrated, they were taken as they are stored",
        "table-left-out": "Colour tables were left out: the values are those stored in the file",
        "table-applied": "Colour tables were applied: the values are those shown",
        "labels-from-table": "Colour tables of label images were left out: the index is the label",
        "labels-from-floats": "Label images with decimal numbers were converted to whole ones, no label was changed",
        "labels-rounded": "Label images are stored as decimal numbers that cannot hold all of their labels, some of "
        "which may have become one: export them as whole numbers of 32 bits",
        "soft-edges": "Masks have soft edges, as antialiasing and resizing make them: what has half of the highest "
        "value and more was taken for foreground",
        "size-implausible": "Pixel sizes are unlike those of any microscope: look at the unit in the files",
        "unit-unknown": "Pixel sizes in an unknown unit were left out",
        "unit-guessed": "Pixel sizes without a unit were taken for micrometres",
        "size-unreadable": "Pixel sizes that are no number were left out",
        "size-guessed": "Pixel sizes along one of X and Y only were taken for both",
        "orientation": "Images are to be shown turned or mirrored (orientation), their pixels were taken as they are "
        "stored",
        "resolution-ignored": "Resolutions of a printer or screen were not taken for pixel sizes",
        "lossy": "JPEG compression has changed the grey values and left traces of its own: take the original images "
        "where there are some",
        "perhaps-lossy": "Images are compressed in a way that may have changed their values: take the original images "
        "where there are some",
        "bytes-left-out": "Files have more bytes behind their pixels, which belong to no image and were not read",
        "blocks-missing": "Some blocks of OME-Zarr images are missing, as writers leave out empty ones: their pixels "
        "have the fill value of the file. If the images should not be empty there, copy them again",
        "converted": "Images were converted, or a part of them was taken",
        "reader": "The reader of the files reports faults in them",
    }
)
"""The sentence, without its end, of each kind of note."""


@dataclass(frozen=True)
class Note:
    """One thing that was dropped, converted or guessed.

    Attributes
    ----------
    code
        Its kind, a key of `NOTES`.
    detail
        What it was in this file; "" where the kind says all.
    """

    code: str
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The kind, as a sentence without its end."""
        return NOTES[self.code]

    def at(self, name: str) -> str:
        """Return the name of a file with the detail."""
        return f"{name} ({self.detail})" if self.detail else name


@contextmanager
def reader_reports(logger: str) -> Iterator[list[str]]:
    """Collect what a reader logs as a warning or worse in this thread, instead of printing it."""
    found: list[str] = []
    here = threading.get_ident()

    class _Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here:
                found.append(record.getMessage())

    collector = _Collector(logging.WARNING)
    log = logging.getLogger(logger)
    log.addHandler(collector)
    try:
        yield found
    finally:
        log.removeHandler(collector)
