"""Images that services read themselves (TIFF, PNG, JPEG, BMP), where only a part of them is taken."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from parfocal.client.formats.source import Source
from parfocal.runtime.images.files import Image, inspect_image, open_image
from parfocal.runtime.images.scratch import Scratch


@contextmanager
def opened_image(path: Path, name: str, axes: str) -> Iterator[Source]:
    """Give the image of a file to be read; nothing is decoded before its first window is asked for.

    Parameters
    ----------
    path
        The file.
    name
        What messages call it.
    axes
        What somebody says that the axes of the file are, see `read_image`; "" if the file says it.

    Raises
    ------
    InvalidInputError
        As for `inspect_image`.
    """
    header = inspect_image(path, axes=axes)
    with tempfile.TemporaryDirectory(prefix="parfocal-") as folder:

        @cache
        def decoded() -> Image:
            return open_image(path, Scratch(Path(folder)), axes=axes)

        yield Source(
            name=name,
            axes=header.axes,
            shape=header.shape,
            dtype=header.dtype,
            read=lambda window: decoded().pixels[window],
            steps=tuple(
                length if letter in "YXS" else 1 for letter, length in zip(header.axes, header.shape, strict=True)
            ),
            channels=header.acquired.channels,
            pixel_size=header.pixel_size,
            seconds=header.acquired.seconds,
            date=header.acquired.date,
            notes=header.notes,
            # What is only seen in the pixels, such as a transparency that was left out.
            faults=lambda: tuple(note for note in decoded().notes if note not in header.notes),
            rgb="S" in header.axes,
        )
