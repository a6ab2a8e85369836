"""Uploads to a store that ignores what was signed: staged, and brought to their place once they have been verified."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from careless_store import CarelessStore
from signed_uploads import Call, Sender, announced, put
from support import S3Server, ServiceProcess

from parfocal.catalog.signing import CHECKSUM_HEADER, Signer, ignored_by
from parfocal.catalog.uploads.records import FOLDER
from parfocal.catalog.uploads.uploads import Uploads
from parfocal.runtime.errors import AlreadyExistsError, InvalidInputError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.parts import PART_BYTES
from parfocal.runtime.store.promises import check_promises
from parfocal.runtime.store.store import Location, ObjectInfo, Store


@pytest.fixture(
    scope="module", params=[(), ("if-none-match",)], ids=["ignores checksums", "ignores checksums and conditions"]
)
def careless(request: pytest.FixtureRequest, s3: S3Server) -> Iterator[CarelessStore]:
    store = CarelessStore(s3, *request.param)
    yield store
    store.close()


@pytest.fixture(scope="module")
def through(careless: CarelessStore) -> Store:
    """The careless store as a service sees it."""
    environment = {key.removeprefix("PARFOCAL_").lower(): value for key, value in careless.environment.items()}
    return Store(Settings(**environment))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def catalog(careless: CarelessStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    service = ServiceProcess("catalog", careless.environment, tmp_path_factory.mktemp("catalog")).start()
    yield service
    service.stop()


def staged(store: Store, sender: Sender) -> list[str]:
    """Return what is staged of an upload."""
    return [item.location.name for item in store.objects(store.results / "default" / FOLDER / sender.request)]


def sender_of_inputs(call: Call) -> Sender:
    return Sender(call, "", "UPLOAD_KIND_INPUTS")


def test_what_a_store_ignores_is_noticed_and_said(
    careless: CarelessStore, through: Store, catalog: ServiceProcess, request: pytest.FixtureRequest
) -> None:
    check_promises(through)
    expected = "If-None-Match" if "conditions" in request.node.name else CHECKSUM_HEADER
    assert ignored_by(through) == expected
    assert not list(through.objects(through.datasets / ".promises"))
    assert f"ignores {expected}" in catalog.log.read_text()


def test_only_what_was_announced_comes_to_its_place(call: Call, store: Store) -> None:
    sender, data = sender_of_inputs(call), b"some pixels"
    place = Location.parse(sender.begun.uri)
    (request,) = sender.sign("plate/a.tif", data).requests
    for wrong, problem in ((b"other pixel", "another SHA-256"), (b"longer than announced", "bytes instead of")):
        assert put(request, wrong, **{"Content-Length": str(len(wrong))}, whole=True) == 200
        with pytest.raises(InvalidInputError, match=problem) as refused:
            sender.publish(files=[announced("plate/a.tif", data)])
        assert [violation.field for violation in refused.value.violations] == ["plate/a.tif"]
        assert not list(store.objects(place))
        assert not staged(store, sender)
    assert put(request, data) == 200
    assert sender.publish(files=[announced("plate/a.tif", data)])[-1].verified == 1
    assert store.read(place / "plate/a.tif") == data
    assert not staged(store, sender)


def test_a_request_that_is_used_again_changes_nothing_that_was_verified(
    call: Call, store: Store, through: Store, tmp_path: Path
) -> None:
    sender, data = sender_of_inputs(call), b"some pixels"
    (request,) = sender.sign("a.tif", data).requests
    assert put(request, data) == 200
    sender.publish(files=[announced("a.tif", data)])
    assert put(request, b"other pixel") == 200
    assert staged(store, sender) == ["a.tif"]
    assert store.read(Location.parse(sender.begun.uri) / "a.tif") == data
    Uploads(through, Signer(through.settings), tmp_path).tidy(7)
    assert not staged(store, sender)
    assert store.read(Location.parse(sender.begun.uri) / "a.tif") == data


def test_an_interrupted_upload_goes_on_where_it_was(call: Call, store: Store) -> None:
    sender, data, large = sender_of_inputs(call), b"some pixels", bytes(PART_BYTES) + b"the last part"
    assert sender.send("a.tif", data) == [200]
    assert sender.send("b.tif", b"other pixel") == [200]
    assert sender.send("large.tif", large) == [200, 200]
    assert sender.sign("a.tif", data, resume=True).done
    assert sender.sign("large.tif", large, resume=True).done
    (request,) = sender.sign("b.tif", data, resume=True).requests
    assert put(request, data) == 200
    files = [announced(name, content) for name, content in (("a.tif", data), ("b.tif", data), ("large.tif", large))]
    assert sender.publish(files=files)[-1].verified == 3
    place = Location.parse(sender.begun.uri)
    assert [store.read(place / file.name) for file in files] == [data, data, large]


def test_what_is_staged_goes_with_the_upload(call: Call, store: Store, through: Store, tmp_path: Path) -> None:
    aborted, forgotten = sender_of_inputs(call), sender_of_inputs(call)
    for sender in (aborted, forgotten):
        assert sender.send("a.tif", b"some pixels") == [200]
        assert staged(store, sender) == ["a.tif"]
    call("AbortUpload", upload=aborted.begun.upload)
    uploads = Uploads(through, Signer(through.settings), tmp_path)
    uploads.tidy(7, now=time.time() + 6 * 86_400)
    assert (staged(store, aborted), staged(store, forgotten)) == ([], ["a.tif"])
    uploads.tidy(7, now=time.time() + 8 * 86_400)
    assert not staged(store, forgotten)


def test_of_two_images_of_one_name_an_inbox_keeps_the_first(call: Call, store: Store) -> None:
    inbox = f"scope-{uuid.uuid4().hex}"
    first, second = (Sender(call, inbox, "UPLOAD_KIND_INBOX") for _ in range(2))
    assert first.send("a.tif", b"the first image") == [200]
    assert second.send("a.tif", b"another image") == [200]
    place = Location.parse(first.begun.uri) / "a.tif"
    assert not store.exists(place), "no image is seen in an inbox before it has been verified"
    first.publish(files=[announced("a.tif", b"the first image")])
    with pytest.raises(InvalidInputError, match="differ"):
        second.publish(files=[announced("a.tif", b"another image")])
    with pytest.raises(AlreadyExistsError, match="never replaced"):
        second.sign("a.tif", b"another image")
    assert store.read(place) == b"the first image"


def test_a_file_that_came_meanwhile_is_not_replaced(call: Call, store: Store, through: Store, tmp_path: Path) -> None:
    sender, data = Sender(call, f"scope-{uuid.uuid4().hex}", "UPLOAD_KIND_INBOX"), b"some pixels"
    assert sender.send("a.tif", data) == [200]
    place = Location.parse(sender.begun.uri) / "a.tif"

    class Overtaken(Store):
        def read(self, location: Location) -> bytes:
            if location.name == place.name:
                store.create(place, b"of another upload")
            return super().read(location)

    uploads = Uploads(Overtaken(through.settings), Signer(through.settings), tmp_path)
    upload = uploads.find("default", sender.begun.upload)
    with pytest.raises(InvalidInputError, match="differ"):
        list(uploads.publish(upload, [announced("a.tif", data)], "somebody"))
    assert store.read(place) == b"of another upload"


def test_a_file_that_another_call_brings_to_its_place_meanwhile_is_not_missing(
    call: Call, through: Store, tmp_path: Path
) -> None:
    sender, data = sender_of_inputs(call), b"some pixels"
    assert sender.send("a.tif", data) == [200]

    class Overtaken(Store):
        def stat(self, location: Location) -> ObjectInfo:
            if FOLDER in location.key and location.name == "a.tif":
                assert sender.sign("a.tif", data, resume=True).done
            return super().stat(location)

    uploads = Uploads(Overtaken(through.settings), Signer(through.settings), tmp_path)
    upload, files = uploads.find("default", sender.begun.upload), [announced("a.tif", data)]
    assert list(uploads.publish(upload, files, "somebody"))[-1] == (1, 1)
