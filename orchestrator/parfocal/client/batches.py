"""Batches: every image of a folder in the store through a model, each once, however often this is asked for.

What has been done stands in a ledger beside the results: an object for each image that was taken (`taken/`), and one
for each that came to its end (`ended/`), which is created once and never changed. So a run that is killed, repeated, or
overlaps with another one loses nothing and delivers nothing twice. An image is known by its name, size and ETag: one
that was written anew under the same name is another one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.requests import prediction_request
from parfocal.client.results import read_result, result_uri
from parfocal.runtime.errors import ConflictError, InvalidInputError, NotFoundError, ParfocalError
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem, name_clash
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultFile, public_name
from parfocal.runtime.store.names import is_name, new_request_id
from parfocal.runtime.store.store import Location, ObjectInfo

LEDGERS: Final = "_batches"
"""Folder of a project's results with the ledgers; no job can have this name."""
_SHARD_SECONDS = 300.0
_FIRST_SHARD, _LARGEST_SHARD = 16, 500
_SMALLER = 8
_TRIES = 3
# Taken by a run that did not come to start its job.
_STARTS_WITHIN = timedelta(minutes=5)
_ACTIVE = (v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_CANCELLING)


class Taken(BaseModel):
    """An image that a job was to predict."""

    model_config = ConfigDict(frozen=True)

    input: str
    job: str
    tries: int = Field(description="How many jobs have had it, this one included.")
    since: datetime


class Ended(BaseModel):
    """How an image came to its end."""

    model_config = ConfigDict(frozen=True)

    input: str
    size: int
    etag: str
    sha256: str = ""
    state: Literal["predicted", "failed"]
    job: str
    outputs: Mapping[str, str] = Field(default_factory=dict, description="By kind, the address of each output.")
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Batch:
    """What is predicted with what.

    Attributes
    ----------
    source
        Folder in the store whose images, also those of its sub-folders, are predicted.
    output
        Folder in the store that gets the outputs under the names of the images.
    model_uri
        Published model version.
    parameters
        Of the prediction, those that differ from their defaults.
    """

    source: Location
    output: Location
    model_uri: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of its ledger: the same for the same work."""
        text = json.dumps(
            [str(self.source), str(self.output), self.model_uri, dict(self.parameters)], sort_keys=True, default=str
        )
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass
class Progress:
    """How far a run has come.

    Attributes
    ----------
    found, ended_before
        Images of the folder, and those of them that earlier runs had ended.
    predicted, failed
        Images that this run ended.
    elsewhere
        Images that another run has taken, and images that changed while this one looked.
    to_repeat
        Images whose job failed; a later run tries them again.
    """

    found: int = 0
    ended_before: int = 0
    predicted: int = 0
    failed: int = 0
    elsewhere: int = 0
    to_repeat: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The same in words."""
        parts = [f"{self.predicted} images predicted"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.to_repeat} to be tried again"] if self.to_repeat else []
        parts += [f"{self.elsewhere} being written or in work elsewhere"] if self.elsewhere else []
        return f"{', '.join(parts)}; {self.ended_before} of {self.found} had been done before."


OnBatch = Callable[[Progress], None]


def check_folders(source: Location, output: Location) -> None:
    """Raise InvalidInputError where outputs would lie among the images that are looked for, or images among outputs."""
    if f"{output}/".startswith(f"{source}/"):
        raise InvalidInputError(
            f"The results would be written to {output}, which is inside the folder {source} that is looked at for new "
            "images, so they would be predicted in turn. Choose another folder for the results."
        )
    if f"{source}/".startswith(f"{output}/"):
        raise InvalidInputError(
            f"The folder {source} that is looked at for new images is inside {output}, where the results would be "
            "written and could replace them. Choose another folder for the results."
        )


class BatchRun:
    """One run over a batch.

    Parameters
    ----------
    client
        Speaks to the services and the store.
    batch
        What to do.
    labels
        Of the jobs that are started.
    settle_seconds
        Only images whose size and ETag are the same after so many seconds are taken: others are being written.
    in_flight
        Jobs under way at the same time.
    on_progress
        Called, from several threads, whenever images came to their end.
    """

    def __init__(
        self,
        client: Client,
        batch: Batch,
        *,
        labels: Mapping[str, str] | None = None,
        settle_seconds: float = 10.0,
        in_flight: int = 4,
        on_progress: OnBatch | None = None,
    ) -> None:
        self._client, self._store, self._batch = client, client.store, batch
        self._labels, self._settle, self._in_flight = labels or {}, settle_seconds, in_flight
        self._on_progress = on_progress or (lambda _progress: None)
        self._ledger = client.store.results / client.project / LEDGERS / batch.key
        self._lock = threading.Lock()
        # By id of an image: how many jobs had had it when this run began, and the ETag of its mark in the ledger.
        self._seen: dict[str, tuple[int, str]] = {}
        self._ended: list[Ended] = []
        self.progress = Progress()

    def run(self) -> Progress:
        """Predict what has not been predicted yet, and return what was done.

        Raises
        ------
        InvalidInputError
            The outputs would lie among the images that are looked for, outside of the project's results, or in a
            published result.
        ParfocalError
            Services or store do not answer for longer than the client's patience; a later run goes on.
        """
        check_folders(self._batch.source, self._batch.output)
        self._check_output()
        waiting = self._waiting()
        self._on_progress(self.progress)
        with ThreadPoolExecutor(max_workers=self._in_flight) as pool:
            waiting = self._take_up(waiting, pool)
            # What failed before comes last, and more and more alone: one image that ends its job spoils no others.
            waiting.sort(key=self._tries)
            while waiting:
                count, shards = self._shard_size(), list[list[ObjectInfo]]()
                while waiting and len(shards) < 2 * self._in_flight:
                    tries = self._tries(waiting[0])
                    size = count if not tries else max(1, count // _SMALLER) if tries == 1 else 1
                    shard = [item for item in waiting[:size] if self._tries(item) == tries]
                    shards.append(shard)
                    waiting = waiting[len(shard) :]
                for future in [pool.submit(self._shard, shard) for shard in shards]:
                    future.result()
        self._write_manifest()
        return self.progress

    def _check_output(self) -> None:
        """Raise InvalidInputError unless the outputs have a folder of their own among the project's results."""
        project, output = self._store.results / self._client.project, self._batch.output
        name = str(output).removeprefix(f"{project}/").split("/")[0]
        if not str(output).startswith(f"{project}/") or not is_name(name):
            raise InvalidInputError(
                f"Results cannot be written to {output}. Choose a folder of this project's results, for example "
                f"{project}/microscope-1."
            )
        if self._store.exists(project / name / RESULT_MANIFEST):
            raise InvalidInputError(
                f"{project / name} is a published result, which is never changed. Choose another folder, for example "
                f"{project}/microscope-1."
            )

    def _waiting(self) -> list[ObjectInfo]:
        """Return the images that have not come to their end and are not being written."""
        before = self._images()
        ended = {item.location.name for item in self._store.objects(self._ledger / "ended")}
        fresh = [item for item in before if self._id(item) not in ended]
        self.progress.found, self.progress.ended_before = len(before), len(before) - len(fresh)
        fresh = self._without_clashes(before, fresh)
        if not fresh or not self._settle:
            return fresh
        time.sleep(self._settle)
        now = {(item.location, item.size, item.etag) for item in self._images()}
        settled = [item for item in fresh if (item.location, item.size, item.etag) in now]
        self.progress.elsewhere += len(fresh) - len(settled)
        return settled

    def _without_clashes(self, images: Sequence[ObjectInfo], fresh: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Return the fresh images whose results have names of their own; the others are given up."""
        places = {item.location for item in fresh}
        known: dict[str, str] = {}
        left = []
        # Those that came to their end first: their results are there.
        for item in [*(item for item in images if item.location not in places), *fresh]:
            path = Path(self._name(item))
            other = known.setdefault((path.parent / image_stem(path)).as_posix(), path.as_posix())
            if item.location not in places:
                continue
            if other == path.as_posix():
                left.append(item)
            else:
                self._end(item, v1.Job(), None, "failed", reason=name_clash(path, Path(other)))
        return left

    def _images(self) -> list[ObjectInfo]:
        found = self._store.objects(self._batch.source)
        return [item for item in found if item.location.name.lower().endswith(IMAGE_SUFFIXES)]

    def _name(self, item: ObjectInfo) -> str:
        return item.location.key.removeprefix(f"{self._batch.source.key}/")

    def _id(self, item: ObjectInfo) -> str:
        text = f"{self._name(item)}\n{item.size}\n{item.etag}"
        return hashlib.sha256(text.encode()).hexdigest()[:40] + ".json"

    def _take_up(self, waiting: Sequence[ObjectInfo], pool: ThreadPoolExecutor) -> list[ObjectInfo]:
        """Deliver what jobs of earlier runs have made, and return the images that no job has now."""
        known = {item.location.name for item in self._store.objects(self._ledger / "taken")}
        by_job: dict[str, list[ObjectInfo]] = {}
        free = []
        for item in waiting:
            taken, etag = self._read_taken(item) if self._id(item) in known else (None, "")
            if taken is None:
                free.append(item)
            else:
                self._seen[self._id(item)] = taken.tries, etag
                by_job.setdefault(taken.job, []).append(item)
        futures = [pool.submit(self._of_earlier_job, job, items) for job, items in by_job.items()]
        for future in futures:
            free += future.result()
        return free

    def _of_earlier_job(self, job_id: str, items: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Deliver what a job of an earlier run made of these images; return those that need another one."""
        try:
            job = self._client.get(job_id)
        except NotFoundError:
            taken = [self._read_taken(item)[0] for item in items]
            late = [
                item
                for item, record in zip(items, taken, strict=True)
                if record is None or datetime.now(UTC) - record.since > _STARTS_WITHIN
            ]
            with self._lock:
                self.progress.elsewhere += len(items) - len(late)
            return late
        if job.state in _ACTIVE:
            with self._lock:
                self.progress.elsewhere += len(items)
            return []
        return self._deliver(job, items)

    def _shard(self, items: Sequence[ObjectInfo]) -> None:
        """Take images, have a job predict them, and deliver what it made."""
        job_id = new_request_id("batch")
        mine = [item for item in items if self._take(item, job_id)]
        with self._lock:
            self.progress.elsewhere += len(items) - len(mine)
        if not mine:
            return
        begin = time.monotonic()
        try:
            self._start(job_id, mine)
        except InvalidInputError:
            # Somebody removed images a moment ago: the job is for the others. Else model or parameters are wrong.
            mine, gone = [item for item in mine if self._store.exists(item.location)], mine
            if not mine or len(mine) == len(gone):
                raise
            self._start(job_id, mine)
        job = self._client.wait(job_id)
        again = self._deliver(job, mine)
        if not again:
            self._note_pace((time.monotonic() - begin) / len(mine))
        with self._lock:
            self.progress.to_repeat += len(again)

    def _start(self, job_id: str, items: Sequence[ObjectInfo]) -> None:
        request = prediction_request(
            self._batch.model_uri,
            str(self._batch.source),
            self._batch.parameters,
            inputs=[self._name(item) for item in items],
            request_id=job_id,
            labels=self._labels,
        )
        self._client.start(request, wait_for_queue=True)

    def _take(self, item: ObjectInfo, job_id: str) -> bool:
        """Note that a job will have an image; False where another run has taken it since this one looked."""
        place = self._ledger / "taken" / self._id(item)
        etag = self._seen.get(self._id(item), (0, ""))[1]
        content = Taken(input=self._name(item), job=job_id, tries=self._tries(item) + 1, since=datetime.now(UTC))
        data = content.model_dump_json().encode()
        try:
            if etag:
                self._store.replace(place, data, etag)
            else:
                self._store.create(place, data)
        except ConflictError:
            return False
        return True

    def _tries(self, item: ObjectInfo) -> int:
        """Return how many jobs had had an image when this run began."""
        return self._seen.get(self._id(item), (0, ""))[0]

    def _read_taken(self, item: ObjectInfo) -> tuple[Taken | None, str]:
        try:
            data, etag = self._store.read_versioned(self._ledger / "taken" / self._id(item))
        except NotFoundError:
            return None, ""
        return Taken.model_validate_json(data), etag

    def _deliver(self, job: v1.Job, items: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Copy what a job made of images to where it belongs; return the images that it made nothing of."""
        made: dict[str, ResultFile] = {}
        place = Location("", "")
        if job.state == v1.JOB_STATE_SUCCEEDED:
            place = Location.parse(result_uri(job))
            made = {image.input: image for image in read_result(self._client, job).images}
        again = []
        for item in items:
            image = made.get(self._name(item))
            reason = (
                image.reason if image is not None else job.error.text or job.message or "Its job made nothing of it."
            )
            if image is not None and not image.reason:
                outputs = {}
                for kind, name in image.outputs.items():
                    outputs[kind] = self._batch.output / public_name(name)
                    self._store.copy(place / name, outputs[kind])
                self._end(item, job, image, "predicted", outputs=outputs)
            elif (record := self._read_taken(item)[0]) is not None and record.tries >= _TRIES:
                self._end(item, job, image, "failed", reason=reason)
            else:
                again.append(item)
                with self._lock:
                    self.progress.reasons[self._name(item)] = reason
        self._on_progress(self.progress)
        return again

    def _end(
        self,
        item: ObjectInfo,
        job: v1.Job,
        image: ResultFile | None,
        state: Literal["predicted", "failed"],
        *,
        outputs: Mapping[str, Location] | None = None,
        reason: str = "",
    ) -> None:
        ended = Ended(
            input=self._name(item),
            size=item.size,
            etag=item.etag,
            sha256=image.input_sha256 if image is not None else "",
            state=state,
            job=job.id,
            outputs={kind: str(place) for kind, place in (outputs or {}).items()},
            seconds=image.seconds if image is not None else 0.0,
            reason=reason,
        )
        try:
            self._store.create(self._ledger / "ended" / self._id(item), ended.model_dump_json().encode())
        except ConflictError:  # another run was faster
            with self._lock:
                self.progress.elsewhere += 1
            return
        with self._lock:
            self._ended.append(ended)
            if state == "predicted":
                self.progress.predicted += 1
                self.progress.reasons.pop(ended.input, None)  # of an earlier job
            else:
                self.progress.failed += 1
                self.progress.reasons[ended.input] = reason

    def _shard_size(self) -> int:
        """Return how many images make a job of some minutes, by what earlier ones took."""
        try:
            pace = float(self._store.read_json(self._ledger / "pace.json")["seconds_per_image"])
        except (ParfocalError, KeyError, TypeError, ValueError):
            return _FIRST_SHARD
        return max(1, min(_LARGEST_SHARD, math.floor(_SHARD_SECONDS / max(pace, 1e-3))))

    def _note_pace(self, seconds_per_image: float) -> None:
        self._store.write(self._ledger / "pace.json", json.dumps({"seconds_per_image": seconds_per_image}).encode())

    def _write_manifest(self) -> None:
        """Write what this run did as a table beside the outputs."""
        if not self._ended:
            return
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["input", "sha256", "state", "prediction", "model", "job", "seconds", "reason"])
        for each in sorted(self._ended, key=lambda ended: ended.input):
            prediction = next(iter(each.outputs.values()), "")
            values = [each.input, each.sha256, each.state, prediction, self._batch.model_uri, each.job]
            writer.writerow([*values, f"{each.seconds:.3f}", each.reason])
        name = f"manifests/{new_request_id('batch')}.csv"
        self._store.write(self._batch.output / name, text.getvalue().encode())
