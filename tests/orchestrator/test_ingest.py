"""Images of a microscope's folder into an inbox: finished ones, each once, and no original deleted too early."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Ended, ServiceProcess

from parfocal.client import Client
from parfocal.client.catalog import Catalog
from parfocal.client.ingest import Ingest, Pass
from parfocal.flows.batch import Batch, Step
from parfocal.flows.batches import BatchRun
from parfocal.runtime.errors import InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location

DAY = 86_400.0


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.now = 2e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[Client]:
    with Client(Settings()) as client:
        yield client


@pytest.fixture
def folder(images: Path, tmp_path: Path) -> Path:
    """What a microscope has written: two images, one in a sub-folder, and what is none."""
    place, found = tmp_path / "scope", sorted((images / "train" / "source").iterdir())
    (place / "plate 1").mkdir(parents=True)
    shutil.copy(found[0], place / "a.tif")
    shutil.copy(found[1], place / "plate 1" / "b.tif")
    for name in ("notes.txt", ".hidden.tif", "c.tif.part"):
        (place / name).write_bytes(b"no image")
    return place


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were sent to the store."""
    send, names = Catalog.send, list[str]()

    def noted(catalog: Catalog, request: Any, path: Path) -> int:
        names.append(path.name)
        return send(catalog, request, path)

    monkeypatch.setattr(Catalog, "send", noted)
    return names


def opened(client: Client, folder: Path, clock: Clock, state: Path, **options: Any) -> Ingest:
    return Ingest(client, folder, folder.parent.name, state, clock=clock, **options)


def after(work: Ingest, clock: Clock, seconds: float) -> Pass:
    clock.now += seconds
    return work.look()


def stored(client: Client, work: Ingest) -> set[str]:
    place = Location.parse(work.address)
    return {str(item.location).removeprefix(f"{place}/") for item in client.store.objects(place)}


def test_finished_images_are_sent_once_whatever_is_lost(
    client: Client, folder: Path, tmp_path: Path, sends: list[str], images: Path
) -> None:
    clock = Clock()
    with opened(client, folder, clock, tmp_path / "state") as work:
        with pytest.raises(PreconditionError, match="One is enough"):
            opened(client, folder, clock, tmp_path / "state")
        assert (work.look().waiting, sends) == (2, [])
        with (folder / "a.tif").open("ab") as file:
            file.write(bytes(8))  # it is still being written
        second = after(work, clock, 61)
        assert (second.sent, second.waiting, sends) == (1, 1, ["b.tif"])
        assert "1 image sent" in second.sentence
        assert "1 may still be written" in second.sentence
        assert after(work, clock, 61).sent == 1
        assert stored(client, work) == {"a.tif", "plate 1/b.tif"}
        shutil.copy(folder / "a.tif", folder / "copy of a.tif")
        (folder / "d.tif").write_bytes(b"no image at all")
        after(work, clock, 0)
        third = after(work, clock, 61)
        assert (third.sent, third.known, set(third.left), sends) == (0, 3, {"d.tif"}, ["b.tif", "a.tif"])
        shutil.copy(sorted((images / "train" / "source").iterdir())[2], folder / "a.tif")
        after(work, clock, 0)
        assert "save it under another name" in after(work, clock, 61).left["a.tif"]
        shutil.copy(folder / "copy of a.tif", folder / "a.tif")
    # Without its memory it asks the inbox.
    with opened(client, folder, clock, tmp_path / "another state", settle_seconds=0) as work:
        assert (work.look().left.keys(), sends) == ({"d.tif"}, ["b.tif", "a.tif"])
        assert stored(client, work) == {"a.tif", "plate 1/b.tif"}


def test_an_interrupted_sending_goes_on_with_what_is_missing(
    client: Client, folder: Path, tmp_path: Path, sends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with opened(client, folder, clock, tmp_path / "state", settle_seconds=0) as work:
        with monkeypatch.context() as patched:

            def away(_catalog: Catalog, _request: Any, path: Path) -> int:
                raise UnavailableError(f"The store does not answer ({path.name}).")

            patched.setattr(Catalog, "send", away)
            first = work.look()
        assert (first.sent, first.stopped) == (0, "The store does not answer (a.tif).")
        second = work.look()
        assert (second.sent, second.stopped, sorted(sends)) == (2, "", ["a.tif", "b.tif"])
        assert work.pause(60, 2) == 60
        assert work.pause(60, 20) == 180
    shutil.rmtree(folder)
    with pytest.raises(NotFoundError, match="network share"):
        opened(client, folder, clock, tmp_path / "state")


def test_originals_are_deleted_once_the_store_gives_them_back_and_never_earlier(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    clock = Clock()
    with pytest.raises(InvalidInputError, match="7 is the least"):
        opened(client, folder, clock, tmp_path / "state", delete_after_days=6.9)
    with opened(client, folder, clock, tmp_path / "state", settle_seconds=0, delete_after_days=7) as work:
        assert work.look().sent == 2
        assert after(work, clock, 6.9 * DAY).deleted == 0
        # Somebody has spoilt one in the store.
        place = Location.parse(work.address) / "plate 1" / "b.tif"
        client.store.write(place, client.store.read(place)[:-1] + b"?")
        late = after(work, clock, 0.2 * DAY)
        assert (late.deleted, set(late.left)) == (1, {"plate 1/b.tif"})
        assert not (folder / "a.tif").exists()
        assert (folder / "plate 1" / "b.tif").exists()
        assert (folder / "notes.txt").exists()
        again = after(work, clock, 30 * DAY)
        assert (again.deleted, again.sent) == (0, 0)
        assert (folder / "plate 1" / "b.tif").exists()
        assert stored(client, work) == {"a.tif", "plate 1/b.tif"}


def test_the_command_fills_an_inbox_that_a_batch_looks_at(
    run: Callable[..., Ended], client: Client, folder: Path, model: str, services: dict[str, ServiceProcess]
) -> None:
    command = ("ingest", folder, "--inbox", "scope-1", "--once", "--settle", "0s")
    first = run(*command, "--json")
    assert (first.code, first.json["sent"], first.json["left"]) == (0, 2, {})
    said = run(*command)
    assert (said.code, "0 images sent (0.0 MB), 2 sent before." in said.err) == (0, True)
    inbox = Location.parse(first.json["inbox"])
    batch = Batch(inbox, client.store.results / client.project / "of-scope-1", (Step(client.model_uri(model)),))
    assert BatchRun(client, batch, settle_seconds=0).run().predicted == 2
    assert run(*command, "--every", "fast").code == 2
    assert run("ingest", folder / "nowhere", "--inbox", "scope-1", "--once").code == 3
