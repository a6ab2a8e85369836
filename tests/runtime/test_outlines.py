"""Outlines of label images: they enclose exactly the pixels of their objects."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from scipy import ndimage

from parfocal.runtime.methods.outlines import trace_outlines


def test_an_outline_goes_clockwise_along_the_edges_of_pixels() -> None:
    labels = np.zeros((5, 6), np.int32)
    labels[1:3, 2:5] = 1
    (outline,) = trace_outlines(labels)
    assert outline.dtype == np.float32
    assert outline.tolist() == [[0.5, 1.5], [0.5, 4.5], [2.5, 4.5], [2.5, 1.5]]


def test_pixels_that_touch_at_a_corner_are_outlined_together() -> None:
    labels = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    (outline,) = trace_outlines(labels)
    assert _area(outline) == 3
    (outline,) = trace_outlines(labels[:, ::-1])
    assert _area(outline) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_an_outline_holds_the_middles_of_its_pixels_and_of_its_holes(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(24, 30))
    labels, count = ndimage.label(ndimage.gaussian_filter(noise, 1.2) > 0.05, structure=np.ones((3, 3)))
    outlines = trace_outlines(labels)
    assert len(outlines) == count
    middles = np.argwhere(np.ones(labels.shape))
    for number, outline in enumerate(outlines, start=1):
        filled = ndimage.binary_fill_holes(labels == number)
        inside = Polygon(outline, closed=False).contains_points(middles, radius=0).reshape(labels.shape)
        np.testing.assert_array_equal(inside, filled)
        assert _area(outline) == filled.sum()


def _area(outline: np.ndarray) -> float:
    y, x = outline.T.astype(np.float64)
    return abs(float(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1)))) / 2
