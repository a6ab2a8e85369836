"""What a file of an upload may be called, and whether it is what was announced."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Final

from parfocal import v1
from parfocal.catalog.places import MODEL, Kind
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import inspect_image
from parfocal.runtime.store.manifests import ImageEntry, public_name
from parfocal.runtime.store.publish import CLAIM
from parfocal.runtime.store.store import Location, Store

_MOST_PARTS: Final = 10_000
_SMALLEST_PART: Final = 5 * 2**20
_LARGEST_PART: Final = 5 * 2**30
_MD5_BYTES: Final = 16
_LARGEST_FILE: Final = 5 * 2**40
_NAME_BYTES: Final = 512
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def check_announced(kind: Kind, file: v1.UploadFile) -> None:
    """Raise InvalidInputError where a file of an upload cannot have its name, size or digest."""
    problem = _name_problem(file.name)
    # Below qc/ of a model are its verdicts.
    if not problem and (file.name == CLAIM or (kind is MODEL and file.name.startswith("qc/"))):
        problem = "is a name that Parfocal uses itself"
    if not problem and not _DIGEST.fullmatch(file.sha256):
        problem = "has no SHA-256 of 64 digits 0-9 and a-f"
    if not problem and not 0 <= file.size <= _LARGEST_FILE:
        problem = f"has a size of {file.size} bytes; between 0 and 5 TiB is possible"
    if not problem and file.part_md5s:
        problem = _parts_problem(file)
    if problem:
        raise InvalidInputError(f"{file.name!r} {problem}.", [Violation(file.name, problem)])


def _name_problem(name: str) -> str:
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


def _parts_problem(file: v1.UploadFile) -> str:
    """Return why the digests of the parts of a file cannot be those of its parts; empty where they can."""
    if not _SMALLEST_PART <= file.part_size <= _LARGEST_PART:
        return f"has parts of {file.part_size} bytes; between 5 MiB and 5 GiB is possible"
    count, known = -(-file.size // file.part_size), len(file.part_md5s)
    if count > _MOST_PARTS:
        return f"has {count} parts; at most {_MOST_PARTS} are possible"
    if known != count:
        return f"has {count} parts of {file.part_size} bytes, but MD5 digests of {known}"
    if any(len(each) != _MD5_BYTES for each in file.part_md5s):
        return f"has a part whose MD5 is not {_MD5_BYTES} bytes long"
    return ""


def digest_of(store: Store, place: Location) -> str:
    """Return the SHA-256 of an object in hexadecimal; all of it is read."""
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
