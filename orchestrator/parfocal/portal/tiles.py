"""The routes of tiles: what the viewer of the portal reads of images, exactly as a job of the method `tiles` made it.

The portal decodes no image: it passes on bytes. Who may see an image may see its tiles, and an address of tiles is only
answered for a dataset or result that lists the image they were made of.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Protocol

from fastapi import APIRouter, Header, HTTPException, Request, Response

from parfocal.client import Client
from parfocal.client.published import read_manifest
from parfocal.runtime.datasets.layers import Layer, Layers, layers_of_dataset, layers_of_result
from parfocal.runtime.errors import (
    DamagedError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    UnavailableError,
)
from parfocal.runtime.images.pyramid import FORMAT, INFO, THUMBNAIL, tile_name, tile_shape
from parfocal.runtime.store.manifests import DatasetManifest, ResultManifest
from parfocal.runtime.store.names import parse_version
from parfocal.runtime.store.store import Location

_FOREVER: Final = "private, max-age=31536000, immutable"
_ASK_AGAIN: Final = "private, no-cache"
Kind = Literal["dataset", "result"]


class Reader(Protocol):
    """Where the routes read: published manifests, and what was derived from their images."""

    def layers(self, project: str, kind: Kind, name: str) -> Layers:
        """Return the images of the dataset "name:version" or of the result of a job; raise NotFoundError."""

    def derived(self, digest: str, name: str) -> bytes:
        """Return one derived file; raise NotFoundError where it does not exist (yet)."""


class CatalogReader:
    """Reads one project through the catalogue, with the rights of a client. Safe to use from several threads.

    Published data never change, so what was read of manifests is kept.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.layers = lru_cache(maxsize=64)(self._layers)

    def _layers(self, _project: str, kind: Kind, name: str) -> Layers:
        if kind == "result":
            uri = self._client.catalog.entry("result", name).uri
            return layers_of_result(Location.parse(uri), read_manifest(self._client, uri, ResultManifest))
        owner, _, own = name.rpartition("~")
        dataset, version = parse_version("dataset", own)
        if version is None:
            raise NotFoundError(f"Say which version of {dataset!r}: {dataset}:NUMBER.")
        # What another project shares is PROJECT~NAME in addresses.
        uri = self._client.dataset_uri(f"{owner}/{own}" if owner else own)
        return layers_of_dataset(Location.parse(uri), read_manifest(self._client, uri, DatasetManifest))

    def has_tiles(self, kind: Kind, name: str) -> bool:
        """Return whether the images of a dataset or result have been cut into tiles; the first one tells."""
        layers = self.layers(self._client.project, kind, name).all()
        try:
            return not layers or bool(self.derived(layers[0].digest, INFO))
        except NotFoundError:
            return False

    def derived(self, digest: str, name: str) -> bytes:
        """Return one derived file."""
        return self._client.catalog.derived(digest, name)


def tile_router(reader_of: Callable[[Request], Reader]) -> APIRouter:
    """Return the routes below ``/p/{project}/tiles``.

    Parameters
    ----------
    reader_of
        Called for every request; it returns where this user may read in the project of the address, and raises an
        HTTPException (401, or 404 for somebody else's project) otherwise.
    """
    router = APIRouter(prefix="/p/{project}/tiles")
    described = lru_cache(maxsize=1024)(_described)

    @router.get("/{kind}/{name}/{image}/{layer}/info")
    def info(request: Request, project: str, kind: Kind, name: str, image: str, layer: str) -> Response:
        """Describe an image; while its tiles are being made, as far as its manifest does."""
        reader = reader_of(request)
        with _translated():
            found = reader.layers(project, kind, name).find(image, layer)
            try:
                content = described(_Derived(reader, found.digest))
            except NotFoundError:
                waiting = {"Cache-Control": "no-store"}
                return Response(json.dumps(_building(reader, found)), media_type="application/json", headers=waiting)
        text = json.dumps(content).encode()
        return _answer(request, text, "application/json", f"{found.digest}-{FORMAT}-info", _ASK_AGAIN)

    @router.get("/{kind}/{name}/{image}/{layer}/thumbnail")
    def thumbnail(request: Request, project: str, kind: Kind, name: str, image: str, layer: str) -> Response:
        """Return the small PNG of an image; 404 until a job has begun with it."""
        reader = reader_of(request)
        with _translated():
            found = reader.layers(project, kind, name).find(image, layer)
            data = reader.derived(found.digest, THUMBNAIL)
        return _answer(request, data, "image/png", f"{found.digest}-thumbnail", _ASK_AGAIN)

    @router.get("/{kind}/{name}/{image}/{layer}/{digest}/{level}/{t}/{c}/{z}/{row}/{column}")
    def tile(
        request: Request,
        project: str,
        kind: Kind,
        name: str,
        image: str,
        layer: str,
        digest: str,
        level: int,
        t: int,
        c: int,
        z: int,
        row: int,
        column: int,
        accept_encoding: Annotated[str, Header()] = "",
    ) -> Response:
        """Return one tile: C order, little-endian, of the type and shape that the headers say."""
        reader = reader_of(request)
        with _translated():
            found = reader.layers(project, kind, name).find(image, layer)
            if digest != found.digest:
                raise NotFoundError("These tiles belong to another image, or were made by another version of Parfocal.")
            content = described(_Derived(reader, digest))
            sizes: dict[str, int] = content.get("sizes", {})
            shape = tile_shape(sizes["y"], sizes["x"], level, row, column) if sizes else None
            if shape is None or not all(0 <= at < sizes[axis] for axis, at in (("t", t), ("c", c), ("z", z))):
                raise NotFoundError("There is no such tile.")
            place = tile_name(level, t, c, z, row, column)
            etag = f"{digest}-{place.replace('/', '-')}"
            headers = {
                "X-Parfocal-Shape": ",".join(map(str, shape)),
                "X-Parfocal-Dtype": content["tile_dtype"],
                "Vary": "Accept-Encoding",
            }
            if _known(request, etag):
                return _answer(request, b"", "application/octet-stream", etag, _FOREVER, headers)
            data = reader.derived(digest, place)
        if "gzip" in accept_encoding:
            headers["Content-Encoding"] = "gzip"
        else:
            data = gzip.decompress(data)
        return _answer(request, data, "application/octet-stream", etag, _FOREVER, headers)

    return router


class _Derived:
    """What `described` remembers descriptions by: the digest alone, whoever reads."""

    def __init__(self, reader: Reader, digest: str) -> None:
        self.reader, self.digest = reader, digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Derived) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _described(derived: _Derived) -> dict[str, Any]:
    try:
        content = json.loads(derived.reader.derived(derived.digest, INFO))
        if isinstance(content, dict):
            return content
    except ValueError:
        pass
    raise DamagedError(f"The tiles {derived.digest} are damaged. Make them again: start the method tiles with again.")


def _building(reader: Reader, layer: Layer) -> dict[str, Any]:
    """Return what is known of an image without its tiles."""
    try:
        reader.derived(layer.digest, THUMBNAIL)
        small = True
    except NotFoundError:
        small = False
    known: dict[str, Any] = {"format": FORMAT, "state": "building", "digest": layer.digest, "thumbnail": small}
    if layer.header is not None:
        header = layer.header
        known |= {"axes": header.axes, "shape": list(header.shape), "dtype": header.dtype}
        known["pixel_size_um"] = None if header.pixel_size_um is None else list(header.pixel_size_um)
    return known


def _known(request: Request, etag: str) -> bool:
    """Return whether the browser has this version already."""
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or f'"{etag}"' in [each.strip().removeprefix("W/") for each in given.split(",")]


def _answer(
    request: Request, data: bytes, media_type: str, etag: str, caching: str, more: dict[str, str] | None = None
) -> Response:
    headers = {"ETag": f'"{etag}"', "Cache-Control": caching, "X-Content-Type-Options": "nosniff", **(more or {})}
    if _known(request, etag):
        headers.pop("Content-Encoding", None)
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn Parfocal's errors into answers with their own words."""
    try:
        yield
    except (NotFoundError, InvalidInputError) as error:
        raise HTTPException(404, error.message) from error
    except UnavailableError as error:
        raise HTTPException(503, error.message, {"Retry-After": "5"}) from error
    except ParfocalError as error:
        raise HTTPException(500, error.message) from error
