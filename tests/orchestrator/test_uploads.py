"""Files on their way to a store that misses some of them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from careless_store import CarelessStore
from support import S3Server, ServiceProcess

from parfocal import v1
from parfocal.client import Client
from parfocal.client.catalog import Catalog
from parfocal.client.uploads import ToSend, uploading
from parfocal.runtime.errors import InvalidInputError, UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.names import new_request_id
from parfocal.runtime.store.parts import PART_BYTES
from parfocal.runtime.store.store import Location

Send = Callable[[Any, Path], int]


def sent_by(s3: S3Server, paths: list[Path], monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Send], Send]) -> set[str]:
    """Upload files by a client whose requests to the store are wrapped; return the names that the store has."""
    with Client(s3.client_settings) as client:
        monkeypatch.setattr(client.catalog, "send", wrap(client.catalog.send))
        with uploading(client, "inputs", request_id=new_request_id("lost")) as upload:
            entries = upload.send_all([(path.name, path) for path in paths], lambda path: ToSend(path, path.name))
            upload.finish(entries)
        return {entry.name for entry in entries}


@pytest.mark.parametrize("arrives", [True, False], ids=["its answer is lost", "it is lost itself"])
def test_a_request_that_is_lost_once_does_not_end_an_upload(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    paths = [tmp_path / f"{number}.tif" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
    lost: list[Path] = []

    def wrap(send: Send) -> Send:
        def once(request: Any, path: Path) -> int:
            if path == paths[1] and not lost:
                lost.append(path)
                if arrives:
                    assert send(request, path) < 300
                raise UnavailableError("The store does not answer.")
            return send(request, path)

        return once

    assert sent_by(s3, paths, monkeypatch, wrap) == {path.name for path in paths}
    assert lost == [paths[1]]


def test_a_store_that_stays_away_ends_an_upload(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.client.uploads._PAUSE_SECONDS", 0.01)
    path = tmp_path / "a.tif"
    path.write_bytes(b"pixels")
    tries: list[Path] = []

    def away(_send: Send) -> Send:
        def never(_request: Any, path: Path) -> int:
            tries.append(path)
            raise UnavailableError("The store does not answer.")

        return never

    with pytest.raises(UnavailableError, match="does not answer"):
        sent_by(s3, [path], monkeypatch, away)
    assert len(tries) == 3


def large_file(path: Path, parts: int) -> Path:
    """Write a file of so many parts, of which the last one is short."""
    with path.open("wb") as file:
        file.truncate((parts - 1) * PART_BYTES)
        file.seek(0, 2)
        file.write(b"the last part")
    return path


def test_a_slow_line_may_take_longer_than_requests_live(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rounds, digests = large_file(tmp_path / "movie.tif", 6), [0], set[str]()
    monkeypatch.setattr("parfocal.client.uploads._PARTS_AT_ONCE", 1)

    def wrap(send: Send) -> Send:
        def expiring(request: Any, path: Path) -> int:
            digests.add(request.headers["Content-MD5"])
            rounds[0] += 1
            # Of each round one part comes in time.
            return send(request, path) if rounds[0] % 2 else 403

        return expiring

    assert sent_by(s3, [path], monkeypatch, wrap) == {"movie.tif"}
    assert rounds[0] == 11
    assert len(digests) == 2, "five parts of zeros, and the last one"


def test_a_store_that_takes_nothing_ends_an_upload(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tries = large_file(tmp_path / "movie.tif", 2), []

    def wrap(_send: Send) -> Send:
        def refusing(request: Any, _path: Path) -> int:
            tries.append(request.offset)
            return 403

        return refusing

    monkeypatch.setattr("parfocal.client.uploads._PARTS_AT_ONCE", 1)
    with pytest.raises(UnavailableError, match=r"movie\.tif \(status 403\)"):
        sent_by(s3, [path], monkeypatch, wrap)
    assert tries == [0, 0, 0]


def test_a_store_that_loses_parts_ends_an_upload(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, missing = large_file(tmp_path / "movie.tif", 2), itertools.cycle([0, PART_BYTES])

    def lost(_name: str, files: list[v1.UploadFile], **_resume: bool) -> list[v1.FileUpload]:
        request = v1.SignedRequest(offset=next(missing), length=1)
        return [v1.FileUpload(name=files[0].name, requests=[request])]

    monkeypatch.setattr(Catalog, "sign_uploads", lambda _catalog, *arguments, **options: lost(*arguments, **options))
    with pytest.raises(UnavailableError, match=r"movie\.tif"):
        sent_by(s3, [path], monkeypatch, lambda _send: lambda *_arguments, **_options: 200)


def test_a_file_that_changes_while_it_is_sent_is_refused(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large_file(tmp_path / "movie.tif", 2)

    def wrap(send: Send) -> Send:
        def changing(request: Any, path: Path) -> int:
            with path.open("r+b") as file:
                file.write(b"other pixels")
            return send(request, path)

        return changing

    with pytest.raises(UnavailableError, match=r"movie\.tif \(status 400\)"):
        sent_by(s3, [path], monkeypatch, wrap)


def test_a_file_that_becomes_shorter_while_it_is_sent_is_named(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(bytes(1000))

    def wrap(send: Send) -> Send:
        def shortening(request: Any, path: Path) -> int:
            path.write_bytes(bytes(10))
            return send(request, path)

        return shortening

    with pytest.raises(InvalidInputError, match=r"a\.tif has become shorter"):
        sent_by(s3, [path], monkeypatch, wrap)


def test_clients_send_to_a_store_that_ignores_what_is_signed(s3: S3Server, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.tif" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
    paths.append(large_file(tmp_path / "movie.tif", 2))
    careless = CarelessStore(s3, "if-none-match")
    catalog = ServiceProcess("catalog", careless.environment, tmp_path / "catalog").start()
    try:
        with (
            Client(Settings(catalog=catalog.address)) as client,
            uploading(client, "inputs", request_id=new_request_id("careless")) as upload,
        ):
            entries = upload.send_all([(path.name, path) for path in paths], lambda path: ToSend(path, path.name))
            place = Location.parse(upload.uri)
            assert [item.location.name for item in s3.store().objects(place)] == [], "nothing before it is verified"
            upload.finish(entries)
        assert {item.location.name: item.size for item in s3.store().objects(place)} == {
            path.name: path.stat().st_size for path in paths
        }
    finally:
        catalog.stop()
        careless.close()


def test_signed_addresses_are_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"pixels")
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/bucket/a.tif?X-Amz-Expires=900&X-Amz-Signature=secret"
        requests = [v1.SignedRequest(method=method, url=url, length=6) for method in ("PUT", "GET")]

        def hang_up() -> None:
            # Of each request the first try and all that follow.
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = Thread(target=hang_up)
        thread.start()
        catalog = Catalog(None, "default")
        try:
            with pytest.raises(UnavailableError) as sending:
                catalog.send(requests[0], path)
            with pytest.raises(UnavailableError) as fetching:
                catalog.fetch(requests[1], tmp_path / "b.tif")
        finally:
            catalog.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert "/bucket/a.tif" in caplog.text
    assert "Retrying" in caplog.text
    for text in (caplog.text, str(sending.value), str(fetching.value)):
        assert "secret" not in text
