"""Manifests that a process keeps: each is read once, and they take no more memory than they may."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from parfocal import v1
from parfocal.client import published
from parfocal.client.published import manifest_of
from parfocal.runtime.store.manifests import DatasetManifest, FileEntry, ImageEntry


class Catalogue:
    """Holds a dataset for each address, with as many images as the address says; counts what is read."""

    def __init__(self, address: str = "here:1") -> None:
        self.address = address
        self.asked: list[str] = []

    def read(self, uri: str) -> bytes:
        self.asked.append(uri)
        file = FileEntry(name="train/source/a.tif", size=1, sha256="0" * 64)
        image = ImageEntry(split="train", role="source", stem="a", file=file.name, shape=(1, 1), dtype="u1", axes="YX")
        name, _, count = uri.rpartition("/")
        manifest = DatasetManifest(
            project="p",
            created_at=datetime.now(UTC),
            dataset=name,
            version=1,
            images=(image,) * int(count),
            files=(file,),
        )
        return manifest.model_dump_json().encode()


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.setattr(published, "_manifests", published._Manifests(40_000))
    return Catalogue()


def read(catalogue: Catalogue, name: str, images: int = 1, seconds: int = 1) -> DatasetManifest:
    client: Any = SimpleNamespace(catalog=catalogue)
    entry = v1.Entry(uri=f"s3://datasets/p/{name}/{images}", created_at=Timestamp(seconds=seconds))
    return manifest_of(client, entry, DatasetManifest)


def test_a_manifest_is_read_once_for_all_clients_of_a_catalogue(catalogue: Catalogue) -> None:
    first = read(catalogue, "a")
    other = Catalogue()
    assert read(other, "a") is first
    assert not other.asked
    elsewhere = Catalogue("there:1")
    read(elsewhere, "a")
    assert len(elsewhere.asked) == 1
    read(catalogue, "a", seconds=2)  # deleted, and made anew under the same name
    assert len(catalogue.asked) == 2


def test_those_that_nobody_has_asked_for_the_longest_go_first(catalogue: Catalogue) -> None:
    size = len(catalogue.read("s3://datasets/p/x/20"))
    count = 40_000 // size
    assert count > 5
    for number in range(count):
        read(catalogue, f"n{number}", 20)
    read(catalogue, "n0", 20)
    read(catalogue, "one-more", 20)
    catalogue.asked.clear()
    for name in ("n0", "n2", "one-more"):
        read(catalogue, name, 20)
    assert not catalogue.asked
    read(catalogue, "n1", 20)
    assert len(catalogue.asked) == 1


def test_a_very_large_one_displaces_no_others(catalogue: Catalogue) -> None:
    read(catalogue, "a")
    for _ in range(2):
        assert len(read(catalogue, "large", 1000).images) == 1000
    read(catalogue, "a")
    assert len(catalogue.asked) == 3
