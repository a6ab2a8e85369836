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

from chaos import batches
from chaos.arena import Config
from chaos.faults import WEIGHTS
from chaos.run import Options, run


@pytest.mark.timeout(300)
@pytest.mark.parametrize("config", ["shared", "apart"])
def test_no_job_is_lost_and_nothing_is_damaged(config: Config, tmp_path: Path) -> None:
    # With this seed the store is killed late, so that there is a worker whenever one is to be killed.
    summary = run(Options(seed=28, config=config, kills=7, minutes=1.0, out=tmp_path, lease_seconds=3.0))
    assert set(summary.faults) == {"worker", "service", "store", "pause"}
    assert summary.steps >= len(WEIGHTS)
    assert summary.jobs["SUCCEEDED"] > len(WEIGHTS)
    assert [str(anomaly) for anomaly in summary.anomalies] == []


@pytest.mark.timeout(200)
def test_a_run_that_is_broken_off_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--seed", "1", "--config", "shared", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"}
    with (tmp_path / "output").open("wb") as output:
        runner = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    try:
        wait_for(lambda: "begin" in (tmp_path / "output").read_text(), 60, "the first line of the run")
        itself = psutil.Process(runner.pid)
        wait_for(lambda: len(itself.children(recursive=True)) >= 3, 60, "store, service and worker")
        started = itself.children(recursive=True)
        runner.send_signal(signal.SIGINT)
        assert runner.wait(timeout=40) == 130, (tmp_path / "output").read_text()
    finally:
        runner.terminate()
        runner.wait(timeout=40)
    left = [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left


# Prefect alone takes minutes to start on a busy machine, and is killed as well.
@pytest.mark.timeout(1200)
def test_a_batch_delivers_each_image_once_while_everything_is_killed(tmp_path: Path) -> None:
    report = batches.run(tmp_path, images=60, minutes=10.0, seed=1, fault_seconds=3.0)
    assert (report.ended, report.anomalies) == (60, []), report.sentence
    assert report.kills.total() >= 1
