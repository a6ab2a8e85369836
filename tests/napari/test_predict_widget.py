"""The napari plug-in with napari's own layers, in front of a real service, catalogue and store.

The viewer has no canvas: that would need OpenGL, which machines that run tests often lack.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from image_service import publish_outcomes
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points, Shapes
from napari_parfocal.connecting import ENVIRONMENT
from napari_parfocal.widget import PredictWidget
from npe2 import PluginManifest
from support import ROOT, S3Server, ServiceProcess

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
SECONDS = 90_000


@pytest.fixture(scope="module")
def models(
    start_service: Callable[..., ServiceProcess], s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The settings under which the service with one model of each kind of output is found."""
    service = start_service("outcomes")
    publish_outcomes(s3.store(), tmp_path_factory.mktemp("weights"), "viewed")
    return {
        "PARFOCAL_SERVICES": service.address,
        "PARFOCAL_CATALOG": s3.catalog,
        "PARFOCAL_PROJECT": "viewed",
        "PARFOCAL_HOME": str(tmp_path_factory.mktemp("home")),
    }


class Driver:
    """A person in front of the plug-in."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self._qtbot = viewer, qtbot
        self.widget = PredictWidget(viewer)
        qtbot.addWidget(self.widget)

    def wait(self) -> None:
        self._qtbot.waitUntil(lambda: not self.widget.busy, timeout=SECONDS)

    def list_models(self) -> list[str]:
        self.widget.connect_button.click()
        self.wait()
        return [self.widget.model.itemText(number) for number in range(self.widget.model.count())]

    def choose(self, method: str) -> None:
        number = next(
            number for number in range(self.widget.model.count()) if f"{method}:1" in self.widget.model.itemText(number)
        )
        self.widget.model.setCurrentIndex(number)

    def predict(self, method: str, axes: str = "") -> list[Any]:
        """Return the layers that a prediction adds."""
        self.choose(method)
        if axes:
            self.widget.axes.setCurrentIndex(self.widget.axes.findData(axes))
        before = list(self.viewer.layers)
        self.widget.predict_button.click()
        self.wait()
        return [layer for layer in self.viewer.layers if layer not in before]

    @property
    def message(self) -> str:
        return str(self.widget.message.text())


@pytest.fixture
def driver(qtbot: Any, models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Driver:
    for name, value in models.items():
        monkeypatch.setenv(name, value)
    driver = Driver(ViewerModel(), qtbot)
    assert driver.widget.server.currentText() == ENVIRONMENT
    return driver


def spots(shape: tuple[int, ...] = (40, 50), *corners: tuple[int, int, int]) -> Any:
    pixels = np.full(shape, 10, np.uint16)
    for y, x, side in corners or ((5, 6, 3), (20, 30, 6)):
        pixels[..., y : y + side, x : x + side] = 1000
    return pixels


def test_models_are_listed_with_their_verdict_and_what_came_back_lies_where_the_image_lies(driver: Driver) -> None:
    assert any("gives-larger:1: Gives larger, not checked" in text for text in driver.list_models())
    driver.viewer.add_image(spots(), name="cells", scale=(0.2, 0.1), translate=(3, 4), units=("um", "um"))
    driver.choose("gives-larger")
    assert "not been checked" in driver.widget.verdict.text()
    assert driver.widget.scale.text() == "0.1 x 0.2 µm"
    found = driver.predict("gives-larger")
    image = next(layer for layer in found if layer.name == "cells gives-larger:1 prediction")
    assert type(image) is Image
    assert image.data.shape == (80, 100)
    np.testing.assert_allclose(image.scale, (0.1, 0.05))
    # Its finer pixels cover the same place: outer edges agree.
    np.testing.assert_allclose(image.translate - image.scale / 2, np.array([3, 4]) - np.array([0.2, 0.1]) / 2)
    assert [str(unit) for unit in image.units] == ["micrometer", "micrometer"]
    assert image.metadata["parfocal"]["verdict"]["state"] == "unchecked"
    assert "quality control" in driver.message
    assert driver.widget.progress.value() == 100


def test_objects_come_as_labels_with_their_measures_and_tables_are_saved(driver: Driver, tmp_path: Path) -> None:
    driver.list_models()
    driver.viewer.add_image(spots(), name="cells")
    (labels,) = (layer for layer in driver.predict("gives-objects") if isinstance(layer, Labels))
    assert labels.data[6, 7] == 1
    assert labels.data[22, 33] == 2
    assert list(labels.features["index"]) == [1, 2]
    assert {"y_px", "x_px", "probability"} <= set(labels.features)
    written = driver.widget.save_tables(tmp_path)
    again = driver.widget.save_tables(tmp_path)
    assert not set(written) & set(again)
    assert len(pd.read_csv(next(path for path in written if path.name == "objects.csv"))) == 2


def test_boxes_in_a_rectangle_come_as_shapes_at_their_place(driver: Driver) -> None:
    driver.list_models()
    driver.viewer.add_image(spots(), name="cells", scale=(2, 2))
    drawn = driver.viewer.add_shapes([np.array([[30, 50], [60, 80]])], shape_type="rectangle", name="part")
    drawn.selected_data = {0}
    driver.widget.layer.setCurrentText("cells")
    driver.widget.region.setCurrentText("selected shape of part")
    (boxes,) = (layer for layer in driver.predict("gives-boxes") if isinstance(layer, Shapes))
    assert len(boxes.data) == 1, "only the spot within the rectangle"
    # The square covers rows 20 to 25 and columns 30 to 35: its edges lie half a pixel before and behind their middles.
    corners = np.array([boxes.data_to_world(point) for point in boxes.data[0]])
    np.testing.assert_allclose([corners.min(0), corners.max(0)], [(39, 59), (51, 71)])
    assert list(boxes.features["class"]) == ["large"]


def test_localisations_come_as_points_in_their_frames(driver: Driver) -> None:
    driver.list_models()
    frames = np.stack([spots((20, 24), (5, 6, 1)), spots((20, 24), (9, 11, 1))])
    driver.viewer.add_image(frames, name="blinking", scale=(1, 0.1, 0.1), units=("pixel", "um", "um"))
    found = driver.predict("gives-places")
    (points,) = (layer for layer in found if isinstance(layer, Points))
    np.testing.assert_allclose(points.data, [(0, 5, 6), (1, 9, 11)], atol=1e-3)
    (image,) = (layer for layer in found if isinstance(layer, Image))
    assert image.data.shape == (160, 192)
    np.testing.assert_allclose(image.scale, (0.0125, 0.0125))


def test_a_stack_is_predicted_whole_or_the_plane_that_is_shown(driver: Driver) -> None:
    driver.list_models()
    stack = np.stack([spots(), spots((40, 50), (10, 10, 8)), spots()])
    driver.viewer.add_image(stack, name="stack")
    driver.viewer.dims.set_current_step(0, 1)
    (plane,) = (layer for layer in driver.predict("gives-objects", "YX") if isinstance(layer, Labels))
    assert plane.data.shape == (40, 50)
    assert plane.data.max() == 1
    (whole,) = (layer for layer in driver.predict("gives-objects", "TYX") if isinstance(layer, Labels))
    assert whole.data.shape == stack.shape
    np.testing.assert_array_equal(whole.data[1] > 0, plane.data > 0)


def test_colours_come_back_as_channels(driver: Driver) -> None:
    driver.list_models()
    pixels = np.random.default_rng(0).integers(0, 255, (30, 34, 3)).astype(np.uint8)
    driver.viewer.add_image(pixels, name="stained", rgb=True)
    found = driver.predict("gives-colours")
    assert [layer.colormap.name for layer in found] == ["red", "green", "blue"]
    assert all(layer.data.shape == (30, 34) for layer in found)


def test_mistakes_are_told_in_words(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.list_models()
    driver.widget.predict_button.click()
    assert "Choose a model and an image layer" in driver.message
    driver.viewer.add_image(np.full((20, 20), np.nan, np.float32), name="empty")
    driver.predict("gives-objects")
    assert "NaN" in driver.message
    driver.viewer.add_image(np.zeros((2, 2, 2, 12, 12)), name="many")
    driver.widget.layer.setCurrentText("many")
    driver.predict("gives-places")
    assert driver.message
    driver.widget.project.setCurrentText("not a name!")
    driver.list_models()
    assert "cannot name a project" in driver.message
    driver.widget.server.setCurrentText("local")
    driver.widget.project.setCurrentText("")
    driver.list_models()
    assert "parfocal up" in driver.message


def test_a_prediction_can_be_cancelled(driver: Driver) -> None:
    driver.list_models()
    driver.viewer.add_image(spots((2048, 2048)), name="large")
    driver.choose("gives-larger")
    driver.widget.predict_button.click()
    assert driver.widget.cancel_button.isEnabled()
    assert not driver.widget.predict_button.isEnabled()
    driver.widget.cancel_button.click()
    driver.wait()
    assert driver.message == "Cancelled."
    assert len(driver.viewer.layers) == 1


def test_the_manifest_leads_to_the_widget() -> None:
    manifest = PluginManifest.from_file(ROOT / "clients" / "napari" / "napari_parfocal" / "napari.yaml")
    manifest.validate_imports()
    (command,) = manifest.contributions.commands or []
    assert command.python_name == "napari_parfocal.widget:PredictWidget"
    assert json.loads(manifest.model_dump_json(exclude_unset=True))["display_name"] == "Parfocal"
