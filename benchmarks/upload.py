"""Uploads through the catalogue against plain S3: many small files, and one large one.

Run it in the environment of the orchestrator, on an otherwise idle machine:

    PYTHONPATH=tests .venvs/orchestrator/bin/python benchmarks/upload.py --large-gib 10

Both ways send the same files with four threads to the same store on this machine: plain S3 by the client library of the
store, with a key of the store; through the catalogue as clients without a key do, from the digest of the file to the
last part. The SHA-256 of the files is in both: plain S3 without it would not tell a damaged file. What the catalogue
does afterwards, reading and comparing every file before it is published, is measured apart. The order changes from
round to round, and each number is the median over the rounds. The processor time is that of client, catalogue and store
together: it says more than the clock where other work shares the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
from support import S3Server

from parfocal.client import Client
from parfocal.client.transfer import for_each
from parfocal.client.uploads import ToSend, uploading
from parfocal.runtime.store.publish import file_entry
from parfocal.runtime.store.store import Location

_BLOCK = 2**20


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="number of small files")
    parser.add_argument("--small-kib", type=int, default=512, help="size of a small file")
    parser.add_argument("--large-gib", type=float, default=10.0, help="size of the large file")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="parfocal-benchmark-") as folder:
        server = S3Server(Path(folder) / "s3")
        server.start()
        try:
            with Client(server.client_settings) as client:
                small = [Path(folder) / "small" / f"{number:05d}.bin" for number in range(options.files)]
                for path in small:
                    _write(path, options.small_kib * 2**10)
                large = [Path(folder) / "large.bin"]
                _write(large[0], int(options.large_gib * 2**30))
                print("| Files | Plain S3 | Catalogue | Ratio | Processor | Ratio | Verification apart |")
                print("| --- | --- | --- | --- | --- | --- | --- |")
                for title, paths in (
                    (f"{options.files} of {options.small_kib} KiB", small),
                    (f"1 of {options.large_gib:g} GiB", large),
                ):
                    print(_row(title, client, paths, options.rounds), flush=True)
        finally:
            server.stop()


def _row(title: str, client: Client, paths: list[Path], rounds: int) -> str:
    plain: list[_Cost] = []
    through: list[_Cost] = []
    verifying: list[float] = []
    for number in range(rounds):
        ways: list[Callable[[], None]] = [
            lambda: plain.append(_plain(client, paths)),
            lambda: _append(through, verifying, _through(client, paths)),
        ]
        for way in ways if number % 2 == 0 else reversed(ways):
            way()
    clock = [statistics.median(cost.clock for cost in way) for way in (plain, through)]
    processor = [statistics.median(cost.processor for cost in way) for way in (plain, through)]
    return (
        f"| {title} | {clock[0]:.2f} s | {clock[1]:.2f} s | {clock[1] / clock[0]:.2f} | {processor[0]:.2f} s, "
        f"{processor[1]:.2f} s | {processor[1] / processor[0]:.2f} | {statistics.median(verifying):.2f} s |"
    )


class _Cost(NamedTuple):
    """Seconds by the clock, and of the processor for client, catalogue and store."""

    clock: float
    processor: float

    @classmethod
    def until_now(cls) -> _Cost:
        own = psutil.Process()
        times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
        return cls(time.perf_counter(), sum(each.user + each.system for each in times))

    def since(self, begin: _Cost) -> _Cost:
        return _Cost(self.clock - begin.clock, self.processor - begin.processor)


def _append(through: list[_Cost], verifying: list[float], costs: tuple[_Cost, float]) -> None:
    through.append(costs[0])
    verifying.append(costs[1])


def _plain(client: Client, paths: list[Path]) -> _Cost:
    """Return the cost of sending files with a key of the store."""
    place = client.store.results / "default" / f"plain-{uuid.uuid4().hex}"

    def send(path: Path) -> None:
        entry = file_entry(path, path.name)
        client.store.upload(path, place / entry.name)

    begin = _Cost.until_now()
    for_each([(path.name, path) for path in paths], send)
    cost = _Cost.until_now().since(begin)
    _remove(client, place)
    return cost


def _through(client: Client, paths: list[Path]) -> tuple[_Cost, float]:
    """Return the cost of sending files without a key, and the seconds of the verification."""
    begin = _Cost.until_now()
    with uploading(client, "inputs", request_id=f"benchmark-{uuid.uuid4().hex}") as upload:
        entries = upload.send_all([(path.name, path) for path in paths], lambda path: ToSend(path, path.name))
        sent = _Cost.until_now()
        upload.finish(entries)
    done = _Cost.until_now()
    _remove(client, Location.parse(upload.uri))
    return sent.since(begin), done.since(sent).clock


def _remove(client: Client, place: Location) -> None:
    for item in list(client.store.objects(place)):
        client.store.delete(item.location)


def _write(path: Path, size: int) -> None:
    """Write random bytes, which no store can compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = os.urandom(_BLOCK)
    with path.open("wb") as file:
        for begin in range(0, size, _BLOCK):
            file.write((os.urandom(64) + block)[: min(_BLOCK, size - begin)])


if __name__ == "__main__":
    main()
