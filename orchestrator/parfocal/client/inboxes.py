"""Images of an inbox: found, and fetched to this computer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.convert import is_makers_format
from parfocal.client.transfer import OnProgress, for_each, local_error, no_progress
from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation
from parfocal.runtime.images.files import IMAGE_SUFFIXES
from parfocal.runtime.store.store import Location


@dataclass(frozen=True)
class InboxFolder:
    """An inbox, and a folder in it; empty: all of it."""

    inbox: str
    folder: str = ""

    @property
    def title(self) -> str:
        """How people name it."""
        return f"{self.inbox}/{self.folder}" if self.folder else self.inbox


def inbox_folder(client: Client, text: str) -> InboxFolder:
    """Return what "INBOX" or "INBOX/FOLDER" names; names of inboxes may have slashes themselves.

    Raises
    ------
    NotFoundError
        The project has no such inbox.
    """
    text = text.removeprefix("s3://").strip("/")
    known = [inbox.name for inbox in client.catalog.inboxes()]
    for name in sorted(known, key=len, reverse=True):
        if f"{text}/".startswith(f"{name}/"):
            return InboxFolder(name, text[len(name) :].strip("/"))
    there = f"it has {', '.join(known)}" if known else "it has none; an operator opens one (PARFOCAL_INBOXES)"
    message = f"The project {client.project!r} has no inbox {text!r}: {there}."
    raise NotFoundError(message, [Violation("inbox", message)])


def list_files(client: Client, place: InboxFolder) -> list[v1.InboxFile]:
    """Return the files of a folder of an inbox by name; raise NotFoundError where there are none."""
    files = list(client.catalog.inbox_files(place.inbox, place.folder))
    if not files:
        text = f"There is nothing in {place.title}."
        raise NotFoundError(text, [Violation("folder", text)])
    return files


def files_to_fetch(client: Client, place: InboxFolder) -> list[v1.InboxFile]:
    """Return the files of a folder of an inbox that become a dataset.

    Raises
    ------
    NotFoundError
        There are none.
    InvalidInputError
        An OME-Zarr lies there: it is a folder of thousands of files, which would be fetched and then be no image.
    """
    files = list_files(client, place)
    for file in files:
        for part in PurePosixPath(name_in(place, file)).parts[:-1]:
            if part.lower().endswith(".zarr"):
                text = (
                    f"{place.title} holds the OME-Zarr {part}, which cannot be taken from an inbox. Choose a folder "
                    "without it, or copy it to your computer and run `parfocal dataset create NAME FOLDER`."
                )
                raise InvalidInputError(text, [Violation("folder", text)])
    return files


def fetch_files(
    client: Client,
    place: InboxFolder,
    files: Sequence[v1.InboxFile],
    folder: Path,
    on_progress: OnProgress = no_progress,
) -> None:
    """Write files of an inbox below `folder`, under their names in the folder of the inbox.

    Raises
    ------
    UnavailableError
        The catalogue or the store does not answer.
    DiskFullError, InvalidInputError
        They cannot be written.
    """

    def fetch(file: v1.InboxFile) -> None:
        # Location's rules keep a hostile name inside `folder`.
        path = folder / (Location("", "") / name_in(place, file)).key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".incoming-", delete=False) as part:
                for data in client.catalog.inbox_parts(place.inbox, file.name):
                    part.write(data)
            Path(part.name).replace(path)
        except OSError as error:
            raise local_error(error, path) from error

    for_each([(file.name, file) for file in files], fetch, on_progress)


def name_in(place: InboxFolder, file: v1.InboxFile) -> str:
    """Return the name of a file below the folder of its inbox."""
    return file.name.removeprefix(f"{place.folder}/") if place.folder else file.name


def arrange(folder: Path) -> None:
    """Make a folder of images one that can become a dataset: without a folder `train` all become training images.

    Raises
    ------
    InvalidInputError
        Two images in different folders have the same name.
    """
    if (folder / "train").is_dir():
        return
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    images = [path for path in files if path.name.lower().endswith(IMAGE_SUFFIXES) or is_makers_format(path)]
    target = folder / "train" / "source"
    target.mkdir(parents=True)
    for path in images:
        if (target / path.name).exists():
            where = PurePosixPath(path.relative_to(folder)).parent
            text = f"Two images are called {path.name}, in {where} and in another folder. Name one folder of the inbox."
            raise InvalidInputError(text, [Violation(path.name, text)])
        path.rename(target / path.name)
