"""The routes of tiles, with published manifests and tiles as the job makes them, and no store."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, HTTPException, Request

from parfocal.portal.tiles import Kind, tile_router
from parfocal.runtime.datasets.layers import Layers, layers_of_dataset
from parfocal.runtime.errors import NotFoundError, UnavailableError
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.pyramid import INFO, THUMBNAIL, Pyramid, encode_tile
from parfocal.runtime.store.manifests import DatasetManifest, FileEntry, ImageEntry
from parfocal.runtime.store.store import Location

PIXELS = np.random.default_rng(0).integers(0, 4000, (600, 700)).astype(np.uint16)
IMAGE = "/p/lab/tiles/dataset/cells:1/test:f 1/source"


class Shelf:
    """One dataset with one image; what is derived is added by the tests."""

    def __init__(self) -> None:
        image = ImageEntry(
            split="test", role="source", stem="f 1", file="f.tif", shape=(600, 700), dtype="uint16", axes="YX"
        )
        entry = FileEntry(name="f.tif", size=1, sha256="ab")
        dataset = DatasetManifest(project="lab", dataset="cells", version=1, images=(image,), files=(entry,))
        self.known = layers_of_dataset(Location("b", "lab/cells/1"), dataset)
        self.files: dict[tuple[str, str], bytes] = {}
        self.reads: list[str] = []
        self.away = False

    @property
    def digest(self) -> str:
        return self.known.find("test:f 1", "source").digest

    def layers(self, project: str, kind: Kind, name: str) -> Layers:
        if (project, kind, name) != ("lab", "dataset", "cells:1"):
            raise NotFoundError(f"There is no dataset {name!r}.")
        return self.known

    def derived(self, digest: str, name: str) -> bytes:
        self.reads.append(name)
        if self.away:
            raise UnavailableError("The store does not answer.")
        try:
            return self.files[digest, name]
        except KeyError:
            raise NotFoundError("it does not exist") from None

    def derive(self) -> None:
        pyramid = Pyramid(PIXELS, "YX", PixelSize(0.1, 0.1))
        self.files[self.digest, THUMBNAIL] = pyramid.thumbnail()
        self.files[self.digest, INFO] = json.dumps(pyramid.info(self.digest)).encode()
        for tile in pyramid.tiles():
            self.files[self.digest, tile.name] = encode_tile(tile.pixels)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def get(shelf: Shelf) -> Any:
    app = FastAPI()

    def reader_of(request: Request) -> Shelf:
        if request.headers.get("user") == "stranger":
            raise HTTPException(404)
        return shelf

    app.include_router(tile_router(reader_of))

    def call(path: str, **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://portal") as client:
                return await client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

        return asyncio.run(ask())

    return call


def test_tiles_are_those_of_the_image(shelf: Shelf, get: Any) -> None:
    shelf.derive()
    info = get(f"{IMAGE}/info")
    assert info.json()["state"] == "ready"
    assert info.json()["levels"] == [[600, 700], [300, 350]]
    digest = info.json()["digest"]
    tile = get(f"{IMAGE}/{digest}/0/0/0/0/1/1")
    assert tile.status_code == 200
    assert tile.headers["x-parfocal-shape"] == "88,188"
    assert tile.headers["x-parfocal-dtype"] == "uint16"
    assert tile.headers["content-type"] == "application/octet-stream"
    assert tile.headers["content-encoding"] == "gzip"
    assert tile.headers["x-content-type-options"] == "nosniff"
    assert tile.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert np.array_equal(np.frombuffer(tile.content, "<u2").reshape(88, 188), PIXELS[512:, 512:])
    plain = get(f"{IMAGE}/{digest}/0/0/0/0/1/1", accept_encoding="identity")
    assert "content-encoding" not in plain.headers
    assert plain.content == tile.content == gzip.decompress(shelf.files[digest, "0/0/0/0/1/1"])


def test_what_a_browser_has_is_not_sent_and_not_read_again(shelf: Shelf, get: Any) -> None:
    shelf.derive()
    path = f"{IMAGE}/{shelf.digest}/1/0/0/0/0/0"
    etag = get(path).headers["etag"]
    shelf.reads.clear()
    again = get(path, if_none_match=etag)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert shelf.reads == []
    info = get(f"{IMAGE}/info")
    assert get(f"{IMAGE}/info", if_none_match=info.headers["etag"]).status_code == 304
    assert get(f"{IMAGE}/thumbnail").headers["content-type"] == "image/png"


def test_an_image_whose_tiles_are_being_made_says_what_its_manifest_knows(shelf: Shelf, get: Any) -> None:
    building = get(f"{IMAGE}/info")
    assert building.json() == {
        "format": 1,
        "state": "building",
        "digest": shelf.digest,
        "thumbnail": False,
        "axes": "YX",
        "shape": [600, 700],
        "dtype": "uint16",
        "pixel_size_um": None,
    }
    assert building.headers["cache-control"] == "no-store"
    assert get(f"{IMAGE}/thumbnail").status_code == 404
    shelf.files[shelf.digest, THUMBNAIL] = b"png"
    assert get(f"{IMAGE}/info").json()["thumbnail"] is True
    shelf.derive()
    assert get(f"{IMAGE}/info").json()["state"] == "ready"


@pytest.mark.parametrize(
    "path",
    [
        "/p/lab/tiles/dataset/cells:2/test:f 1/source/info",
        "/p/other/tiles/dataset/cells:1/test:f 1/source/info",
        "/p/lab/tiles/dataset/cells:1/test:f2/source/info",
        "/p/lab/tiles/dataset/cells:1/test:f 1/target/info",
        f"{IMAGE}/{'0' * 64}/0/0/0/0/0/0",
        f"{IMAGE}/DIGEST/0/0/0/0/2/0",
        f"{IMAGE}/DIGEST/2/0/0/0/0/0",
        f"{IMAGE}/DIGEST/0/0/1/0/0/0",
        f"{IMAGE}/DIGEST/0/0/0/-1/0/0",
    ],
)
def test_what_is_not_there_is_not_found(shelf: Shelf, get: Any, path: str) -> None:
    shelf.derive()
    assert get(path.replace("DIGEST", shelf.digest)).status_code == 404


def test_strangers_find_nothing(shelf: Shelf, get: Any) -> None:
    shelf.derive()
    for path in ("info", "thumbnail", f"{shelf.digest}/0/0/0/0/0/0"):
        assert get(f"{IMAGE}/{path}", user="stranger").status_code == 404


def test_a_store_that_does_not_answer_and_damaged_descriptions_are_said_so(shelf: Shelf, get: Any) -> None:
    shelf.away = True
    assert get(f"{IMAGE}/info").status_code == 503
    shelf.away = False
    shelf.files[shelf.digest, INFO] = b"["
    answer = get(f"{IMAGE}/info")
    assert answer.status_code == 500
    assert "damaged" in answer.json()["detail"]
