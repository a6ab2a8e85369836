"""Every reason of an error is on the page for authors of tools, and comes back from a call as the error it was."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import grpc
import pytest
from google.rpc import status_pb2
from support import ROOT

from parfocal.runtime.errors import ParfocalError, QueueFullError, Violation
from parfocal.runtime.jobs.exits import FAILURES, LOST, WORN_OUT
from parfocal.runtime.rpc_errors import STATUS_KEY, code_name, from_rpc_error, to_status


def descendants(cls: type[ParfocalError]) -> Iterator[type[ParfocalError]]:
    for child in cls.__subclasses__():
        if child.__module__ == ParfocalError.__module__:
            yield child
            yield from descendants(child)


ERRORS = sorted(descendants(ParfocalError), key=lambda cls: cls.reason)


class Refused(grpc.RpcError):
    """What a client of gRPC gets."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status

    def code(self) -> grpc.StatusCode:
        return next(code for code in grpc.StatusCode if code.value[0] == self.status.code)

    def details(self) -> str:
        return self.status.message

    def trailing_metadata(self) -> Sequence[tuple[str, bytes]]:
        return ((STATUS_KEY, self.status.SerializeToString()),)


def table(heading: str) -> dict[str, str]:
    """Return the codes by reason in the table of the page below a heading."""
    page = (ROOT / "docs" / "for-tool-authors.md").read_text("utf-8")
    (section,) = re.findall(rf"^### {heading}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| \S.* \| \S.* \|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n|") - 2, "each row says code, reason, what happened and what to do"
    return {reason: code for code, reason in rows}


def test_the_page_has_every_reason_of_a_call_with_its_code() -> None:
    assert table("Errors of calls") == {cls.reason: code_name(cls("text")) for cls in (ParfocalError, *ERRORS)}


def test_the_page_has_every_further_reason_of_a_job_with_its_code() -> None:
    failures = [*FAILURES.values(), *WORN_OUT.values(), LOST]
    calls = {cls.reason for cls in ERRORS}
    assert table("Errors of jobs") == {each.reason: each.code for each in failures if each.reason not in calls}


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_is_the_same_behind_a_call(cls: type[ParfocalError]) -> None:
    problem = Violation("epochs", "too many")
    error = QueueFullError("text", 2.5) if cls is QueueFullError else cls("text", [problem])
    back = from_rpc_error(Refused(to_status(error, "request-1")), "127.0.0.1:1")
    assert (type(back), back.message) == (cls, "text")
    if isinstance(back, QueueFullError):
        assert back.retry_seconds == 2.5
    else:
        assert back.violations == (problem,)
