"""Label images as they come from the field: no label is changed, and masks are not taken for labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from parfocal import v1
from parfocal.runtime.datasets.findings import Reading
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.kinds import require_suitable
from parfocal.runtime.datasets.labels import label_problem
from parfocal.runtime.datasets.objects import count_pieces, label_components, object_extents, without_soft_edges
from parfocal.runtime.datasets.report import FolderReport
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import inspect_image, read_image
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry

Write = Callable[[Path, NDArray[Any]], None]


def squares(seed: int = 0) -> NDArray[np.uint8]:
    """Return a label image of 16 squares with some space between them."""
    sizes = np.random.default_rng(seed).integers(6, 12, 16)
    labels = np.zeros((64, 64), np.uint8)
    for number, (size, (y, x)) in enumerate(zip(sizes, product(range(0, 64, 16), repeat=2), strict=True), start=1):
        labels[y + 2 : y + 2 + size, x + 2 : x + 2 + size] = number
    return labels


def tiff(path: Path, labels: NDArray[Any]) -> None:
    tifffile.imwrite(path.with_suffix(".tif"), labels, photometric="minisblack", metadata=None)


def table(kind: str) -> Write:
    """Return a writer of PNG files with a table of colours or greys."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (256, 3)) if kind == "colours" else np.repeat(rng.permutation(256)[:, None], 3, 1)

    def write(path: Path, labels: NDArray[Any]) -> None:
        picture = PIL.Image.fromarray(labels.astype(np.uint8), mode="P")
        picture.putpalette(colours.astype(np.uint8).tobytes())
        picture.save(path.with_suffix(".png"))

    return write


def folder_of(folder: Path, write: Write = tiff, target: Callable[[NDArray[Any]], NDArray[Any]] = lambda a: a) -> Path:
    """Write pairs of grey images and what `write` and `target` make of label images."""
    for split, numbers in (("train", range(3)), ("test", (7,))):
        for role in ("source", "target"):
            (folder / split / role).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            labels = squares(number)
            grey = np.random.default_rng(number).poisson(100 + 400 * (labels > 0)).astype(np.uint16)
            tiff(folder / split / "source" / f"f{number}", grey)
            write(folder / split / "target" / f"f{number}", target(labels))
    return folder


def published(report: FolderReport, folder: Path) -> dict[str, NDArray[Any]]:
    """Return the pixels that a dataset has, by the name of the file."""
    found = {}
    for item in report.items():
        item.write(folder / "item.tif")
        found[item.file] = read_image(folder / "item.tif").pixels
    return found


@pytest.mark.parametrize("kind", ["", "labels"])
@pytest.mark.parametrize("form", ["colours", "greys"])
def test_the_index_is_the_label_where_there_is_a_table(tmp_path: Path, kind: str, form: str) -> None:
    report = check_folder(folder_of(tmp_path, table(form)), kind=kind)
    assert report.kind == "labels"
    assert report.counts["train"]["objects"] == 48
    for number in range(3):
        written = published(report, tmp_path)[f"train/target/f{number}.tif"]
        np.testing.assert_array_equal(written, squares(number))
    assert not any("saturated" in text for text in report.warnings)
    assert sum("index is the label" in text for text in report.warnings) == 2  # one for each split


def test_class_images_with_a_table_keep_their_numbers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for split in ("train", "test"):
        (folder / split / "target_class").mkdir()
        for path in (folder / split / "target").iterdir():
            classes = np.where(read_image(path).pixels > 0, 1 + read_image(path).pixels % 2, 0)
            table("greys")(folder / split / "target_class" / path.stem, classes)
    report = check_folder(folder)
    assert report.class_values == (1, 2)
    assert set(np.unique(published(report, tmp_path)["train/target_class/f0.tif"])) == {0, 1, 2}


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_are_not_stretched(tmp_path: Path, bits: int) -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2**bits
    picture = PIL.Image.fromarray(labels.astype(bool) if bits == 1 else labels)
    path = tmp_path / "a.png"
    if bits == 1:
        picture.save(path)
    else:
        grey_png(path, labels, bits)
    np.testing.assert_array_equal(read_image(path, labels=True).pixels, labels)


def grey_png(path: Path, labels: NDArray[np.uint8], bits: int) -> None:
    """Write a grey PNG with few bits a pixel, which Pillow cannot."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    weights = 2 ** (bits * np.arange(8 // bits - 1, -1, -1))
    rows = [b"\0" + (row.reshape(-1, 8 // bits) * weights).sum(axis=1).astype(np.uint8).tobytes() for row in labels]
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize(
    ("offset", "dtype", "kept"),
    [(0, "float32", "uint16"), (70000, "float32", "uint32"), (70000, "float64", "uint32"), (70000, "uint32", "uint32")],
)
def test_whole_numbers_are_labels_however_they_are_stored(tmp_path: Path, offset: int, dtype: str, kept: str) -> None:
    folder = folder_of(tmp_path, target=lambda a: np.where(a > 0, a.astype(dtype) + offset, 0).astype(dtype))
    report = check_folder(folder)
    assert report.kind == "labels"
    written = published(report, tmp_path)["train/target/f0.tif"]
    assert written.dtype == kept
    np.testing.assert_array_equal(written, np.where(squares(0) > 0, squares(0) + np.uint32(offset), 0))
    assert any("decimal" in text for text in report.warnings) == dtype.startswith("float")


def test_grey_targets_of_whole_numbers_stay_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = folder_of(tmp_path, target=lambda a: rng.poisson(100, a.shape).astype(np.float32))
    report = check_folder(folder)
    assert report.kind == "paired"
    assert published(report, tmp_path)["train/target/f0.tif"].dtype == np.float32
    assert not any("decimal" in text for text in report.warnings)


def test_labels_painted_in_colours_are_refused_without_a_wrong_cure(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)

    def painted(path: Path, labels: NDArray[Any]) -> None:
        PIL.Image.fromarray(colours[labels]).save(path.with_suffix(".png"))

    with pytest.raises(InvalidInputError, match="different labels would get the same number"):
        check_folder(folder_of(tmp_path, painted), kind="labels")


@pytest.mark.parametrize("value", [1, 255])
def test_masks_are_no_label_images_unless_their_pieces_are_numbered(tmp_path: Path, value: int) -> None:
    folder = folder_of(tmp_path, target=lambda a: ((a > 0) * value).astype(np.uint8))
    with pytest.raises(InvalidInputError, match="--label-components"):
        check_folder(folder, kind="labels")
    report = check_folder(folder, label_components=True)
    assert report.kind == "labels"
    assert report.counts["train"]["objects"] == 48
    written = published(report, tmp_path)["train/target/f1.tif"]
    np.testing.assert_array_equal(written > 0, squares(1) > 0)
    assert len(np.unique(written)) == 17
    with pytest.raises(InvalidInputError):
        check_folder(folder, kind="classes", label_components=True)


def test_a_mask_among_label_images_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    tiff(folder / "train" / "target" / "f1", (squares(1) > 0).astype(np.uint8))
    told = [text for text in check_folder(folder).warnings if "separate regions" in text]
    assert len(told) == 1
    assert "target/f1.tif (16 regions, 1 number)" in told[0]


def test_a_method_for_objects_says_how_masks_become_labels() -> None:
    dataset = DatasetManifest(project="p", dataset="d", version=1, images=(), kind="classes")
    with pytest.raises(InvalidInputError, match="--label-components"):
        require_suitable(dataset, v1.TARGET_KIND_LABELS, "StarDist 2D")


def test_object_sizes_are_measured(tmp_path: Path) -> None:
    report = check_folder(folder_of(tmp_path))
    sizes = report.object_sizes["train"]
    every = np.concatenate([np.random.default_rng(number).integers(6, 12, 16) for number in range(3)])
    assert sizes.objects == 48
    assert sizes.largest == (every.max(),) * 2
    assert sizes.median == (np.median(every),) * 2
    manifest = report.manifest((), (), project="p", dataset="d", version=1)
    assert DatasetManifest.model_validate_json(manifest.to_bytes()).object_sizes["train"] == sizes


def test_manifests_of_before_are_read() -> None:
    image = ImageEntry(
        split="train", role="target", stem="a", file="train/target/a.tif", shape=(4, 4), dtype="uint8", axes="YX"
    )
    old = DatasetManifest(project="p", dataset="d", version=1, images=(image,)).model_dump(exclude={"object_sizes"})
    assert DatasetManifest.model_validate(old).object_sizes == {}


def flooded(labels: NDArray[Any]) -> int:
    """Return in how many pieces the labels of an image lie, found by flooding each of them."""
    todo, pieces = labels > 0, 0
    for start in zip(*np.nonzero(labels), strict=True):
        if not todo[start]:
            continue
        pieces, queue = pieces + 1, deque([start])
        todo[start] = False
        while queue:
            place = queue.popleft()
            for step in product((-1, 0, 1), repeat=labels.ndim):
                near = tuple(int(a) + b for a, b in zip(place, step, strict=True))
                inside = all(0 <= a < length for a, length in zip(near, labels.shape, strict=True))
                if inside and todo[near] and labels[near] == labels[place]:
                    todo[near] = False
                    queue.append(near)
    return pieces


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(7, 9), (1, 8), (9, 1), (3, 5, 6), (1, 1)]),
    st.sampled_from([np.uint8, np.int32, np.uint32]),
    st.integers(1, 3),
)
def test_components_and_extents(seed: int, shape: tuple[int, ...], dtype: type, values: int) -> None:
    labels: NDArray[Any] = np.random.default_rng(seed).integers(0, values + 1, shape).astype(dtype)
    numbered = label_components(labels)
    assert count_pieces(labels).pieces == numbered.max(initial=0) == flooded(labels) == flooded(numbered)
    np.testing.assert_array_equal(numbered > 0, labels > 0)
    places = [np.argwhere(labels == value) for value in np.unique(labels[labels > 0])]
    expected = [place.max(axis=0) - place.min(axis=0) + 1 for place in places]
    np.testing.assert_array_equal(object_extents(labels), np.reshape(expected, (-1, labels.ndim)))


@pytest.mark.parametrize("kind", ["", "labels"])
@pytest.mark.parametrize(
    "target",
    [
        lambda a: ((a == 0) * 255).astype(np.uint8),  # an inverted mask
        lambda a: (a + 1).astype(np.uint16),  # background 1
        lambda a: np.where(a > 0, a - 1, np.uint16(65535)),  # background at the other end
    ],
)
def test_a_background_that_is_not_0_is_named(
    tmp_path: Path, kind: str, target: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    report = check_folder(folder_of(tmp_path, target=target), kind=kind)
    assert report.kind == "labels"
    told = [text for text in report.warnings if "as a background does" in text]
    assert len(told) == 2  # one for each split
    assert "does: 3 (target/f0.tif" in told[0]
    assert "does: 1 (target/f7.tif" in told[1]


def test_numbers_below_0_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, target=lambda a: np.where(a > 0, a.astype(np.int16), -1))
    report = check_folder(folder, kind="labels")
    told = [text for text in report.warnings if "below 0" in text]
    assert len(told) == 2
    assert ": 3 (target/f0.tif" in told[0]
    assert published(report, tmp_path)["train/target/f0.tif"].min() == -1


def test_label_images_without_any_object_are_told(tmp_path: Path) -> None:
    report = check_folder(folder_of(tmp_path, target=np.zeros_like), kind="labels")
    assert sum("no object in any" in text for text in report.warnings) == 2
    report = check_folder(folder_of(tmp_path, target=np.ones_like), kind="classes")
    assert sum("two classes or more" in text for text in report.warnings) == 1


@pytest.mark.parametrize("scale", [1, 15])
@pytest.mark.parametrize("how", [{"kind": "labels"}, {"kind": "classes"}, {"label_components": True}, {}])
def test_jpeg_images_are_no_labels(tmp_path: Path, scale: int, how: dict[str, Any]) -> None:
    def jpeg(path: Path, labels: NDArray[Any]) -> None:
        PIL.Image.fromarray((labels * scale).astype(np.uint8)).save(path.with_suffix(".jpg"), quality=100)

    folder = folder_of(tmp_path, jpeg)
    if not how:
        report = check_folder(folder)
        assert report.kind == "paired"
        assert "JPEG" in report.told_by
        return
    with pytest.raises(InvalidInputError) as caught:
        check_folder(folder, **how)
    assert {each.field for each in caught.value.violations} >= {f"train/target/f{number}.jpg" for number in range(3)}
    assert all("JPEG" in each.description for each in caught.value.violations)


def test_labels_that_need_64_bits_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    wide = folder_of(tmp_path / "wide", target=lambda a: np.where(a > 0, a.astype(np.int64) + 2**40, 0))
    with pytest.raises(InvalidInputError, match="64-bit") as caught:
        check_folder(wide)
    assert len(caught.value.violations) == 4
    narrow = check_folder(folder_of(tmp_path / "narrow", target=lambda a: a.astype(np.int64)))
    np.testing.assert_array_equal(published(narrow, tmp_path)["train/target/f0.tif"], squares(0))


@pytest.mark.parametrize(("dtype", "exact"), [("float16", 2048), ("float32", 2**24)])
def test_decimal_numbers_that_cannot_hold_all_labels_are_named(tmp_path: Path, dtype: str, exact: int) -> None:
    for offset, told in ((0, False), (exact, True)):
        tiff(tmp_path / "a", np.where(squares(0) > 0, squares(0) + np.float64(offset), 0).astype(dtype))
        image = read_image(tmp_path / "a.tif", labels=True)
        assert ("labels-rounded" in [note.code for note in image.notes]) == told


def test_one_label_in_two_pieces_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    tiff(folder / "train" / "target" / "f1", np.where(squares(1) == 2, 1, squares(1)))
    told = [text for text in check_folder(folder).warnings if "separate regions" in text]
    assert len(told) == 1
    assert "1 (target/f1.tif (16 regions, 15 numbers))" in told[0]


def test_masks_in_colours_that_are_all_grey_may_be_converted(tmp_path: Path) -> None:
    def coloured(path: Path, labels: NDArray[Any]) -> None:
        PIL.Image.fromarray(np.dstack([((labels > 0) * 255).astype(np.uint8)] * 3)).save(path.with_suffix(".png"))

    with pytest.raises(InvalidInputError, match="no value changes"):
        check_folder(folder_of(tmp_path, coloured), kind="labels")


@pytest.mark.parametrize("bits", [1, 8])
def test_white_is_foreground_in_masks_whichever_comes_first_in_the_table(tmp_path: Path, bits: int) -> None:
    mask = squares(0) > 0
    for first, stored in (("black", mask), ("white", ~mask)):
        path = tmp_path / f"{first}.png"
        two_colours(first, stored).save(path, bits=bits)
        read = read_image(path, labels=True)
        np.testing.assert_array_equal(read.pixels, mask)
        assert [note.code for note in read.notes] == ["labels-from-table" if first == "black" else "white-is-zero"]


def two_colours(first: str, stored: NDArray[Any]) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(stored.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255] if first == "black" else [255, 255, 255, 0, 0, 0])
    return picture


def test_a_bitmap_that_its_reader_would_scramble_is_refused(tmp_path: Path) -> None:
    mask = squares(0) > 0
    two_colours("black", mask).save(tmp_path / "a.bmp")  # eight bits for two colours
    with pytest.raises(InvalidInputError, match="8 bits"):
        inspect_image(tmp_path / "a.bmp", labels=True)
    PIL.Image.fromarray(mask).save(tmp_path / "b.bmp")
    np.testing.assert_array_equal(read_image(tmp_path / "b.bmp", labels=True).pixels, mask)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_colour_tables_of_greys_are_grey_in_every_format(tmp_path: Path, suffix: str) -> None:
    greys, index = np.arange(255, -1, -1).astype(np.uint8), np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = PIL.Image.fromarray(index, mode="P")
    picture.putpalette(np.repeat(greys, 3).tobytes())
    picture.save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.pixels, greys[index])
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}", labels=True).pixels, index)


def soft_mask(how: str) -> NDArray[np.uint8]:
    """Return five discs with edges that are no step."""
    y, x = np.indices((256, 256))
    hard = np.zeros((256, 256), np.uint8)
    for top, left in [(40, 40), (40, 120), (150, 60), (200, 200), (100, 200)]:
        hard[(y - top) ** 2 + (x - left) ** 2 < 400] = 255
    if how == "blurred":
        return ndimage.gaussian_filter(hard, 3)
    return np.array(PIL.Image.fromarray(hard).resize((300, 300), PIL.Image.Resampling[how]))


@pytest.mark.parametrize("how", ["BILINEAR", "BICUBIC", "LANCZOS", "blurred"])
def test_soft_edges_of_a_mask_are_no_objects(how: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PIL.Image.fromarray(soft_mask(how)).save(path)
    image = Reading(labels=True, components=True).read(path)
    assert image.pixels.max() == 5
    assert "soft-edges" in [note.code for note in image.notes]
    area = np.bincount(image.pixels.ravel())[1:] * (256 / image.pixels.shape[0]) ** 2
    np.testing.assert_allclose(area, np.pi * 400, rtol=0.06)


@pytest.mark.parametrize("size", [3, 10])
def test_labels_and_class_images_have_no_soft_edges(size: int) -> None:
    rows, columns = np.indices((60, 60)) // size
    labels = (1 + rows * (60 // size) + columns).astype(np.uint16)
    assert without_soft_edges(labels) is None
    assert without_soft_edges(np.where(np.indices((60, 60)).sum(axis=0) % 5 == 0, 0, labels)) is None
    walls = np.full((60, 60), 2, np.uint8)
    walls[::size], walls[:, ::size] = 1, 1
    assert without_soft_edges(walls) is None
    assert without_soft_edges(np.zeros((8, 8), np.uint8)) is None


@pytest.mark.parametrize("radius", [15, 60])
def test_masks_with_soft_edges_are_no_label_images_whatever_their_size(radius: int) -> None:
    y, x = np.indices((400, 400))
    hard = np.zeros((400, 400), np.uint8)
    for top, left in [(80, 80), (80, 300), (300, 200)]:
        hard[(y - top) ** 2 + (x - left) ** 2 < radius**2] = 255
    assert label_problem(hard) == ""
    assert label_problem(ndimage.label(hard)[0]) == ""
    soft = np.array(PIL.Image.fromarray(hard).resize((500, 500), PIL.Image.Resampling.BILINEAR))
    assert "--label-components" in label_problem(soft)
