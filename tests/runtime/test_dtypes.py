"""From one type of pixel to another."""

from __future__ import annotations

import numpy as np
import pytest

from parfocal.runtime.images.files import convert_dtype


def test_conversion_rounds_clips_and_reports() -> None:
    converted, clipped = convert_dtype(np.array([-3.0, 0.4, 0.6, 255.4, 256.0, np.nan, np.inf, 7]), np.uint8)
    np.testing.assert_array_equal(converted, [0, 0, 1, 255, 255, 0, 255, 7])
    assert converted.dtype == np.uint8
    assert clipped == 4 / 8


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint32", "int64", "uint64"])
def test_conversion_saturates_at_the_ends_of_every_integer_type(dtype: str) -> None:
    info = np.iinfo(dtype)
    converted, clipped = convert_dtype(np.array([-1e30, 1e30, 5.0]), dtype)
    assert converted.tolist() == [info.min, info.max, 5]
    assert clipped == pytest.approx(2 / 3)


def test_conversion_to_floats_clips_nothing() -> None:
    converted, clipped = convert_dtype(np.array([1.25, -4.0]), np.float32)
    assert converted.dtype == np.float32
    assert converted.tolist() == [1.25, -4.0]
    assert clipped == 0
