"""Batches: every image of a folder in the store through a model, each once, however often this is asked for.

What has been done stands in a ledger (`parfocal.flows.ledger`), so a run that is killed, repeated, or overlaps with
another one loses nothing and delivers nothing twice. Whoever does this has a key of the store: the flow runner.
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
from typing import Any

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.requests import prediction_request
from parfocal.client.results import read_result, result_uri
from parfocal.flows._jobs import ACTIVE_STATES
from parfocal.flows.ledger import LEDGERS, Ended, Ledger, Taken
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.images.files import IMAGE_SUFFIXES, name_clash, output_stem
from parfocal.runtime.store.confinement import confine
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultFile, public_name
from parfocal.runtime.store.names import is_job_id, is_name, new_request_id
from parfocal.runtime.store.store import Location, ObjectInfo

_SHARD_SECONDS = 300.0
_FIRST_SHARD, _LARGEST_SHARD = 16, 500
_SMALLER = 8
_TRIES = 3
# Taken by a run that did not come to start its job.
_STARTS_WITHIN = timedelta(minutes=5)


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
        parts = [f"{count(self.predicted, 'image')} predicted"]
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
        folder = client.store.results / client.project / LEDGERS / batch.key
        self._ledger = Ledger(client.store, folder, batch.source)
        self._lock = threading.Lock()
        # How many jobs had had an image when this run began, and the ETag of its mark in the ledger.
        self._seen: dict[ObjectInfo, tuple[int, str]] = {}
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
        # With the key of the store, which reads more than the project may.
        confine(self._store, self._client.project, str(self._batch.source), "source")
        check_folders(self._batch.source, self._batch.output)
        self._check_output()
        waiting = self._waiting()
        self._on_progress(self.progress)
        with ThreadPoolExecutor(max_workers=self._in_flight) as pool:
            waiting = self._take_up(waiting, pool)
            # What failed before comes last, and more and more alone: one image that ends its job spoils no others.
            waiting.sort(key=self._tries)
            while waiting:
                usual, shards = self._shard_size(), list[list[ObjectInfo]]()
                while waiting and len(shards) < 2 * self._in_flight:
                    tries = self._tries(waiting[0])
                    size = usual if not tries else max(1, usual // _SMALLER) if tries == 1 else 1
                    shard = [item for item in waiting[:size] if self._tries(item) == tries]
                    shards.append(shard)
                    waiting = waiting[len(shard) :]
                for future in [pool.submit(self._shard, shard) for shard in shards]:
                    future.result()
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
        if self._store.exists(project / name / RESULT_MANIFEST) or self._is_job(name):
            raise InvalidInputError(
                f"{project / name} is the result of a job, which is never changed. Choose another folder, for example "
                f"{project}/microscope-1."
            )

    def _is_job(self, name: str) -> bool:
        """Return whether there is a job whose result has this name, or will have it."""
        try:
            return is_job_id(name) and bool(self._client.get(name).id)
        except NotFoundError:
            return False

    def _waiting(self) -> list[ObjectInfo]:
        """Return the images that have not come to their end and are not being written."""
        before = self._images()
        ended = self._ledger.ids("ended")
        fresh = [item for item in before if self._ledger.id(item) not in ended]
        self.progress.found, self.progress.ended_before = len(before), len(before) - len(fresh)
        fresh = self._without_clashes(before, fresh)
        if not fresh or not self._settle:
            return fresh
        time.sleep(self._settle)
        now = set(self._images())
        settled = [item for item in fresh if item in now]
        self.progress.elsewhere += len(fresh) - len(settled)
        return settled

    def _without_clashes(self, images: Sequence[ObjectInfo], fresh: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Return the fresh images whose results have names of their own; the others are given up."""
        new = set(fresh)
        known: dict[str, str] = {}
        left, ends = [], []
        # Those that came to their end first: their results are there.
        for item in [*(item for item in images if item not in new), *fresh]:
            name = self._ledger.name(item)
            other = known.setdefault(output_stem(name), name)
            if item not in new:
                continue
            if other == name:
                left.append(item)
            else:
                ended = Ended(input=name, state="failed", reason=name_clash(Path(name), Path(other)))
                ends.append((item, ended))
        self._end(ends, new_request_id("clashes"))
        return left

    def _images(self) -> list[ObjectInfo]:
        found = self._store.objects(self._batch.source)
        return [item for item in found if item.location.name.lower().endswith(IMAGE_SUFFIXES)]

    def _take_up(self, waiting: Sequence[ObjectInfo], pool: ThreadPoolExecutor) -> list[ObjectInfo]:
        """Deliver what jobs of earlier runs have made, and return the images that no job has now."""
        known = self._ledger.ids("taken")
        by_job: dict[str, list[tuple[ObjectInfo, Taken]]] = {}
        free = []
        for item in waiting:
            found = self._ledger.taken(item) if self._ledger.id(item) in known else None
            if found is None:
                free.append(item)
            else:
                mark, etag = found
                self._seen[item] = mark.tries, etag
                by_job.setdefault(mark.job, []).append((item, mark))
        for future in [pool.submit(self._of_earlier_job, job, items) for job, items in by_job.items()]:
            free += future.result()
        return free

    def _of_earlier_job(self, job_id: str, items: Sequence[tuple[ObjectInfo, Taken]]) -> list[ObjectInfo]:
        """Deliver what a job of an earlier run made of these images; return those that need another one."""
        try:
            job = self._client.get(job_id)
        except NotFoundError:
            late = [item for item, mark in items if datetime.now(UTC) - mark.since > _STARTS_WITHIN]
            self._add(elsewhere=len(items) - len(late))
            return late
        if job.state in ACTIVE_STATES:
            self._add(elsewhere=len(items))
            return []
        return self._deliver(job, [item for item, _ in items])

    def _shard(self, items: Sequence[ObjectInfo]) -> None:
        """Take images, have a job predict them, and deliver what it made."""
        job_id = new_request_id("batch")
        mine = [item for item in items if self._take(item, job_id)]
        self._add(elsewhere=len(items) - len(mine))
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
        again = self._deliver(self._client.wait(job_id), mine)
        if not again:
            self._ledger.note_pace((time.monotonic() - begin) / len(mine))
        self._add(to_repeat=len(again))

    def _start(self, job_id: str, items: Sequence[ObjectInfo]) -> None:
        request = prediction_request(
            self._batch.model_uri,
            str(self._batch.source),
            self._batch.parameters,
            inputs=[self._ledger.name(item) for item in items],
            request_id=job_id,
            labels=self._labels,
        )
        self._client.start(request, wait_for_queue=True)

    def _take(self, item: ObjectInfo, job_id: str) -> bool:
        """Note that a job will have an image; False where another run has taken it since this one looked."""
        tries, etag = self._seen.get(item, (0, ""))
        mark = Taken(input=self._ledger.name(item), job=job_id, tries=tries + 1, since=datetime.now(UTC))
        return self._ledger.take(item, mark, etag)

    def _tries(self, item: ObjectInfo) -> int:
        """Return how many jobs had had an image when this run began."""
        return self._seen.get(item, (0, ""))[0]

    def _deliver(self, job: v1.Job, items: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Copy what a job made of images to where it belongs; return the images that it made nothing of."""
        made: dict[str, ResultFile] = {}
        place = Location("", "")
        if job.state == v1.JOB_STATE_SUCCEEDED:
            place = Location.parse(result_uri(job))
            made = {image.input: image for image in read_result(self._client, job).images}
        ends: list[tuple[ObjectInfo, Ended]] = []
        again: list[ObjectInfo] = []
        for item in items:
            name = self._ledger.name(item)
            image = made.get(name) or ResultFile(
                input=name, input_sha256="", reason=job.error.text or job.message or "Its job made nothing of it."
            )
            if not image.reason:
                ends.append((item, self._delivered(job, image, place)))
            elif (found := self._ledger.taken(item)) is not None and found[0].tries >= _TRIES:
                ends.append((item, Ended(input=name, state="failed", job=job.id, reason=image.reason)))
            else:
                again.append(item)
                with self._lock:
                    self.progress.reasons[name] = image.reason
        self._end(ends, job.id)
        return again

    def _delivered(self, job: v1.Job, image: ResultFile, place: Location) -> Ended:
        """Copy the outputs of an image from the result at `place`."""
        outputs = {}
        for kind, name in image.outputs.items():
            outputs[kind] = self._batch.output / public_name(name)
            self._store.copy(place / name, outputs[kind])
        return Ended(
            input=image.input,
            sha256=image.input_sha256,
            state="predicted",
            job=job.id,
            outputs={kind: str(target) for kind, target in outputs.items()},
            seconds=image.seconds,
        )

    def _end(self, ends: Sequence[tuple[ObjectInfo, Ended]], name: str) -> None:
        """Note how images came to their end, first in a table beside the outputs, which a killed run writes again."""
        if ends:
            self._write_table(name, [ended for _, ended in ends])
        for item, ended in ends:
            noted = self._ledger.end(item, ended)
            with self._lock:
                if not noted:  # another run was faster
                    self.progress.elsewhere += 1
                elif ended.state == "predicted":
                    self.progress.predicted += 1
                    self.progress.reasons.pop(ended.input, None)  # of an earlier job
                else:
                    self.progress.failed += 1
                    self.progress.reasons[ended.input] = ended.reason
        self._on_progress(self.progress)

    def _add(self, *, elsewhere: int = 0, to_repeat: int = 0) -> None:
        with self._lock:
            self.progress.elsewhere += elsewhere
            self.progress.to_repeat += to_repeat

    def _shard_size(self) -> int:
        """Return how many images make a job of some minutes, by what earlier ones took."""
        pace = self._ledger.pace()
        if pace is None:
            return _FIRST_SHARD
        return max(1, min(_LARGEST_SHARD, math.floor(_SHARD_SECONDS / max(pace, 1e-3))))

    def _write_table(self, name: str, ends: Sequence[Ended]) -> None:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["input", "sha256", "state", "prediction", "model", "job", "seconds", "reason"])
        for each in sorted(ends, key=lambda ended: ended.input):
            prediction = next(iter(each.outputs.values()), "")
            values = [each.input, each.sha256, each.state, prediction, self._batch.model_uri, each.job]
            writer.writerow([*values, f"{each.seconds:.3f}", each.reason])
        self._store.write(self._batch.output / "manifests" / f"{name}.csv", text.getvalue().encode())
