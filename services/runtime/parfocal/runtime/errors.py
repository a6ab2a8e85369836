"""The exception tree of Parfocal and its single translation to gRPC.

Every error that a user or an operator can meet is one of these classes; anything else that reaches a
server's edge is a defect and is reported as INTERNAL with a request id.

```
ParfocalError
├── InvalidInputError        INVALID_ARGUMENT     the request or the images are wrong: change them
│   └── InvalidParameterError                     a parameter is unknown, of the wrong type or out of range
├── UnauthenticatedError     UNAUTHENTICATED      nobody knows who calls: log in
├── PermissionDeniedError    PERMISSION_DENIED    the caller's role in the project is not enough
├── NotFoundError            NOT_FOUND            no such method, dataset, model, job or file
├── AlreadyExistsError       ALREADY_EXISTS       the name or the request id is taken by something else
├── PreconditionError        FAILED_PRECONDITION  not possible in the present state (e.g. resume a running job)
├── QueueFullError           RESOURCE_EXHAUSTED   try again after `retry_seconds`
├── QuotaError               RESOURCE_EXHAUSTED   the project has used what it may use
├── DiskFullError            RESOURCE_EXHAUSTED   the local cache has no room
├── OutOfMemoryError         RESOURCE_EXHAUSTED   the worker needed more memory than there is
├── TrainingDivergedError    FAILED_PRECONDITION  the loss became NaN or infinite
├── UnavailableError         UNAVAILABLE          a service or the store does not answer: retry later
├── DamagedError             DATA_LOSS            what the store holds cannot be read
├── ConflictError            ABORTED              a conditional write lost: somebody else wrote first
├── StaleWorkerError         ABORTED              another attempt of the same job has taken over
└── CancelledError           CANCELLED            the job was cancelled
```

A message says what is wrong, where (file, field) and what to do about it, in words a biologist understands.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

DAMAGED_ARCHIVE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, NotImplementedError),
    *(ValueError, IndexError, MemoryError),
)
"""What Python raises for zip archives that are damaged, encrypted, or packed in a way that it does not know."""


@dataclass(frozen=True)
class Violation:
    """One thing wrong with one field or file: `field` names it, `description` says what to do."""

    field: str
    description: str


class ParfocalError(Exception):
    """Base of all errors that Parfocal reports on purpose.

    Parameters
    ----------
    message
        One or two plain sentences: what happened, where, and what to do.
    violations
        The single fields or files at fault, when there are several to tell apart.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)


class InvalidInputError(ParfocalError):
    """The images or the request cannot be used as they are."""

    reason = "INVALID_INPUT"


_LISTED = 10
_ALIKE = 3


def refusal(what: str, problems: Sequence[Violation]) -> InvalidInputError:
    """Return the error of all that is wrong at once: `what`, below it ten problems at most, and how many more.

    What is wrong with several files alike is one line with their number. The `violations` are all problems.
    """
    alike: dict[str, list[str]] = {}
    for problem in problems:
        alike.setdefault(problem.description, []).append(problem.field)
    lines = [what, *(f"- {_fields(fields)}: {text}" for text, fields in list(alike.items())[:_LISTED])]
    if left := sum(len(fields) for fields in list(alike.values())[_LISTED:]):
        lines.append(f"- and {left} more")
    return InvalidInputError("\n".join(lines), problems)


def _fields(fields: Sequence[str]) -> str:
    """Return what a line of a refusal is about."""
    more = f" and {len(fields) - _ALIKE} more" if len(fields) > _ALIKE else ""
    return f"{', '.join(fields[:_ALIKE])}{more}"


class InvalidParameterError(InvalidInputError):
    """A parameter is unknown, of the wrong type or outside its range."""

    reason = "INVALID_PARAMETER"


class UnauthenticatedError(ParfocalError):
    """The call says nothing of who makes it, or nothing that can be believed."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(ParfocalError):
    """The caller is known, but may not do this."""

    reason = "PERMISSION_DENIED"


class NotFoundError(ParfocalError):
    """What the request names does not exist."""

    reason = "NOT_FOUND"


class AlreadyExistsError(ParfocalError):
    """The name or request id already stands for something else."""

    reason = "ALREADY_EXISTS"


class PreconditionError(ParfocalError):
    """The request makes sense, but not in the present state."""

    reason = "FAILED_PRECONDITION"


class QueueFullError(ParfocalError):
    """The service has as many jobs as it admits; `retry_seconds` says when to ask again."""

    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_seconds: float = 30.0) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class QuotaError(ParfocalError):
    """The project has used as much as it may use; waiting for jobs to end does not help."""

    reason = "QUOTA_EXCEEDED"


class DiskFullError(ParfocalError):
    """The local cache cannot take the data."""

    reason = "DISK_FULL"


class OutOfMemoryError(ParfocalError):
    """A worker needed more memory than the machine or its limit allows."""

    reason = "OUT_OF_MEMORY"


class TrainingDivergedError(PreconditionError):
    """The training loss became NaN or infinite."""

    reason = "TRAINING_DIVERGED"


class DamagedError(ParfocalError):
    """Something in the store is there, but is not what Parfocal wrote."""

    reason = "DAMAGED"


class UnavailableError(ParfocalError):
    """A service or the store does not answer at the moment."""

    reason = "UNAVAILABLE"


class ConflictError(ParfocalError):
    """A conditional write lost: the object exists already or has changed since it was read."""

    reason = "CONFLICT"


class StaleWorkerError(ParfocalError):
    """Another attempt of the same job has taken over; this worker must end."""

    reason = "STALE_WORKER"


class CancelledError(ParfocalError):
    """The job was cancelled on request."""

    reason = "CANCELLED"
