"""The figure of one image and the files of its maps."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.image import imread
from scipy import ndimage
from support import mentions

from parfocal.qc.figures.drawing import save_png
from parfocal.qc.metrics.images.foreground import find_foreground, score_regions
from parfocal.qc.metrics.images.restoration import score_restoration
from parfocal.qc.restoration.figure import restoration_figure
from parfocal.runtime.errors import InvalidInputError


def figure_of(shape=(64, 48), *, invert=False, name="cell_01", pixel_size=None):
    random = np.random.default_rng(0)
    target = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * 10.0
    source = target + 300 * random.standard_normal(shape)
    prediction = (-1 if invert else 1) * (target + 20 * random.standard_normal(shape))
    images = {"input": source, "baseline": ndimage.gaussian_filter(source, 1), "prediction": prediction}
    scored = {kind: score_restoration(image, target) for kind, image in images.items()}
    mask = find_foreground(target).mask
    return restoration_figure(
        {**images, "target": target},
        {kind: score for kind, (score, _) in scored.items()},
        {kind: maps for kind, (_, maps) in scored.items()},
        name=name,
        pixel_size=pixel_size,
        foreground=mask,
        inside={kind: score_regions(scored[kind][1], image, target, mask)[0] for kind, image in images.items()},
    )


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    for axis in figure.axes:
        found += [text.get_text() for text in axis.texts] + [axis.get_title()]
    return found


def test_png_has_content_and_no_plotting_state(tmp_path):
    save_png(figure_of(), tmp_path / "figure.png")
    pixels = imread(tmp_path / "figure.png")
    assert min(pixels.shape[:2]) > 800
    assert pixels[..., :3].std() > 0.1
    assert not Gcf.figs


def test_shows_names_numbers_and_failure():
    found = texts(figure_of(invert=True))
    assert "cell_01" in found
    assert "FAILED: contrast inverted" in found
    assert "Prediction: contrast inverted" in found
    assert "Gaussian filter" in found
    assert any(mentions(text, "SSIM of baseline", "mean 0.") for text in found)
    assert any(mentions(text, "SSIM of input", "mean 0.") for text in found)


def test_foreground_is_outlined_and_its_scores_are_told():
    figure = figure_of()
    outlined = [axis.get_title() for axis in figure.axes if axis.collections and axis.images]
    assert outlined == ["Target"]
    found = texts(figure)
    assert "Inside the foreground" in found
    assert "SNR (dB)" in found
    assert any(mentions(text, "Outlined", "Otsu", "%") for text in found)


@pytest.mark.parametrize(
    ("pixel_size", "label"), [(0.5, "5 µm"), (0.02, "200 nm"), (1.0, "10 µm"), (0.09, "1 µm"), (None, None)]
)
def test_scale_bar_is_a_round_length(pixel_size, label):
    bars = [text for text in texts(figure_of(pixel_size=pixel_size)) if text.endswith(("µm", "nm"))]
    assert bars == ([] if label is None else [label])


def test_scale_bar_has_the_right_length():
    axis = figure_of(pixel_size=0.5).axes[0]
    assert any(patch.get_width() == pytest.approx(5 / 0.5) for patch in axis.patches)


def test_large_images_are_cropped_from_the_centre():
    figure = figure_of((700, 600))
    assert figure.axes[0].images[0].get_array().shape == (512, 512)
    assert any("central 512 × 512 of 600 × 700 pixels" in text for text in texts(figure))


@pytest.mark.parametrize("shape", [(11, 512), (512, 11), (11, 11), (100, 400)])
def test_no_text_leaves_the_figure(shape):
    figure = figure_of(shape, pixel_size=0.1, name="n" * 200)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.bbox.size
    artists = [*figure.texts, *(text for axis in figure.axes for text in [*axis.texts, axis.title, axis.xaxis.label])]
    for artist in artists:
        box = artist.get_window_extent(renderer)
        assert box.x0 >= -1, artist
        assert box.y0 >= -1, artist
        assert box.x1 <= width + 1, artist
        assert box.y1 <= height + 1, artist


@pytest.mark.parametrize("name", ["a$b_{c$", "细胞 1", "tab\there", "$"])
def test_any_name_can_be_drawn(tmp_path, name):
    save_png(figure_of(name=name), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_refuses_stacks_and_other_shapes():
    image, maps = np.eye(20), score_restoration(np.eye(20), np.eye(20))[1]
    kinds = ("input", "baseline", "prediction")
    every, images = dict.fromkeys(kinds, maps), dict.fromkeys((*kinds, "target"), image)
    with pytest.raises(InvalidInputError, match="one slice"):
        restoration_figure({**images, "target": np.zeros((2, 20, 20))}, {}, every, name="a")
    with pytest.raises(InvalidInputError, match=r"prediction.*shape"):
        restoration_figure({**images, "prediction": np.eye(21)}, {}, every, name="a")
