"""Short runs with a fixed seed: every kind of fault at least once, and nothing may be wrong; and what Ctrl-C leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import ROOT, wait_for

from chaos.arena import Config
from chaos.faults import WEIGHTS
from chaos.run import Options, run


@pytest.mark.timeout(180)
@pytest.mark.parametrize("config", ["shared", "apart"])
def test_no_job_is_lost_and_nothing_is_damaged(config: Config, tmp_path: Path) -> None:
    # With this seed the store is killed late, so that there is a worker whenever one is to be killed.
    summary = run(Options(seed=28, config=config, kills=7, minutes=1.0, out=tmp_path, lease_seconds=3.0))
    assert set(summary.faults) == {"worker", "service", "store", "pause"}
    assert summary.steps >= len(WEIGHTS)
    assert summary.jobs["SUCCEEDED"] > len(WEIGHTS)
    assert [str(anomaly) for anomaly in summary.anomalies] == []


@pytest.mark.timeout(90)
def test_a_run_that_is_broken_off_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--seed", "1", "--config", "shared", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"}
    with (tmp_path / "output").open("wb") as output:
        runner = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def processes() -> list[psutil.Process]:
        return [child for child in psutil.Process(runner.pid).children(recursive=True) if child.is_running()]

    try:
        wait_for(lambda: "begin" in (tmp_path / "output").read_text(), 60, "the first line of the run")
        wait_for(lambda: len(processes()) >= 3, 30, "store, service and worker")
        started = processes()
        runner.send_signal(signal.SIGINT)
        assert runner.wait(timeout=40) == 130, (tmp_path / "output").read_text()
    finally:
        if runner.poll() is None:
            runner.kill()
            runner.wait()
    # What runs on without its parent belongs to nobody's children any more.
    left = [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left
