"""The arena: a store and two instances of the fake service, real processes on loopback, and their end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import grpc
import psutil
from support import S3Server, ServiceProcess

from chaos.journal import Journal
from chaos.workers import LiveWorker, live_workers
from parfocal import v1
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.jobs.records import JobStore

Config = Literal["shared", "apart"]
SETTINGS: dict[Config, dict[str, str]] = {
    # Two instances on one machine: one state folder, one device, one worker at a time.
    "shared": {},
    # Two instances as on two machines: each has a state folder of its own and may run two workers at a time.
    "apart": {"PARFOCAL_DEVICE": "", "PARFOCAL_MAX_WORKERS": "2"},
}
SERVICE = "fake"
START_TRIES = 3
# A service that was killed shall be found again as soon as it is back.
CHANNEL = tuple((f"grpc.{name}_reconnect_backoff_ms", 250) for name in ("initial", "min", "max"))


class Arena:
    """Starts, kills and freezes processes, all of its own; leaving it ends every one of them.

    Attributes
    ----------
    main
        Name of the instance that clients ask first; the other one runs only while the main one is paused.
    troubles
        What went wrong with the processes themselves, in words.
    """

    def __init__(self, folder: Path, config: Config, lease_seconds: float, journal: Journal) -> None:
        self.lease_seconds = lease_seconds
        self.s3 = S3Server(folder / "s3")
        self.store = self.s3.store()
        self.jobs = JobStore(self.store)
        self.main = "A"
        self.troubles: list[str] = []
        self._journal = journal
        self._closed = False
        self.instances: dict[str, ServiceProcess] = {}
        for name in ("A", "B"):
            state = folder / ("state" if config == "shared" else f"state-{name}")
            environment = {
                **self.s3.environment,
                **SETTINGS[config],
                "PARFOCAL_LEASE_SECONDS": str(lease_seconds),
                "PARFOCAL_CHECKPOINT_SECONDS": "0",
                "PARFOCAL_STATE_DIR": str(state),
            }
            self.instances[name] = ServiceProcess(SERVICE, environment, folder / f"service-{name}")
        self._channels = {
            name: grpc.insecure_channel(instance.address, options=CHANNEL) for name, instance in self.instances.items()
        }
        self.stubs = {name: v1.JobServiceStub(channel) for name, channel in self._channels.items()}

    def __enter__(self) -> Arena:
        try:
            self.start_store()
            self.start(self.main)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for channel in self._channels.values():
            channel.close()
        for name in self.instances:
            self.kill(name)
        # A frozen worker does not notice that its service is gone; the others may just be about to end.
        for worker in self.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.process.kill()
        self.s3.stop()

    @property
    def other(self) -> str:
        """Name of the instance that is not the main one."""
        return "B" if self.main == "A" else "A"

    def is_started(self, name: str) -> bool:
        """Return whether an instance was started and not killed since."""
        return self.instances[name].process is not None

    def pids(self) -> set[int]:
        """Return the process ids of the started instances."""
        processes = [instance.process for instance in self.instances.values()]
        return {process.pid for process in processes if process is not None}

    def workers(self, of: str | None = None) -> list[LiveWorker]:
        """Return the running workers, those of one instance if its name is given."""
        workers = live_workers(self.s3.endpoint)
        if of is None:
            return workers
        process = self.instances[of].process
        return [worker for worker in workers if process is not None and worker.parent == process.pid]

    def start(self, name: str) -> None:
        """Start an instance and wait until it serves."""
        for _ in range(START_TRIES):
            try:
                self.instances[name].start()
                return
            except AssertionError as error:
                self._trouble(f"instance {name} did not start: {str(error)[-600:]}")
                self.kill(name)
        raise RuntimeError(f"instance {name} did not start {START_TRIES} times: {self.instances[name].log}")

    def kill(self, name: str) -> None:
        """Send SIGKILL to an instance, if it was started."""
        if self.is_started(name):
            self.instances[name].kill()

    def revive(self) -> None:
        """Start the main instance again if it has ended although nobody killed it."""
        process = self.instances[self.main].process
        if process is not None and process.poll() is None:
            return
        if process is not None:
            self._trouble(f"instance {self.main} ended by itself with exit code {process.returncode}")
        self.start(self.main)

    def start_store(self) -> None:
        """Start the store and wait until it answers; not when the arena is left meanwhile."""
        for _ in range(START_TRIES):
            if self._closed:
                return
            try:
                self.s3.start()
                return
            except AssertionError as error:
                self._trouble(f"the store did not start: {error}")
                self.s3.stop()
        raise RuntimeError(f"the store did not start {START_TRIES} times: {self.s3.folder / 'weed.log'}")

    @contextlib.contextmanager
    def frozen(self, name: str, *, with_workers: bool) -> Iterator[list[psutil.Process]]:
        """Stop an instance, and its workers if wanted; yield what was stopped. All go on at the end, if not before."""
        process = self.instances[name].process
        assert process is not None
        stopped = [psutil.Process(process.pid)]
        try:
            stopped[0].suspend()
            for worker in self.workers(of=name) if with_workers else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.process.suspend()
                    stopped.append(worker.process)
            yield stopped
        finally:
            for item in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    item.resume()

    def runs_jobs(self, name: str) -> bool:
        """Return whether an instance holds the lease."""
        process = self.instances[name].process
        try:
            lease = self.store.read_json(self.store.jobs / ".leases" / f"{SERVICE}.json")
        except ParfocalError:
            return False
        return process is not None and lease.get("pid") == process.pid

    def stop(self) -> None:
        """End all instances as a supervisor would; their workers must be gone then."""
        for name in self.instances:
            if not self.is_started(name):
                continue
            instance = self.instances[name]
            assert instance.process is not None
            instance.process.send_signal(signal.SIGTERM)
            code = instance.process.wait(timeout=30)
            instance.process = None
            if code != 0:
                self._trouble(f"instance {name} ended with exit code {code} when it was asked to end")

    def _trouble(self, text: str) -> None:
        self.troubles.append(text)
        self._journal.note("trouble", loud=True, text=text)
