"""Results as OME-Zarr and Parquet, on the way to this computer."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from support import Ended, ServiceProcess, mentions
from zarrs import write_image as write_input
from zarrs import write_plate

from parfocal.client.convert import convert
from parfocal.client.exports import Exporter, Formats
from parfocal.client.formats.zarr_writer import write_zarr
from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.images.acquired import Acquired
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.store.manifests import FileEntry, ResultFile, ResultManifest

VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])
RNG = np.random.default_rng(3)
PLANE = RNG.integers(0, 4000, (1100, 700), dtype=np.uint16)


def described(folder: Path, version: str) -> dict[str, Any]:
    attributes = zarr.open_group(str(folder), mode="r").attrs.asdict()
    content: dict[str, Any] = attributes["ome"] if version == "0.5" else attributes
    assert (content if version == "0.5" else content["multiscales"][0])["version"] == version
    return content


def levels(folder: Path) -> list[NDArray[Any]]:
    group = zarr.open_group(str(folder), mode="r")
    return [np.asarray(group[name][...]) for name in sorted(group.array_keys())]


@VERSIONS
def test_an_image_has_levels_axes_and_size(tmp_path: Path, version: Any) -> None:
    write_zarr(tmp_path / "a.ome.zarr", Image(PLANE, "YX", PixelSize(0.2, 0.1)), name="a", version=version)
    (multiscale,) = described(tmp_path / "a.ome.zarr", version)["multiscales"]
    assert [(axis["name"], axis["type"], axis["unit"]) for axis in multiscale["axes"]] == [
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    scales = [each["coordinateTransformations"][0]["scale"] for each in multiscale["datasets"]]
    assert np.allclose(scales, [[0.1, 0.2], [0.2, 0.4], [0.4, 0.8]])
    full, half, quarter = levels(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(full, PLANE)
    assert (half.shape, quarter.shape) == ((550, 350), (275, 175))
    means = PLANE.reshape(550, 2, 350, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(half, np.rint(means))
    group = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="r")
    assert group.metadata.zarr_format == (3 if version == "0.5" else 2)
    assert [each.name for each in tmp_path.iterdir()] == ["a.ome.zarr"]


@VERSIONS
def test_viewers_show_each_channel_from_dark_to_bright(tmp_path: Path, version: Any) -> None:
    pixels = np.stack([RNG.integers(100, 300, (80, 90)), RNG.integers(5000, 9000, (80, 90))]).astype(np.uint16)
    write_zarr(tmp_path / "a.ome.zarr", Image(pixels, "CYX"), name="a", version=version)
    for channel, plane in zip(described(tmp_path / "a.ome.zarr", version)["omero"]["channels"], pixels, strict=True):
        window = channel["window"]
        assert (window["min"], window["max"]) == (0, 65_535)
        assert plane.min() <= window["start"] < np.median(plane) < window["end"] <= plane.max()


@VERSIONS
@pytest.mark.parametrize(
    ("shape", "axes", "dtype"),
    [
        ((3, 2, 20, 40, 50), "TCZYX", "u2"),
        ((20, 600, 50), "ZYX", "f4"),
        ((2, 513, 1027), "CYX", "u1"),
        ((4, 30, 40), "TYX", "i4"),
    ],
)
def test_what_was_written_is_read_as_it_was(
    tmp_path: Path, version: Any, shape: tuple[int, ...], axes: str, dtype: str
) -> None:
    pixels = RNG.integers(0, 200, shape).astype(dtype)
    known = Acquired(("DAPI", "GFP")[: dict(zip(axes, shape, strict=True)).get("C", 0)], 2.0 if "T" in axes else None)
    image = Image(pixels, axes, PixelSize(0.2, 0.1, 0.5 if "Z" in axes else None), acquired=known)
    write_zarr(tmp_path / "a.ome.zarr", image, name="a", version=version)
    (tmp_path / "out").mkdir()
    made, _ = convert(tmp_path / "a.ome.zarr", tmp_path / "out")
    again = read_image(made)
    assert (again.axes, again.pixel_size, again.pixels.dtype) == (axes, image.pixel_size, pixels.dtype)
    assert again.acquired == known
    np.testing.assert_array_equal(again.pixels, pixels)


@VERSIONS
def test_labels_say_that_they_are_labels_and_are_never_averaged(tmp_path: Path, version: Any) -> None:
    labels = (RNG.integers(0, 3, PLANE.shape) * 70_000).astype(np.uint32)
    write_zarr(tmp_path / "a.ome.zarr", Image(labels, "YX"), name="a", labels=True, version=version)
    content = described(tmp_path / "a.ome.zarr", version)
    assert "image-label" in content
    assert "unit" not in content["multiscales"][0]["axes"][0]
    full, half, _ = levels(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(full, labels)
    np.testing.assert_array_equal(half, labels[::2, ::2])


def test_colours_become_channels_that_viewers_show_as_colours(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (60, 70, 3), dtype=np.uint8)
    write_zarr(tmp_path / "a.ome.zarr", Image(pixels, "YXS"), name="a")
    content = described(tmp_path / "a.ome.zarr", "0.5")
    assert [each["color"] for each in content["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]
    np.testing.assert_array_equal(levels(tmp_path / "a.ome.zarr")[0], np.moveaxis(pixels, -1, 0))
    made, _ = convert(tmp_path / "a.ome.zarr", tmp_path, axes="YXS")
    np.testing.assert_array_equal(read_image(made).pixels, pixels)


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("parfocal.client.formats.zarr_writer._multiscale", fail)
    with pytest.raises(KeyboardInterrupt):
        write_zarr(tmp_path / "a.ome.zarr", Image(PLANE, "YX"), name="a")
    assert not list(tmp_path.iterdir())


def entry(name: str) -> FileEntry:
    return FileEntry(name=name, size=1, sha256="")


def exporter(formats: Formats) -> Exporter:
    names = ("a0001/cells.tif", "a0001/objects/cells.csv", "a0001/trackmate/cells.csv", "a0001/overlay/cells.png")
    outputs = {"prediction": names[0], "objects": names[1]}
    result = ResultManifest(
        project="p",
        job="j",
        service="s",
        method="m",
        kind="prediction",
        files=tuple(entry(name) for name in names),
        images=(ResultFile(input="cells.tif", input_sha256="", outputs=outputs),),
    )
    return formats.exporter("s3://results/p/j", result)


def test_names_and_labels_follow_the_formats(tmp_path: Path) -> None:
    made = exporter(Formats("ome-zarr"))
    assert made.name(entry("a0001/cells.tif")) == "cells.ome.zarr"
    assert made.name(entry("a0001/objects/cells.csv")) == "objects/cells.csv"
    assert made.name(entry("a0001/overlay/cells.png")) == "overlay/cells.png"
    write_image(tmp_path / "part", Image((PLANE % 7).astype(np.uint16), "YX"))
    (tmp_path / "part").rename(tmp_path / "fetched")
    made.finish(entry("a0001/cells.tif"), tmp_path / "fetched", tmp_path / "cells.ome.zarr")
    assert "image-label" in described(tmp_path / "cells.ome.zarr", "0.5")


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow (extra `formats`) is not installed here")
def test_tables_become_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet

    made = exporter(Formats(tables="parquet"))
    assert made.name(entry("a0001/objects/cells.csv")) == "objects/cells.parquet"
    assert made.name(entry("a0001/trackmate/cells.csv")) == "trackmate/cells.csv"
    with (tmp_path / "part").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "area [µm²]", "class"])
        writer.writerows([number, "7" if number < 90_000 else "7.5", "cell"] for number in range(100_000))
    made.finish(entry("a0001/objects/cells.csv"), tmp_path / "part", tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("label", "int64"),
        ("area [µm²]", "double"),
        ("class", "string"),
    ]
    assert (table.num_rows, table["area [µm²]"][-1].as_py()) == (100_000, 7.5)


def test_without_pyarrow_its_absence_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("parfocal.client.formats.tables.find_spec", lambda _: None)
    with pytest.raises(PreconditionError, match=r"parfocal\[formats\]"):
        exporter(Formats(tables="parquet"))


@pytest.fixture(scope="module")
def services(share_service: Callable[..., ServiceProcess]) -> dict[str, ServiceProcess]:
    return {"fake": share_service("fake")}


def test_from_zarr_to_zarr_by_command(run: Callable[..., Ended], images: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    for path in sorted((images / "train" / "source").iterdir()):
        pixels = read_image(path).pixels
        place = chosen / "train" / "source" / f"{path.stem}.ome.zarr"
        write_input(place, np.stack([pixels[::-1], pixels]), "CYX", channels=("DAPI", "GFP"))
    (chosen / "train" / "target").symlink_to(images / "train" / "target")
    assert run("dataset", "create", "chosen", chosen, "--channel", "GFP").code == 0
    trained = run("train", "fake-2d", "--dataset", "chosen", "--model", "m", "--no-qc", "--json")
    assert trained.code == 0, trained.err
    plate = tmp_path / "plate.zarr"
    write_plate(plate, ["A/1", "B/2"], 2, "0.5")
    out = tmp_path / "out"
    options = ("--model", "m", "--output", out, "--images", "ome-zarr")
    done = run("predict", plate, *options, "--well", "B*", "--json")
    assert done.code == 0, done.err
    assert sorted(each.name for each in out.iterdir()) == ["plate_B02_f0.ome.zarr", "plate_B02_f1.ome.zarr"]
    assert levels(out / "plate_B02_f0.ome.zarr")[0].shape == (64, 80)
    (multiscale,) = described(out / "plate_B02_f0.ome.zarr", "0.5")["multiscales"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [0.2, 0.2]
    again = run("predict", plate, *options, "--well", "B*")
    assert (again.code, mentions(again.err, "plate_B02_f0.ome.zarr", "--overwrite")) == (2, True)
    job = done.json["job"]["id"]
    assert run("jobs", "download", job, "--output", out, "--images", "ome-zarr").code == 2
    replaced = run("jobs", "download", job, "--output", out, "--images", "ome-zarr-0.4", "--overwrite")
    assert replaced.code == 0, replaced.err
    described(out / "plate_B02_f0.ome.zarr", "0.4")

    # What was taken in the training is taken again, where the files have it; the plate has no channels.
    pixels = np.stack([PLANE[:64, :80], PLANE[100:164, :80]])
    write_input(tmp_path / "in" / "two.ome.zarr", pixels, "CYX", channels=("DAPI", "GFP"))
    same = run("predict", tmp_path / "in", "--model", "m", "--output", tmp_path / "two")
    assert (same.code, "--channel GFP" in same.out + same.err) == (0, True), same.err
    write_input(tmp_path / "more" / "two.ome.zarr", pixels, "CYX", channels=("red", "green"))
    refused = run("predict", tmp_path / "more", "--model", "m", "--output", tmp_path / "two", "--overwrite")
    assert refused.code == 2
    assert "two.ome.zarr" in refused.err
    assert [each.name for each in (tmp_path / "two").iterdir()] == ["two.tif"]
    whole = run("predict", tmp_path / "in", "--model", "m", "--output", tmp_path / "in", "--images", "ome-zarr")
    assert (whole.code, mentions(whole.err, "would replace")) == (2, True)


def test_a_dataset_from_a_plate_by_command(run: Callable[..., Ended], tmp_path: Path) -> None:
    write_plate(tmp_path / "plate.zarr", ["A/1", "A/2", "B/1"], 2)
    made = run("dataset", "create", "wells", tmp_path / "plate.zarr", "--test-well", "B*", "--json")
    assert made.code == 0, made.err
    assert (made.json["kind"], made.json["train"], made.json["test"]) == ("sources", 4, 2)
    assert "test wells B*" in run("dataset", "show", "wells").out
    shown = run("dataset", "show", "wells", "--json").json
    assert shown["part"] == "--test-well 'B*'"
    assert {image["stem"] for image in shown["images"] if image["split"] == "test"} == {"plate_B01_f0", "plate_B01_f1"}
    refused = run("dataset", "check", "wells", "--well", "A*")
    assert (refused.code, "--well" in refused.err) == (2, True)
