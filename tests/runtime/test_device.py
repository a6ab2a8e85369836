"""What a device is described as, and which precision, record and tiles follow from it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parfocal import v1
from parfocal.runtime.images.files import Image
from parfocal.runtime.methods import device, service
from parfocal.runtime.methods.device import Device, describe_gpu, describe_processor
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Method, Service, Work
from parfocal.runtime.prediction.unit import split_units

TENSORFLOW = (("amx_bf16", "avx512_bf16"), (1, 2))
TORCH = (("amx_bf16",), (1, 2, 3))
NOTHING = ((), (1, 2, 3))
L4 = describe_gpu("NVIDIA L4", 24 * 2**30, (8, 9), "12.8")
V100 = describe_gpu("Tesla V100", 16 * 2**30, (7, 0), "12.8")
P40 = describe_gpu("Tesla P40", 24 * 2**30, (6, 1), "12.8")


def a_method() -> Method:
    return Method(
        name="a",
        title="A",
        task=v1.TASK_RESTORATION,
        summary="",
        axes="YX",
        target=v1.TARGET_KIND_PAIRED_IMAGE,
        work={v1.JOB_KIND_PREDICTION: Work(PredictionParameters, "")},
        data="",
        citation="",
        licence="",
        documentation="",
    )


@pytest.mark.parametrize(
    ("flags", "driver", "wanted", "dimensions", "trained", "applied"),
    [
        ({"avx2"}, TENSORFLOW, "auto", 2, "float32", "float32"),
        ({"avx512f"}, TENSORFLOW, "auto", 2, "float32", "float32"),
        ({"avx512f", "avx512_bf16"}, TENSORFLOW, "auto", 2, "bfloat16", "bfloat16"),
        ({"avx512f", "avx512_bf16"}, TORCH, "auto", 2, "float32", "float32"),
        ({"avx512f", "amx_bf16"}, TORCH, "auto", 2, "bfloat16", "bfloat16"),
        ({"amx_bf16"}, TENSORFLOW, "float32", 2, "float32", "float32"),
        ({"avx2"}, TENSORFLOW, "bfloat16", 2, "float32", "float32"),
        ({"amx_bf16"}, TENSORFLOW, "bfloat16", 2, "bfloat16", "bfloat16"),
        ({"amx_bf16"}, NOTHING, "auto", 2, "float32", "float32"),
        # In TensorFlow only gradients of volumes are wrong in bfloat16.
        ({"amx_bf16"}, TENSORFLOW, "auto", 3, "float32", "bfloat16"),
        ({"amx_bf16"}, TORCH, "auto", 3, "bfloat16", "bfloat16"),
    ],
)
def test_precision_follows_processor_and_driver(
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    driver: tuple[tuple[str, ...], tuple[int, ...]],
    wanted: str,
    dimensions: int,
    trained: str,
    applied: str,
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    for training, expected in ((True, trained), (False, applied)):
        chosen, why = describe_processor(*driver).choose(wanted, dimensions, training=training)
        assert (chosen.precision, chosen.training, chosen.label) == (expected, training, "CPU")
        assert why.startswith(expected)
        assert ("is not used" in why) == (wanted != "auto" and wanted != expected)


@pytest.mark.parametrize(
    ("gpu", "wanted", "trained", "applied"),
    [
        (L4, "auto", "bfloat16", "bfloat16"),
        (L4, "float32", "float32", "float32"),
        (L4, "bfloat16", "bfloat16", "bfloat16"),
        # Gradients in float16 would need a scale that follows them.
        (V100, "auto", "float32", "float16"),
        (V100, "bfloat16", "float32", "float32"),
        (P40, "auto", "float32", "float32"),
    ],
)
def test_precision_follows_the_capability_of_a_gpu(gpu: Device, wanted: str, trained: str, applied: str) -> None:
    for training, expected in ((True, trained), (False, applied)):
        chosen, why = gpu.choose(wanted, 3, training=training)
        assert chosen == replace(gpu, precision=expected, training=training)
        assert why.startswith(expected)


def test_a_record_names_the_device_with_its_precision() -> None:
    service = Service(name="none", methods=())
    chosen, _ = L4.choose("auto", 2, training=False)
    recorded = service.environment(chosen)
    assert (recorded.device, recorded.cuda, recorded.precision) == ("NVIDIA L4", "12.8", "bfloat16")
    recorded = service.environment(service.device())
    assert (recorded.device, recorded.cuda, recorded.precision) == ("CPU", "", "float32")
    # A server computes nothing, so it does not know.
    assert service.environment().device == ""


def test_the_processor_is_named_and_measured() -> None:
    processor = describe_processor(())
    assert processor.name
    assert processor.memory >= processor.free_memory > 0


@pytest.mark.parametrize(("gibibytes", "pixels"), [(64, 2048**2), (1, 2**19), (0.01, 256**2)])
def test_tiles_follow_the_memory_of_a_gpu(gibibytes: float, pixels: int) -> None:
    method = a_method()
    image = Image(np.zeros((4, 4), np.uint8), "YX")
    gpu = replace(L4, memory=int(gibibytes * 2**30))
    (unit,) = split_units(method, 1, image, PredictionParameters(), gpu)[1]
    assert unit.most_pixels == pixels


def test_threads_do_not_spin_whatever_imports_the_framework_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "for it to be restored")
    found = []

    def load(path: str) -> Any:
        # PyTorch reads the variable while it is imported.
        found.append((path, os.environ.pop("OMP_WAIT_POLICY", None)))
        return lambda *_: Device()

    monkeypatch.setattr(service, "load_object", load)
    method = replace(a_method(), implementation="of the method")
    os.environ.pop("OMP_WAIT_POLICY")
    Service(name="family", methods=(method,), framework="torch").device()
    method.load()
    assert found == [(device.DRIVERS["torch"], "PASSIVE"), ("of the method", "PASSIVE")]
