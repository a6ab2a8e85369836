"""One prediction done by several jobs: each does a part of every image, and a last one merges the parts.

Jobs are found again by their ids, which follow from that of the prediction. So whoever was stopped goes on with what
is there, and does again only what failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.results import is_gone
from parfocal.client.watching import FINAL_STATES
from parfocal.runtime.errors import AlreadyExistsError, InvalidInputError, NotFoundError, ParfocalError, Violation
from parfocal.runtime.store.manifests import MOST_PARTS, PART
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import patiently

LARGE_PIXELS: Final = 2**28
"""Pixels of an image from which on it is worth while to divide it: each job reads the whole image first."""

_BADLY: Final = frozenset({v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED})
_LONGEST_ID: Final = 64
_PAUSE_SECONDS: Final = 1.0


def choose_parts(pixels: int, devices: Callable[[], int]) -> int:
    """Return into how many parts predictions are divided whose largest image has so many pixels: one for each device.

    Small images are never divided, and nobody is asked for devices then; 0 devices are not known.
    """
    return max(1, min(devices(), MOST_PARTS)) if pixels >= LARGE_PIXELS else 1


def check_count(parts: int) -> int:
    """Return a number of parts; raise InvalidInputError if there cannot be as many."""
    if not 1 <= parts <= MOST_PARTS:
        text = f"An image can be divided into 1 to {MOST_PARTS} parts, not {parts}."
        raise InvalidInputError(text, [Violation("parts", text)])
    return parts


def prediction_id(model_uri: str, parameters: Mapping[str, Any], paths: Iterable[Path], how: str) -> str:
    """Return a request id that is the same whenever the same is predicted; `how` says how images are read."""
    digest = hashlib.sha256(json.dumps([model_uri, parameters, how], sort_keys=True, default=str).encode())
    for path in paths:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.name} {sha256_of(file)}".encode())
    return f"predict-{digest.hexdigest()[:24]}"


def part_requests(request: v1.StartJobRequest, count: int) -> list[v1.StartJobRequest]:
    """Return the requests for all parts of a prediction."""
    made = []
    for number in range(1, count + 1):
        part = part_request(request, number, count)
        part.request_id = step_id(request.request_id, f"{number}of{count}")
        made.append(part)
    return made


def part_request(request: v1.StartJobRequest, number: int, count: int) -> v1.StartJobRequest:
    """Return the request for one part of a prediction, which counts from 1, with the same id."""
    part = _copy(request)
    part.prediction.part.CopyFrom(v1.PredictionPart(number=number, count=count))
    return part


def merge_request(request: v1.StartJobRequest, parts: Sequence[v1.Job]) -> v1.StartJobRequest:
    """Return the request to merge parts that have succeeded; its id is that of the prediction."""
    merge = _copy(request)
    merge.prediction.ClearField("part")
    merge.prediction.part_uris.extend(part_uri(job) for job in parts)
    return merge


def part_uri(job: v1.Job) -> str:
    """Return where a job published its part; raise NotFoundError if it has none."""
    for output in job.outputs:
        if output.kind == PART:
            return output.uri
    raise NotFoundError(f"The job {job.id} published no part of a prediction.")


def find_done(client: Client, request_id: str) -> v1.Job | None:
    """Return the job that has made the result of this id, which is still there; None if there is none."""
    for job in _attempts(client, request_id):
        if job.state == v1.JOB_STATE_SUCCEEDED and not is_gone(client, job):
            return job
    return None


def known_inputs(client: Client, request_id: str, count: int) -> str:
    """Return where the images of a prediction are that was begun before with as many parts; empty if it was not."""
    for request in part_requests(v1.StartJobRequest(request_id=request_id), count):
        for job in _attempts(client, request.request_id):
            return job.prediction.input_uri
    return ""


def find_or_start(client: Client, request: v1.StartJobRequest) -> v1.Job:
    """Return the job of a request that is under way or has succeeded; start it if there is none, or only failed ones.

    A job whose result was deleted is done again, too, and so is one that was asked for something else.
    """
    for attempt in itertools.count(1):
        tried = _copy(request)
        tried.request_id = _attempt_id(request.request_id, attempt)
        try:
            job = client.get(tried.request_id)
        except NotFoundError:
            try:
                return client.start(tried, wait_for_queue=True)
            except AlreadyExistsError:
                continue  # its record was deleted, its result was not
        if job.prediction == tried.prediction and job.state not in _BADLY and not is_gone(client, job):
            return job
    raise AssertionError


def wait_for_parts(client: Client, jobs: Sequence[v1.Job], tell: Callable[[Sequence[v1.Job]], None]) -> list[v1.Job]:
    """Return the jobs of all parts when they have ended; if one ends badly the others are cancelled.

    Parameters
    ----------
    tell
        Called every second with all jobs as they stand.
    """
    standing = list(jobs)
    while True:
        tell(standing)
        if any(job.state in _BADLY for job in standing):
            return _cancelled(client, standing)
        if all(job.state in FINAL_STATES for job in standing):
            return standing
        time.sleep(_PAUSE_SECONDS)
        standing = [job if job.state in FINAL_STATES else _as_it_stands(client, job) for job in standing]


def remove_parts(client: Client, jobs: Iterable[v1.Job]) -> None:
    """Move the results of parts that were merged to the trash; what cannot be removed is left to the retention."""
    for job in jobs:
        with contextlib.suppress(ParfocalError):
            client.catalog.delete("result", job.id)


def step_id(request_id: str, step: str) -> str:
    """Return the id of a step of a piece of work, which is at most as long as ids may be."""
    if len(request_id) + len(step) + 1 > _LONGEST_ID:
        short = hashlib.sha256(request_id.encode()).hexdigest()[:12]
        request_id = f"{request_id[: _LONGEST_ID - len(step) - 14]}-{short}"
    return f"{request_id}-{step}"


def _attempt_id(request_id: str, attempt: int) -> str:
    return request_id if attempt == 1 else step_id(request_id, str(attempt))


def _attempts(client: Client, request_id: str) -> Iterator[v1.Job]:
    """Yield the jobs that did, or tried to do, the same, the first one first."""
    for attempt in itertools.count(1):
        try:
            yield client.get(_attempt_id(request_id, attempt))
        except NotFoundError:
            return


def _as_it_stands(client: Client, job: v1.Job) -> v1.Job:
    """Return a job as it stands now, also if no service answers for some minutes."""
    return patiently(lambda: client.get(job.id), client.patience)


def _cancelled(client: Client, jobs: Sequence[v1.Job]) -> list[v1.Job]:
    """Cancel what has not ended; parts that have succeeded stay, for whoever predicts the same again."""
    ended = []
    for job in jobs:
        if job.state not in FINAL_STATES:
            with contextlib.suppress(ParfocalError):
                job = client.cancel(job.id, why="another part of the prediction has not succeeded")
        ended.append(job)
    return ended


def _copy(request: v1.StartJobRequest) -> v1.StartJobRequest:
    copy: Any = v1.StartJobRequest()
    copy.CopyFrom(request)
    return copy  # type: ignore[no-any-return]
