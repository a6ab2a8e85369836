"""The table of Fourier correlation curves and the figure of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from support import mentions

from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.images.resolution import FRC_THRESHOLD, FourierCorrelation
from parfocal.qc.restoration.correlation import correlation_figure
from parfocal.qc.restoration.curves import curve_writer, read_curves
from parfocal.runtime.store.evaluations import KINDS, Kind, Statistics

NAMES = {"input": "Input", "baseline": "Gaussian filter", "prediction": "Prediction"}


def falling(rings: int, height: float) -> FourierCorrelation:
    """A straight line from `height` at frequency 0 down to 0 at the Nyquist frequency."""
    frequency = np.arange(1, rings + 1) / (2 * rings)
    line = height * (1 - 2 * frequency)
    return FourierCorrelation(frequency, line, line, np.full(rings, 8), 1 / (0.5 - 0.5 * FRC_THRESHOLD / height), False)


def table(path: Path, images: Sequence[tuple[str, int, float, float | None]]) -> Path:
    """Write curves of images given by label, rings, height and pixel size, alike for all kinds."""
    with curve_writer(path) as write:
        for label, rings, height, pixel_size in images:
            for kind in KINDS:
                write(label, kind, falling(rings, height), pixel_size)
    return path


def metrics(resolution: float, pixel_size: float | None = None) -> dict[Kind, dict[str, Statistics]]:
    values = {"resolution_px": resolution}
    if pixel_size is not None:
        values["resolution_um"] = resolution * pixel_size
    found = {name: Statistics(value, value, None, None, None) for name, value in values.items()}
    return dict.fromkeys(KINDS, found)


def texts(figure: Figure) -> list[str]:
    (axis,) = figure.axes
    legend = axis.get_legend()
    assert legend is not None
    return [axis.get_xlabel(), *(each.get_text() for each in legend.get_texts())]


def test_images_of_different_sizes_share_one_scale(tmp_path: Path) -> None:
    heights = (0.9, 1.0, 0.6)
    sizes = zip((8, 32, 100), heights, strict=True)
    path = table(tmp_path / "frc.csv", [(f"im{rings}", rings, height, None) for rings, height in sizes])
    curves = read_curves(path)
    assert curves is not None
    assert curves.unit == "pixel"
    values = curves.by_kind["prediction"]
    assert values.shape == (3, curves.frequency.size)
    assert (curves.frequency[0], curves.frequency[-1]) == pytest.approx((1 / 200, 0.5))
    for height, one, first in zip(heights, values, (1 / 16, 1 / 64, 1 / 200), strict=True):
        known = curves.frequency >= first
        assert np.isnan(one[~known]).all()
        np.testing.assert_allclose(one[known], height * (1 - 2 * curves.frequency[known]), atol=1e-5)


def test_frequencies_are_physical_where_every_image_has_a_pixel_size(tmp_path: Path) -> None:
    path = table(tmp_path / "all.csv", [("a", 20, 1.0, 0.1), ("b", 20, 1.0, 0.2)])
    curves = read_curves(path)
    assert curves is not None
    assert curves.unit == "µm"
    assert curves.frequency[-1] == pytest.approx(5)
    assert np.isnan(curves.by_kind["input"][1][curves.frequency > 2.51]).all()
    path = table(tmp_path / "some.csv", [("a", 20, 1.0, 0.1), ("b", 20, 1.0, None)])
    curves = read_curves(path)
    assert curves is not None
    assert (curves.unit, curves.frequency[-1]) == ("pixel", pytest.approx(0.5))


def test_a_target_has_its_own_curves_and_without_curves_there_is_none(tmp_path: Path) -> None:
    path = table(tmp_path / "frc.csv", [("dapi/a", 8, 1.0, None), ("dapi/b", 8, 1.0, None), ("dapi2/a", 8, 0.5, None)])
    curves = read_curves(path, "dapi")
    assert curves is not None
    assert len(curves.by_kind["baseline"]) == 2
    assert read_curves(path, "phalloidin") is None
    assert read_curves(table(tmp_path / "none.csv", [])) is None


@pytest.mark.parametrize("pixel_size", [None, 0.1])
def test_the_figure_marks_the_resolution_where_the_curve_is_one_seventh(
    tmp_path: Path, pixel_size: float | None
) -> None:
    curves = read_curves(table(tmp_path / "frc.csv", [("a", 64, 1.0, pixel_size)]))
    assert curves is not None
    resolution = falling(64, 1.0).resolution
    figure = correlation_figure(curves, metrics(resolution, pixel_size), NAMES)
    (axis,) = figure.axes
    markers = [line for line in axis.lines if line.get_marker() == "o"]
    assert len(markers) == 1
    place = float(np.asarray(markers[0].get_xdata())[0])
    crossing = np.interp(-FRC_THRESHOLD, -curves.by_kind["prediction"][0], curves.frequency)
    assert place == pytest.approx(crossing, rel=1e-3)
    in_words = "2.33 pixels" if pixel_size is None else "2.33 pixels (0.233 µm)"
    assert texts(figure) == [
        f"Spatial frequency in 1/{'pixel' if pixel_size is None else 'µm'}",
        f"Input: {in_words}",
        f"Gaussian filter: {in_words}",
        f"Prediction: {in_words}",
    ]
    save_png(figure, tmp_path / "frc.png")
    assert 10_000 < (tmp_path / "frc.png").stat().st_size < 200_000


def test_the_figure_says_where_there_is_no_resolution_and_where_pixels_limit_it(tmp_path: Path) -> None:
    curves = read_curves(table(tmp_path / "frc.csv", [("a", 64, 1.0, None), ("b", 64, 0.1, None)]))
    assert curves is not None
    found = metrics(2.0) | {"input": {}}
    words = texts(correlation_figure(curves, found, NAMES))
    nothing, *limited = words[1:]
    assert mentions(nothing, "Input: ", "no agreement")
    assert limited == ["Gaussian filter: 2 pixels or finer", "Prediction: 2 pixels or finer"]
