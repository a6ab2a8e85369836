"""Fields of view: counted, and found in training and test, whatever their brightness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from parfocal.runtime.datasets.fields import Fields
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.images.files import Image, write_image
from parfocal.runtime.images.similarity import pattern_of


def scene(seed: int, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return (60_000 * (values - values.min()) / np.ptp(values)).astype(np.uint16)


def test_frames_of_one_field_are_one_field() -> None:
    fields, rng = Fields(), np.random.default_rng(0)
    for seed in range(3):
        for frame in range(4):
            noisy = scene(seed).astype(np.float32) * (1 - 0.1 * frame) + rng.normal(0, 500, (96, 128))
            fields.add("train", f"{seed}-{frame}", pattern_of(Image(noisy.astype(np.float32), "YX")))
    fields.add("test", "other", pattern_of(Image(scene(9), "YX")))
    assert fields.counts() == {"train": 3, "test": 1}
    assert not fields.warnings()


@pytest.mark.parametrize("axes", ["YX", "ZYX", "YXS", "CYX"])
def test_a_field_in_both_parts_is_named(axes: str) -> None:
    fields = Fields()
    for split, name, seed in (("train", "a.tif", 1), ("train", "b.tif", 2), ("test", "c.tif", 2)):
        pixels = scene(seed)
        if axes != "YX":
            pixels = np.stack([pixels, pixels // 2, pixels // 3], axis=2 if axes == "YXS" else 0)
        fields.add(split, name, pattern_of(Image(pixels, axes)))
    (text,) = fields.warnings()
    assert "c.tif" in text
    assert "b.tif" in text
    assert "a.tif" not in text


def test_small_and_even_images_are_fields_of_their_own() -> None:
    fields = Fields()
    for number in range(3):
        fields.add("train", f"{number}", pattern_of(Image(np.ones((16, 16), np.uint8), "YX")))
        fields.add("train", f"even {number}", pattern_of(Image(np.ones((64, 64), np.uint8), "YX")))
    assert fields.counts() == {"train": 6}


def test_a_folder_tells_its_fields_and_what_is_in_both_parts(tmp_path: Path) -> None:
    for split, seeds in (("train", (1, 1, 2, 3)), ("test", (3, 4))):
        for number, seed in enumerate(seeds):
            for role in ("source", "target"):
                place = tmp_path / split / role / f"image{number}.tif"
                place.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(10 * number + len(split) + len(role)).normal(0, 300, (96, 128))
                write_image(place, Image((scene(seed) + noise).astype(np.float32), "YX"))
    report = check_folder(tmp_path)
    assert report.field_counts == {"train": 3, "test": 2}
    manifest = report.manifest((), (), project="default", dataset="fields", version=1)
    assert manifest.field_counts == report.field_counts
    assert sum("test/source/image0.tif" in text and "train/source/image3.tif" in text for text in report.warnings) == 1
