"""The content of a job's record, `job.json`: the job, its newest events, and which request it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import json_format

from parfocal import v1


@dataclass(frozen=True)
class Record:
    """A job as stored: the message, its newest events, the digest of the request, and the ETag for `If-Match`.

    `events` are those of the last change that reported any, in order; there is none in a record that is older than
    events. `deleting` says that its deletion has begun: for everybody else the job is gone.
    """

    job: v1.Job
    events: tuple[v1.JobEvent, ...]
    request_sha256: str
    etag: str
    deleting: bool = False


def decode(data: bytes, etag: str) -> Record:
    """Read a record; raise ValueError, with what is wrong, where it is none."""
    try:
        content = json.loads(data)
        job = json_format.ParseDict(content["job"], v1.Job(), ignore_unknown_fields=True)
        # The newest event stands by itself: that is how records had it that knew no further ones.
        stored = [*(content.get("events_before") or ()), *filter(None, [content.get("last_event")])]
        events = tuple(json_format.ParseDict(each, v1.JobEvent(), ignore_unknown_fields=True) for each in stored)
        return Record(job, events, content["request_sha256"], etag, bool(content.get("deleting")))
    except (ValueError, KeyError, TypeError, AttributeError, json_format.ParseError) as error:
        raise ValueError(str(error)) from error


def encode(job: v1.Job, events: Sequence[v1.JobEvent], request_sha256: str, *, deleting: bool = False) -> bytes:
    """Return the content of a record; the parameters are those of `Record`."""
    stored = [json_format.MessageToDict(event) for event in events]
    content = {
        "deleting": deleting,
        "job": json_format.MessageToDict(job),
        "last_event": stored.pop() if stored else None,
        **({"events_before": stored} if stored else {}),
        "request_sha256": request_sha256,
    }
    return json.dumps(content, indent=1).encode()
