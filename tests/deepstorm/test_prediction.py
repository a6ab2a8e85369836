"""What comes out of a stack: places, images, counts and drift, with frames read one by one."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.deepstorm.heatmaps import SPIKE
from parfocal.deepstorm.network import DeepStorm
from parfocal.deepstorm.parameters import DeepStormParameters, DeepStormPredictionParameters
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.methods.implementation import ModelView
from parfocal.runtime.prediction.outputs import Predicted, ResultOutputs
from parfocal.runtime.prediction.unit import ArrayUnit, Stack
from parfocal.runtime.store.facts import Facts, Port

UPSAMPLING = 4
SIZE = PixelSize(0.1, 0.1)
FACTS = Facts(inputs=(Port(role="source"),), targets=()).with_measured(threshold=0.5, localisation_sd_px=0.25)


class PerfectLearner:
    """Stands for a trained network: a spike in the middle of each pixel that is bright."""

    def predict_batch(self, inputs: Any) -> Any:
        batch, height, width, _ = inputs.shape
        output = np.zeros((batch, height * UPSAMPLING, width * UPSAMPLING, 1), np.float32)
        number, y, x, _ = np.nonzero(inputs > 0.5)
        output[number, y * UPSAMPLING + 2, x * UPSAMPLING + 2] = SPIKE
        return output


@dataclass(frozen=True)
class WatchedUnit(ArrayUnit):
    """A unit of which no more than one frame may be read at a time."""

    def read(self, window: Any = None) -> Any:
        assert window is not None
        assert window[0].stop - window[0].start == 1
        return super().read(window)


def predict(stack: np.ndarray, folder: Path, **parameters: Any) -> tuple[Predicted, dict[str, list[dict[str, str]]]]:
    outputs = ResultOutputs(folder, "a", "TYX", Stack(), SIZE)
    trained = DeepStormParameters(upsampling=UPSAMPLING, first_filters=2)
    DeepStorm().predict(
        PerfectLearner(),  # type: ignore[arg-type]
        WatchedUnit(stack, "TYX", 2**20, None, SIZE),
        ModelView(trained, FACTS, DeepStorm.normaliser, "TYX"),
        DeepStormPredictionParameters(**parameters),
        outputs.unit(0, stack.shape),
    )
    made = outputs.finish()
    tables = {}
    for kind in made.tables:
        with (folder / made.files[kind]).open(newline="") as file:
            tables[kind] = list(csv.DictReader(file))
    return made, tables


def test_a_known_place_comes_out_in_nanometres(tmp_path: Path) -> None:
    stack = np.full((3, 20, 24), 100, np.uint16)
    stack[0, 5, 7] = stack[2, 11, 3] = 9000
    made, tables = predict(stack, tmp_path)
    # The middle of the third of four fine pixels of pixel 7 is at 7.625 pixels.
    assert [tuple(row.values()) for row in tables["localisations"]] == [
        ("1", "762.50", "562.50", "NaN", "25.00", "1.00"),
        ("3", "362.50", "1162.50", "NaN", "25.00", "1.00"),
    ]
    assert [(row["frame"], row["localisations"]) for row in tables["frames"]] == [("1", "1"), ("2", "0"), ("3", "1")]
    image = made.images["prediction"]
    assert (image.axes, image.pixels.shape, image.pixels.sum()) == ("YX", (80, 96), pytest.approx(2))
    assert image.pixels[5 * 4 + 2, 7 * 4 + 2] == pytest.approx(1)
    assert image.pixel_size is not None
    assert image.pixel_size.x == pytest.approx(0.025)
    # One localisation in 0.01 square micrometres.
    assert made.images["density"].pixels[5, 7] == pytest.approx(100)
    np.testing.assert_allclose(made.images["widefield"].pixels, stack.mean(axis=0))
    assert {"picasso/a.hdf5", "picasso/a.yaml"} <= set(made.files.values())
    # Behind the head of 4096 bytes: frame from 0, x and y in pixels, their error and the confidence.
    row = np.dtype([("frame", "<u4"), *((name, "<f4") for name in ("x", "y", "lpx", "lpy", "confidence"))])
    table = np.frombuffer((tmp_path / "picasso" / "a.hdf5").read_bytes()[4096:], row)
    assert table.tolist() == [(0, 7.625, 5.625, 0.25, 0.25, 1.0), (2, 3.625, 11.625, 0.25, 0.25, 1.0)]


def test_drift_is_taken_out_of_places_and_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    emitters = rng.integers(6, 34, (12, 2))
    stack = np.full((60, 44, 44), 100, np.uint16)
    for number in range(60):
        shift = np.array([number // 15, 0])
        y, x = (emitters[rng.random(12) < 0.7] + shift).T
        stack[number, y, x] = 9000
    still, _ = predict(stack, tmp_path / "still")
    made, tables = predict(stack, tmp_path / "moved", drift_correction=True, drift_segments=4)
    drift = [float(row["y [nm]"]) for row in tables["drift"]]
    assert len(drift) == 60
    assert drift[0] == 0
    assert drift[-1] == pytest.approx(400, abs=60)
    assert max(abs(float(row["x [nm]"])) for row in tables["drift"]) < 20
    assert len(tables["localisations"]) == int(still.counts["localisations"])

    def spread(name: Path) -> int:
        with (name / "localisations" / "a.csv").open(newline="") as file:
            return len({round(float(row["y [nm]"]) / 100) for row in csv.DictReader(file)})

    assert spread(tmp_path / "moved") < spread(tmp_path / "still")
    # What was smeared over several pixels is in fewer, and brighter.
    assert made.images["prediction"].pixels.max() > 1.3 * still.images["prediction"].pixels.max()


def test_a_stack_without_emitters_gives_empty_tables(tmp_path: Path) -> None:
    made, tables = predict(np.full((4, 20, 24), 100, np.uint16), tmp_path, drift_correction=True)
    assert made.counts["localisations"] == 0
    assert made.images["prediction"].pixels.sum() == 0
    assert len(tables["drift"]) == len(tables["frames"]) == 4
