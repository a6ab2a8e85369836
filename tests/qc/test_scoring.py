"""Scoring one image of a restoration from its files: what is written beside the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from parfocal.qc.evaluation.inputs import Item
from parfocal.qc.evaluation.score_each import PredictionError
from parfocal.qc.metrics.baselines.gaussian import BaselineChoice
from parfocal.qc.metrics.images.restoration import score_restoration
from parfocal.qc.restoration.scoring import score_item
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image

GAUSSIAN = BaselineChoice(1.0, ((1.0, 30.0),), 1)


def write_item(folder: Path, axes: str, size: PixelSize | None, **changed: Any) -> Item:
    """An item of that many axes with three planes, the first of them empty; `changed` replaces images."""
    random = np.random.default_rng(0)
    shape = (3, 24, 30)[3 - len(axes) :]
    target = (500 + 200 * gaussian_filter(random.standard_normal(shape), 2)).astype(np.float32)
    if len(axes) == 3:
        target[0] = 500
    noise = 20 * random.standard_normal(shape).astype(np.float32)
    images = {"source": target + noise, "target": target, "prediction": target + noise / 4, **changed}
    for role, pixels in images.items():
        write_image(folder / f"{role}.tif", Image(pixels.astype(np.float32), axes, size if role == "target" else None))
    paths = {role: folder / f"{role}.tif" for role in images}
    return Item("cell", "target", **paths, source_sha256="", pixel_size=None, shape=shape, voxel_um=None)


@pytest.mark.parametrize(
    ("axes", "size"),
    [
        ("YX", PixelSize(0.2, 0.3)),
        ("ZYX", PixelSize(0.2, 0.3, 1.5)),
        ("TYX", PixelSize(0.2, 0.3)),
        ("ZYX", None),
    ],
)
def test_maps_have_the_axes_and_the_pixel_size_of_their_image(
    tmp_path: Path, axes: str, size: PixelSize | None
) -> None:
    item = write_item(tmp_path, axes, size)
    score_item(item, GAUSSIAN, windows=100, folder=tmp_path / "maps")
    prediction, target = (read_image(path).pixels for path in (item.prediction, item.target))
    for name in ("ssim", "rse"):
        image = read_image(tmp_path / "maps" / "prediction" / name / "cell.tif")
        assert image.axes == axes
        assert image.pixel_size == size
        assert image.pixels.dtype == np.float32
        last = (-1,) if len(axes) == 3 else ()
        _, expected = score_restoration(prediction[last], target[last])
        np.testing.assert_array_equal(image.pixels[last], getattr(expected, name))
        if len(axes) == 3:
            assert np.isnan(image.pixels[0]).all()  # an empty plane has no score


@pytest.mark.parametrize("role", ["source", "target", "prediction"])
def test_who_is_to_blame_for_what_cannot_be_scored(tmp_path: Path, role: str) -> None:
    item = write_item(tmp_path, "YX", None, **{role: np.full((24, 30), np.nan)})
    with pytest.raises(InvalidInputError, match=r"^cell.* NaN") as caught:
        score_item(item, GAUSSIAN, windows=100)
    assert isinstance(caught.value, PredictionError) == (role == "prediction")


def test_a_file_that_is_no_image_is_a_failed_prediction(tmp_path: Path) -> None:
    item = write_item(tmp_path, "YX", None)
    item.prediction.write_bytes(b"no image")
    with pytest.raises(PredictionError, match=r"^cell"):
        score_item(item, GAUSSIAN, windows=100)
