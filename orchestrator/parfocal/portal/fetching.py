"""Images that the portal fetches from an inbox into an upload, so that nobody has to send them from a browser.

What is to be fetched stands in a file of the upload until all of it has arrived: a portal that was restarted can go on.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal import v1
from parfocal.client import Client
from parfocal.client.inboxes import InboxFolder, files_to_fetch, name_in
from parfocal.client.transfer import for_each
from parfocal.portal.follow import Follower
from parfocal.portal.uploads import Uploads
from parfocal.runtime.errors import DiskFullError

_SPARE_BYTES: Final = 2**30


class Order(BaseModel):
    """What is to be fetched: an inbox, a folder in it, and its files with their sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    inbox: str
    folder: str
    files: Mapping[str, int]

    @property
    def place(self) -> InboxFolder:
        """Where the files lie."""
        return InboxFolder(self.inbox, self.folder)

    def path(self, name: str) -> str:
        """Return the path in the upload that a file of the inbox gets."""
        top = self.place.title.rsplit("/", 1)[-1]
        return f"{top}/{name_in(self.place, v1.InboxFile(name=name))}"


@dataclass(frozen=True)
class Progress:
    """How far an order is.

    Attributes
    ----------
    title
        Inbox and folder.
    done, total
        Files that have arrived, and all.
    running
        Whether it goes on by itself.
    problem
        Why it has stopped; empty if it has not, or nobody knows.
    """

    title: str
    done: int
    total: int
    running: bool
    problem: str


@dataclass(frozen=True)
class Subfolder:
    """A folder in an inbox: how many files lie in it and below it, and their size in bytes."""

    name: str
    files: int
    size: int


def look_into(place: InboxFolder, files: Sequence[v1.InboxFile]) -> list[Subfolder]:
    """Return the folders directly in a folder of an inbox, by name."""
    numbers: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for file in files:
        name, slash, _ = name_in(place, file).partition("/")
        if slash:
            numbers[name] += 1
            sizes[name] += file.size
    return [Subfolder(name, numbers[name], sizes[name]) for name in sorted(numbers)]


def begin(uploads: Uploads, follower: Follower, client: Client, place: InboxFolder, made_by: str) -> str:
    """Begin to fetch a folder of an inbox into a new upload; return its id.

    Raises
    ------
    NotFoundError
        There are no files, or no such inbox.
    InvalidInputError
        An OME-Zarr is among them.
    DiskFullError
        They do not fit the disk of the portal.
    """
    files = {file.name: file.size for file in files_to_fetch(client, place)}
    upload = uploads.create(client.project, made_by)
    folder = uploads.place(client.project, upload)
    size, free = sum(files.values()), shutil.disk_usage(folder).free - _SPARE_BYTES
    if size > free:
        uploads.discard(client.project, upload)
        raise DiskFullError(
            f"The images in {place.title} take {size / 1e9:.1f} GB, and the portal has room for "
            f"{max(free, 0) / 1e9:.1f} GB. Take one folder after the other, or use `parfocal dataset create "
            "--from-inbox`."
        )
    uploads.set_order(
        client.project, upload, Order(inbox=place.inbox, folder=place.folder, files=files).model_dump_json()
    )
    go_on(uploads, follower, client, upload)
    return upload


def go_on(uploads: Uploads, follower: Follower, client: Client, upload: str) -> None:
    """Fetch what has not arrived yet, unless that is under way."""
    order = _order(uploads, client.project, upload)
    if order is not None:
        follower.begin(_key(client.project, upload), lambda: _fetch(uploads, client, upload, order))


def progress(uploads: Uploads, follower: Follower, project: str, upload: str) -> Progress | None:
    """Return how far an upload from an inbox is; None for any other, and where all has arrived."""
    order = _order(uploads, project, upload)
    if order is None:
        return None
    key = _key(project, upload)
    left = _missing(uploads, project, upload, order)
    return Progress(
        order.place.title, len(order.files) - len(left), len(order.files), follower.runs(key), follower.error(key)
    )


def _fetch(uploads: Uploads, client: Client, upload: str, order: Order) -> None:
    def fetch(name: str) -> None:
        with uploads.receiving(client.project, upload, order.path(name)) as part:
            for data in client.catalog.inbox_parts(order.inbox, name):
                part.write(data)

    left = _missing(uploads, client.project, upload, order)
    for_each([(name, name) for name in left], fetch)
    uploads.set_order(client.project, upload, "")


def _missing(uploads: Uploads, project: str, upload: str, order: Order) -> list[str]:
    there = {file.path for file in uploads.files(project, upload)}
    return [name for name in order.files if order.path(name) not in there]


def _order(uploads: Uploads, project: str, upload: str) -> Order | None:
    text = uploads.order(project, upload)
    try:
        return Order.model_validate_json(text) if text else None
    except ValidationError:
        return None  # of another version of Parfocal; what has arrived can be used


def _key(project: str, upload: str) -> str:
    return f"fetch {project} {upload}"
