"""OME-Zarr as other programs write it, for tests: images, labels, plates, and several images in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

TYPES = {"t": "time", "c": "channel"}


def axes_of(letters: str, units: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Return axes as versions from 0.4 on write them."""
    found = []
    for name in letters.lower():
        axis = {"name": name, "type": TYPES.get(name, "space")}
        unit = {"z": "micrometer", "y": "micrometer", "x": "micrometer"}.get(name) if units is None else units.get(name)
        found.append({**axis, **({"unit": unit} if unit else {})})
    return found


def write_group(folder: Path, attributes: Mapping[str, Any], version: str = "0.4") -> None:
    """Write a group with attributes of OME."""
    group = zarr.open_group(str(folder), mode="a", zarr_format=3 if version == "0.5" else 2)
    if version == "0.5":
        group.attrs["ome"] = {**group.attrs.asdict().get("ome", {}), "version": version, **attributes}
    else:
        group.attrs.update(dict(attributes))


def write_array(folder: Path, pixels: NDArray[Any], version: str = "0.4", **options: Any) -> Any:
    """Write an array of blocks of at most 64 x 64 pixels."""
    chunks = options.pop("chunks", (*(1,) * (pixels.ndim - 2), *(min(64, length) for length in pixels.shape[-2:])))
    array = zarr.create_array(
        str(folder),
        shape=pixels.shape,
        dtype=options.pop("dtype", pixels.dtype),
        chunks=chunks,
        zarr_format=3 if version == "0.5" else 2,
        **options,
    )
    array[...] = pixels
    return array


def write_image(
    folder: Path,
    pixels: NDArray[Any],
    letters: str,
    version: str = "0.4",
    *,
    scale: Sequence[float] | None = None,
    axes: Any = None,
    channels: Sequence[str] = (),
    name: str = "",
    **options: Any,
) -> Path:
    """Write an image with two levels, the second of half the size."""
    scale = list(scale or (1.0,) * pixels.ndim)
    datasets = []
    for level, part in enumerate((pixels, pixels[..., ::2, ::2])):
        write_array(folder / str(level), part, version, **options)
        own = [value * 2**level if letter in "YX" else value for value, letter in zip(scale, letters, strict=True)]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": own}]})
    multiscale = {"axes": axes_of(letters) if axes is None else axes, "datasets": datasets, "name": name}
    if version != "0.5":
        multiscale["version"] = version
    omero = {"omero": {"channels": [{"label": each} for each in channels]}} if channels else {}
    write_group(folder, {"multiscales": [multiscale], **omero}, version)
    return folder


def write_labels(folder: Path, name: str, labels: NDArray[Any], letters: str, version: str = "0.4") -> None:
    """Write labels of the image in a folder."""
    write_image(folder / "labels" / name, labels, letters, version)
    write_group(folder / "labels" / name, {"image-label": {"version": version}}, version)
    write_group(folder / "labels", {"labels": [name]}, version)


def write_plate(
    folder: Path, wells: Sequence[str], fields: int, version: str = "0.4", *, shape: tuple[int, int] = (64, 80)
) -> dict[str, NDArray[np.uint16]]:
    """Write a plate whose wells ("B/3") have some fields each, and return the pixels by "B/3/0"."""
    rng = np.random.default_rng(7)
    rows, columns = (sorted({well.split("/")[at] for well in wells}) for at in (0, 1))
    write_group(
        folder,
        {
            "plate": {
                "rows": [{"name": name} for name in rows],
                "columns": [{"name": name} for name in columns],
                "field_count": fields,
                "wells": [
                    {"path": well, "rowIndex": rows.index(well[0]), "columnIndex": columns.index(well.split("/")[1])}
                    for well in wells
                ],
            }
        },
        version,
    )
    made = {}
    for well in wells:
        write_group(folder / well.split("/")[0], {}, version)
        write_group(folder / well, {"well": {"images": [{"path": str(field)} for field in range(fields)]}}, version)
        for field in range(fields):
            pixels = rng.integers(100, 4000, shape, dtype=np.uint16)
            write_image(folder / well / str(field), pixels, "YX", version, scale=(0.2, 0.2))
            made[f"{well}/{field}"] = pixels
    return made
