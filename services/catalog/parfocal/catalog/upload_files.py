"""What is looked at of each file that is uploaded: its name, its size, its digest, its header."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Final

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import inspect_image
from parfocal.runtime.store.manifests import ImageEntry, public_name
from parfocal.runtime.store.store import Location, Store

PART_BYTES: Final = 64 * 2**20
"""Files larger than this are sent in parts of this size or more: the store takes 10,000 parts at most."""
_MOST_PARTS: Final = 9_000
_NAME_BYTES: Final = 512


def part_size(size: int) -> int:
    """Return the size of the parts of a large file in bytes, whole MiB."""
    return max(PART_BYTES, -(-size // _MOST_PARTS // 2**20) * 2**20)


def name_problem(name: str) -> str:
    """Return why a file cannot have a name; empty where it can."""
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\\" in name:
        return "cannot be the name of a file: empty parts, '.', '..' and backslashes are refused"
    if any(part[0] == "." for part in parts) or public_name(name) != name:
        return "cannot be the name of a file: names that begin with a dot or like that of an attempt are refused"
    if unicodedata.normalize("NFC", name) != name:
        return "cannot be the name of a file: its letters are not in Unicode's composed form (NFC)"
    if not name.isprintable() or len(name.encode()) > _NAME_BYTES:
        return f"cannot be the name of a file: control characters and more than {_NAME_BYTES} bytes are refused"
    return ""


def digest_of(store: Store, place: Location) -> str:
    """Return the SHA-256 of an object, read back from the store."""
    digest = hashlib.sha256()
    for data in store.chunks(place):
        digest.update(data)
    return digest.hexdigest()


def check_header(path: Path, image: ImageEntry) -> None:
    """Raise InvalidInputError where an image is not as its entry says."""
    try:
        header = inspect_image(path)
    except InvalidInputError as error:
        text = error.violations[0].description if error.violations else error.message
        raise InvalidInputError(f"is no image that can be read: {text}") from error
    found = (header.shape, str(header.dtype), header.axes)
    if found != (image.shape, image.dtype, image.axes):
        raise InvalidInputError(
            f"is {header.axes} {header.shape} {header.dtype}, not {image.axes} {image.shape} {image.dtype}"
        )
