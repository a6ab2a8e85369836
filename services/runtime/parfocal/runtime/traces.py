"""Traces for an OpenTelemetry collector. Where none is named nothing is done, and nothing is imported.

A trace begins with a client's call, goes on in the service, and stands in the record of the job that the call starts:
there its scheduler, its worker and whoever does a later attempt take it up. A span says how long something took, and of
what project, job and method; names of images, people and models are in none, nor are the texts of errors.

Nothing of the library is patched, and its global state stays as it is. A program with traces of its own keeps them, and
the calls that it makes by Parfocal's client become part of its present span.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

_log = logging.getLogger(__name__)

HEADER: Final = "traceparent"
"""Key of the metadata that carries a trace from one process to the next (W3C Trace Context)."""
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# A process that ends waits so long at most for its last spans to be sent.
_FINISH_SECONDS: Final = 2.0
_MOST_LAPS: Final = 200
# What gRPC ends a call with that nobody asked for in vain: the service failed, or could not be reached.
_BROKEN: Final = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

Side = Literal["internal", "client", "server"]
Value = str | int | float | bool


class _Off:
    """The state of a process without traces."""

    tracer: Any = None
    begun = False

    def finish(self) -> None:
        """Do nothing."""


class _On(_Off):
    """The state of a process with traces: the library's tracer, and a thread that ends its work in time."""

    begun = True

    def __init__(self, provider: Any) -> None:
        self.tracer = provider.get_tracer("parfocal")
        self._asked, self._done = threading.Event(), threading.Event()
        self._provider = provider
        # Begun now: at the end of a process no thread can be.
        threading.Thread(target=self._close, name="traces", daemon=True).start()

    def _close(self) -> None:
        self._asked.wait()
        self._provider.shutdown()
        self._done.set()

    def finish(self) -> None:
        """Send what is left, for two seconds at most: a collector that is away must hold nobody up."""
        self._asked.set()
        self._done.wait(_FINISH_SECONDS)


_state = _Off()


class Span:
    """Something that takes time. One without a library's span does nothing."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    @property
    def traceparent(self) -> str:
        """What another process needs to go on from here; empty without traces."""
        return _traceparent(self._inner) if self._inner is not None else ""

    def fail(self, reason: str) -> None:
        """Mark it as failed, for the constant `reason`."""
        if self._inner is not None:
            from opentelemetry.trace import Status, StatusCode

            self._inner.set_attribute("error.type", reason)
            self._inner.set_status(Status(StatusCode.ERROR))

    def answered(self, code: str) -> None:
        """End it as a call that was answered with a status code of gRPC, e.g. "NOT_FOUND"."""
        if self._inner is not None:
            self._inner.set_attribute("rpc.response.status_code", code)
            if code in _BROKEN:
                self.fail(code)
            self.end()

    def end(self) -> None:
        """End it now."""
        if self._inner is not None:
            self._inner.end()


_NONE: Final = Span()


def begin(name: str) -> None:
    """Let this process send traces as "parfocal-<name>", if OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

    The first call of a process counts. Everything else is set by the variables that OpenTelemetry has for it.
    """
    global _state
    if _state.begun or not any(os.environ.get(variable) for variable in _ENDPOINTS):
        return
    _state.begun = True  # what is wrong is said once
    try:
        provider = _provider(name)
    except ImportError:
        _log.warning(
            "%s is set, but there are no traces: the extra `traces` of parfocal-runtime is not installed", _ENDPOINTS[0]
        )
        return
    except ValueError as error:
        _log.warning("There are no traces, because a variable of OpenTelemetry (OTEL_…) is wrong: %s", error)
        return
    _state = _On(provider)
    atexit.register(finish)


def _provider(name: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes: dict[str, Value] = {"process.pid": os.getpid()}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        attributes["service.name"] = f"parfocal-{name}"
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def finish() -> None:
    """Send the last spans. For processes that end without Python's usual end; the others do so by themselves."""
    _state.finish()


def start(
    name: str,
    about: Mapping[str, Value] | None = None,
    *,
    parent: str = "",
    side: Side = "internal",
    root: bool = False,
    since_ns: int = 0,
) -> Span:
    """Begin a span, which whoever calls this must end.

    Parameters
    ----------
    name
        The same for all of its kind, e.g. "epoch".
    about
        Its attributes, e.g. {"epoch": 3} for "parfocal.epoch".
    parent
        The `traceparent` that it goes on from; empty: the present span of this thread or task.
    side
        Which side of a call it is, if of any.
    root
        Whether it begins a trace where there is nothing to go on from. Otherwise there is no span then.
    since_ns
        When it has begun, in nanoseconds since 1970; 0: now.
    """
    if _state.tracer is None:
        return _NONE
    from opentelemetry.trace import SpanKind, get_current_span

    context = _context(parent)
    if not root and not get_current_span(context).get_span_context().is_valid:
        return _NONE
    inner = _state.tracer.start_span(
        name, context, SpanKind[side.upper()], attributes=_named(about), start_time=since_ns or None
    )
    return Span(inner)


@contextlib.contextmanager
def span(
    name: str, about: Mapping[str, Value] | None = None, *, parent: str = "", root: bool = False
) -> Iterator[Span]:
    """Make what happens inside a span, and the present one of this thread or task; see `start`."""
    begun = start(name, about, parent=parent, root=root)
    if begun is _NONE:
        yield begun
        return
    from opentelemetry.context import attach, detach

    token = attach(_within(begun))
    try:
        yield begun
    except Exception as error:
        begun.fail(str(getattr(error, "reason", type(error).__name__)))
        raise
    finally:
        detach(token)
        begun.end()


def call(rpc: str, side: Side, *, parent: str = "") -> Span:
    """Begin the span of a call, e.g. of "/parfocal.v1.JobService/StartJob", on one of its two sides.

    On the server's side it becomes the present one of this task, which must do nothing but answer.
    """
    if _state.tracer is None or _is_quiet(rpc):
        return _NONE
    begun = start(rpc.removeprefix("/"), parent=parent, side=side, root=True)
    begun._inner.set_attributes({"rpc.system.name": "grpc", "rpc.method": rpc.removeprefix("/")})
    if side == "server":
        from opentelemetry.context import attach

        attach(_within(begun))
    return begun


def record(
    name: str, about: Mapping[str, Value], since_ns: int, until_ns: int = 0, *, parent: str, failed: str = ""
) -> None:
    """Note something that is over: it began and ended at these times (nanoseconds since 1970; 0: now).

    `failed` is the constant for why it failed; empty: it did not.
    """
    over = start(name, about, parent=parent, since_ns=since_ns) if parent else _NONE
    if over is not _NONE:
        if failed:
            over.fail(failed)
        over._inner.end(until_ns or None)


def current() -> str:
    """Return the `traceparent` of the present span; empty if there is none."""
    if _state.tracer is None:
        return ""
    from opentelemetry.trace import get_current_span

    return _traceparent(get_current_span())


class Laps:
    """Spans for the rounds of a loop: 200 at most, each of as many rounds as that takes.

    Parameters
    ----------
    name
        Of the spans.
    first, last
        Numbers of the first and of the last round.
    """

    def __init__(self, name: str, first: int, last: int) -> None:
        self._name = name
        self._first = first
        self._last = last
        self._every = math.ceil(max(1, last - first + 1) / _MOST_LAPS)
        self._since_ns = time.time_ns()

    def done(self, number: int) -> None:
        """Note that a round is done."""
        if _state.tracer is not None and (number - self._first + 1 >= self._every or number >= self._last):
            record(self._name, {"first": self._first, "last": number}, self._since_ns, parent=current())
            self._first, self._since_ns = number + 1, time.time_ns()


class Stages:
    """Spans for the stages that a job goes through, one after the other, within the present span.

    They belong to the thread that makes this object; what others say is left out.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._name = ""
        self._span = _NONE
        self._token: Any = None

    def enter(self, name: str) -> None:
        """End the present stage and begin the next one, unless it is the same."""
        if _state.tracer is None or name == self._name or threading.get_ident() != self._thread:
            return
        self.leave()
        from opentelemetry.context import attach

        self._name, self._span = name, start(name)
        if self._span is not _NONE:
            self._token = attach(_within(self._span))

    def leave(self) -> None:
        """End the present stage, if there is one."""
        if self._token is not None:
            from opentelemetry.context import detach

            detach(self._token)
            self._token = None
        self._span.end()
        self._name, self._span = "", _NONE


def _is_quiet(rpc: str) -> bool:
    """Return whether a call says nothing of anybody's work: probes, and watching, which is called anew all the time."""
    return rpc.startswith("/grpc.") or rpc.endswith("/WatchJob")


def _named(about: Mapping[str, Value] | None) -> dict[str, Value]:
    return {f"parfocal.{name}": value for name, value in (about or {}).items()}


def _within(begun: Span) -> Any:
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(begun._inner)


def _context(parent: str) -> Any:
    """Return the context of a `traceparent`: without a span if it is malformed; None, for the present one, if empty."""
    if not parent:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({HEADER: parent}, Context())


def _traceparent(inner: Any) -> str:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(inner))
    return carrier.get(HEADER, "")
