"""The one table from Parfocal's exceptions to gRPC, and the way back for clients."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters, digits, punctuation
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from parfocal.runtime import errors
from parfocal.runtime.errors import ParfocalError, Violation

# The first class that fits decides: subclasses stand before their bases.
_CODES: tuple[tuple[type[ParfocalError], grpc.StatusCode], ...] = (
    (errors.InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (errors.PreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.QuotaError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.DiskFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.OutOfMemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.DamagedError, grpc.StatusCode.DATA_LOSS),
    (errors.StaleWorkerError, grpc.StatusCode.ABORTED),
    (errors.CancelledError, grpc.StatusCode.CANCELLED),
    (errors.ConflictError, grpc.StatusCode.ABORTED),
)
_CLASSES: dict[str, type[ParfocalError]] = {
    cls.reason: cls
    for cls in (
        errors.InvalidInputError,
        errors.InvalidParameterError,
        errors.UnauthenticatedError,
        errors.PermissionDeniedError,
        errors.NotFoundError,
        errors.AlreadyExistsError,
        errors.PreconditionError,
        errors.QuotaError,
        errors.DiskFullError,
        errors.OutOfMemoryError,
        errors.TrainingDivergedError,
        errors.UnavailableError,
        errors.DamagedError,
        errors.StaleWorkerError,
        errors.CancelledError,
        errors.ConflictError,
    )
}
DOMAIN = "parfocal.org"
STATUS_KEY = "grpc-status-details-bin"
_PLAIN = (ascii_letters + digits + punctuation).replace("%", "") + " "
# An error travels in gRPC's trailer, which may not be larger than 8 KiB: the message twice, the violations once.
_MESSAGE_BYTES, _VIOLATION_BYTES = 2500, 1500


def status_code(error: ParfocalError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return next((code for cls, code in _CODES if isinstance(error, cls)), grpc.StatusCode.INTERNAL)


def code_name(error: ParfocalError) -> str:
    """Return the name of the google.rpc.Code of an error, e.g. "INVALID_ARGUMENT"."""
    return status_code(error).name


def to_status(error: ParfocalError, request_id: str) -> status_pb2.Status:
    """Return the rich status that travels with an RPC error; of hundreds of violations it holds the first ones."""
    status = status_pb2.Status(code=status_code(error).value[0], message=_shortened(error.message))
    details = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    bad_request = error_details_pb2.BadRequest()
    for item in error.violations:
        bad_request.field_violations.add(field=item.field, description=item.description)
        if bad_request.ByteSize() > _VIOLATION_BYTES:
            bad_request.field_violations.pop()
            break
    if bad_request.field_violations:
        details.append(bad_request)
    if isinstance(error, errors.QueueFullError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(1000 * error.retry_seconds))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def from_rpc_error(error: grpc.RpcError, server: str) -> ParfocalError:
    """Return the exception that a server raised, rebuilt from the RPC error a client got."""
    code = error.code()
    text = error.details() or code.name
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED} and not _status(error).details:
        return errors.UnavailableError(
            f"The service at {server} does not answer. Check that it runs (`parfocal status`) and try again."
        )
    if code == grpc.StatusCode.UNIMPLEMENTED and not _status(error).details:
        return errors.UnavailableError(
            f"There is no service of Parfocal at {server} that takes this call: the address belongs to something "
            "else, the public address has no service of this name, or that Parfocal is older than yours."
        )
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in _status(error).details:
        for message in (info, bad_request, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    if info.reason == errors.QueueFullError.reason:
        return errors.QueueFullError(text, retry.retry_delay.ToMilliseconds() / 1000)
    violations = [Violation(item.field, item.description) for item in bad_request.field_violations]
    return from_reason(info.reason, text, violations)


def from_reason(reason: str, text: str, violations: Sequence[Violation] = ()) -> ParfocalError:
    """Return the exception of this reason, as another process raised it."""
    return _CLASSES.get(reason, ParfocalError)(text, violations)


def _shortened(message: str) -> str:
    """Return as much of a message as a trailer has room for, in which other characters than ASCII are spelt out."""
    if len(quote(message, safe=_PLAIN)) <= _MESSAGE_BYTES:
        return message
    kept = message[:_MESSAGE_BYTES]
    while len(quote(kept, safe=_PLAIN)) > _MESSAGE_BYTES:
        kept = kept[: len(kept) * 9 // 10]
    return f"{kept} …"


def _status(error: grpc.RpcError) -> status_pb2.Status:
    status = status_pb2.Status()
    metadata: Any = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == STATUS_KEY:
            status.ParseFromString(value)
    return status
