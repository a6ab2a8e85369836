"""Small folders of data of every kind, as users lay them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support import (
    filament_pair,
    filament_volumes,
    nuclei_pair,
    nuclei_volumes,
    publish_dataset,
    publish_kind,
    write_pairs,
)

from parfocal import v1
from parfocal.runtime.images.files import Image, PixelSize, write_image

SHAPE = (64, 80)
"""(Y, X) in pixels of all images but stacks."""
STACK = (6, 32, 40)
"""(T, Y, X) in pixels of stacks of frames."""
PIXEL_NM = 100.0
"""Edge of a pixel of stacks."""
VOLUME = (16, 40, 48)
"""(Z, Y, X) in pixels of volumes."""
COUNTS = {"train": 5, "test": 3}
"""Images of each split."""
# By axes and whether targets are labels: what makes a pair of images, and their shape.
PAIRS: dict[tuple[str, bool], tuple[Callable[..., Any], tuple[int, ...]]] = {
    ("YX", False): (filament_pair, SHAPE),
    ("YX", True): (nuclei_pair, SHAPE),
    ("ZYX", False): (filament_volumes, VOLUME),
    ("ZYX", True): (nuclei_volumes, VOLUME),
}
# Datasets of the other kinds are two-dimensional.
KINDS = {
    v1.TARGET_KIND_BOXES: "boxes",
    v1.TARGET_KIND_UNPAIRED_IMAGE: "unpaired",
    v1.TARGET_KIND_NONE: "sources",
    v1.TARGET_KIND_COORDINATES: "coordinates",
    v1.TARGET_KIND_CLASSES: "classes",
}
_EXPORTED = "id,frame,x [nm],y [nm],sigma [nm],intensity [photon]"


def write_kind(folder: Path, kind: str, axes: str = "YX") -> Path:
    """Write a dataset folder of a kind; return it. Images without targets may be volumes."""
    rng = np.random.default_rng(1)
    write = _volumes if (kind, axes) == ("sources", "ZYX") else _WRITERS[kind]
    for split, count in COUNTS.items():
        for number in range(count):
            write(folder / split, f"field{number}", rng)
    if kind == "unpaired":
        # A sixth image of the second kind, and names that are no partners'.
        for split in COUNTS:
            for number, path in enumerate(sorted((folder / split / "target").iterdir())):
                path.rename(path.with_name(f"other{number + 7}.tif"))
        save(folder / "train" / "target" / "other20.tif", filament_pair(rng, SHAPE)[1])
    return folder


def publish_for(store: Any, name: str, folder: Path, target: v1.TargetKind, axes: str) -> str:
    """Write a dataset on which a method with this kind of targets and axes can be trained; return its URI."""
    if axes == "TYX":
        # Stacks of frames have their localisations, which methods without targets pass over.
        return publish_kind(store, name, write_kind(folder, "coordinates"), "coordinates")
    if target in KINDS and axes == "YX":
        # Stacks of frames are the axes of the kind itself.
        own = axes if target == v1.TARGET_KIND_NONE else ""
        return publish_kind(store, name, write_kind(folder, KINDS[target], own), KINDS[target], own)
    # Label images have classes too.
    labels = target in {v1.TARGET_KIND_LABELS, v1.TARGET_KIND_CLASSES}
    write_pairs(folder, *PAIRS[axes, labels])
    return publish_dataset(store, name, folder)


def save(path: Path, pixels: Any, axes: str = "YX", pixel_nm: float | None = None) -> None:
    """Write an image and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = None if pixel_nm is None else PixelSize(pixel_nm / 1e3, pixel_nm / 1e3)
    write_image(path, Image(pixels, axes, size))


def voc(*objects: str, shape: tuple[int, int] = SHAPE) -> str:
    """Return a PASCAL VOC file of an image (Y, X) with objects as `voc_object` writes them."""
    size = f"<size><width>{shape[1]}</width><height>{shape[0]}</height><depth>1</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{size}{''.join(objects)}</annotation>"


def voc_object(name: str, x0: float, y0: float, x1: float, y1: float, more: str = "") -> str:
    """Return one object of a PASCAL VOC file."""
    corners = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def coco(images: dict[str, list[tuple[str, float, float, float, float]]], shape: tuple[int, int] = SHAPE) -> str:
    """Return a COCO file: by the name of an image its boxes (class, x, y, width, height)."""
    names = sorted({box[0] for boxes in images.values() for box in boxes})
    content = {
        "images": [
            {"id": number, "file_name": name, "height": shape[0], "width": shape[1]}
            for number, name in enumerate(images)
        ],
        "categories": [{"id": 10 + number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": 0, "image_id": number, "category_id": 10 + names.index(name), "bbox": list(box), "iscrowd": 0}
            for number, boxes in enumerate(images.values())
            for name, *box in boxes
        ],
    }
    return json.dumps(content)


def _paired(folder: Path, stem: str, rng: np.random.Generator) -> None:
    for role, pixels in zip(("source", "target"), filament_pair(rng, SHAPE), strict=True):
        save(folder / role / f"{stem}.tif", pixels)


def _labels(folder: Path, stem: str, rng: np.random.Generator) -> None:
    for role, pixels in zip(("source", "target"), nuclei_pair(rng, SHAPE), strict=True):
        save(folder / role / f"{stem}.tif", pixels)


def _classes(folder: Path, stem: str, rng: np.random.Generator) -> None:
    source, labels = nuclei_pair(rng, SHAPE)
    save(folder / "source" / f"{stem}.tif", source)
    save(folder / "target" / f"{stem}.tif", np.where(labels > 0, 1 + labels % 2, 0).astype(np.uint8))


def _sources(folder: Path, stem: str, rng: np.random.Generator) -> None:
    save(folder / "source" / f"{stem}.tif", filament_pair(rng, SHAPE)[0])


def _volumes(folder: Path, stem: str, rng: np.random.Generator) -> None:
    save(folder / "source" / f"{stem}.tif", filament_volumes(rng, VOLUME)[0], "ZYX")


def _boxes(folder: Path, stem: str, rng: np.random.Generator) -> None:
    source, labels = nuclei_pair(rng, SHAPE)
    save(folder / "source" / f"{stem}.tif", source)
    objects = []
    for number in np.unique(labels)[1:]:
        rows, columns = np.nonzero(labels == number)
        corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        objects.append(voc_object("large" if len(rows) > 150 else "small", *corners))
    (folder / "target").mkdir(exist_ok=True)
    (folder / "target" / f"{stem}.xml").write_text(voc(*objects))


def _coordinates(folder: Path, stem: str, rng: np.random.Generator) -> None:
    y, x = np.mgrid[: STACK[1], : STACK[2]] + 0.5
    stack, rows = np.full(STACK, 100.0), []
    for frame in range(STACK[0]):
        for _ in range(4):
            row, column = rng.uniform(3, STACK[1] - 3), rng.uniform(3, STACK[2] - 3)
            stack[frame] += 400 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2)
            place = f"{column * PIXEL_NM:.3f},{row * PIXEL_NM:.3f}"
            rows.append(f"{len(rows) + 1},{frame + 1},{place},110.0,2000.0")
    save(folder / "source" / f"{stem}.tif", rng.poisson(stack).astype(np.uint16), "TYX", PIXEL_NM)
    (folder / "target").mkdir(exist_ok=True)
    (folder / "target" / f"{stem}.csv").write_text("\n".join([_EXPORTED, *rows]) + "\n")


_WRITERS: dict[str, Callable[[Path, str, np.random.Generator], None]] = {
    "paired": _paired,
    "labels": _labels,
    "classes": _classes,
    "unpaired": _paired,
    "sources": _sources,
    "boxes": _boxes,
    "coordinates": _coordinates,
}
