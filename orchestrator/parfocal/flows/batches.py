"""Runs of batches: every image of a folder in the store through one or several models, each image once.

What has been done stands in a ledger that the catalogue keeps, so a run that is killed, repeated, or overlaps with
another one loses nothing and delivers nothing twice. Whoever does this has no key of the store.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.published import read_manifest
from parfocal.client.requests import prediction_request
from parfocal.client.results import read_result, result_uri, taken_in_batches
from parfocal.flows._jobs import ACTIVE_STATES
from parfocal.flows.batch import Batch, Progress, Step, Unlike, shard_size
from parfocal.runtime.errors import AlreadyExistsError, InvalidInputError, NotFoundError, PreconditionError
from parfocal.runtime.images.files import name_clash, output_stem
from parfocal.runtime.images.taken import EVERYTHING, Taken
from parfocal.runtime.store.confinement import check_folders
from parfocal.runtime.store.manifests import ModelManifest, ResultFile, public_name
from parfocal.runtime.store.names import new_request_id, versioned_name
from parfocal.runtime.store.store import Location, patiently

_T = TypeVar("_T")
IN_FLIGHT: Final = 16
"""Jobs under way at the same time, unless somebody says another number: as many devices work on one batch."""
_SMALLER = 8
_TRIES = 3
_SAMPLE = 5
_MOST_ENDS = 500
# Taken by a run that did not come to start its job.
_STARTS_WITHIN = timedelta(minutes=5)


OnBatch = Callable[[Progress], None]


@dataclass
class _Image:
    """What the steps have made of an image so far; `lost` marks a result that somebody has deleted."""

    sha256: str = ""
    jobs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    outputs: list[v1.BatchOutput] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""
    lost: bool = False

    def outcome(self, item: v1.BatchInput) -> v1.BatchOutcome:
        """Return it as the catalogue records it."""
        return v1.BatchOutcome(
            input=item,
            sha256=self.sha256,
            jobs=self.jobs,
            model_uris=self.models,
            outputs=[] if self.reason else self.outputs,
            seconds=self.seconds,
            reason=self.reason,
        )


class BatchRun:
    """One run over a batch.

    Parameters
    ----------
    client
        Speaks to the services and the catalogue.
    batch
        What to do.
    labels
        Of the jobs that are started.
    settle_seconds
        Only images whose size and ETag are the same after so many seconds are taken: others are being written.
    in_flight
        Jobs under way at the same time.
    unlike
        What to do about images that differ from the training data of the first model: "warn" names them at the end;
        "stop" has a sample predicted first, and does nothing if most of it differs; "ignore" says nothing.
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
        in_flight: int = IN_FLIGHT,
        unlike: Unlike = "warn",
        on_progress: OnBatch | None = None,
    ) -> None:
        self._client, self._catalog, self._batch = client, client.catalog, batch
        self._labels, self._settle, self._in_flight = labels or {}, settle_seconds, in_flight
        self._unlike = unlike
        self._on_progress = on_progress or (lambda _progress: None)
        self._lock = threading.Lock()
        self._pace = 0.0
        self._taken = batch.taken
        self.progress = Progress()

    def run(self) -> Progress:
        """Predict what has not been predicted yet, and return what was done.

        Raises
        ------
        InvalidInputError
            The outputs would lie among the images that are looked for, outside of the project's results, or in a
            published result.
        NotFoundError
            The project may not read the folder.
        PreconditionError
            Most images of a sample differ from the training data, and that was to end the run.
        ParfocalError
            Services or catalogue do not answer for longer than the client's patience; a later run goes on.
        """
        batch = self._batch
        check_folders(batch.source, batch.output)
        opened = self._ask(lambda: self._catalog.open_batch(batch.key, str(batch.source), str(batch.output)))
        self._pace = opened.seconds_per_image
        self._taken = batch.taken or self._ask(self._taken_in_training)
        waiting = self._waiting()
        self._on_progress(self.progress)
        with ThreadPoolExecutor(max_workers=self._in_flight) as pool:
            waiting = self._take_up(waiting, pool)
            if self._unlike == "stop":
                self._stop_if_unlike(waiting)
            # What failed before comes last, and more and more alone: one image that ends its job spoils no others.
            waiting.sort(key=lambda item: item.tries)
            running: set[Future[None]] = set()
            while waiting or running:
                while waiting and len(running) < self._in_flight:
                    shard = self._next_shard(waiting)
                    waiting = waiting[len(shard) :]
                    running.add(pool.submit(self._shard, shard))
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    future.result()
        return self.progress

    def _taken_in_training(self) -> Taken:
        """Return what is taken of the images where nobody chooses."""
        model = read_manifest(self._client, self._batch.steps[0].model_uri, ModelManifest)
        return taken_in_batches(self._client, model)

    def _ask(self, call: Callable[[], _T]) -> _T:
        return patiently(call, self._client.patience)

    def _inputs(self, *, brief: bool = False) -> list[v1.BatchInput]:
        return self._ask(lambda: list(self._catalog.batch_inputs(self._batch.key, brief=brief)))

    def _waiting(self) -> list[v1.BatchInput]:
        """Return the images that have not come to their end and are not being written."""
        before = self._inputs()
        fresh = [item for item in before if item.state != v1.BATCH_INPUT_STATE_ENDED]
        self.progress.found, self.progress.ended_before = len(before), len(before) - len(fresh)
        fresh = self._without_clashes(before)
        if not fresh or not self._settle:
            return fresh
        time.sleep(self._settle)
        now = {_identity(item) for item in self._inputs(brief=True)}
        settled = [item for item in fresh if _identity(item) in now]
        self.progress.elsewhere += len(fresh) - len(settled)
        return settled

    def _without_clashes(self, images: Sequence[v1.BatchInput]) -> list[v1.BatchInput]:
        """Return the images without an end whose results have names of their own; the others are given up."""
        known: dict[str, str] = {}
        left: list[v1.BatchInput] = []
        ends: list[tuple[v1.BatchInput, _Image]] = []
        # Those that came to their end first: their results are there.
        for item in sorted(images, key=lambda one: one.state != v1.BATCH_INPUT_STATE_ENDED):
            other = known.setdefault(output_stem(item.name), item.name)
            if item.state == v1.BATCH_INPUT_STATE_ENDED:
                continue
            if other == item.name:
                left.append(item)
            else:
                ends.append((item, _Image(reason=name_clash(Path(item.name), Path(other)))))
        for begin in range(0, len(ends), _MOST_ENDS):
            self._end(ends[begin : begin + _MOST_ENDS], new_request_id("clashes"))
        return left

    def _take_up(self, waiting: Sequence[v1.BatchInput], pool: ThreadPoolExecutor) -> list[v1.BatchInput]:
        """Deliver what jobs of earlier runs have made, and return the images that no job has now."""
        by_job: dict[str, list[v1.BatchInput]] = {}
        free: list[v1.BatchInput] = []
        for item in waiting:
            (by_job.setdefault(item.job, []) if item.state == v1.BATCH_INPUT_STATE_TAKEN else free).append(item)
        for future in [pool.submit(self._of_earlier_job, job, items) for job, items in by_job.items()]:
            free += future.result()
        return free

    def _of_earlier_job(self, job_id: str, items: Sequence[v1.BatchInput]) -> list[v1.BatchInput]:
        """Deliver what a job of an earlier run made of these images; return those that need another one."""
        try:
            job = self._ask(lambda: self._client.get(job_id))
        except NotFoundError:
            oldest = datetime.now(UTC) - _STARTS_WITHIN
            late = [item for item in items if item.taken_at.ToDatetime(UTC) < oldest]
            self._add(elsewhere=len(items) - len(late))
            return late
        images = self._through(job, items)
        if images is None:
            self._add(elsewhere=len(items))
            return []
        return self._deliver(job.id, items, images, tries=0)

    def _shard(self, items: Sequence[v1.BatchInput]) -> None:
        """Take images, have jobs predict them, and deliver what they made."""
        job_id = new_request_id("batch")
        names = self._ask(lambda: self._catalog.take_batch_inputs(self._batch.key, job_id, items))
        mine = [item for item in items if item.name in names]
        self._add(elsewhere=len(items) - len(mine))
        if not mine:
            return
        source, step = str(self._batch.source), self._batch.steps[0]
        try:
            self._start(job_id, step, source, [item.name for item in mine], self._taken)
        except InvalidInputError:
            # Somebody removed images a moment ago: the job is for the others. Else model or parameters are wrong.
            there = {item.name for item in self._inputs(brief=True)}
            mine, gone = [item for item in mine if item.name in there], mine
            if not mine or len(mine) == len(gone):
                raise
            self._start(job_id, step, source, [item.name for item in mine], self._taken)
        images = self._through(self._client.wait(job_id), mine)
        if images is None:
            # Another run saw the first step end, and goes on with the others.
            self._add(elsewhere=len(mine))
            return
        seconds = sum(image.seconds for image in images.values()) / len(mine)
        again = self._deliver(job_id, mine, images, tries=1, seconds=seconds)
        self._add(to_repeat=len(again))

    def _start(self, job_id: str, step: Step, input_uri: str, names: Sequence[str], taken: Taken = EVERYTHING) -> None:
        request = prediction_request(
            step.model_uri,
            input_uri,
            step.parameters,
            inputs=names,
            taken=taken,
            request_id=job_id,
            labels=self._labels,
        )
        self._ask(lambda: self._client.start(request, wait_for_queue=True))

    def _through(self, job: v1.Job, items: Sequence[v1.BatchInput]) -> dict[str, _Image] | None:
        """Have images go through the steps after the first one, and return what was made of each.

        Parameters
        ----------
        job
            Of the first step.

        Returns
        -------
        dict or None
            By name of the image; None where another run is at work on them.
        """
        first = job.id
        images = {item.name: _Image() for item in items}
        there = {name: name for name in images}
        for number, step in enumerate(self._batch.steps):
            if number:
                following = self._job_of_step(f"{first}-{number + 1}", step, result_uri(job), list(there))
                if following is None:
                    return None
                job = following
            if job.state in ACTIVE_STATES:
                return None
            there = self._gather(number, job, there, images)
            if not there:
                break
        return images

    def _job_of_step(self, job_id: str, step: Step, input_uri: str, names: Sequence[str]) -> v1.Job | None:
        """Return the ended job of a further step, started unless it is there; None while another run follows it."""
        try:
            job = self._ask(lambda: self._client.get(job_id))
        except NotFoundError:
            try:
                self._start(job_id, step, input_uri, names)
            except AlreadyExistsError:
                return None  # another run has started it this very moment
            return self._client.wait(job_id)
        return None if job.state in ACTIVE_STATES else job

    def _gather(self, number: int, job: v1.Job, there: Mapping[str, str], images: dict[str, _Image]) -> dict[str, str]:
        """Add what the job of a step made to the images.

        Parameters
        ----------
        there
            The images that the step took: names of its inputs, and of the images that they are made of.

        Returns
        -------
        dict
            The same for the step that follows.
        """
        made, place, why = self._result(job)
        step, last = self._batch.steps[number], number == len(self._batch.steps) - 1
        folder = "" if last else f"steps/{number + 1}-{versioned_name(step.model_uri).replace(':', '-')}/"
        following: dict[str, str] = {}
        for name, original in there.items():
            image = images[original]
            image.jobs.append(job.id)
            image.models.append(step.model_uri)
            found = made.get(name)
            if found is None or found.reason:
                image.reason, image.lost = (found.reason if found else why), found is None and place is None
                continue
            if not number:
                image.sha256 = found.input_sha256
                if found.drift and self._unlike == "warn":
                    with self._lock:
                        self.progress.unlike[original] = found.drift[0]
            image.seconds += found.seconds
            if last or self._batch.keep:
                outputs = [
                    v1.BatchOutput(
                        kind=kind if last else f"step {number + 1}: {kind}",
                        uri=f"{place}/{file}",
                        name=folder + public_name(file),
                    )
                    for kind, file in found.outputs.items()
                ]
                image.outputs = [*outputs, *image.outputs]
            if not last:
                if "prediction" not in found.outputs:
                    image.reason = f"{versioned_name(step.model_uri)} makes no images for the step that follows."
                    continue
                following[public_name(found.outputs["prediction"])] = original
        return following

    def _result(self, job: v1.Job) -> tuple[dict[str, ResultFile], Location | None, str]:
        """Return what a job made by input, where it lies (None: it was deleted), and what to say of other inputs."""
        if job.state != v1.JOB_STATE_SUCCEEDED:
            return {}, Location("", ""), job.error.text or job.message or "Its job made nothing of it."
        try:
            result = self._ask(lambda: read_result(self._client, job))
        except NotFoundError:
            return {}, None, f"The result of the job {job.id} was deleted before it was delivered."
        made = {image.input: image for image in result.images}
        return made, Location.parse(result_uri(job)), "Its job made nothing of it."

    def _deliver(
        self,
        table: str,
        items: Sequence[v1.BatchInput],
        images: Mapping[str, _Image],
        *,
        tries: int,
        seconds: float = 0.0,
    ) -> list[v1.BatchInput]:
        """Have what was made of images copied to where it belongs; return the images that need another job.

        Parameters
        ----------
        table
            Name of the table beside the outputs.
        tries
            How many jobs have taken them since they were listed.
        seconds
            What an image took; 0 where that is not known.
        """
        ends: list[tuple[v1.BatchInput, _Image]] = []
        again: list[v1.BatchInput] = []
        for item in items:
            image = images[item.name]
            if not image.reason or (item.tries + tries >= _TRIES and not image.lost):
                ends.append((item, image))
            else:
                again.append(item)
                self._note(item.name, image.reason)
        pace = seconds if not again else 0.0
        self._pace = pace or self._pace
        lost = self._end(ends, table, pace)
        return [*again, *(item for item in items if item.name in lost)]

    def _end(self, ends: Sequence[tuple[v1.BatchInput, _Image]], table: str, pace: float = 0.0) -> set[str]:
        """Record how images came to their end; return the names of those whose outputs somebody has deleted."""
        if not ends:
            self._on_progress(self.progress)
            return set()
        outcomes = [image.outcome(item) for item, image in ends]
        answer = self._ask(lambda: self._catalog.end_batch_inputs(self._batch.key, table, outcomes, pace))
        mine = set(answer.names)
        for item, image in ends:
            if item.name in answer.missing:
                self._note(item.name, f"{answer.missing[item.name]} was deleted before it was delivered.")
                continue
            with self._lock:
                if item.name not in mine:  # another run was faster
                    self.progress.elsewhere += 1
                elif image.reason:
                    self.progress.failed += 1
                    self.progress.reasons[item.name] = image.reason
                else:
                    self.progress.predicted += 1
                    self.progress.reasons.pop(item.name, None)  # of an earlier job
        self._on_progress(self.progress)
        return set(answer.missing)

    def _stop_if_unlike(self, waiting: Sequence[v1.BatchInput]) -> None:
        """Raise PreconditionError if most images of a sample differ from the training data of the first model."""
        if not waiting:
            return
        count_, step = min(_SAMPLE, len(waiting)), self._batch.steps[0]
        sample = [waiting[number * len(waiting) // count_] for number in range(count_)]
        # The same sample has the same job, however often it is asked for.
        text = json.dumps([self._batch.key, *(_identity(item) for item in sample)])
        job_id = f"sample-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
        job = self._sampled(job_id, step, [item.name for item in sample])
        unlike = {name: found.drift[0] for name, found in self._result(job)[0].items() if found.drift}
        if 2 * len(unlike) <= len(sample):
            return
        name, how = next(iter(unlike.items()))
        raise PreconditionError(
            f"{len(unlike)} of {len(sample)} images of a sample differ from those that "
            f"{versioned_name(step.model_uri)} was trained on, for example {name}: {how}. No image was predicted. Look "
            "at them; then train on such images, or predict all the same: --unlike warn"
        )

    def _sampled(self, job_id: str, step: Step, names: Sequence[str]) -> v1.Job:
        """Return the ended job of a sample, started unless an earlier run has done so."""
        try:
            self._ask(lambda: self._client.get(job_id))
        except NotFoundError:
            self._start(job_id, step, str(self._batch.source), names, self._taken)
        return self._client.wait(job_id)

    def _note(self, name: str, reason: str) -> None:
        with self._lock:
            self.progress.reasons[name] = reason

    def _add(self, *, elsewhere: int = 0, to_repeat: int = 0) -> None:
        with self._lock:
            self.progress.elsewhere += elsewhere
            self.progress.to_repeat += to_repeat

    def _next_shard(self, waiting: Sequence[v1.BatchInput]) -> list[v1.BatchInput]:
        """Return the images of the next job, which were tried equally often."""
        tries, usual = waiting[0].tries, shard_size(self._pace, len(waiting), self._in_flight)
        size = usual if not tries else max(1, usual // _SMALLER) if tries == 1 else 1
        return [item for item in waiting[:size] if item.tries == tries]


def _identity(item: v1.BatchInput) -> tuple[str, int, str]:
    return item.name, item.size, item.etag
