"""The job that makes tiles: image after image, each complete once its description is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from parfocal import v1
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.qc.tiles.parameters import TilesParameters
from parfocal.runtime.datasets.layers import Layer, layers_at
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import inspect_image
from parfocal.runtime.images.pyramid import FORMAT, INFO, THUMBNAIL, Pyramid, Tile, encode_tile
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.names import derived_mark
from parfocal.runtime.store.store import Location

# Writing waits for the store more than it computes.
_WRITERS: Final = 8
_NAMED: Final = 3


def derive(context: JobContext) -> None:
    """Write thumbnails and tiles of all images of the job's datasets and results that have none yet.

    A worker that was lost leaves an image without a description, and the next one makes it anew.
    """
    parameters = context.parameters
    assert isinstance(parameters, TilesParameters)
    context.report_progress(v1.Progress(stage="preparing"), message="listing the images", at_once=True)
    context.describe(precision="float32")
    layers = [
        (found.place, layer)
        for uri in dict.fromkeys(context.job.derivation.input_uris)
        for found in (layers_at(context.store, Location.parse(uri)),)
        for layer in found.all()
    ]
    failed: list[str] = []
    for number, (place, layer) in enumerate(layers, start=1):
        context.check_cancelled()
        folder = context.store.derived / layer.digest
        progress = v1.Progress(
            stage="cutting images into tiles", step=number, steps=len(layers), fraction=number / len(layers)
        )
        if parameters.again or not context.store.exists(folder / INFO):
            failed += _derive_one(context, place, layer, folder)
        # Only then, so that whoever may read finds all of it.
        context.store.write(derived_mark(context.store, layer.digest, context.job.project), b"")
        context.report_image(v1.ImageCompleted(name=f"{place.name}/{layer.image}/{layer.name}"), progress)
    if failed:
        named = "; ".join(failed[:_NAMED]) + (f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else "")
        context.warn(f"{len(failed)} of {len(layers)} images cannot be shown: {named}")


def _derive_one(context: JobContext, place: Location, layer: Layer, folder: Location) -> list[str]:
    """Make the tiles of one image; return why it cannot be shown, if so."""
    path = context.cache.fetch(context.store, place, layer.entry)
    try:
        header = inspect_image(path)
        pixels = context.cache.decode(path, layer.entry.sha256)
        pyramid = Pyramid(pixels, header.axes, header.pixel_size, labels=layer.labels)
    except InvalidInputError as error:
        # The local copy has a digest for its name.
        reason = error.message.replace(path.name, PurePosixPath(layer.entry.public_name).name)
        content = {"format": FORMAT, "state": "failed", "digest": layer.digest, "reason": reason}
        _write_json(context, folder / INFO, content)
        return [reason]
    context.store.write(folder / THUMBNAIL, pyramid.thumbnail())

    def send(tile: Tile) -> None:
        context.store.write(folder / tile.name, encode_tile(tile.pixels))

    for _ in map_bounded(send, _until_cancelled(context, pyramid.tiles()), _WRITERS):
        pass
    # Last: with it the tiles exist.
    _write_json(context, folder / INFO, pyramid.info(layer.digest))
    return []


def _until_cancelled(context: JobContext, tiles: Iterator[Tile]) -> Iterator[Tile]:
    for tile in tiles:
        context.check_cancelled()
        yield tile


def _write_json(context: JobContext, place: Location, content: dict[str, Any]) -> None:
    context.store.write(place, json.dumps(content).encode())
