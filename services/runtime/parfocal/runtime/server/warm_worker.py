"""The server's side of the warm worker: starts it, asks it, and ends it when it is idle or in the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parfocal import v1
from parfocal.runtime.errors import OutOfMemoryError, ParfocalError, QueueFullError, UnavailableError
from parfocal.runtime.jobs.device.lock import Devices, Loan
from parfocal.runtime.jobs.device.use import Use
from parfocal.runtime.jobs.fork_server import Program
from parfocal.runtime.jobs.processes import Process, WorkerProcesses
from parfocal.runtime.methods.service import Service
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)
WARM_WORKER: Final = "parfocal.runtime.server.interactive_worker"
_POLL_SECONDS = 0.2
_END_SECONDS = 0.02
_LONGEST_ANSWER = 2**20
_LOG_BYTES = 10 * 2**20


@dataclass(frozen=True)
class _Worker:
    process: Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    log: Path

    async def ask(self, question: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the answers to one question; the last one has no progress."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(json.dumps(question).encode() + b"\n")
            await self.writer.drain()
            while line := await self.reader.readline():
                answer = json.loads(line)
                yield answer
                if "progress" not in answer:
                    return
        raise self._loss(await self.end())

    async def end(self) -> int:
        """Wait until the process has ended; return its exit code."""
        while (code := self.process.poll()) is None:
            await asyncio.sleep(_END_SECONDS)
        return code

    def _loss(self, code: int) -> ParfocalError:
        if code == -signal.SIGKILL:
            return OutOfMemoryError(
                "The worker was killed in the middle of the image, most likely because the machine ran out of memory. "
                "Choose a smaller tile_size, or crop the image."
            )
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return UnavailableError(
            f"The worker ended {how} in the middle of the image. Try again; if it happens again, look into {self.log}."
        )


class WarmWorker:
    """At most one warm worker of a service, asked one thing at a time. All methods belong to one event loop.

    It has the device as long as it lives. It ends after `warm_idle_seconds`, or when other work wants the device: at
    once after the present image if that work came before the next image or goes first, and otherwise, as trainings do,
    once there has been no image for `spare_seconds`.
    """

    def __init__(self, service: Service, processes: WorkerProcesses, device: Devices, settings: Settings) -> None:
        self._service = service
        self._processes = processes
        self._device = device
        self._settings = settings
        kind = v1.JOB_KIND_PREDICTION
        self._needs_device = any(method.work[kind].needs_device for method in service.methods if kind in method.work)
        self._use = Use.of_images(service.name)
        self._turn = asyncio.Lock()
        self._worker: _Worker | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._tender: asyncio.Task[None] | None = None
        self._used = 0.0
        self._stopped = False

    async def ask(self, question: dict[str, Any], project: str = "") -> AsyncGenerator[dict[str, Any], None]:
        """Yield what the worker answers, as `parfocal.runtime.server.interactive_worker` describes it.

        An iteration that ends before the last answer drops the work: its worker is killed.

        Parameters
        ----------
        question
            What to compute.
        project
            Whose people are told who has the device; empty: everybody's.

        Raises
        ------
        QueueFullError
            Other work has the device for longer than `image_wait_seconds`.
        OutOfMemoryError, UnavailableError
            The worker was killed or ended by itself.
        """
        deadline = time.monotonic() + self._settings.image_wait_seconds
        if self._turn.locked():
            yield {"progress": {"stage": "waiting for other images"}}
        async with self._turn:
            if self._worker is None or self._worker.process.poll() is not None:
                yield {"progress": {"stage": "waiting for the worker"}}
                async with contextlib.aclosing(self._take_device(deadline, project)) as taking:
                    async for loan in taking:
                        if isinstance(loan, str):
                            yield {"progress": {"stage": loan}}
                        else:
                            self._worker = await self._start(loan)
                assert self._worker is not None
                self._watcher = asyncio.create_task(self._watch(self._worker))
                self._tender = self._tender or asyncio.create_task(self._tend())
            self._require_running()
            finished = False
            try:
                async with contextlib.aclosing(self._worker.ask(question)) as answers:
                    async for answer in answers:
                        # A worker that ran out of memory may hold on to much of it.
                        finished = "outputs" in answer or answer.get("error", {}).get("reason") not in {
                            None,
                            OutOfMemoryError.reason,
                        }
                        yield answer
            except ParfocalError:
                self._require_running()
                raise
            finally:
                self._used = time.monotonic()
                if not finished:
                    self._end("its image came to no end")
                elif self._others_first():
                    self._end("other work waits for the device")

    async def stop(self) -> None:
        """End the worker, whatever it does; whoever waits for it is told."""
        self._stopped = True
        for task in (self._watcher, self._tender):
            if task is not None:
                task.cancel()
        worker = self._worker
        if worker is not None:
            self._end("the service is stopped")
            await worker.end()

    async def _start(self, loan: Loan) -> _Worker:
        try:
            log = self._settings.state_folder / "logs" / f"warm-{self._service.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            # It is written to for as long as there are single images, so it never grows old.
            if log.exists() and log.stat().st_size > _LOG_BYTES:
                log.replace(log.with_name(f"{log.name}.1"))
            ours, other = socket.socketpair()
            with other, log.open("ab") as output:
                standard = (other.fileno(), other.fileno(), output.fileno())
                program = Program(WARM_WORKER, [self._processes.module], standard, loan.files)
                try:
                    process = self._processes.start(program, loan.environment)
                except OSError:
                    ours.close()
                    raise
        finally:
            loan.close()
        _log.info("warm worker started", extra={"pid": process.pid})
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_ANSWER)
        return _Worker(process, reader, writer, log)

    async def _take_device(self, deadline: float, project: str) -> AsyncGenerator[str | Loan, None]:
        """Yield what is waited for, in words, whenever that changes, and at last the device."""
        if not self._needs_device:
            yield Loan(())
            return
        told = ""
        try:
            while True:
                self._require_running()
                loan = self._device.take(self._use)
                if loan is not None:
                    loan.describe(self._use)
                    yield loan
                    return
                holders = [
                    holder.words(project, hands_over=self._device.short_first()) for holder in self._device.holders()
                ]
                waits = "; ".join(holders) or "other work has the device"
                if time.monotonic() > deadline:
                    raise QueueFullError(
                        f"A single image waits for the device no longer than {self._settings.image_wait_seconds:g} s: "
                        f"{waits}. Try again later, or start a prediction job: it waits until its turn comes."
                    )
                if waits != told:
                    told = waits
                    yield f"waiting for the device: {waits}"
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            self._device.withdraw(self._use)

    def _others_first(self) -> bool:
        """Return whether other work goes before the next image."""
        return any(wish.use.short or not self._device.short_first() for wish in self._device.waiting())

    async def _watch(self, worker: _Worker) -> None:
        self._used = time.monotonic()
        while self._worker is worker:
            await asyncio.sleep(_POLL_SECONDS)
            if self._turn.locked() or self._worker is not worker:
                continue
            if worker.process.poll() is not None:
                self._end("it is gone")
            elif time.monotonic() - self._used > self._settings.warm_idle_seconds:
                self._end("it was idle")
            elif self._others_first() or (
                self._device.waiting() and time.monotonic() - self._used > self._settings.spare_seconds
            ):
                self._end("other work wants the device")

    async def _tend(self) -> None:
        """Let the processes be tended, which nobody else does in an instance that runs no jobs."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            self._processes.tend()

    def _end(self, why: str) -> None:
        if self._worker is not None:
            _log.info("warm worker ends", extra={"pid": self._worker.process.pid, "why": why})
            self._processes.end(self._worker.process)
            self._worker.writer.close()
            self._worker = None

    def _require_running(self) -> None:
        if self._stopped:
            raise UnavailableError(f"The service {self._service.name!r} is being stopped. Try again in a minute.")
