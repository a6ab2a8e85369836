"""Every kind of output through the real service: a prediction job and PredictImage give the same, and it is right."""

from __future__ import annotations

import csv
import io
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import grpc
import numpy as np
import pytest
from image_service import WEIGHTS, header_of, outputs_of, publish_outcomes, requests_for, tables_of
from support import ROOT, ServiceProcess

from parfocal import v1
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.methods.arrays import load_arrays
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.prediction.tiling import predict_tiled
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.store.manifests import (
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    ModelManifest,
    ResultFile,
    ResultManifest,
    public_name,
)
from parfocal.runtime.store.names import result_location
from parfocal.runtime.store.store import Location


@dataclass
class Outcomes:
    """The running service, with one model of each of its methods."""

    process: ServiceProcess
    channel: grpc.Channel
    store: Any
    folder: Path
    models: dict[str, str] = field(default_factory=dict)

    def job(self, method: str, image: Image, **parameters: Any) -> v1.Job:
        """Return the finished prediction of one image named "a"."""
        place = result_location(self.store, "default", f"inputs-{uuid.uuid4().hex}")
        write_image(self.folder / "a.tif", image)
        self.store.upload(self.folder / "a.tif", place / "a.tif")
        spec = v1.PredictionSpec(
            model_uri=self.models[method], input_uri=str(place), parameters=values_struct(parameters)
        )
        jobs = v1.JobServiceStub(self.channel)
        job = jobs.StartJob(v1.StartJobRequest(prediction=spec)).job
        return list(jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=90))[-1].job

    def result(self, method: str, image: Image, **parameters: Any) -> tuple[ResultFile, dict[str, Path]]:
        """Return what a job says of one image, and its files by kind."""
        job = self.job(method, image, **parameters)
        assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
        place = Location.parse(job.outputs[0].uri)
        (result,) = ResultManifest.read(self.store, place / RESULT_MANIFEST).images
        paths = {}
        for kind, name in result.outputs.items():
            paths[kind] = self.folder / job.id / public_name(name)
            self.store.download(place / name, paths[kind])
        return result, paths

    def single(self, method: str, image: Image, **parameters: Any) -> list[Any]:
        """Return the answers of PredictImage."""
        requests = requests_for(image.pixels, self.models[method], image.axes, **parameters)
        return list(v1.MethodServiceStub(self.channel).PredictImage(requests, timeout=90))

    def both(
        self, method: str, image: Image, **parameters: Any
    ) -> tuple[dict[str, Image], dict[str, Path], ResultFile]:
        """Return the images and the files of a job, after PredictImage has given the same images and tables."""
        result, paths = self.result(method, image, **parameters)
        images = {kind: read_image(path) for kind, path in paths.items() if path.suffix == ".tif"}
        tables = {kind: path for kind, path in paths.items() if path.suffix == ".csv"}
        answers = self.single(method, image, **parameters)
        alone = outputs_of(answers)
        assert alone.keys() == images.keys()
        for name, values in alone.items():
            np.testing.assert_array_equal(values, images[name].pixels)
            assert values.dtype == images[name].pixels.dtype
        heads = {answer.header.name: answer.header for answer in answers if answer.HasField("header")}
        for name, head in heads.items():
            size = images[name].pixel_size
            assert size is not None
            assert (head.pixel_size.x, head.pixel_size.y) == pytest.approx((size.x, size.y))
            assert head.axes == images[name].axes
        sent = tables_of(answers)
        assert sent.keys() == tables.keys()
        for name, (columns, content) in sent.items():
            assert content == tables[name].read_bytes()
            assert [column.name for column in columns] == next(csv.reader(io.StringIO(content.decode())))
            # Names end in their unit, in one of two ways.
            units = (re.search(r"_(px|um2?)$|\[(.*)\]$", column.name) for column in columns)
            assert [column.unit for column in columns] == [
                next(filter(None, unit.groups())) if unit else "" for unit in units
            ]
        return images, paths, result


@pytest.fixture(scope="module")
def outcomes(
    start_service: Callable[..., ServiceProcess], s3: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    # Jobs take the way of large images, single images that of small ones: both give the same.
    process = start_service("outcomes", checkpoint_seconds="0", in_memory_mib="0.001")
    store, weights = s3.store(), tmp_path_factory.mktemp("weights")
    with grpc.insecure_channel(process.address) as channel:
        running = Outcomes(process, channel, store, tmp_path_factory.mktemp("files"))
        running.models.update(publish_outcomes(store, weights))
        yield running
    process.stop()


def picture(*shape: int, axes: str = "YX") -> Image:
    pixels = np.random.default_rng(sum(shape)).integers(100, 4000, shape).astype(np.uint16)
    return Image(pixels, axes, PixelSize(0.1, 0.2))


def spots(*corners: tuple[int, int, int], shape: tuple[int, int] = (40, 50)) -> Image:
    """Return a dark image of squares of 1000 at (y, x, side length)."""
    pixels = np.full(shape, 10, np.uint16)
    for y, x, side in corners:
        pixels[y : y + side, x : x + side] = 1000
    return Image(pixels, "YX", PixelSize(0.1, 0.2))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_image_of_another_size_with_an_image_of_each_rule(outcomes: Outcomes) -> None:
    image = picture(45, 70)
    images, _, _ = outcomes.both("gives-larger", image, tile_size=32)
    for name, whole in outputs_of(outcomes.single("gives-larger", image)).items():
        np.testing.assert_allclose(whole, images[name].pixels, rtol=1e-5)
    pixels = image.pixels
    middle = np.percentile(pixels, 50)
    twice = np.repeat(np.repeat(pixels, 2, 0), 2, 1)
    np.testing.assert_allclose(images["prediction"].pixels, twice, rtol=1e-5)
    # A width loses the offset.
    np.testing.assert_allclose(images["spread"].pixels, (twice - float(pixels.min())) / 10, rtol=1e-4, atol=1e-3)
    assert images["bright"].pixels.dtype == np.uint8
    clear = np.abs(twice - middle) > 1
    np.testing.assert_array_equal(images["bright"].pixels[clear], (twice > middle)[clear])
    for each in images.values():
        assert each.pixel_size is not None
        assert (each.pixel_size.x, each.pixel_size.y) == pytest.approx((0.05, 0.1))


def test_like_input_converts_intensities_alone(outcomes: Outcomes) -> None:
    outputs = outputs_of(outcomes.single("gives-larger", picture(40, 40), output_dtype="like-input"))
    assert {name: each.dtype.name for name, each in outputs.items()} == {
        "prediction": "uint16",
        "spread": "float32",
        "bright": "uint8",
    }


def test_every_plane_of_a_stack_has_its_images(outcomes: Outcomes) -> None:
    stack = picture(2, 3, 24, 28, axes="TZYX")
    images, _, _ = outcomes.both("gives-larger", stack)
    assert images["prediction"].axes == "TZYX"
    assert images["spread"].pixels.shape == (2, 3, 48, 56)
    alone = outputs_of(outcomes.single("gives-larger", Image(stack.pixels[1, 2], "YX", stack.pixel_size)))
    for name, each in alone.items():
        np.testing.assert_array_equal(images[name].pixels[1, 2], each)


def test_colours_come_back_each_on_the_scale_of_its_channel(outcomes: Outcomes) -> None:
    pixels = picture(30, 34, 3, axes="YXS").pixels // np.array([1, 3, 9], np.uint16)
    image = Image(pixels.astype(np.uint16), "YXS", PixelSize(0.1, 0.2))
    images, _, _ = outcomes.both("gives-colours", image, output_dtype="like-input")
    assert images["prediction"].axes == "YXS"
    np.testing.assert_array_equal(images["prediction"].pixels, image.pixels)


def test_tiles_that_are_not_exact_fade_into_each_other(outcomes: Outcomes) -> None:
    ramp = np.tile(np.arange(200, dtype=np.float32), (180, 1))
    image = Image(ramp, "YX", PixelSize(0.1, 0.2))
    images, _, _ = outcomes.both("gives-blends", image, tile_size=64)

    def step(pixels: Any) -> float:
        """Return the largest change of the slope, which a seam is."""
        return float(np.abs(np.diff(pixels, n=2, axis=1)).max())

    def lose_mean(batch: Any) -> Any:
        return batch - batch.mean(axis=(1, 2), keepdims=True)

    hard = predict_tiled(lose_mean, ramp, tile_shape=(64, 64), overlap=4, divisor=4)
    assert step(images["prediction"].pixels) < step(hard) / 10


def test_an_axis_that_collapses_is_gone(outcomes: Outcomes) -> None:
    stack = picture(5, 40, 44, axes="TYX")
    images, _, _ = outcomes.both("gives-means", stack, tile_size=16)
    assert images["prediction"].axes == "YX"
    np.testing.assert_allclose(images["prediction"].pixels, stack.pixels.mean(axis=0), rtol=1e-5)


def test_classes_come_with_the_probability_of_each(outcomes: Outcomes) -> None:
    image = picture(40, 48)
    images, _, _ = outcomes.both("gives-classes", image)
    assert (images["prediction"].axes, images["prediction"].pixels.dtype) == ("YX", np.uint8)
    assert images["probability"].axes == "CYX"
    assert images["probability"].pixels.shape == (3, 40, 48)
    np.testing.assert_allclose(images["probability"].pixels.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(images["probability"].pixels.argmax(axis=0), images["prediction"].pixels)
    scaled = Normaliser().apply(image.pixels, Normaliser().fit(image.pixels, "YX"))
    clear = np.abs(np.abs(scaled - 0.5) - 0.25) > 1e-3
    expected = np.digitize(scaled, [0.25, 0.75])
    np.testing.assert_array_equal(images["prediction"].pixels[clear], expected[clear])


def test_objects_come_with_classes_and_their_table(outcomes: Outcomes) -> None:
    image = spots((4, 5, 3), (20, 30, 7))
    images, paths, result = outcomes.both("gives-objects", image)
    assert images["prediction"].pixels.dtype == np.uint16
    assert (images["prediction"].pixels > 0).sum() == 9 + 49
    table = rows(paths["objects"])
    assert [(row["label"], row["y_px"], row["x_px"], row["area_px"], row["class"]) for row in table] == [
        ("1", "5.000", "6.000", "9", "1"),
        ("2", "23.000", "33.000", "49", "2"),
    ]
    assert result.metrics == {"objects": 2, "class_1": 1, "class_2": 1, "class_0": 0}


def test_boxes_come_as_a_table_and_as_an_annotation(outcomes: Outcomes) -> None:
    _, paths, result = outcomes.both("gives-boxes", spots((4, 5, 3), (20, 30, 7)), weights="sharp")
    assert set(paths) == {"detections", "rois", "voc", "areas", "overlay"}
    small, large = rows(paths["detections"])
    assert [small[f"{edge}_px"] for edge in ("x_min", "y_min", "x_max", "y_max")] == ["5.00", "4.00", "8.00", "7.00"]
    assert [large[f"{edge}_um"] for edge in ("x_min", "y_min", "x_max", "y_max")] == [
        "3.0000",
        "4.0000",
        "3.7000",
        "5.4000",
    ]
    assert (small["class"], large["class"], large["plane"]) == ("small", "large", "0")
    assert large["confidence"] == "1.5000"  # 0.75 times the number of these weights
    root = ElementTree.parse(paths["voc"]).getroot()
    assert [root.findtext(key) for key in ("filename", "size/height", "size/width")] == ["a.tif", "40", "50"]
    assert [each.findtext("name") for each in root.findall("object")] == ["small", "large"]
    assert [each.findtext("bndbox/xmax") for each in root.findall("object")] == ["8", "37"]
    areas = [(row["plane"], row["box"], row["area_px"]) for row in rows(paths["areas"])]
    assert areas == [("0", "0", "9"), ("0", "1", "49")]
    assert result.metrics == {"detections": 2, "class_small": 1, "class_large": 1}


def test_boxes_of_a_stack_say_their_plane(outcomes: Outcomes) -> None:
    planes = [spots((4, 5, 3)).pixels, spots().pixels, spots((20, 30, 7), (2, 2, 2)).pixels]
    _, paths, result = outcomes.both("gives-boxes", Image(np.stack(planes), "TYX", PixelSize(0.1, 0.2)))
    assert [row["plane"] for row in rows(paths["detections"])] == ["0", "2", "2"]
    # Annotations and pictures know one image only.
    assert set(paths) == {"detections", "rois", "areas"}
    assert result.metrics["detections"] == 3


def test_places_come_in_nanometres_as_thunderstorm_writes_them(outcomes: Outcomes) -> None:
    stack = np.zeros((4, 20, 24), np.uint16)
    for frame, (y, x) in enumerate([(3, 4), (3, 4), (10, 20), (19, 0)]):
        stack[frame, y, x] = 500 + frame
    images, paths, result = outcomes.both("gives-places", Image(stack, "TYX", PixelSize(0.1, 0.2)))
    assert [tuple(row.values()) for row in rows(paths["localisations"])] == [
        ("1", "450.00", "700.00", "500.00", "14.14"),
        ("2", "450.00", "700.00", "501.00", "14.14"),
        ("3", "2050.00", "2100.00", "502.00", "14.14"),
        ("4", "50.00", "3900.00", "503.00", "14.14"),
    ]
    assert list(rows(paths["localisations"])[0]) == [
        "frame",
        "x [nm]",
        "y [nm]",
        "intensity [photon]",
        "uncertainty [nm]",
    ]
    fine = images["prediction"]
    assert (fine.axes, fine.pixels.shape, fine.pixels.sum()) == ("YX", (160, 192), 4)
    assert fine.pixels[8 * 3 + 4, 8 * 4 + 4] == 2
    assert fine.pixel_size is not None
    assert (fine.pixel_size.x, fine.pixel_size.y) == pytest.approx((0.0125, 0.025))
    assert result.metrics == {"localisations": 4}


def test_places_without_a_pixel_size_are_refused(outcomes: Outcomes) -> None:
    image = Image(picture(3, 20, 20, axes="TYX").pixels, "TYX")
    job = outcomes.job("gives-places", image)
    assert (job.state, job.error.reason) == (v1.JOB_STATE_FAILED, "INVALID_INPUT")
    header = v1.ImageHeader(shape=image.pixels.shape, dtype="uint16", axes="TYX")
    requests = [
        header_of(outcomes.models["gives-places"], header),
        v1.PredictImageRequest(pixels=image.pixels.tobytes()),
    ]
    with pytest.raises(grpc.RpcError) as caught:
        list(v1.MethodServiceStub(outcomes.channel).PredictImage(iter(requests), timeout=90))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("weights", "factor"), WEIGHTS.items())
def test_all_weights_that_a_model_keeps_can_be_predicted_with(outcomes: Outcomes, weights: str, factor: float) -> None:
    ramp = np.tile(np.arange(40, dtype=np.float32), (40, 1))
    outputs = outputs_of(outcomes.single("gives-blends", Image(ramp, "YX"), weights=weights))
    np.testing.assert_allclose(outputs["prediction"], factor * (ramp - ramp.mean()), atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "factor"),
    [
        ({}, WEIGHTS["best"]),
        ({"initial_weights": v1.WEIGHTS_LAST}, WEIGHTS["last"]),
        ({"initial_weights_name": "sharp"}, WEIGHTS["sharp"]),
    ],
)
def test_a_training_starts_from_the_weights_that_are_named(
    outcomes: Outcomes, dataset_uri: str, spec: dict[str, Any], factor: float
) -> None:
    training = v1.TrainingSpec(
        method="gives-blends",
        dataset_uri=dataset_uri,
        model="further",
        initial_model_uri=outcomes.models["gives-blends"],
        parameters=values_struct({"epochs": 1, "patch_size": 16, "patches_per_image": 1}),
        **spec,
    )
    jobs = v1.JobServiceStub(outcomes.channel)
    job = jobs.StartJob(v1.StartJobRequest(training=training)).job
    done = list(jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=90))[-1].job
    assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
    place = Location.parse(done.outputs[0].uri)
    model = ModelManifest.read(outcomes.store, place / MODEL_MANIFEST)
    (entry,) = (entry for entry in model.files if entry.public_name == "last.npz")
    path = outcomes.folder / job.id / "last.npz"
    outcomes.store.download(place / entry.name, path)
    # These methods are trained without being changed.
    assert load_arrays(path)["factor"].tolist() == [factor]


def test_initial_weights_that_a_model_does_not_keep_are_refused(outcomes: Outcomes, dataset_uri: str) -> None:
    training = v1.TrainingSpec(
        method="gives-blends",
        dataset_uri=dataset_uri,
        model="further",
        initial_model_uri=outcomes.models["gives-blends"],
        initial_weights_name="sharpest",
        parameters=values_struct({"patch_size": 16}),
    )
    with pytest.raises(grpc.RpcError) as caught:
        v1.JobServiceStub(outcomes.channel).StartJob(v1.StartJobRequest(training=training))
    error = from_rpc_error(caught.value, "")
    assert [violation.field for violation in error.violations] == ["training.initial_weights_name"]


def test_weights_that_a_model_does_not_keep_are_refused_with_those_it_has(outcomes: Outcomes) -> None:
    image = picture(20, 20)
    for call in (outcomes.job, outcomes.single):
        with pytest.raises(grpc.RpcError) as caught:
            call("gives-blends", image, weights="sharpest")
        error = from_rpc_error(caught.value, "")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in error.violations] == ["weights"]
        assert all(name in error.message for name in ("sharpest", *WEIGHTS))


def test_the_example_of_the_page_gives_images_and_tables(outcomes: Outcomes) -> None:
    page = (ROOT / "docs" / "predict-image.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/predict-image.md", "exec"), names)
    pixels = spots((4, 5, 3)).pixels
    images, tables = names["predict"](outcomes.process.address, outcomes.models["gives-objects"], pixels)
    assert (images["prediction"] > 0).sum() == 9
    assert list(tables) == ["objects"]
    assert tables["objects"].splitlines()[0].startswith("plane,label,y_px,x_px")
