"""The store's promises, against a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import free_ports

from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.store.names import (
    check_name,
    check_request_id,
    dataset_location,
    new_request_id,
    parse_version,
    published_versions,
    resolve_version,
)
from parfocal.runtime.store.publish import claim_version, publish, upload_files
from parfocal.runtime.store.store import Location, Store


@pytest.fixture
def folder(store: Store, request: pytest.FixtureRequest) -> Location:
    return store.jobs / "store-tests" / request.node.name.replace("[", "-").replace("]", "")


@pytest.mark.parametrize("name", ["../up", "a//b", "", "a/./b", "a\\b", "/absolute"])
def test_a_name_cannot_climb_out(name: str) -> None:
    with pytest.raises(InvalidInputError):
        Location("bucket", "folder") / name


@pytest.mark.parametrize("uri", ["http://x/y", "s3://", "s3://bucket", "s3://bucket/../x", "bucket/key"])
def test_only_addresses_of_the_store_are_read(uri: str) -> None:
    with pytest.raises(InvalidInputError):
        Location.parse(uri)


def test_an_object_is_created_once(store: Store, folder: Location) -> None:
    store.create(folder / "x", b"first")
    with pytest.raises(ConflictError):
        store.create(folder / "x", b"second")
    assert store.read(folder / "x") == b"first"


def test_of_many_writers_one_creates(store: Store, folder: Location) -> None:
    def create(number: int) -> bool:
        try:
            store.create(folder / "x", str(number).encode())
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1


def test_of_many_changes_none_is_lost(store: Store, folder: Location) -> None:
    store.create(folder / "n", b"0")

    def increment(_: int) -> None:
        while True:
            data, etag = store.read_versioned(folder / "n")
            try:
                store.replace(folder / "n", str(int(data) + 1).encode(), etag)
            except ConflictError:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(12)))
    assert store.read(folder / "n") == b"12"


@pytest.mark.parametrize("write", ["write(place, b'new' * 900)", "replace(place, b'new' * 900, etag)"])
def test_a_writer_killed_between_headers_and_body_changes_nothing(
    s3: Any, store: Store, folder: Location, write: str
) -> None:
    store.create(folder / "x", b"old")
    script = f"""
import http.client, os
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location, Store
store, place = Store(Settings()), Location({folder.bucket!r}, {folder.key!r}) / "x"
etag = store.read_versioned(place)[1]
send = http.client.HTTPConnection.send
def die_at_the_body(connection, data):
    if b"new" in data:
        os._exit(9)
    send(connection, data)
http.client.HTTPConnection.send = die_at_the_body
store.{write}
"""
    killed = subprocess.run([sys.executable, "-c", script], env={**os.environ, **s3.environment}, check=False)
    assert killed.returncode == 9
    time.sleep(0.5)  # the server takes its time to notice
    assert store.read(folder / "x") == b"old"


def test_a_missing_object_is_not_found(store: Store, folder: Location) -> None:
    with pytest.raises(NotFoundError):
        store.read(folder / "nothing")
    assert not store.exists(folder / "nothing")


def test_listing_begins_after_a_name(store: Store, folder: Location) -> None:
    for name in ("a", "b", "c"):
        store.write(folder / name, b"")
    assert [item.location.name for item in store.objects(folder, start_after="a")] == ["b", "c"]


def test_a_store_that_is_down_is_unavailable_and_names_its_address() -> None:
    (port,) = free_ports(1)
    store = Store(Settings(s3_endpoint=f"http://127.0.0.1:{port}"))
    with pytest.raises(UnavailableError, match=str(port)):
        store.read(store.jobs / "x")
    with pytest.raises(UnavailableError, match=str(port)):
        store.create(store.jobs / "x", b"")


def test_wrong_keys_are_said_to_be_wrong(s3: Any) -> None:
    store = Store(Settings(s3_endpoint=s3.endpoint, s3_access_key="wrong", s3_secret_key="wrong"))  # type: ignore[arg-type]
    with pytest.raises(UnavailableError, match="PARFOCAL_S3_ACCESS_KEY"):
        store.read(store.jobs / "x")


def test_versions_are_claimed_once_and_exist_only_when_published(store: Store) -> None:
    place = dataset_location(store, "default", "versions")
    first, second = claim_version(store, place, "a"), claim_version(store, place, "b")
    assert (first.name, second.name) == ("1", "2")
    assert published_versions(store, place, DATASET_MANIFEST) == []
    publish(
        store, second, DATASET_MANIFEST, DatasetManifest(project="default", dataset="versions", version=2, images=())
    )
    assert published_versions(store, place, DATASET_MANIFEST) == [2]
    assert resolve_version(store, place, "dataset", DATASET_MANIFEST, None) == second
    with pytest.raises(NotFoundError, match="it has 2"):
        resolve_version(store, place, "dataset", DATASET_MANIFEST, 1)


def test_published_data_never_change(store: Store) -> None:
    place = claim_version(store, dataset_location(store, "default", "fixed"), "a")
    manifest = DatasetManifest(project="default", dataset="fixed", version=1, images=())
    publish(store, place, DATASET_MANIFEST, manifest)
    with pytest.raises(AlreadyExistsError):
        publish(store, place, DATASET_MANIFEST, manifest)


def test_a_damaged_file_is_noticed_on_the_way_into_the_cache(store: Store, folder: Location, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"content")
    (entry,) = upload_files(store, folder, [(tmp_path / "a.bin", "a.bin")])
    cache = Cache(tmp_path, tmp_path / "held")
    store.write(folder / "a.bin", b"CONTENT")
    with pytest.raises(DamagedError, match="damaged"):
        cache.fetch(store, folder, entry)
    store.write(folder / "a.bin", b"content")
    assert cache.fetch(store, folder, entry).read_bytes() == b"content"


def test_a_cached_file_is_not_fetched_again(store: Store, folder: Location, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"content")
    (entry,) = upload_files(store, folder, [(tmp_path / "a.bin", "a.bin")])
    cache = Cache(tmp_path, tmp_path / "held")
    cache.fetch(store, folder, entry)
    store.delete(folder / "a.bin")
    assert Cache(tmp_path, tmp_path / "another job").fetch(store, folder, entry).read_bytes() == b"content"


def test_files_of_equal_content_are_fetched_once(
    store: Store, folder: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An uncertainty that is the same for all pixels makes such files; to replace a name while another thread links
    # it is an error of the file system.
    (tmp_path / "a.bin").write_bytes(b"content")
    entries = upload_files(store, folder, [(tmp_path / "a.bin", f"{number}.bin") for number in range(4)])
    download, downloads = store.download, []

    def slow_download(place: Location, path: Path) -> None:
        downloads.append(place)
        time.sleep(0.1)
        download(place, path)

    monkeypatch.setattr(store, "download", slow_download)
    paths = Cache(tmp_path, tmp_path / "held").fetch_all(store, folder, entries)
    assert {path.read_bytes() for path in paths} == {b"content"}
    assert len(paths) == 4
    assert len(downloads) == 1


def test_names_and_versions() -> None:
    assert parse_version("model", "m:3") == ("m", 3)
    assert parse_version("model", "m") == ("m", None)
    for bad in ("m:0", "m:x", "-m", "a/b", "", "m:²", "m:٣", "m:3000000000", f"m:{'9' * 5000}"):
        with pytest.raises(InvalidInputError):
            parse_version("model", bad)
    with pytest.raises(InvalidInputError) as caught:
        check_name("model", "no spaces")
    assert [violation.field for violation in caught.value.violations] == ["model"]
    with pytest.raises(InvalidInputError) as caught:
        check_request_id("../../x")
    assert [violation.field for violation in caught.value.violations] == ["request_id"]
    assert check_name("model", "A.b-c_1") == "A.b-c_1"
    assert new_request_id("train care-2d") != new_request_id("train care-2d")
