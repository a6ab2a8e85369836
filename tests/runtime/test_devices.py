"""Who gets a device: one lock for each, the order of those who wait, and workers that see one GPU each."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster.bench import CANCELLED, LONG, QUEUED, bench_on, play
from pydantic import ValidationError
from support import mentions, publish_dataset

from parfocal.runtime.jobs.device.held import Held
from parfocal.runtime.jobs.device.lock import DeviceLock, Devices
from parfocal.runtime.jobs.device.share import Share
from parfocal.runtime.jobs.device.use import Holder, Kind, Use
from parfocal.runtime.jobs.queue import Queue, Queued
from parfocal.runtime.methods.service import Resources
from parfocal.runtime.settings import Settings

TRAINING = Use(Kind.TRAINING, "care", "a", "t")
LARGE = Use(Kind.PREDICTION, "care", "a", "l")
SMALL = Use(Kind.PREDICTION, "stardist", "b", "p", short=True)
IMAGES = Use.of_images("care")


def test_each_device_is_lent_once_and_all_are_wanted_when_none_is_free(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, devices="0, 3")
    ours, others = Devices.of(settings), Devices.of(settings)
    assert settings.worker_count == 2
    first, second = ours.take(TRAINING), others.take(LARGE)
    assert first is not None
    assert second is not None
    assert [loan.environment for loan in (first, second)] == [{"CUDA_VISIBLE_DEVICES": number} for number in "03"]
    assert not ours.waiting()
    assert ours.take(SMALL) is None
    for number in (0, 3):
        (wish,) = DeviceLock(settings, f"device-{number}").waiting()
        assert wish.use == SMALL
    second.close()
    assert others.take(IMAGES) is None, "a prediction has waited for longer"
    again = ours.take(SMALL)
    assert again is not None
    assert again.environment == {"CUDA_VISIBLE_DEVICES": "3"}
    again.close()
    first.close()


def test_a_single_device_is_seen_as_it_is(tmp_path: Path) -> None:
    loan = Devices.of(Settings(state_dir=tmp_path)).take(TRAINING)
    assert loan is not None
    assert loan.environment == {}
    assert (tmp_path / "device-0.lock").exists()
    loan.close()


def test_short_work_goes_first_until_its_share_is_used_up(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, short_work_share=0.5, share_window_seconds=60)
    device = DeviceLock(settings, "device-0")
    busy = device.take(SMALL)
    assert busy is not None
    # Another service's wishes: a process has one for jobs and one for images.
    assert device.take(TRAINING) is None
    assert device.take(IMAGES) is None
    assert [wish.use for wish in device.waiting()] == [IMAGES, TRAINING]
    busy.close()
    assert device.take(TRAINING) is None, "an image waits"
    device.share.add(31.0)
    assert [wish.use for wish in device.waiting()] == [TRAINING, IMAGES]
    assert device.take(IMAGES) is None, "a training waits that has lost its share of the time"
    training = device.take(TRAINING)
    assert training is not None
    assert device.waiting()[0].use == IMAGES
    training.describe(TRAINING)
    assert Held(training.files, settings).wanted() is None
    training.close()


def test_a_training_hands_its_device_to_one_short_job(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, devices="0,1")
    devices = Devices.of(settings)
    loans = [devices.take(TRAINING), devices.take(TRAINING)]
    held = []
    for loan in loans:
        assert loan is not None
        loan.describe(TRAINING)
        held.append(Held(loan.files, settings))
    assert devices.take(LARGE) is None
    assert [each.wanted() for each in held] == [None, None], "a large prediction waits for its turn"
    devices.withdraw(LARGE)
    assert devices.take(IMAGES) is None
    wishes = [each.wanted() for each in held]
    assert [wish.use if wish is not None else None for wish in wishes] == [IMAGES, None]
    for loan in loans:
        assert loan is not None
        loan.close()


def test_time_that_trainings_lose_is_counted_once_and_forgotten(tmp_path: Path) -> None:
    share = Share(tmp_path / "share", 0.5, 0.6)
    share.wait()
    for _ in range(8):
        time.sleep(0.05)
        share.wait()
        Share(tmp_path / "share", 0.5, 0.6).wait()
    assert share.used_up()
    time.sleep(0.7)
    assert not share.used_up()
    (tmp_path / "share").write_bytes(b"damaged")
    assert not share.used_up()


def test_who_waits_is_told_who_has_the_device_and_for_how_long() -> None:
    now = time.time()
    training = Holder(TRAINING, "device-0", epoch=11, epochs=100, turn_at=now + 42, ends_at=now + 1500)
    assert mentions(training.words("a", hands_over=True), "training t", "epoch 12 of 100", "about 40 s")
    assert mentions(training.words("a", hands_over=False), "training t", "about 25 min")
    other = training.words("b", hands_over=True)
    assert mentions(other, "another project")
    assert not mentions(other, "training t")
    assert Holder.read(training.to_bytes()) == training


def queued(number: int, project: str, user: str, *, short: bool = False, begun: bool = False) -> Queued:
    kind = Kind.PREDICTION if short else Kind.TRAINING
    use = Use(kind, "fake", project, f"{number}", short=short, begun=begun)
    return Queued(number, project, f"{number}", 0, user, use, Resources(gpu=1))


def test_projects_and_their_users_take_turns() -> None:
    queue = Queue()
    # One project asks for five jobs, most of them of one user, before another one comes.
    for number, (project, user) in enumerate([("a", "x")] * 3 + [("a", "y")] * 2 + [("b", "z")] * 2):
        queue.put(queued(number, project, user))
    order = []
    while len(queue):
        item = queue.in_order(short_first=True)[0]
        queue.take(item)
        order.append(item.job_id)
    assert order == ["0", "5", "3", "6", "1", "4", "2"]


def test_short_work_and_what_has_begun_go_first() -> None:
    queue = Queue()
    for item in (queued(1, "a", "x"), queued(2, "b", "y", begun=True), queued(3, "c", "z", short=True)):
        queue.put(item)
    assert [item.job_id for item in queue.in_order(short_first=True)] == ["3", "2", "1"]
    assert [item.job_id for item in queue.in_order(short_first=False)] == ["2", "1", "3"]


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
