"""From probabilities to classes, regions and objects; and where probabilities are cut."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from learner_suite import facts_of_classes, images_of, view_of
from scipy import ndimage

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.methods.thresholds import THRESHOLDS, threshold_counts
from parfocal.runtime.prediction.object_tiling import plan_blocks
from parfocal.runtime.prediction.unit import ArrayUnit
from parfocal.unet import regions as module
from parfocal.unet.parameters import Unet2DParameters, UnetPredictionParameters
from parfocal.unet.regions import clean_in_blocks, clean_regions, find_instances, watershed
from parfocal.unet.thresholds import best_threshold, ious

PIXELS = {"size_unit": "pixels"}


def disc(shape: tuple[int, ...], middle: tuple[float, ...], radius: float) -> Any:
    grid = np.indices(shape)
    return sum((axis - at) ** 2 for axis, at in zip(grid, middle, strict=True)) <= radius**2


def test_counts_at_all_thresholds_are_those_of_masks_cut_there() -> None:
    rng = np.random.default_rng(0)
    target, probability = rng.integers(-1, 3, (9, 11)), rng.random((9, 11), np.float32)
    probability[0, :2] = 0.25, 0.5  # exactly at a threshold
    known, counts = target >= 0, threshold_counts(target, probability)
    for threshold, (tp, fp, fn) in zip(THRESHOLDS, counts.tolist(), strict=True):
        found = probability.astype(np.float64) >= threshold
        wanted = target > 0
        expected = [(wanted & found), (~wanted & found), (wanted & ~found)]
        assert [tp, fp, fn] == [int((each & known).sum()) for each in expected]


def test_the_best_threshold_is_that_nearest_to_one_half() -> None:
    curve = np.zeros(len(THRESHOLDS))
    curve[[2, 70, 71]] = 0.8
    assert best_threshold(curve) == 0.71
    assert best_threshold(np.ones(len(THRESHOLDS))) == 0.5
    assert ious(np.array([[0, 0, 0], [2, 1, 1]])).tolist() == [1, 0.5]


def test_the_threshold_is_chosen_on_the_validation_images_and_stored() -> None:
    from parfocal.unet.network import UnetOfImages

    class Fixed(UnetOfImages):
        def probability(self, learner: Any, image: Any, *_: Any) -> Any:  # noqa: ARG002
            return np.stack([1 - image[..., 0], image[..., 0]], axis=-1)

    image = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)
    target = (image >= 0.71).astype(np.int8)
    facts = Fixed().calibrate(None, images_of((image, target)), Unet2DParameters(), facts_of_classes())  # type: ignore[arg-type]
    assert facts.measured["threshold"] == 0.71
    assert facts.measured["iou_by_threshold"][THRESHOLDS.index(0.71)] == 1
    several = facts_of_classes(3)
    assert UnetOfImages().calibrate(None, images_of(), Unet2DParameters(), several) == several  # type: ignore[arg-type]


def test_specks_go_and_holes_are_filled_by_their_size() -> None:
    classes = np.zeros((30, 40), np.uint8)
    classes[2:22, 2:22] = 1
    classes[8:10, 8:10] = 0  # a hole of 4 pixels
    classes[12:18, 12:18] = 0  # a hole of 36 pixels
    classes[25, 30:33] = 1  # a speck of 3 pixels
    classes[5, 30] = classes[6, 31] = 2  # one of two pixels that touch at a corner
    keep = clean_regions(classes, UnetPredictionParameters(), None)
    assert keep is classes
    cleaned = clean_regions(classes, UnetPredictionParameters(smallest_object=3, largest_hole=4, **PIXELS), (0.5, 0.5))
    expected = classes.copy()
    expected[8:10, 8:10] = 1
    expected[5, 30] = expected[6, 31] = 0
    np.testing.assert_array_equal(cleaned, expected)
    # Pixels of 0.25 square micrometres.
    in_micrometres = UnetPredictionParameters(smallest_object=0.75, largest_hole=1.0)
    np.testing.assert_array_equal(clean_regions(classes, in_micrometres, (0.5, 0.5)), expected)


def test_a_hole_becomes_what_surrounds_it_and_a_bay_stays() -> None:
    classes = np.ones((12, 12), np.uint8)
    classes[:, 6:] = 2
    classes[4:6, 8:10] = 0
    classes[0:2, 2:4] = 0  # reaches the border
    cleaned = clean_regions(classes, UnetPredictionParameters(largest_hole=99, **PIXELS), None)
    assert (cleaned[4:6, 8:10] == 2).all()
    assert not cleaned[0:2, 2:4].any()


def test_sizes_in_micrometres_need_a_pixel_size() -> None:
    with pytest.raises(InvalidInputError, match="size_unit"):
        clean_regions(np.ones((4, 4), np.uint8), UnetPredictionParameters(smallest_object=1), None)


def test_connected_pixels_of_a_class_are_an_object() -> None:
    classes = np.zeros((20, 20), np.uint8)
    classes[1:4, 1:4] = 1
    classes[4, 4] = 1  # touches at a corner
    classes[10:14, 10:14] = 1
    classes[14:16, 10:14] = 2
    probability = np.stack([np.full((20, 20), 0.1), np.full((20, 20), 0.6), np.full((20, 20), 0.3)], -1)
    parameters = UnetPredictionParameters(instances="components")
    found = find_instances(classes, probability.astype(np.float32), parameters, None)
    assert found.labels.max() == 3
    assert found.labels[2, 2] == found.labels[4, 4] == 1
    np.testing.assert_allclose(found.probability, [0.6, 0.6, 0.3], rtol=1e-6)
    assert found.class_probability is not None
    assert found.class_probability.shape == (3, 3)
    assert [len(outline) for outline in found.outlines] == [8, 4, 4]
    nothing = find_instances(np.zeros((5, 5), np.uint8), probability[:5, :5, :2].astype(np.float32), parameters, None)
    assert (len(nothing.probability), nothing.class_probability) == (0, None)


@pytest.mark.parametrize("shape", [(40, 60), (20, 40, 60)])
def test_objects_that_touch_are_cut_apart_where_they_are_narrow(shape: tuple[int, ...]) -> None:
    middles = ((20.0, 18.0), (20.0, 38.0))
    inside = [disc(shape, (10.0, *middle)[-len(shape) :], 11) for middle in middles]
    mask = inside[0] | inside[1]
    mask[..., 0, 0] = True  # an object of one pixel for each plane
    labels, count = watershed(mask, 7, None)
    assert count == (2 + 1)
    assert (labels > 0).tolist() == mask.tolist()
    # Each half is one object, but for the few pixels at the neck.
    for middle in middles:
        half = inside[middles.index(middle)] & ~inside[1 - middles.index(middle)]
        assert np.bincount(labels[half]).max() > 0.95 * half.sum()


def test_a_small_object_beside_a_large_one_is_not_lost() -> None:
    mask = disc((40, 40), (20, 18), 12)
    mask[20, 32] = True  # a gap of one pixel from the disc
    labels, count = watershed(mask, 9, None)
    assert count == 2
    assert (labels > 0).sum() == mask.sum()


class Recorder:
    """Takes what a prediction hands over."""

    def __init__(self) -> None:
        self.images: dict[str, Any] = {}
        self.found: dict[str, Any] = {}

    def image(self, name: str, **asked: Any) -> Any:
        taken = self.images

        class Sink:
            def write(self, pixels: Any, _: Any = None) -> None:
                assert name not in taken, "a small image comes as a whole"
                taken[name] = (pixels, asked)

        return Sink()

    def objects(self, objects: Any, *, name: str = "prediction", **_: Any) -> None:
        self.found[name] = objects


def predict(values: list[int], channels: int = 1, pixel_size: PixelSize | None = None, **asked: Any) -> Recorder:
    from parfocal.unet.network import UnetOfImages

    facts = facts_of_classes(len(values), channels, threshold=0.3).with_measured(class_values=values)
    parameters, implementation = Unet2DParameters(first_filters=4), UnetOfImages()
    shape = (30, 45) if channels == 1 else (30, 45, channels)
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    outputs = Recorder()
    unit = ArrayUnit(pixels, "YX", 2**20, None, pixel_size)
    view = view_of(parameters, facts)
    implementation.predict(
        implementation.build(parameters, facts),
        unit,
        view,
        UnetPredictionParameters(**asked),
        outputs,  # type: ignore[arg-type]
    )
    return outputs


def test_predictions_have_the_values_of_the_training_masks() -> None:
    outputs = predict([255, 0], probabilities=True, instances="components")
    pixels, asked = outputs.images["prediction"]
    assert (pixels.dtype, pixels.shape, asked["values"]) == (np.uint8, (30, 45), "none")
    probability, asked = outputs.images["probability"]
    assert (probability.shape, asked["axes"]) == ((2, 30, 45), "CYX")
    np.testing.assert_allclose(probability.sum(axis=0), 1, rtol=1e-5)
    # The stored threshold cuts, and the foreground is the second value.
    np.testing.assert_array_equal(pixels == 0, probability[1] >= 0.3)
    assert (outputs.found["instances"].labels > 0).tolist() == (pixels == 0).tolist()


def test_a_threshold_that_is_asked_for_replaces_the_stored_one() -> None:
    outputs = predict([0, 1], probabilities=True, threshold=0.7)
    np.testing.assert_array_equal(outputs.images["prediction"][0], outputs.images["probability"][0][1] >= 0.7)


def test_of_several_classes_the_most_probable_one_is_taken() -> None:
    outputs = predict([7, 300, 20], channels=3, probabilities=True)
    pixels, probability = outputs.images["prediction"][0], outputs.images["probability"][0]
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, np.array([7, 300, 20])[probability.argmax(axis=0)])
    assert list(outputs.images) == ["prediction", "probability"]
    assert not outputs.found


def test_the_pixel_size_of_the_image_decides_what_is_small() -> None:
    large = predict([0, 255], 1, PixelSize(10.0, 10.0), smallest_object=5)
    small = predict([0, 255], 1, PixelSize(0.01, 0.01), smallest_object=5)
    assert large.images["prediction"][0].any()
    assert not small.images["prediction"][0].any()


@pytest.mark.parametrize(
    ("shape", "pixels", "margin"), [((90, 120), 1600, 9), ((20, 40, 40), 5000, 7)], ids=["plane", "volume"]
)
def test_blocks_are_cleaned_as_the_whole_image(
    shape: tuple[int, ...], pixels: int, margin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, *(1.2,) * len(shape)))
    classes = (np.argmax(np.stack([np.full(shape, 0.1), *field]), axis=0)).astype(np.uint8)
    parameters = UnetPredictionParameters(smallest_object=6, largest_hole=6, **PIXELS)
    expected = clean_regions(classes, parameters, None)
    assert (expected != classes).any()
    blocks = functools.partial(plan_blocks, block_pixels=pixels, margin=margin)
    assert len(list(blocks(shape))) > 1
    monkeypatch.setattr(module, "plan_blocks", blocks)
    np.testing.assert_array_equal(clean_in_blocks(classes, parameters, None), expected)
