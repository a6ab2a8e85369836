"""Files on their way to a store that misses some of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import S3Server

from parfocal.client import Client
from parfocal.client.uploads import ToSend, uploading
from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.store.names import new_request_id

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
