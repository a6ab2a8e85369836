"""The tables of localisations that the runtime writes for Picasso, read with h5py, which is in this environment."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.prediction.picasso import PicassoFile


def located(frames: list[int], **more: np.ndarray) -> Localisations:
    numbers = np.array(frames)
    return Localisations(numbers, numbers + 0.25, numbers + 0.5, **{"intensity": np.full(len(numbers), np.nan), **more})


def read(folder: Path) -> np.ndarray:
    with h5py.File(folder / "picasso" / "stack.hdf5") as file:
        assert list(file) == ["locs"]
        return np.asarray(file["locs"][:])


def test_rows_that_come_in_parts_are_one_table(tmp_path: Path) -> None:
    file = PicassoFile(tmp_path, "stack", 7, (64, 80), PixelSize(0.1, 0.1))
    file.write(located([], uncertainty=np.zeros(0), confidence=np.zeros(0)))
    for frames in ([0, 1], [4]):
        file.write(located(frames, uncertainty=np.full(len(frames), 0.125), confidence=np.full(len(frames), 0.75)))
    assert file.finish() == {"picasso": "picasso/stack.hdf5", "picasso_info": "picasso/stack.yaml"}
    table = read(tmp_path)
    # Picasso drops rows with gaps, so there is no column of photons.
    assert table.dtype.names == ("frame", "x", "y", "lpx", "lpy", "confidence")
    assert table.tolist() == [(frame, frame + 0.5, frame + 0.25, 0.125, 0.125, 0.75) for frame in (0, 1, 4)]
    lines = (tmp_path / "picasso" / "stack.yaml").read_text().splitlines()
    assert {"Frames: 7", "Height: 64", "Width: 80", "Pixelsize: 100"} <= set(lines)


def test_known_photons_and_stacks_without_emitters(tmp_path: Path) -> None:
    file = PicassoFile(tmp_path, "stack", 7, (64, 80), PixelSize(0.1, 0.1))
    file.write(located([2], intensity=np.array([1500.0])))
    file.finish()
    assert read(tmp_path).tolist() == [(2, 2.5, 2.25, 1500.0)]
    PicassoFile(tmp_path, "stack", 7, (64, 80), PixelSize(0.1, 0.1)).finish()
    assert len(read(tmp_path)) == 0
