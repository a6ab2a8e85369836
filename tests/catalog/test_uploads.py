"""Uploads straight to the store by signed requests, verified and published by the catalogue; and downloads."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from catalog_calls import named
from signed_uploads import HTTP, Call, Sender, announced, put

from parfocal import v1
from parfocal.catalog.entries import Entries
from parfocal.catalog.signing import Signer, ignored_by
from parfocal.catalog.trash import Trash
from parfocal.catalog.uploads.records import Records
from parfocal.catalog.uploads.uploads import Uploads
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PreconditionError,
)
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import DatasetManifest, FileEntry
from parfocal.runtime.store.parts import PART_BYTES, part_size
from parfocal.runtime.store.publish import file_entry
from parfocal.runtime.store.store import Location, Store


@pytest.fixture(scope="module")
def prepared(pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetManifest, dict[str, bytes]]:
    """A manifest and the files that it lists."""
    scratch = tmp_path_factory.mktemp("prepared")
    report = check_folder(pairs_folder)
    entries, files, contents = [], [], {}
    for item in report.items():
        path = scratch / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(path))
        files.append(file_entry(path, item.file))
        contents[item.file] = path.read_bytes()
    return report.manifest(files, entries, project="else", dataset="else", version=7), contents


@pytest.fixture
def complete(call: Call, prepared: tuple[DatasetManifest, dict[str, bytes]]) -> Sender:
    """An upload with all its files, but for the manifest."""
    sender = Sender(call)
    for name, data in prepared[1].items():
        assert sender.send(name, data) == [200]
    return sender


def test_a_verified_upload_is_published_under_the_name_it_was_begun_with(
    call: Call, complete: Sender, prepared: tuple[DatasetManifest, dict[str, bytes]]
) -> None:
    with pytest.raises(PreconditionError, match=r"dataset\.json"):
        complete.publish()
    assert complete.send("dataset.json", prepared[0].to_bytes()) == [200]
    reports = complete.publish()
    entry = reports[-1].entry
    assert [report.verified for report in reports[:-1]] == list(range(1, len(prepared[1]) + 1))
    assert (entry.project, entry.name, entry.version) == ("default", "beads", complete.begun.version)
    assert entry.uri == complete.begun.uri
    assert entry.created_at.ToNanoseconds() > prepared[0].created_at.timestamp() * 1e9
    assert complete.publish()[-1].entry == entry, "a repeated call changes nothing"
    with pytest.raises(PreconditionError, match="published already"):
        complete.sign("another.tif", b"")
    signed = call("SignDownloads", uri=entry.uri, names=list(prepared[1]))
    for file in signed.files:
        assert HTTP.request("GET", file.request.url).data == prepared[1][file.name]
    with pytest.raises(NotFoundError):
        call("SignDownloads", uri=entry.uri, names=["dataset.json"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": (80, 64)}, "not YX (80, 64)"),
        ({"dtype": "uint8"}, "uint8"),
        ({"axes": "ZX"}, "ZX"),
    ],
)
def test_an_image_must_be_as_the_manifest_says(
    complete: Sender, prepared: tuple[DatasetManifest, dict[str, bytes]], change: dict[str, Any], words: str
) -> None:
    images = list(prepared[0].images)
    images[0] = images[0].model_copy(update=change)
    wrong = prepared[0].model_copy(update={"images": tuple(images)})
    assert complete.send("dataset.json", wrong.to_bytes()) == [200]
    with pytest.raises(InvalidInputError) as caught:
        complete.publish()
    assert [violation.field for violation in caught.value.violations] == [images[0].file]
    assert words in caught.value.message
    with pytest.raises(NotFoundError):
        complete.call("GetEntry", uri=complete.begun.uri)


@pytest.mark.parametrize(
    "change",
    [
        {"files": (FileEntry(name="missing.tif", size=3, sha256="0" * 64),)},
        {"files": (FileEntry(name="../../models/x", size=3, sha256="0" * 64),)},
        {"licence": "s3://parfocal-datasets/another/beads/1"},
    ],
)
def test_a_manifest_that_names_other_places_is_refused(
    complete: Sender, prepared: tuple[DatasetManifest, dict[str, bytes]], change: dict[str, Any]
) -> None:
    wrong = prepared[0].model_copy(update=change)
    assert complete.send("dataset.json", wrong.to_bytes()) == [200]
    with pytest.raises(InvalidInputError):
        complete.publish()


def test_a_signed_request_sends_exactly_one_file_once(call: Call) -> None:
    sender, data = Sender(call), b"some pixels"
    (request,) = sender.sign("a.tif", data).requests
    assert put(request, b"other pixel") == 400
    assert put(request, data, **{"If-None-Match": ""}) == 403
    without = {key: value for key, value in request.headers.items() if key != "If-None-Match"}
    assert HTTP.request("PUT", request.url, body=data, headers=without).status == 403
    longer = {**request.headers, "Content-Length": str(len(data) + 1)}
    assert HTTP.request("PUT", request.url, body=data + b".", headers=longer).status == 403
    assert put(request, data) == 200
    assert put(request, data) == 412


def test_an_interrupted_upload_goes_on_where_it_was(call: Call) -> None:
    sender, data = Sender(call, "", "UPLOAD_KIND_INPUTS"), bytes(PART_BYTES) + b"the last part"
    first, second = sender.sign("movie.tif", data).requests
    assert (first.length, second.offset, second.length) == (PART_BYTES, PART_BYTES, len(b"the last part"))
    assert put(second, data) == 200
    assert sender.call("BeginUpload", request_id=sender.request, kind="UPLOAD_KIND_INPUTS") == sender.begun
    with pytest.raises(InvalidInputError, match=r"movie\.tif"):
        sender.publish(files=[announced("movie.tif", data)])
    (left,) = sender.sign("movie.tif", data, resume=True).requests
    assert (left.offset, left.length) == (0, PART_BYTES)
    assert put(left, data) == 200
    assert not sender.publish(files=[announced("movie.tif", data)])[-1].HasField("entry")
    assert not sender.begun.version


def test_a_part_is_refused_unless_it_is_the_announced_one(call: Call, store: Store) -> None:
    sender, part = Sender(call, "", "UPLOAD_KIND_INPUTS"), 40 * 2**20
    data = bytes(part) + b"1" * (PART_BYTES - part) + b"the last part"
    first, second = sender.sign("movie.tif", data, part=part).requests
    assert (first.length, second.offset, second.length) == (part, part, len(data) - part)
    assert put(second, data.replace(b"last", b"lost")) == 400
    assert put(second, data, **{"Content-MD5": first.headers["Content-MD5"]}) == 403
    without = {"Content-Length": str(second.length)}
    assert HTTP.request("PUT", second.url, body=data[second.offset :], headers=without).status == 403
    assert [put(request, data) for request in (first, second)] == [200, 200]
    assert put(second, data) == 200, "the same part may come again"
    assert sender.publish(files=[announced("movie.tif", data)])[-1].verified == 1
    assert put(second, data) == 404, "the catalogue has completed the file"
    assert store.read(Location.parse(sender.begun.uri) / "movie.tif") == data


def test_a_file_goes_on_in_parts_of_another_size_from_its_beginning(call: Call, store: Store) -> None:
    sender, data = Sender(call, "", "UPLOAD_KIND_INPUTS"), bytes(PART_BYTES) + b"the last part"
    place = Location.parse(sender.begun.uri)
    old, _ = sender.sign("movie.tif", data).requests
    assert put(old, data) == 200
    part = 40 * 2**20
    requests = sender.sign("movie.tif", data, part=part, resume=True).requests
    assert [request.offset for request in requests] == [0, part]
    assert [put(request, data) for request in requests] == [200, 200]
    sender.publish(files=[announced("movie.tif", data)])
    assert store.read(place / "movie.tif") == data
    assert not list(store.unfinished(place)), "the parts of the first try are removed"


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (2**20, {}),
        (0, {"part_size": 6 * 2**30, "part_md5s": [bytes(16)]}),
        (0, {"part_md5s": [bytes(16)]}),
        (8 * 2**20, {"part_size": 9 * 2**20}),
        (8 * 2**20, {"size": 16 * 2**20 + 1}),
        (8 * 2**20, {"part_md5s": [bytes(16), bytes(15)]}),
        (8 * 2**20, {"size": 5 * 2**40}),
    ],
)
def test_digests_of_parts_must_be_those_of_the_file(call: Call, part: int, change: dict[str, Any]) -> None:
    sender, data = Sender(call, "", "UPLOAD_KIND_INPUTS"), bytes(8 * 2**20 + 1)
    file = announced("movie.tif", data, part)
    for name in change:
        file.ClearField(name)
    file.MergeFrom(v1.UploadFile(**change))
    with pytest.raises(InvalidInputError, match="part"):
        sender.call("SignUploads", upload=sender.begun.upload, files=[file])


def test_no_answer_is_too_large_however_many_parts_a_file_has(call: Call) -> None:
    sender = Sender(call, "", "UPLOAD_KIND_INPUTS")
    file = v1.UploadFile(name=f"{'x' * 200}/movie.tif", size=5 * 2**40, sha256="0" * 64)
    answer = sender.call("SignUploads", upload=sender.begun.upload, files=[file])
    assert answer.ByteSize() < 4 * 2**20
    offsets = [request.offset for request in answer.files[0].requests]
    assert offsets == [number * part_size(file.size) for number in range(len(offsets))]
    assert len(offsets) > 1000
    sender.call("AbortUpload", upload=sender.begun.upload)


def test_what_the_store_has_is_not_sent_again(call: Call) -> None:
    sender = Sender(call, "", "UPLOAD_KIND_INPUTS")
    assert sender.send("a.tif", b"one") == [200]
    assert sender.sign("a.tif", b"one", resume=True).done
    # Another content of the same name replaces what was sent before.
    assert not sender.sign("a.tif", b"two", resume=True).done
    assert sender.send("a.tif", b"two") == [200]
    with pytest.raises(InvalidInputError, match="another SHA-256"):
        sender.publish(files=[announced("a.tif", b"one")])


@pytest.mark.parametrize(
    "name",
    [
        *("", "..", "../x.tif", "a/../../x", "a//b", "/x", "a\\b", ".hidden", "a/.x", "claim.json", "a0001/x.tif"),
        *("e\u0301.tif", "a\n.tif", "\u202ea.tif", "x" * 513),
    ],
)
def test_names_that_could_be_mistaken_are_refused(call: Call, name: str) -> None:
    with pytest.raises(InvalidInputError):
        Sender(call, "", "UPLOAD_KIND_INPUTS").sign(name, b"")


def test_wrong_uploads_are_refused(call: Call) -> None:
    sender = Sender(call)
    for fields, error in (
        ({"kind": "UPLOAD_KIND_DATASET", "name": "../x"}, InvalidInputError),
        ({"kind": "UPLOAD_KIND_DATASET", "name": ""}, InvalidInputError),
        ({"kind": "UPLOAD_KIND_RESULT", "name": "x"}, InvalidInputError),
        ({"name": "x"}, InvalidInputError),
        ({"kind": "UPLOAD_KIND_DATASET", "name": "x", "request_id": "../x"}, InvalidInputError),
        ({"kind": "UPLOAD_KIND_DATASET", "name": "other", "request_id": sender.request}, AlreadyExistsError),
    ):
        with pytest.raises(error):
            call("BeginUpload", **{"request_id": "new", **fields})
    for upload in ("", "dataset", "dataset/none", "else/none", f"model/{sender.request}"):
        with pytest.raises((NotFoundError, InvalidInputError)):
            call("PublishUpload", upload=upload)
    file = {"name": "a.tif", "size": 1, "sha256": "0" * 64}
    for change in ({"size": -1}, {"sha256": "x"}, {"sha256": ""}):
        with pytest.raises(InvalidInputError):
            call("SignUploads", upload=sender.begun.upload, files=[v1.UploadFile(**{**file, **change})])
    with pytest.raises(NotFoundError):
        call("SignUploads", upload=sender.begun.upload, project="another", files=[v1.UploadFile(**file)])


def test_unfinished_uploads_are_removed(call: Call, store: Store, tmp_path: Path) -> None:
    ended, forgotten = Sender(call, "unfinished"), Sender(call, "unfinished")
    for sender in (ended, forgotten):
        assert sender.send("a.tif", b"one") == [200]
        assert put(sender.sign("large.tif", bytes(PART_BYTES + 1)).requests[1], bytes(PART_BYTES + 1)) == 200
    call("AbortUpload", upload=ended.begun.upload)
    uploads = Uploads(store, Signer(store.settings), tmp_path)

    def left(sender: Sender) -> list[str]:
        return [item.location.name for item in store.objects(Location.parse(sender.begun.uri))]

    assert left(ended) == ["claim.json"]
    uploads.tidy(7, now=time.time() + 6 * 86_400)
    assert left(forgotten) == ["a.tif", "claim.json"]
    uploads.tidy(7, now=time.time() + 8 * 86_400)
    assert left(forgotten) == ["claim.json"]
    assert store.begin_multipart(Location.parse(forgotten.begun.uri) / "large.tif", resume=True)[1] == {}
    with pytest.raises(NotFoundError):
        forgotten.publish()


def test_what_was_verified_is_not_replaced_before_it_is_published(
    complete: Sender, store: Store, prepared: tuple[DatasetManifest, dict[str, bytes]], tmp_path: Path
) -> None:
    assert complete.send("dataset.json", prepared[0].to_bytes()) == [200]
    uploads = Uploads(store, Signer(store.settings), tmp_path)
    name, other = next(iter(prepared[1])), b"another image"
    publishing = uploads.publish(uploads.find("default", complete.begun.upload), (), "somebody")
    verified = next(publishing)
    while verified[0] < verified[1]:
        verified = next(publishing)
    # All files are verified, and the manifest is still to be written.
    assert not complete.sign(name, other, resume=True).done
    with pytest.raises(PreconditionError, match="replaced"):
        list(publishing)
    assert complete.send(name, other) == [200]
    with pytest.raises(InvalidInputError) as refused:
        complete.publish()
    assert [violation.field for violation in refused.value.violations] == [name]
    assert complete.send(name, prepared[1][name]) == [200]
    complete.publish()


def test_an_upload_that_is_being_published_is_neither_changed_nor_removed(
    call: Call,
    complete: Sender,
    store: Store,
    prepared: tuple[DatasetManifest, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    assert complete.send("dataset.json", prepared[0].to_bytes()) == [200]
    records = Records(store)
    records.commit(records.find("default", complete.begun.upload))
    name, data = next(iter(prepared[1].items()))
    for attempt in (
        lambda: complete.sign(name, b"another image", resume=True),
        lambda: call("AbortUpload", upload=complete.begun.upload),
    ):
        with pytest.raises(PreconditionError, match="being published"):
            attempt()
    assert complete.sign(name, data, resume=True).done
    # Whoever began that was lost: a repeated call publishes it, and what nobody publishes goes after its time.
    assert complete.publish()[-1].entry.uri == complete.begun.uri
    lost = Sender(call, "lost")
    lost.send("a.tif", b"one")
    records.commit(records.find("default", lost.begun.upload))
    Uploads(store, Signer(store.settings), tmp_path).tidy(7, now=time.time() + 8 * 86_400)
    assert [item.location.name for item in store.objects(Location.parse(lost.begun.uri))] == ["claim.json"]


def test_a_result_does_not_take_the_place_of_a_job(call: Call) -> None:
    sender = Sender(call, "", "UPLOAD_KIND_RESULT")
    assert sender.begun.uri.endswith(sender.request)
    with pytest.raises(ParfocalError):
        call("GetEntry", entry=named("result", sender.request))


def test_what_was_published_and_deleted_stays_whole(
    call: Call, complete: Sender, store: Store, prepared: tuple[DatasetManifest, dict[str, bytes]], tmp_path: Path
) -> None:
    assert complete.send("dataset.json", prepared[0].to_bytes()) == [200]
    uri = complete.publish()[-1].entry.uri
    place = Location.parse(uri)
    before = [(item.location, item.etag) for item in store.objects(place)]
    call("DeleteEntry", entry=named("dataset", place.parent.name, int(place.name)))
    for attempt in (
        lambda: call("AbortUpload", upload=complete.begun.upload),
        lambda: complete.sign(next(iter(prepared[1])), b"another image", resume=True),
    ):
        with pytest.raises(PreconditionError, match="published already"):
            attempt()
    Uploads(store, Signer(store.settings), tmp_path).tidy(7, now=time.time() + 8 * 86_400)
    call("RestoreEntry", entry=named("dataset", place.parent.name, int(place.name)))
    assert [(item.location, item.etag) for item in store.objects(place)] == before


def test_a_version_is_published_once(
    call: Call, complete: Sender, store: Store, prepared: tuple[DatasetManifest, dict[str, bytes]]
) -> None:
    assert complete.send("dataset.json", prepared[0].to_bytes()) == [200]
    place = Location.parse(complete.publish()[-1].entry.uri)
    call("DeleteEntry", entry=named("dataset", place.parent.name, int(place.name)))
    Trash(Entries(store), days=30).empty(now=time.time() + 31 * 86_400)
    assert [item.location.name for item in store.objects(place)] == ["claim.json"]
    with pytest.raises(PreconditionError, match="published already"):
        complete.sign("another.tif", b"another image")


@pytest.mark.parametrize("kind", ["UPLOAD_KIND_RESULT", "UPLOAD_KIND_INPUTS"])
@pytest.mark.parametrize("name", ["plate/a.tif", "manifest.json"])
def test_an_upload_takes_no_folder_that_has_results(call: Call, store: Store, kind: str, name: str) -> None:
    folder = f"microscope-{uuid.uuid4().hex}"
    store.write(store.results / "default" / folder / name, b"a prediction")
    with pytest.raises(AlreadyExistsError, match=folder):
        call("BeginUpload", request_id=folder, kind=kind)
    # Inputs that wait for their job may be begun again, as may the result that belongs to them.
    store.write(store.results / "default" / f"{folder}-2" / "inputs/a.tif", b"an image")
    call("BeginUpload", request_id=f"{folder}-2", kind=kind)


def test_clients_reach_the_store_by_its_public_address(store: Store) -> None:
    public = store.settings.model_copy(update={"s3_public_endpoint": "https://store.example.org/"})
    request = Signer(public).put(Location("b", "ä b/c"), 3, "0" * 64)
    assert request.url.startswith("https://store.example.org/b/%C3%A4%20b/c?")
    assert "content-length%3Bhost%3Bif-none-match%3Bx-amz-checksum-sha256" in request.url
    with pytest.raises(InvalidInputError, match="PARFOCAL_S3_PUBLIC_ENDPOINT"):
        Signer(Settings(s3_public_endpoint="store"))


def test_the_store_keeps_what_uploads_rest_on(store: Store) -> None:
    assert ignored_by(store) == ""
    assert not list(store.objects(store.datasets / ".promises"))


def test_nothing_in_an_inbox_is_replaced_or_removed_by_an_upload(call: Call, store: Store) -> None:
    first, data = Sender(call, "scope-of-uploads", "UPLOAD_KIND_INBOX"), b"an image"
    assert first.begun.uri == str(store.results / "default" / "_inboxes" / "scope-of-uploads")
    assert first.send("plate/a.tif", data) == [200]
    file = announced("plate/a.tif", data)
    assert first.publish(files=[file])[-1].verified == 1
    again = Sender(call, "scope-of-uploads", "UPLOAD_KIND_INBOX")
    assert again.sign("plate/a.tif", data).done, "it is there already, by whichever upload"
    with pytest.raises(AlreadyExistsError, match="never replaced"):
        again.sign("plate/a.tif", b"another", resume=True)
    other = v1.UploadFile(name="plate/a.tif", size=len(data), sha256="0" * 64)
    with pytest.raises(InvalidInputError, match="differ"):
        again.publish(files=[other])
    again.call("AbortUpload", upload=again.begun.upload)
    place = store.results / "default" / "_inboxes" / "scope-of-uploads" / "plate" / "a.tif"
    assert store.read(place) == data
    store.write(place, data[:-1] + b"?")
    with pytest.raises(InvalidInputError, match="differ"):
        Sender(call, "scope-of-uploads", "UPLOAD_KIND_INBOX").publish(files=[file])
    with pytest.raises(InvalidInputError):
        Sender(call, "../secret", "UPLOAD_KIND_INBOX")
