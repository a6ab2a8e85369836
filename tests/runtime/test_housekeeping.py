"""Nothing fills up, and nothing in use goes: real files, processes that are really killed, a real S3 server."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import S3Server, ServiceProcess, free_ports, wait_for

from parfocal import v1
from parfocal.runtime.errors import DiskFullError
from parfocal.runtime.images.files import Image, write_image
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.settings import Settings
from parfocal.runtime.store import housekeeping
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.store.publish import upload_files
from parfocal.runtime.store.store import Location, Store

DAY = 86400.0
KIB = 2**10
PIXELS = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)

# A worker: fetches and decodes an image, says so, and compares what it has at hand once it is asked to.
WORKER = """
import sys
from pathlib import Path
import numpy as np
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.housekeeping import own_folder
from parfocal.runtime.images.files import read_image
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location, Store

state, place, entry = Path(sys.argv[1]), Location.parse(sys.argv[2]), FileEntry.model_validate_json(sys.argv[3])
cache = Cache(state, own_folder(state / "scratch", "job-") / "held")
path = cache.fetch(Store(Settings()), place, entry)
pixels = cache.decode(path, entry.sha256)
print("ready", flush=True)
sys.stdin.readline()
print(np.array_equal(read_image(path).pixels, pixels), pixels.sum(), flush=True)
"""

# Fetches one file again and again, each time for another job, and opens it a moment later.
READER = """
import shutil, sys, time
from pathlib import Path
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location, Store

state, place, entry = Path(sys.argv[1]), Location.parse(sys.argv[2]), FileEntry.model_validate_json(sys.argv[3])
store, held, rounds = Store(Settings()), state / "scratch" / "reader", 0
print("ready", flush=True)
end = time.monotonic() + 0.8
while time.monotonic() < end:
    path = Cache(state, held).fetch(store, place, entry)
    time.sleep(0.001)
    assert path.stat().st_size == entry.size == len(path.read_bytes())
    shutil.rmtree(held)
    rounds += 1
print(rounds, flush=True)
"""


@pytest.fixture
def folder(store: Store) -> Location:
    return store.jobs / "housekeeping-tests" / uuid.uuid4().hex


@pytest.fixture
def files(store: Store, folder: Location, tmp_path: Path) -> list[FileEntry]:
    """Three published files of 64 KiB."""
    paths = [(tmp_path / f"{number}.bin", f"{number}.bin") for number in range(3)]
    for path, name in paths:
        path.write_bytes(name.encode() * (64 * KIB // len(name)))
    return list(upload_files(store, folder, paths))


@pytest.fixture
def image(store: Store, folder: Location, tmp_path: Path) -> FileEntry:
    write_image(tmp_path / "image.tif", Image(PIXELS, "YX"))
    return upload_files(store, folder, [(tmp_path / "image.tif", "image.tif")])[0]


@pytest.fixture
def start_python(s3: S3Server) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run a program in a process of its own and wait for its first line."""
    started = []

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, **s3.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def cached(state: Path) -> set[str]:
    """Names of what the cache has."""
    return {path.name for path in (state / "cache").rglob("*") if path.is_file()}


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def fetch_for_ended_jobs(state: Path, store: Store, folder: Location, files: list[FileEntry]) -> list[Path]:
    """Have one job for each file come and go, an hour after the other; return the files in the cache."""
    paths = []
    for number, entry in enumerate(files):
        Cache(state, state / "held").fetch(store, folder, entry)
        shutil.rmtree(state / "held")
        paths.append(state / "cache" / entry.sha256[:2] / f"{entry.sha256}.bin")
        age(paths[-1], 3600 * (len(files) - number))
    return paths


def a_disk_of(size: int, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the disk seem to hold `size` bytes and nothing but the state folder."""

    def usage(_: object) -> Any:
        inodes = {(found := path.stat()).st_ino: found.st_size for path in state.rglob("*") if path.is_file()}
        return namedtuple("usage", "total used free")(size, sum(inodes.values()), size - sum(inodes.values()))

    monkeypatch.setattr(housekeeping.shutil, "disk_usage", usage)


def test_what_was_used_last_stays(store: Store, folder: Location, files: list[FileEntry], tmp_path: Path) -> None:
    first, second, third = fetch_for_ended_jobs(tmp_path, store, folder, files)
    Cache(tmp_path, tmp_path / "job").fetch(store, folder, files[0])  # used again, by a job that ends
    shutil.rmtree(tmp_path / "job")
    assert housekeeping.trim(tmp_path / "cache", 130 * KIB, 0) == files[1].size
    assert first.exists()
    assert not second.exists()
    assert third.exists()


def test_a_killed_job_holds_nothing_and_a_living_one_loses_nothing(
    store: Store, folder: Location, image: FileEntry, tmp_path: Path, start_python: Callable[..., Any]
) -> None:
    worker = start_python(WORKER, str(tmp_path), str(folder), image.model_dump_json())
    everything = {f"{image.sha256}.tif", f"{image.sha256}.npy"}
    assert housekeeping.remove_abandoned(tmp_path / "scratch", older_than=0) == 0
    assert housekeeping.trim(tmp_path / "cache", 0, 0) == 0
    assert cached(tmp_path) == everything, "it would free nothing"
    shutil.rmtree(tmp_path / "cache")  # even where an administrator does more than housekeeping
    answer, _ = worker.communicate("go on\n")
    assert answer.split() == ["True", str(PIXELS.sum(dtype=int))]

    killed = start_python(WORKER, str(tmp_path), str(folder), image.model_dump_json())
    housekeeping.remove_abandoned(tmp_path / "scratch", older_than=0)  # of the worker before
    killed.kill()
    killed.wait()
    assert housekeeping.trim(tmp_path / "cache", 0, 0) == 0
    assert housekeeping.remove_abandoned(tmp_path / "scratch") == 0, "it is too young to be sure"
    assert housekeeping.remove_abandoned(tmp_path / "scratch", older_than=0) == 1
    assert cached(tmp_path) == everything, "the next job finds it"
    housekeeping.trim(tmp_path / "cache", 0, 0)
    assert cached(tmp_path) == set()


def test_a_file_fetched_while_the_cache_is_emptied_can_be_opened(
    folder: Location, files: list[FileEntry], tmp_path: Path, start_python: Callable[..., Any]
) -> None:
    reader = start_python(READER, str(tmp_path), str(folder), files[0].model_dump_json())
    freed = 0
    while reader.poll() is None:
        freed += housekeeping.trim(tmp_path / "cache", 0, 0)
    rounds, _ = reader.communicate()
    assert reader.returncode == 0
    assert int(rounds) > 1
    assert freed > files[0].size, "they have never met"


def test_a_short_disk_takes_from_the_cache_before_it_is_an_error(
    store: Store, folder: Location, files: list[FileEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.setattr("parfocal.runtime.store.cache._RESERVE", 0)
    first, second = fetch_for_ended_jobs(state, store, folder, files[:2])
    a_disk_of(140 * KIB, state, monkeypatch)
    held = Cache(state, state / "held").fetch(store, folder, files[2])
    assert held.stat().st_size == files[2].size
    assert not first.exists()
    assert second.exists()
    Cache(state, state / "held").fetch(store, folder, files[1])
    with pytest.raises(DiskFullError, match="required"):  # the job itself uses all of it
        Cache(state, state / "held").fetch(store, folder, files[0])
    assert cached(state) == {held.name, second.name}


def test_decoded_images_make_room_too(
    store: Store, folder: Location, files: list[FileEntry], image: FileEntry, tmp_path: Path, monkeypatch: Any
) -> None:
    state = tmp_path / "state"
    monkeypatch.setattr("parfocal.runtime.store.cache._RESERVE", 0)
    fetch_for_ended_jobs(state, store, folder, files[:1])
    cache = Cache(state, state / "held")
    path = cache.fetch(store, folder, image)
    a_disk_of(64 * KIB + image.size + PIXELS.nbytes // 2, state, monkeypatch)
    np.testing.assert_array_equal(cache.decode(path, image.sha256), PIXELS)
    assert cached(state) == {f"{image.sha256}.tif", f"{image.sha256}.npy"}


def test_a_damaged_decoded_image_is_replaced(store: Store, folder: Location, image: FileEntry, tmp_path: Path) -> None:
    cache = Cache(tmp_path, tmp_path / "one")
    cache.decode(cache.fetch(store, folder, image), image.sha256)
    kept = tmp_path / "cache" / "decoded" / f"{image.sha256}.npy"
    kept.write_bytes(kept.read_bytes()[:200])
    other = Cache(tmp_path, tmp_path / "two")
    np.testing.assert_array_equal(other.decode(other.fetch(store, folder, image), image.sha256), PIXELS)
    np.testing.assert_array_equal(np.load(kept), PIXELS)


def test_a_cut_off_file_in_the_cache_is_fetched_again(
    store: Store, folder: Location, files: list[FileEntry], tmp_path: Path
) -> None:
    (path,) = fetch_for_ended_jobs(tmp_path, store, folder, files[:1])
    path.write_bytes(b"cut off")
    assert Cache(tmp_path, tmp_path / "job").fetch(store, folder, files[0]).stat().st_size == files[0].size
    assert path.stat().st_size == files[0].size


def test_without_hard_links_a_job_has_copies(
    store: Store, folder: Location, image: FileEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    for job in ("one", "two"):
        cache = Cache(tmp_path, tmp_path / job)
        path = cache.fetch(store, folder, image)
        pixels = cache.decode(path, image.sha256)
        assert cached(tmp_path) == {f"{image.sha256}.tif", f"{image.sha256}.npy"}
    housekeeping.trim(tmp_path / "cache", 0, 0)
    assert cached(tmp_path) == set()
    assert path.stat().st_size == image.size
    np.testing.assert_array_equal(pixels, PIXELS)


def test_what_a_killed_worker_left_half_written_goes_when_it_is_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / "cache" / "ab" / f".incoming-{name}").mkdir(parents=True)
        (tmp_path / "cache" / "ab" / f".incoming-{name}" / "part").write_bytes(b"half")
        (tmp_path / "cache" / "decoded").mkdir(exist_ok=True)
        (tmp_path / "cache" / "decoded" / f".{name}.npy.1-1.partial").write_bytes(b"half")
    age(tmp_path / "cache" / "ab" / ".incoming-old", 2 * DAY)
    age(tmp_path / "cache" / "decoded" / ".old.npy.1-1.partial", 2 * DAY)
    assert housekeeping.trim(tmp_path / "cache", 0, 0) == 0
    left = {path.name for path in (tmp_path / "cache").glob("*/.*")}
    assert left == {".incoming-new", ".new.npy.1-1.partial"}


@pytest.mark.parametrize(
    ("gib", "bytes_kept"), [(None, 250 * 2**30), (0.0, 0), (1.5, 3 * 2**29)], ids=["part of the disk", "none", "given"]
)
def test_the_bound_of_the_cache(
    gib: float | None, bytes_kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_disk_of(1000 * 2**30, tmp_path, monkeypatch)
    assert housekeeping.cache_limit(tmp_path / "not there yet", gib) == bytes_kept


def test_an_empty_variable_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARFOCAL_CACHE_GIB", "")
    assert Settings().cache_gib is None
    monkeypatch.setenv("PARFOCAL_CACHE_GIB", "0.5")
    assert Settings().cache_gib == 0.5


def deleted_job(jobs: JobStore, project: str) -> str:
    job = jobs.create(v1.Job(id=uuid.uuid4().hex, project=project, service="mine"), "digest").job
    jobs.change(project, job.id, lambda job: set_state(job, v1.JOB_STATE_FAILED, "no"))
    jobs.delete(project, job.id)
    return job.id


def in_trash(store: Store, project: str) -> set[str]:
    # Not the folders: SeaweedFS lists empty ones for a while.
    trash = store.jobs / ".trash" / project
    names = {item.location.key.removeprefix(f"{trash.key}/").partition("/")[0] for item in store.objects(trash)}
    return {name.rpartition("-")[0] for name in names}


def make_older(store: Store, project: str, job_id: str, seconds: float) -> None:
    """Give a record in the trash the name that it would have had it been deleted so long ago."""
    trash = store.jobs / ".trash" / project
    (name,) = (name for name in store.folders(trash) if name.startswith(job_id))
    older = trash / f"{job_id}-{int(name.rpartition('-')[2]) - int(seconds)}"
    for item in list(store.objects(trash / name)):
        store.copy(item.location, older / item.location.key.removeprefix(f"{trash.key}/{name}/"))
        store.delete(item.location)


def test_the_trash_keeps_a_record_for_its_time(store: Store) -> None:
    project, jobs = f"trash-{uuid.uuid4().hex[:8]}", JobStore(store)
    old, young = deleted_job(jobs, project), deleted_job(jobs, project)
    make_older(store, project, old, 30 * DAY + 60)
    make_older(store, project, young, 30 * DAY - 60)
    foreign = store.jobs / ".trash" / project / "kept-by-hand" / "job.json"
    store.write(foreign, b"{}")
    housekeeping.tidy_store(store, Settings(trash_days=0))
    assert {old, young} < in_trash(store, project), "0 keeps all"
    assert housekeeping.count_trash(store) >= 3
    housekeeping.tidy_store(store, Settings(trash_days=30))
    assert in_trash(store, project) == {young, "kept-by"}
    assert store.exists(foreign)


def test_a_record_can_be_taken_out_of_the_trash_by_hand(store: Store) -> None:
    project, jobs = f"trash-{uuid.uuid4().hex[:8]}", JobStore(store)
    job_id = deleted_job(jobs, project)
    (name,) = store.folders(store.jobs / ".trash" / project)
    trash = store.jobs / ".trash" / project / name
    for item in list(store.objects(trash)):
        store.copy(item.location, jobs.folder(project, job_id) / item.location.key.removeprefix(f"{trash.key}/"))
    record = jobs.read(project, job_id)
    assert record.job.state == v1.JOB_STATE_FAILED
    assert len(list(jobs.events(record, 0))) == 2
    assert [listed.job_id for listed in jobs.jobs_of("mine", project)] == [job_id]


def test_an_error_keeps_nothing_else_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(housekeeping, "trim", broken)
    log = tmp_path / "logs" / "default" / "job-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("{}\n")
    age(log, 91 * DAY)
    housekeeping.tidy_machine(Settings(state_dir=tmp_path))
    assert "the disk is broken" in caplog.text
    assert not log.exists()
    nowhere = Settings(s3_endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    housekeeping.tidy_store(Store(nowhere), nowhere)
    assert "does not answer" in caplog.text


def test_a_service_tidies_its_machine_and_the_store_when_it_starts(
    store: Store, tmp_path: Path, start_service: Callable[..., ServiceProcess]
) -> None:
    project, jobs = f"trash-{uuid.uuid4().hex[:8]}", JobStore(store)
    old, young = deleted_job(jobs, project), deleted_job(jobs, project)
    make_older(store, project, old, 2 * DAY)
    logs, scratch = tmp_path / "logs" / "default", tmp_path / "scratch" / "killed-job"
    cache = tmp_path / "cache" / "ab" / "abcd.tif"
    for path in (logs / "old-1.log", logs / "new-1.log", scratch / "held" / "abcd.tif"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    cache.parent.mkdir(parents=True)
    os.link(scratch / "held" / "abcd.tif", cache)
    age(logs / "old-1.log", 4 * DAY)
    age(scratch, 3600)
    start_service("fake", state_dir=str(tmp_path), trash_days="1", log_days="3", cache_gib="0")
    wait_for(lambda: in_trash(store, project) == {young}, 10, "a trash with the younger record")
    wait_for(lambda: not scratch.exists() and not cache.exists(), 5, "the end of what nobody uses")
    assert [path.name for path in logs.iterdir()] == ["new-1.log"]


def test_temporary_files_of_libraries_go_to_the_folder_of_the_job(tmp_path: Path) -> None:
    before = tempfile.gettempdir()
    with housekeeping.temporary_files_in(tmp_path), tempfile.NamedTemporaryFile(delete=False) as file:
        assert Path(file.name).parent == tmp_path
    assert tempfile.gettempdir() == before
