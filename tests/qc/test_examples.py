"""The picture of the best and the median test image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import AxesImage

from parfocal.qc.evaluation.statistics import ImageScore
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.images.fit import CONTRAST_INVERTED
from parfocal.qc.metrics.images.restoration import score_restoration
from parfocal.qc.restoration.examples import EXAMPLE_PIXELS, Example, examples_figure
from parfocal.qc.restoration.job import typical
from parfocal.qc.restoration.judge import PRIMARY


def example(shape: tuple[int, int], *, invert: bool = False, pixel_size: float | None = 0.1) -> Example:
    random = np.random.default_rng(0)
    target = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * 10.0
    source = target + 3000 * random.standard_normal(shape)
    prediction = (-1 if invert else 1) * (target + 200 * random.standard_normal(shape))
    score, maps = score_restoration(prediction, target)
    return Example(
        "Best image: $a$_é",
        source,
        prediction,
        target,
        maps.rse,
        score_restoration(source, target)[0],
        score,
        pixel_size,
    )


def scores(*values: float) -> list[ImageScore]:
    return [ImageScore(f"im{number}", {PRIMARY: value}, 1, 0, ()) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5,), {}),
        ((0.5, 0.9), {"best": "im1"}),
        ((0.9, 0.5, 0.7), {"best": "im0", "median": "im2"}),
        ((0.9, 0.5, 0.8, 0.7), {"best": "im0", "median": "im3"}),
        ((0.4, 0.2, 0.1, 0.5, 0.3), {"best": "im3", "median": "im4"}),
    ],
)
def test_best_and_median_are_shown_where_they_are_not_the_worst(
    values: tuple[float, ...], expected: dict[str, str]
) -> None:
    assert typical(scores(*values)) == expected


def test_every_row_has_four_pictures_with_their_scores_and_a_scale_bar() -> None:
    good, bad = example((64, 48)), example((64, 48), invert=True, pixel_size=None)
    figure = examples_figure([good, bad])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[1] == f"Prediction\nPSNR {good.prediction_score.psnr:.2f} dB, SSIM {good.prediction_score.ssim:.3f}"
    assert titles[3].endswith(f"\nNRMSE {good.prediction_score.nrmse:.4f}")
    assert titles[5] == f"Prediction\n{CONTRAST_INVERTED}"
    assert [text.get_text() for text in figure.texts] == ["Best image: $a$_é"] * 2
    bars = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert bars == ["1 µm", "10 px"]
    errors = [figure.axes[index].images[0] for index in (3, 7)]
    assert errors[0].norm is errors[1].norm


@pytest.mark.parametrize("shape", [(700, 700), (11, 900), (900, 11), (300, 40)])
def test_large_and_narrow_images_give_a_small_picture_of_their_centre(shape: tuple[int, int], tmp_path: Path) -> None:
    figure = examples_figure([example(shape), example((64, 64))])
    shown = [min(size, EXAMPLE_PIXELS) for size in shape]
    for axis in figure.axes[:4]:
        (picture,) = axis.images
        assert isinstance(picture, AxesImage)
        assert list(np.shape(picture.get_array())) == shown
    width, height = figure.get_size_inches()
    assert width < 9
    assert height < 6
    save_png(figure, tmp_path / "examples.png")
    assert (tmp_path / "examples.png").stat().st_size < 1_500_000
