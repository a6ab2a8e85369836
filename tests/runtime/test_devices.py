"""Several GPUs of one machine: one lock each, and workers that see one each."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster.bench import CANCELLED, LONG, QUEUED, bench_on, play
from pydantic import ValidationError
from support import publish_dataset

from parfocal.runtime.jobs.device_lock import DeviceLock, Devices
from parfocal.runtime.settings import Settings


def test_each_device_is_lent_once_and_all_are_wanted_when_none_is_free(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, devices="0, 3")
    ours, others = Devices.of(settings), Devices.of(settings)
    assert settings.worker_count == 2
    first, second = ours.take(for_job=True), others.take(for_job=True)
    assert first is not None
    assert second is not None
    assert [loan.environment for loan in (first, second)] == [{"CUDA_VISIBLE_DEVICES": number} for number in "03"]
    assert not ours.job_waits()
    assert ours.take(for_job=True) is None
    assert all(DeviceLock(tmp_path, f"device-{number}").job_waits() for number in (0, 3))
    second.close()
    assert others.take(for_job=False) is None, "a job waits"
    again = ours.take(for_job=True)
    assert again is not None
    assert again.environment == {"CUDA_VISIBLE_DEVICES": "3"}
    again.close()
    first.close()


def test_a_single_device_is_seen_as_it_is(tmp_path: Path) -> None:
    loan = Devices.of(Settings(state_dir=tmp_path)).take(for_job=True)
    assert loan is not None
    assert loan.environment == {}
    assert (tmp_path / "device-0.lock").exists()
    loan.close()


@pytest.mark.parametrize("wrong", ["a", "0,0", "0;1", "-1"])
def test_wrong_numbers_are_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="devices"):
        Settings(devices=wrong)


def test_as_many_workers_run_as_there_are_devices(
    s3: Any, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = publish_dataset(s3.store(), "devices", pairs_folder)
    with bench_on(None, s3, dataset, tmp_path, monkeypatch, devices="0,1", max_workers=1) as bench:
        requests = [bench.request(**LONG) for _ in range(3)]
        seen = set()

        async def scene() -> None:
            async with bench.running() as controller:
                for request in requests:
                    await controller.submit(request)
                for request in requests[:2]:
                    await bench.until_training(request)
                assert bench.job(requests[2]).state == QUEUED
                for process in psutil.Process().children():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if {request.request_id for request in requests} & set(process.cmdline()):
                            seen.add(process.environ()["CUDA_VISIBLE_DEVICES"])
                await controller.cancel("default", requests[0].request_id, keep_best=False, why="")
                await bench.until_training(requests[2])
                for request in requests[1:]:
                    await controller.cancel("default", request.request_id, keep_best=False, why="")
                    await bench.until_in(request, CANCELLED)

        play(scene)
    assert seen == {"0", "1"}
