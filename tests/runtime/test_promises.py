"""A store that does not keep conditional writes is refused, whatever it is that it does not keep."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster.bench import Bench
from support import mentions

from parfocal import v1
from parfocal.runtime.errors import ConflictError, PreconditionError
from parfocal.runtime.store.promises import check_promises
from parfocal.runtime.store.store import Location, Store


class CreatesTwice(Store):
    """Ignores `If-None-Match`, as some servers do."""

    def create(self, location: Location, data: bytes) -> str:
        self.write(location, data)
        return self.read_versioned(location)[1]


class CreatesNothing(Store):
    """Says that somebody else was faster, always."""

    def create(self, location: Location, _data: bytes) -> str:
        raise ConflictError(f"{location} exists")


class ReplacesAnything(Store):
    """Ignores `If-Match`."""

    def replace(self, location: Location, data: bytes, _etag: str) -> str:
        self.write(location, data)
        return self.read_versioned(location)[1]


class ReplacesTheStale(Store):
    """Lets one writer win a race, and then accepts the version that has been replaced."""

    def replace(self, location: Location, data: bytes, etag: str) -> str:
        if data == b"stale":
            return etag
        return super().replace(location, data, etag)


class KeepsTheLoser(Store):
    """Tells one writer that it has won, and stores something else."""

    def create(self, location: Location, data: bytes) -> str:
        etag = super().create(location, data)
        self.write(location, b"of a loser")
        return etag


def test_the_store_of_the_tests_keeps_its_promises_and_nothing_is_left_in_it(store: Store) -> None:
    check_promises(store)
    assert list(store.objects(store.jobs / ".promises")) == []


@pytest.mark.parametrize(
    ("broken", "header"),
    [
        (CreatesTwice, "If-None-Match"),
        (CreatesNothing, "If-None-Match"),
        (KeepsTheLoser, "If-None-Match"),
        (ReplacesAnything, "If-Match"),
        (ReplacesTheStale, "If-Match"),
    ],
)
def test_a_broken_promise_is_named(store: Store, broken: type[Store], header: str) -> None:
    with pytest.raises(PreconditionError) as caught:
        check_promises(broken(store.settings))
    assert mentions(caught.value.message, header, store.settings.s3_endpoint)


def test_a_service_runs_no_jobs_on_such_a_store(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.bench.Store", ReplacesTheStale)
    settings = store.settings.model_copy(update={"state_dir": tmp_path})
    bench = Bench(settings, "s3://parfocal-datasets/default/none/1", None, {})

    async def scene() -> None:
        async with bench.running() as controller:
            assert not controller.is_active
            with pytest.raises(PreconditionError):
                await controller.submit(v1.StartJobRequest(request_id="a", project="default"))

    asyncio.run(scene())
