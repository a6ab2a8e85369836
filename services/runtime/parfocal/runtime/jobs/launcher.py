"""What the controller knows of launchers, and the one whose workers are processes of this machine.

On a cluster `parfocal.runtime.jobs.kubernetes` takes its place.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf import json_format

from parfocal import v1
from parfocal.runtime.jobs.device.lock import DeviceLock, Devices, Loan
from parfocal.runtime.jobs.device.use import Holder, Use
from parfocal.runtime.jobs.exits import HANDED_OVER, SERVICE_GONE, STORE_AWAY, Exit, ExitKind, Waiting
from parfocal.runtime.jobs.fork_server import Program
from parfocal.runtime.jobs.handover import FREE, TAKEN, Assignment, hand_over
from parfocal.runtime.jobs.processes import Process, WorkerProcesses
from parfocal.runtime.methods.service import Resources
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)
W = TypeVar("W")


class Launcher(Protocol[W]):
    """Starts workers where there is room for them. All methods belong to one event loop.

    Attributes
    ----------
    detached
        Whether workers outlive their service and wait for their place by themselves. Their jobs are then queued until
        the worker begins, are not ended with the service, and are adopted by its successor.
    """

    detached: bool

    async def reserve(self, use: Use, resources: Resources) -> bool:
        """Return whether `start` would find room now, and keep it for the next `start`; if not, it is asked for."""

    async def want(self, use: Use, resources: Resources) -> None:
        """Ask for room for a job that cannot be started here yet, so that a training makes it."""

    async def release(self) -> None:
        """Give back what was reserved for a job that will not start after all."""

    async def count_wait(self) -> None:
        """Count the time that longer work waits. To be called several times a second as long as any does."""

    async def short_first(self) -> bool:
        """Return whether short work goes before other now."""

    async def holders(self) -> Sequence[Holder]:
        """Return what has the devices of this machine, soonest done first; nothing where that is unknown."""

    async def start(self, job: v1.Job, resources: Resources) -> W | None:
        """Start a worker for the present attempt of `job`; None while there is no room.

        Raises
        ------
        OSError
            No worker can be started, for example because the disk is full. What was reserved is free again.
        """

    async def poll(self, worker: W) -> Exit | Waiting | None:
        """Return None while a worker runs, what it waits for before that, and at last how it ended."""

    async def adopt(self, job: v1.Job) -> W | None:
        """Return the worker of the present attempt of `job` that an instance before has started, None if there is none.

        Raises
        ------
        UnavailableError
            It cannot be told at the moment.
        """

    async def found(self) -> Sequence[tuple[Assignment, W]]:
        """Return all workers of the service that have not ended, whoever started them, as far as is known."""

    async def stop(self, worker: W) -> None:
        """End a worker by force; `poll` tells when it has ended."""

    async def tend(self) -> None:
        """Do what is due about workers that wait for another job. To be called several times a second."""

    async def dismiss(self) -> bool:
        """End what is idle, as no more jobs will start; return whether it is gone. To be called until it is."""


@dataclass
class LocalWorker:
    """One attempt of a job in a child process. The process ends by itself when the server dies: its lifeline closes.

    A process that may do another job stays when this one is done. This worker has ended then, and what becomes of the
    process is no matter of its job any more.

    Attributes
    ----------
    process, lifeline
        The process, and this end of its socket; None where it has none.
    log
        Where the process writes during this attempt.
    keep
        Called once the process is free for another job.
    taken
        Whether the process has begun with this job. A spare one may end before: that is no loss of the job's worker.
    """

    process: Process
    lifeline: socket.socket | None
    log: Path
    keep: Callable[[], None] = lambda: None
    taken: bool = True
    _ended: Exit | None = field(default=None, init=False)

    def exit(self) -> Exit | None:
        """Return None while the process is at this job, else how that ended."""
        if self._ended is None:
            self._ended = self._look()
        return self._ended

    def kill(self) -> None:
        """Send SIGKILL: a Python SIGTERM handler would have to wait for the running network operation."""
        if self._ended is None:
            self.process.kill()

    def _look(self) -> Exit | None:
        # The end before the words: so nothing is missed that the process said last.
        code = self.process.poll()
        said = self._said()
        self.taken = self.taken or TAKEN in said
        if FREE in said:
            self.keep()
            return Exit(ExitKind.FINISHED)
        if code is None:
            return None
        if self.lifeline is not None:
            self.lifeline.close()
        return _exit(code, self.log) if self.taken else Exit(ExitKind.INTERRUPTED, "ended before it took up the job")

    def _said(self) -> bytes:
        """Return what the process has said since the last time."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            return self.lifeline.recv(16, socket.MSG_DONTWAIT) if self.lifeline is not None else b""
        return b""


def _exit(code: int, log: Path) -> Exit:
    """Return how a process with this return code ended."""
    if code == 0:
        return Exit(ExitKind.FINISHED)
    if code == SERVICE_GONE:
        return Exit(ExitKind.INTERRUPTED, "lost its service")
    if code == HANDED_OVER:
        return Exit(ExitKind.HANDED_OVER, "handed the device over to other work")
    if code == STORE_AWAY:
        return Exit(ExitKind.INTERRUPTED, "waited for the store in vain")
    if code == -signal.SIGTERM:
        return Exit(ExitKind.INTERRUPTED, "was asked to end by the machine")
    if code == -signal.SIGKILL:
        return Exit(ExitKind.KILLED, "was killed, most likely because the machine ran out of memory")
    if code < 0:
        return Exit(ExitKind.DIED, f"was ended by signal {signal.Signals(-code).name}")
    return Exit(ExitKind.DIED, f"ended with exit code {code}; its log is {log}")


@dataclass(frozen=True)
class _Spare:
    """A process that has done a prediction and waits for another one of the same kind.

    Attributes
    ----------
    affinity
        Of its jobs, see `_affinity`.
    device
        The lock of the device that it sees; None if it needs none.
    use
        What that says of its use as long as nobody had it after this process.
    until
        When it ends, by time.monotonic().
    """

    process: Process
    lifeline: socket.socket
    affinity: str
    device: DeviceLock | None
    use: Use
    until: float


class LocalLauncher:
    """Starts workers as processes of this machine and keeps the device to one worker at a time.

    A worker is given the device's loan, so that it has the device exactly as long as it works, whatever becomes of
    the server.

    A process that has done a prediction stays for `spare_seconds` as a spare worker, without the device, and goes on to
    a prediction with the same model and the same parameters. It occupies memory, so it ends when a worker for anything
    else is started, and when anybody else has the device: there are never more processes than jobs at a time.
    """

    detached = False

    def __init__(self, settings: Settings, processes: WorkerProcesses, device: Devices) -> None:
        self._settings = settings
        self._device = device
        self._loan: Loan | None = None
        self._wanted: Use | None = None
        self._spares: list[_Spare] = []
        self._processes = processes

    async def reserve(self, use: Use, resources: Resources) -> bool:
        """Take the device for the next worker; return False while something else has it or goes first."""
        return self._reserve(use, needs_device=resources.gpu > 0)

    async def release(self) -> None:
        """Give back a reserved device that no worker took, and take back what was asked for."""
        self._release()
        if self._wanted is not None:
            self._device.withdraw(self._wanted)
            self._wanted = None

    async def want(self, use: Use, resources: Resources) -> None:
        """Ask for the device."""
        if resources.gpu > 0:
            self._device.want(use)
            self._wanted = use

    async def count_wait(self) -> None:
        """Count the time that work waits for short work."""
        self._device.count_wait()

    async def short_first(self) -> bool:
        """Return whether the share of short work is not used up."""
        return self._device.short_first()

    async def holders(self) -> Sequence[Holder]:
        """Return what has the devices."""
        return self._device.holders()

    async def start(self, job: v1.Job, resources: Resources) -> LocalWorker | None:
        """Give this attempt of `job` to a spare worker, or to a new one; raise OSError if none can be started."""
        return self._start(job, needs_device=resources.gpu > 0)

    async def poll(self, worker: LocalWorker) -> Exit | Waiting | None:
        """Return None while the process is at its job, else how that ended."""
        return worker.exit()

    async def adopt(self, job: v1.Job) -> LocalWorker | None:  # noqa: ARG002
        """Return None: a process ends with the service that started it."""
        return None

    async def found(self) -> Sequence[tuple[Assignment, LocalWorker]]:
        """Return nothing, for the same reason."""
        return ()

    async def stop(self, worker: LocalWorker) -> None:
        """Send SIGKILL."""
        worker.kill()

    async def tend(self) -> None:
        """End the spare workers that have waited for `spare_seconds` or whose device somebody else has; reap them."""
        self._tend()

    async def dismiss(self) -> bool:
        """End the fork server and all spare workers; return whether they are gone."""
        for spare in list(self._spares):
            self._end(spare, "the service runs no jobs any more")
        self._tend()
        return self._processes.dismiss()

    def _reserve(self, use: Use, *, needs_device: bool) -> bool:
        if needs_device and self._loan is None:
            self._loan = self._device.take(use)
            self._wanted = use if self._loan is None else None
            if self._loan is not None:
                self._loan.describe(use)
        return not needs_device or self._loan is not None

    def _release(self) -> None:
        if self._loan is not None:
            self._loan.close()
            self._loan = None

    def _start(self, job: v1.Job, *, needs_device: bool) -> LocalWorker | None:
        use = Use.of(job, self._settings.short_prediction_images)
        if not self._reserve(use, needs_device=needs_device):
            return None
        loan = self._loan if needs_device and self._loan is not None else Loan(())
        loan.describe(use)
        files, device = loan.files, loan.lock
        assignment = Assignment(job.project, job.id, job.attempt)
        affinity = _affinity(job) if self._settings.spare_seconds else ""
        log = self._settings.state_folder / "logs" / job.project / f"{job.id}-{job.attempt}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                known = self._take_spare(affinity, device, assignment, [output.fileno(), *files])
                process, lifeline = known or self._new_process(assignment, output.fileno(), loan, spare=bool(affinity))
        finally:
            if needs_device:
                self._release()

        def keep() -> None:
            until = time.monotonic() + self._settings.spare_seconds
            self._spares.append(_Spare(process, lifeline, affinity, device, use, until))

        return LocalWorker(process, lifeline, log, keep, taken=known is None)

    def _tend(self) -> None:
        for spare in list(self._spares):
            if time.monotonic() > spare.until:
                self._end(spare, "it was idle")
            elif spare.process.poll() is not None:
                self._end(spare, "it is gone")
            # A device that is reserved is for the next job here: `start` knows whether that is one for this worker.
            elif spare.device is not None and self._loan is None and _used_by_others(spare.device, spare.use):
                self._end(spare, "other work has the device")
        self._processes.tend()

    def _take_spare(
        self, affinity: str, device: DeviceLock | None, assignment: Assignment, files: Sequence[int]
    ) -> tuple[Process, socket.socket] | None:
        """Hand a job to a spare worker of its kind. If there is none, make room for a new one, and return None."""
        self._tend()
        for spare in list(self._spares):
            if spare.affinity != affinity or spare.device is not device:
                continue
            try:
                hand_over(spare.lifeline, assignment, files)
            except OSError as error:
                self._end(spare, f"it takes no job: {error}")
                continue
            self._spares.remove(spare)
            _log.info("spare worker goes on", extra={"pid": spare.process.pid, "job": assignment.job_id})
            return spare.process, spare.lifeline
        if self._spares:
            self._end(self._spares[0], "another worker is started")
        return None

    def _new_process(
        self, assignment: Assignment, output: int, loan: Loan, *, spare: bool
    ) -> tuple[Process, socket.socket]:
        """Start `parfocal.runtime.jobs.worker`; raise OSError if that fails."""
        lifeline, other = socket.socketpair()
        arguments = [self._processes.module, assignment.project, assignment.job_id]
        arguments += ["--attempt", str(assignment.attempt), "--lifeline", "{0}"]
        for number in range(len(loan.files)):
            arguments += ["--device", f"{{{number + 1}}}"]
        if spare:
            arguments += ["--spare", str(self._settings.spare_seconds)]
        with other, Path(os.devnull).open("rb") as nothing:
            standard = (nothing.fileno(), output, output)
            program = Program("parfocal.runtime.jobs.worker", arguments, standard, [other.fileno(), *loan.files])
            try:
                return self._processes.start(program, loan.environment), lifeline
            except OSError:
                lifeline.close()
                raise

    def _end(self, spare: _Spare, why: str) -> None:
        _log.info("spare worker ends", extra={"pid": spare.process.pid, "why": why})
        self._processes.end(spare.process)
        spare.lifeline.close()
        self._spares.remove(spare)


def _used_by_others(device: DeviceLock, use: Use) -> bool:
    """Return whether anybody has had a device after this use of it."""
    holder = device.holder()
    return holder is not None and holder.use != use


def _affinity(job: v1.Job) -> str:
    """Return what a worker's jobs have in common; empty for jobs that need a process of their own.

    Arithmetic, seeds and threads are global in a process. So nothing but the images differs: model, weights and all
    parameters are the same. A process that merges parts has put the device out of its sight.
    """
    if not job.HasField("prediction") or job.prediction.part_uris:
        return ""
    parameters = json_format.MessageToDict(job.resolved_parameters)
    return json.dumps([job.method, job.prediction.model_uri, parameters], sort_keys=True)
