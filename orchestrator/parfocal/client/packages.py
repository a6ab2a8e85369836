"""Packages of bioimage.io from anywhere, unpacked without believing them.

Only files that the description names are taken, under names that stay inside the folder, up to sizes that are counted
while they are copied and with the SHA-256 that the description gives. Nothing is run, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import IO, Any, Final, Protocol

import yaml

from parfocal.runtime.errors import DAMAGED_ARCHIVE, InvalidInputError
from parfocal.runtime.packages.description import parse_description
from parfocal.runtime.packages.package import CONTENT, FILES, Package

_DESCRIPTIONS: Final = ("rdf.yaml", "bioimageio.yaml")
# A folder in which a package was zipped; deeper ones are of something else.
_DEEPEST: Final = 1
_MOST_TEXT: Final = 2**20
_MOST_BYTES: Final = 4 * 2**30
_MOST_MEMBERS: Final = 10_000
_MOST_VALUES: Final = 50_000
_MOST_LEVELS: Final = 50
_BLOCK: Final = 2**20


def is_package(source: Path) -> bool:
    """Return whether a file or folder is a package: whether there is a description in it."""
    try:
        with _opened(source) as place:
            return _description_in(place.names()) is not None
    except InvalidInputError:
        return False


def unpack(source: Path, folder: Path) -> Package:
    """Unpack a package and return it.

    Parameters
    ----------
    source
        A zip file, or a folder in which rdf.yaml lies.
    folder
        An empty folder: description.json and the folder of files are written there.

    Raises
    ------
    InvalidInputError
        It is no package, damaged, not a model, too large, or has names or files that no package should have.
    """
    with _opened(source) as place:
        name = _description_in(place.names())
        if name is None:
            raise InvalidInputError(f"{source.name} is not a package of bioimage.io: it lacks {_DESCRIPTIONS[0]}.")
        content = _read_description(place, name)
        description = parse_description(content)
        (folder / FILES).mkdir(parents=True)
        (folder / CONTENT).write_text(json.dumps(content), encoding="utf-8")
        left, inside = _MOST_BYTES, name.rpartition("/")[0]
        for file in description.files:
            _check_name(file)
            target = folder / FILES / file
            target.parent.mkdir(parents=True, exist_ok=True)
            size, digest = _copy(place, f"{inside}/{file}" if inside else file, target, left)
            left -= size
            if (wanted := description.digests.get(file)) not in (None, digest):
                raise InvalidInputError(
                    f"{file} of the package is not the file that the description means: its SHA-256 is {digest}, and "
                    f"the description says {wanted}. Download the package again."
                )
    return Package(description, folder / FILES)


class _Place(Protocol):
    """Where the files of a package are: in an archive or a folder."""

    def names(self) -> Sequence[str]:
        """Return the names of all files, with slashes."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file; raise InvalidInputError if it is missing or no plain file."""


class _Archive:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        if len(archive.filelist) > _MOST_MEMBERS:
            raise InvalidInputError(f"The package has more than {_MOST_MEMBERS} files: it is something else.")

    def names(self) -> Sequence[str]:
        return [member.filename for member in self._archive.filelist if not member.is_dir()]

    def open(self, name: str) -> IO[bytes]:
        try:
            member = self._archive.getinfo(name)
        except KeyError:
            raise _missing(name) from None
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise InvalidInputError(f"{name} of the package is a link or a device, and not a plain file.")
        return self._archive.open(member)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> Sequence[str]:
        # Only the description is looked for, and not below.
        return [path.name for path in self._folder.iterdir() if path.is_file()]

    def open(self, name: str) -> IO[bytes]:
        path = self._folder / name
        steps = [path, *path.parents[: len(Path(name).parts) - 1]]
        if any(step.is_symlink() for step in steps):
            raise InvalidInputError(f"{name} of the package is a link, and not a plain file.")
        if not path.is_file():
            raise _missing(name)
        return path.open("rb")


@contextmanager
def _opened(source: Path) -> Iterator[_Place]:
    """Open a package."""
    if source.is_dir():
        yield _Folder(source)
        return
    try:
        with zipfile.ZipFile(source) as archive:
            yield _Archive(archive)
    except DAMAGED_ARCHIVE as error:
        raise InvalidInputError(f"{source.name} is not a zip file, or it is damaged: {error}.") from error


def _description_in(names: Sequence[str]) -> str | None:
    """Return the name of the description: the one that lies highest."""
    found = [name for name in names if name.rpartition("/")[2] in _DESCRIPTIONS and name.count("/") <= _DEEPEST]
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def _missing(name: str) -> InvalidInputError:
    return InvalidInputError(f"{name}, which the description names, is not in the package.")


def _check_name(name: str) -> None:
    """Check that the name of a file stays inside the package."""
    if "://" in name:
        raise InvalidInputError(
            f"The package does not hold {name}: it names an address. Download the whole package, with its files."
        )
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(character in name for character in "\\:\0"):
        raise InvalidInputError(f"The package names a file {name!r}, which is not a name inside it.")


def _copy(place: _Place, name: str, target: Path, most: int) -> tuple[int, str]:
    """Copy a file of a package, of at most so many bytes; return its size and its SHA-256."""
    size, digest = 0, hashlib.sha256()
    try:
        with place.open(name) as file, target.open("xb") as copy:
            while block := file.read(_BLOCK):
                size += len(block)
                # Counted here: what an archive says of sizes may be wrong.
                if size > most:
                    raise InvalidInputError(
                        f"The files of the package are larger than {_MOST_BYTES // 2**30} GiB when they are unpacked."
                    )
                digest.update(block)
                copy.write(block)
    except FileExistsError as error:
        raise InvalidInputError(f"The package names {name} as a file and as something else.") from error
    return size, digest.hexdigest()


def _read_description(place: _Place, name: str) -> dict[str, Any]:
    """Return the content of the description as JSON values."""
    with place.open(name) as file:
        text = file.read(_MOST_TEXT + 1)
    if len(text) > _MOST_TEXT:
        raise InvalidInputError(f"{name} is larger than {_MOST_TEXT // 2**20} MiB: it is no description of a model.")
    try:
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # Whatever the parser's own checks do not know.
        raise InvalidInputError(f"{name} is damaged: {' '.join(str(error).split())}.") from error
    content = _Plain(name).value(loaded, 0)
    if not isinstance(content, dict):
        raise InvalidInputError(f"{name} is damaged: it names no values.")
    return content


class _Plain:
    """Turns what YAML reads into JSON values, and counts them: an alias repeats what it stands for.

    Parameters
    ----------
    name
        The file's, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._left = _MOST_VALUES

    def value(self, value: object, level: int) -> Any:
        self._left -= 1
        if level > _MOST_LEVELS or self._left < 0:
            raise InvalidInputError(
                f"{self._name} has more than {_MOST_VALUES} values, or more than {_MOST_LEVELS} levels of them: it is "
                "no description of a model."
            )
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, list):
            return [self.value(each, level + 1) for each in value]
        if isinstance(value, dict):
            return {str(key): self.value(each, level + 1) for key, each in value.items()}
        raise InvalidInputError(f"{self._name} is damaged: it has values of the kind {type(value).__name__}.")
