"""PredictImage with real sockets and a real worker: what comes back, and what is refused."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from image_service import CHUNK, Service, header_of, image, outputs_of, requests_for, warnings_of
from support import ROOT, mentions

from parfocal import v1
from parfocal.runtime.prediction.outputs import ResultOutputs
from parfocal.runtime.prediction.unit import Stack
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.store.store import Location
from parfocal.runtime.store.verdicts import VERDICT_FILE


def test_the_answer_has_progress_then_header_then_pixels(service: Service) -> None:
    answers = service.predict(image(64, 80))
    parts = [answer.WhichOneof("part") for answer in answers]
    assert parts[-2:] == ["header", "pixels"]
    number = len([part for part in parts if part == "warning"])
    assert parts[-2 - number : -2] == ["warning"] * number
    assert set(parts[: -2 - number]) == {"progress"}
    head = answers[-2].header
    assert (list(head.shape), head.dtype, head.axes, head.name) == ([64, 80], "float32", "YX", "prediction")
    assert (head.pixel_size.x, head.pixel_size.y) == (0.1, 0.2)


def test_large_outputs_come_in_chunks_below_the_message_limit(service: Service) -> None:
    answers = service.predict(image(1024, 1000))
    sizes = [len(answer.pixels) for answer in answers if answer.HasField("pixels")]
    assert sum(sizes) == 1024 * 1000 * 4
    assert len(sizes) == 2
    assert max(sizes) <= CHUNK


def test_the_size_of_the_chunks_sent_changes_nothing(service: Service) -> None:
    pixels = image(64, 80)
    whole = outputs_of(service.predict(pixels))["prediction"]
    pieces = outputs_of(service.predict(pixels, chunk=1001))["prediction"]
    assert np.array_equal(whole, pieces)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"])
def test_every_type_of_pixel_gives_the_same_values(service: Service, dtype: str) -> None:
    reference = outputs_of(service.predict(image(48, 48)))["prediction"]
    output = outputs_of(service.predict(image(48, 48, dtype=dtype)))["prediction"]
    assert np.allclose(output, reference, rtol=1e-4)


def test_a_stack_equals_its_planes(service: Service) -> None:
    stack = image(2, 3, 40, 48)
    output = outputs_of(service.predict(stack, axes="TZYX"))["prediction"]
    plane = outputs_of(service.predict(stack[1, 2]))["prediction"]
    assert output.shape == stack.shape
    assert np.array_equal(output[1, 2], plane)


def test_an_axis_of_length_one_does_no_harm(service: Service) -> None:
    pixels = image(1, 40, 48)
    output = outputs_of(service.predict(pixels, axes="CYX"))["prediction"]
    assert np.array_equal(output[0], outputs_of(service.predict(pixels[0]))["prediction"])


def test_like_input_gives_the_type_of_the_input(service: Service) -> None:
    pixels = image(48, 48)
    exact = outputs_of(service.predict(pixels))["prediction"]
    rounded = outputs_of(service.predict(pixels, output_dtype="like-input"))["prediction"]
    assert rounded.dtype == np.uint16
    assert np.array_equal(rounded, np.clip(np.rint(exact.astype(float)), 0, 65535).astype(np.uint16))


@pytest.mark.parametrize(("kind", "converted"), [("intensity", True), ("width", False), ("none", False)])
def test_like_input_is_for_intensities_alone(kind: Any, converted: bool, tmp_path: Path) -> None:
    values = np.array([[-1.2, 3.4, 300.0, 7.0]], np.float32)
    outputs = ResultOutputs(tmp_path, "a", "YX", Stack(), None, like=np.dtype(np.uint8))
    outputs.unit(0, (1, 4)).image("prediction", values=kind).write(values)
    predicted = outputs.finish()
    pixels = predicted.images["prediction"].pixels
    assert (pixels.dtype, predicted.clipped) == ((np.uint8, 0.5) if converted else (np.float32, 0.0))
    assert pixels.tolist() == ([[0, 3, 255, 7]] if converted else values.tolist())


def test_what_people_should_know_comes_with_the_image(service: Service, s3: Any) -> None:
    place = Location.parse(service.models["quick"]) / "qc"
    assert "not been checked" in warnings_of(service.predict(image(48, 48)))
    for number, (state, reasons) in enumerate((("failed", ["It is worse than a filter."]), ("passed", []))):
        content = {"state": state, "reasons": reasons, "created_at": f"2026-01-0{number + 1}"}
        s3.store().write(place / f"job-{number}" / VERDICT_FILE, json.dumps(content).encode())
        said = warnings_of(service.predict(image(48, 48)))
        assert mentions(said, "failed", *reasons) == (state == "failed")
        assert ("not been checked" in said) is False
    unusual = np.zeros((48, 48), np.uint8)
    unusual[:, :4] = 255
    said = warnings_of(service.predict(unusual, output_dtype="like-input"))
    assert mentions(said, "unlike the images", "clipped")


def test_pixels_before_the_header_are_refused(service: Service) -> None:
    error = service.fails(iter([v1.PredictImageRequest(pixels=b"1234")]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "header" in error.details()


def test_an_empty_stream_is_refused(service: Service) -> None:
    assert service.fails(iter([])).code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("change", "field_name"),
    [
        ({"dtype": "int64"}, "header.image.dtype"),
        ({"dtype": "object"}, "header.image.dtype"),
        ({"axes": "YY"}, "header.image.axes"),
        ({"axes": "ZYX"}, "header.image.shape"),
        ({"shape": [0, 8]}, "header.image.shape"),
        ({"shape": [-8, -8]}, "header.image.shape"),
        ({"shape": [2**14, 2**15]}, "header.image.shape"),
        ({"shape": [2**14, 2**13 + 1], "dtype": "float64"}, "header.image.shape"),
        ({"shape": [2**62, 2**62]}, "header.image.shape"),
        ({"pixel_size": v1.PixelSize(x=float("nan"))}, "header.image.pixel_size"),
    ],
)
def test_a_wrong_header_is_refused_before_pixels_are_taken(
    service: Service, change: dict[str, Any], field_name: str
) -> None:
    sent_all = threading.Event()

    def requests() -> Iterator[v1.PredictImageRequest]:
        values = {"shape": [8, 8], "dtype": "uint16", "axes": "YX"} | change
        yield header_of(service.models["quick"], v1.ImageHeader(**values))
        sent_all.wait(20)

    begin = time.monotonic()
    error = service.fails(requests())
    sent_all.set()
    assert time.monotonic() - begin < 10
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field_name in [violation.field for violation in from_rpc_error(error, "").violations]


def test_the_limit_names_its_setting(service: Service) -> None:
    big = v1.ImageHeader(shape=[2**14, 2**15], dtype="uint8", axes="YX")
    assert "PARFOCAL_MAX_IMAGE_PIXELS" in service.fails(iter([header_of(service.models["quick"], big)])).details()


def test_a_wrong_parameter_is_named(service: Service) -> None:
    error = service.fails(requests_for(image(8, 8), service.models["quick"], tile_sise=64))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in from_rpc_error(error, "").violations] == ["tile_sise"]


@pytest.mark.parametrize("bytes_sent", [0, 127, 129])
def test_too_few_or_too_many_pixels_are_refused(service: Service, bytes_sent: int) -> None:
    head = header_of(service.models["quick"], v1.ImageHeader(shape=[8, 8], dtype="uint16", axes="YX"))
    pixels = [v1.PredictImageRequest(pixels=bytes(bytes_sent))] if bytes_sent else []
    error = service.fails(iter([head, *pixels]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "128" in error.details()


def test_a_second_header_is_refused(service: Service) -> None:
    head = header_of(service.models["quick"], v1.ImageHeader(shape=[8, 8], dtype="uint16", axes="YX"))
    assert service.fails(iter([head, head])).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_values_that_are_not_finite_are_the_users_mistake(service: Service) -> None:
    pixels = image(32, 32, dtype="float32")
    pixels[3, 3] = np.nan
    error = service.fails(requests_for(pixels, service.models["quick"]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "NaN" in error.details()


def test_the_example_of_the_page_works(service: Service) -> None:
    page = (ROOT / "docs" / "predict-image.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/predict-image.md", "exec"), names)
    stack = image(10, 512, 400)
    outputs, tables = names["predict"](service.process.address, service.models["quick"], stack, "ZYX")
    expected = outputs_of(service.predict(stack, axes="ZYX"))
    assert (list(outputs), tables) == (["prediction"], {})
    assert np.array_equal(outputs["prediction"], expected["prediction"])
