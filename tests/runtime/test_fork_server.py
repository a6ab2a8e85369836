"""The fork server: workers are forks of a process that has loaded what they load, as long as there is one.

Service, store, workers and device are real.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from image_service import Service, image, requests_for
from support import ROOT, ServiceProcess, publish_dataset, search_path, wait_for

from parfocal import v1
from parfocal.runtime.jobs.fork_server import Fork, ForkServer, ForkServerGoneError, Program, can_fork
from parfocal.runtime.jobs.processes import WorkerProcesses
from parfocal.runtime.settings import Settings

pytestmark = pytest.mark.skipif(not can_fork(), reason="workers cannot be forks on this machine")

WORKER = "parfocal.runtime.jobs.worker"
FORK_SERVER = "parfocal.runtime.jobs.fork_server"


@pytest.fixture(scope="module")
def dataset(s3: Any, pairs_folder: Path) -> str:
    return publish_dataset(s3.store(), "forks", pairs_folder)


@pytest.fixture
def start(start_service: Callable[..., ServiceProcess], dataset: str) -> Iterator[Callable[..., Service]]:
    with contextlib.ExitStack() as stack:

        def begin(**settings: str) -> Service:
            process = start_service("fake", **{"spare_seconds": "0", "checkpoint_seconds": "0"} | settings)
            stack.callback(process.stop)
            return Service(process, stack.enter_context(grpc.insecure_channel(process.address)), dataset)

        yield begin


def children(service: Service, module: str) -> list[psutil.Process]:
    """The running children of a service that are a module's process."""
    assert service.process.process is not None
    found = []
    for child in psutil.Process(service.process.process.pid).children():
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and module in child.cmdline():
                found.append(child)
    return found


def the_worker(service: Service, job: v1.Job) -> psutil.Process:
    wait_for(lambda: children(service, WORKER), 60, "a worker")
    (worker,) = children(service, WORKER)
    assert job.id in worker.cmdline()
    return worker


def test_workers_are_forks_that_outlive_the_fork_server_and_are_told_apart_from_it(
    start: Callable[..., Service],
) -> None:
    service = start()
    service.finish(service.start_training())
    (server,) = children(service, FORK_SERVER)
    long = service.start_training(epochs=400, pause_seconds=0.05)
    worker = the_worker(service, long)
    assert worker.exe() == server.exe()
    # Nothing was loaded by itself: what it has it shares with the fork server.
    assert worker.memory_full_info().uss < server.memory_info().rss / 2
    server.kill()
    wait_for(lambda: not children(service, FORK_SERVER), 30, "the end of the fork server")
    assert worker.is_running()
    worker.kill()

    def second() -> psutil.Process | None:
        return next((child for child in children(service, WORKER) if child.pid != worker.pid), None)

    again = wait_for(second, 60, "a second worker")
    assert service.jobs.GetJob(v1.GetJobRequest(job_id=long.id)).job.attempt == 2
    assert again.cmdline()[1:3] == ["-m", WORKER]
    service.drop(long)
    # The next job has one again.
    service.finish(service.start_training())
    assert children(service, FORK_SERVER)


def test_it_ends_when_it_is_idle_and_comes_back(start: Callable[..., Service]) -> None:
    service = start(fork_server_seconds="0.5")
    for _ in range(2):
        service.finish(service.start_training())
        wait_for(lambda: not children(service, FORK_SERVER), 30, "the end of the fork server")


def test_without_it_each_worker_is_a_process_of_its_own(start: Callable[..., Service]) -> None:
    service = start(fork_server_seconds="0")
    long = service.start_training(epochs=400, pause_seconds=0.05)
    the_worker(service, long)
    assert not children(service, FORK_SERVER)
    service.drop(long)


def test_methods_that_cannot_be_loaded_end_it_and_no_worker_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    server = ForkServer("no_such_service", [], tmp_path / "logs" / "fork.log")
    with (tmp_path / "output").open() as output:
        program = Program(WORKER, ["no_such_service", "p", "j", "--attempt", "1"], (output.fileno(),) * 3)
        # The request may be there before the server has ended, or not.
        with contextlib.suppress(ForkServerGoneError):
            fork = server.fork(program)
            assert isinstance(fork, Fork)
            wait_for(lambda: fork.poll() is not None, 60, "the end of waiting")
            fork.kill()
        wait_for(server.ended, 60, "the end of the fork server")
        with pytest.raises(ForkServerGoneError):
            server.fork(program)
    assert "no_such_service" in (tmp_path / "logs" / "fork.log").read_text()


def test_each_worker_draws_its_own_numbers_and_none_repeats_what_was_printed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "draws.py").write_text(
        "import os, sys, numpy\n"
        "print('loaded', end='')\n"
        "def run(arguments):\n"
        "    print(numpy.random.random())\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT / 'tests'}")
    server = ForkServer("fake", ["draws"], tmp_path / "fork.log")
    said = []
    for number in range(2):
        with (tmp_path / str(number)).open("w") as output:
            fork = server.fork(Program("draws", (), (output.fileno(),) * 3))
            wait_for(lambda fork=fork: fork.poll() is not None, 60, "the end of a worker")
        said.append(float((tmp_path / str(number)).read_text()))
    server.end()
    wait_for(server.ended, 30, "the end of the fork server")
    assert said[0] != said[1]


DRAWS = """
import os
from matplotlib.figure import Figure

def run(arguments):
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2, 3], [0.02, 3, 400], label="\u03bb")
    axes.set_yscale("log")
    axes.set_title("loss", fontweight="bold")
    axes.legend()
    figure.savefig(arguments[0])
    if len(arguments) == 1:
        os._exit(0)
"""


def test_forks_draw_what_a_process_of_its_own_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fonts are read in the fork server already, and two forks draw at a time."""
    (tmp_path / "draws_figures.py").write_text(DRAWS)
    monkeypatch.setenv("PYTHONPATH", search_path(tmp_path, ROOT / "tests"))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("draws_figures").run([str(tmp_path / "own.png"), "stay"])
    server = ForkServer("fake", ["draws_figures"], tmp_path / "fork.log")
    names = [str(tmp_path / f"{number}.png") for number in range(2)]
    with (tmp_path / "output").open("w") as output:
        forks = [server.fork(Program("draws_figures", [name], (output.fileno(),) * 3)) for name in names]
        wait_for(lambda: all(fork.poll() is not None for fork in forks), 60, "the end of the workers")
    server.end()
    wait_for(server.ended, 30, "the end of the fork server")
    for name in names:
        assert Path(name).read_bytes() == (tmp_path / "own.png").read_bytes(), (tmp_path / "output").read_text()


def test_what_the_first_training_loads_is_there_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "_dynamo.py").touch()
    (tmp_path / "looks.py").write_text(
        "import os, sys, torch\ndef run(arguments):\n    os._exit(40 + ('torch._dynamo' in sys.modules))\n"
    )
    monkeypatch.setenv("PYTHONPATH", search_path(tmp_path, ROOT / "tests"))
    server = ForkServer("fake", ["looks"], tmp_path / "fork.log")

    def code(output: int) -> int:
        fork = server.fork(Program("looks", (), (output,) * 3))
        return int(wait_for(fork.poll, 60, "the end of a worker"))

    with (tmp_path / "output").open("w") as output:
        # The first one is asked for while the server still loads the methods.
        assert code(output.fileno()) == 40
        wait_for(lambda: code(output.fileno()) == 41, 30, "a worker that has it")
    server.end()
    wait_for(server.ended, 30, "the end of the fork server")


def test_it_is_not_waited_for_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT / 'tests'}")
    processes = WorkerProcesses(Settings(state_dir=tmp_path / "state"), "endless")
    with (tmp_path / "output").open("w") as output:
        worker = processes.start(Program(WORKER, (), (output.fileno(),) * 3), {})
    worker.kill()
    assert worker.poll() is None
    processes.end(worker)
    wait_for(processes.dismiss, 30, "the end of the fork server")
    assert worker.poll() is not None


def test_nothing_is_left_of_it_and_of_warm_workers_where_no_jobs_are_run(start: Callable[..., Service]) -> None:
    model = (jobs := start()).finish(jobs.start_training()).outputs[0].uri
    service = start(launcher="none", warm_idle_seconds="0.5", fork_server_seconds="0.5")
    assert list(service.call(requests_for(image(64, 64), model)))
    assert service.process.process is not None
    process = psutil.Process(service.process.process.pid)
    # Also no zombies.
    wait_for(lambda: not process.children(), 30, "the end of all processes")
