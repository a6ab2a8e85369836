"""What has been done of a batch: who has taken which image, and how each came to its end.

It stands in the store, beside the results: an object for each image that was taken (`taken/`), and one for each that
came to its end (`ended/`), which is created once and never changed. An image is known by its name, size and ETag: one
that was written anew under the same name is another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.errors import ConflictError, NotFoundError, ParfocalError
from parfocal.runtime.store.store import Location, ObjectInfo, Store

LEDGERS: Final = "_batches"
"""Folder of a project's results with the ledgers; no job can have this name."""


class Taken(BaseModel):
    """An image that a job was to predict."""

    model_config = ConfigDict(frozen=True)

    input: str
    job: str
    tries: int = Field(description="How many jobs have had it, this one included.")
    since: datetime


class Ended(BaseModel):
    """How an image came to its end: predicted, or given up for a reason."""

    model_config = ConfigDict(frozen=True)

    input: str
    sha256: str = ""
    state: Literal["predicted", "failed"]
    job: str = ""
    outputs: Mapping[str, str] = Field(default_factory=dict, description="Address of each output by its kind.")
    seconds: float = 0.0
    reason: str = ""


class Ledger:
    """The ledger of one batch.

    Parameters
    ----------
    store
        Where it stands.
    folder
        Its place.
    source
        Folder whose images are predicted; images are called by their names below it.
    """

    def __init__(self, store: Store, folder: Location, source: Location) -> None:
        self._store, self._folder, self._source = store, folder, source

    def name(self, item: ObjectInfo) -> str:
        """Return the name of an image below the source, for example "plate1/a01.tif"."""
        return item.location.key.removeprefix(f"{self._source.key}/")

    def id(self, item: ObjectInfo) -> str:
        """Return the name of an image in the ledger."""
        text = f"{self.name(item)}\n{item.size}\n{item.etag}"
        return hashlib.sha256(text.encode()).hexdigest()[:40] + ".json"

    def ids(self, part: Literal["taken", "ended"]) -> set[str]:
        """Return the images that were taken, or that came to their end."""
        return {item.location.name for item in self._store.objects(self._folder / part)}

    def taken(self, item: ObjectInfo) -> tuple[Taken, str] | None:
        """Return the mark of an image that was taken, and its ETag; None where it was not."""
        try:
            data, etag = self._store.read_versioned(self._folder / "taken" / self.id(item))
        except NotFoundError:
            return None
        return Taken.model_validate_json(data), etag

    def take(self, item: ObjectInfo, mark: Taken, etag: str) -> bool:
        """Mark an image as taken; False where somebody else did since its mark had this ETag ("": it had none)."""
        place, data = self._folder / "taken" / self.id(item), mark.model_dump_json().encode()
        try:
            if etag:
                self._store.replace(place, data, etag)
            else:
                self._store.create(place, data)
        except ConflictError:
            return False
        return True

    def end(self, item: ObjectInfo, ended: Ended) -> bool:
        """Note how an image came to its end; False where somebody else did before."""
        try:
            self._store.create(self._folder / "ended" / self.id(item), ended.model_dump_json().encode())
        except ConflictError:
            return False
        return True

    def pace(self) -> float | None:
        """Return the seconds that an image of the newest job took; None where that is not known."""
        try:
            return float(self._store.read_json(self._folder / "pace.json")["seconds_per_image"])
        except (ParfocalError, KeyError, TypeError, ValueError):
            return None

    def note_pace(self, seconds_per_image: float) -> None:
        """Keep what an image took."""
        self._store.write(self._folder / "pace.json", json.dumps({"seconds_per_image": seconds_per_image}).encode())
