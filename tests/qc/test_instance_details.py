"""Outlines, aggregated Jaccard index, error maps and scores by size, against closed forms and independent code."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.qc.figures.drawing import save_png
from parfocal.qc.instances.figure import in_words, overlay_figure
from parfocal.qc.instances.judge import distance_values
from parfocal.qc.instances.sizes import size_classes, target_outcomes, write_sizes_csv
from parfocal.qc.metrics.objects.boundaries import boundary_distances
from parfocal.qc.metrics.objects.instances import overlap, score_instances
from parfocal.qc.metrics.objects.outcomes import ERROR_CODES, error_map, outcome_layers
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import PixelSize

Labels = NDArray[np.int64]


def blobs(seed: int, shape: tuple[int, ...] = (48, 56), count: int = 8) -> Labels:
    """Touching objects of different sizes: the regions nearest to random points, cut by discs around them."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.integers(0, length, count) for length in shape], axis=1)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distances = np.linalg.norm(grid[..., np.newaxis, :] - points, axis=-1)
    nearest = distances.argmin(axis=-1)
    radii = rng.uniform(2, 9, count)
    return np.where(distances.min(axis=-1) <= radii[nearest], nearest + 1, 0)


def square(shape: tuple[int, int], top: int, left: int, side: int) -> Labels:
    labels = np.zeros(shape, np.int64)
    labels[top : top + side, left : left + side] = 1
    return labels


def edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Outline of one object by erosion; beyond the image lies more of the object."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def distances_by_transform(
    target: NDArray[np.bool_], prediction: NDArray[np.bool_], size: tuple[float, ...]
) -> tuple[float, float]:
    one, other = edges(target), edges(prediction)
    there = ndimage.distance_transform_edt(~one, sampling=size)[other]
    back = ndimage.distance_transform_edt(~other, sampling=size)[one]
    mean = (there.sum() + back.sum()) / (there.size + back.size)
    return float(mean), float(max(np.percentile(there, 95), np.percentile(back, 95)))


@pytest.mark.parametrize(("shape", "size"), [((48, 56), (0.5, 0.2)), ((12, 30, 26), (1.2, 0.3, 0.3))])
def test_distances_are_those_of_a_distance_transform(shape: tuple[int, ...], size: tuple[float, ...]) -> None:
    target = blobs(1, shape)
    prediction = np.roll(target, 2, axis=-1)
    prediction[..., :2] = 0
    matches = overlap(target, prediction, name="a").match(0.2)
    assert len(matches.pairs) >= 3
    found = boundary_distances(target, prediction, matches, size)
    for number, (mine, theirs, _) in enumerate(matches.pairs):
        mean, largest = distances_by_transform(target == mine, prediction == theirs, size)
        assert found.mean[number] == pytest.approx(mean)
        assert found.hausdorff_95[number] == pytest.approx(largest)


def test_a_larger_square_is_off_by_its_margin() -> None:
    target, prediction = square((60, 60), 20, 20, 20), square((60, 60), 17, 17, 26)
    matches = overlap(target, prediction, name="a").match(0.5)
    found = boundary_distances(target, prediction, matches, (0.1, 0.1))
    # Straight parts are 3 pixels apart, corners at most 3 times the root of 2.
    assert 0.3 <= found.mean[0] < 0.33
    assert 0.3 <= found.hausdorff_95[0] < 0.43


def test_equal_outlines_are_at_no_distance_and_nothing_found_has_none() -> None:
    target = blobs(2)
    same = boundary_distances(target, target, overlap(target, target, name="a").match(0.5))
    assert not same.mean.any()
    assert not same.hausdorff_95.any()
    nothing = np.zeros_like(target)
    none = boundary_distances(target, nothing, overlap(target, nothing, name="a").match(0.5))
    assert none.mean.shape == (0,)


def test_an_object_that_fills_its_image_has_no_outline() -> None:
    full = np.ones((20, 20), np.int64)
    found = boundary_distances(full, full, overlap(full, full, name="a").match(0.5))
    assert found.mean.tolist() == [0.0]


@pytest.mark.parametrize("size", [(0.1,), (0.1, 0.0), (0.1, 0.1, 0.1)])
def test_a_pixel_size_that_does_not_fit_is_refused(size: tuple[float, ...]) -> None:
    labels = blobs(3)
    with pytest.raises(InvalidInputError, match="pixel size"):
        boundary_distances(labels, labels, overlap(labels, labels, name="a").match(0.5), size)


def aggregated_jaccard(target: Labels, prediction: Labels) -> float:
    """Compute the index as its authors describe it: object by object, on masks."""
    shared = either = 0
    used: set[int] = set()
    for label in np.unique(target[target > 0]):
        mask = target == label
        touching = [int(other) for other in np.unique(prediction[mask]) if other]
        if not touching:
            either += int(mask.sum())
            continue
        masks = {other: prediction == other for other in touching}
        best = max(touching, key=lambda other: (mask & masks[other]).sum() / (mask | masks[other]).sum())
        shared += int((mask & masks[best]).sum())
        either += int((mask | masks[best]).sum())
        used.add(best)
    either += sum(
        int((prediction == other).sum()) for other in np.unique(prediction[prediction > 0]) if other not in used
    )
    return shared / either if either else 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_aggregated_jaccard_index_is_that_of_its_definition(one: int, other: int) -> None:
    target, prediction = blobs(one), blobs(other)
    expected = aggregated_jaccard(target, prediction)
    assert overlap(target, prediction, name="a").aggregated_jaccard() == pytest.approx(expected)


def test_the_aggregated_jaccard_index_of_extremes() -> None:
    target, nothing = blobs(4), np.zeros((48, 56), np.int64)
    assert overlap(target, target, name="a").aggregated_jaccard() == 1
    assert overlap(nothing, nothing, name="a").aggregated_jaccard() == 1
    assert overlap(target, nothing, name="a").aggregated_jaccard() == 0
    assert overlap(nothing, target, name="a").aggregated_jaccard() == 0


def test_the_error_map_names_every_mistake() -> None:
    target, prediction = np.zeros((2, 20, 60), np.int64)
    target[2:8, 2:8] = 1  # found
    prediction[2:8, 2:8] = 5
    target[2:8, 12:18] = 2  # false negative
    prediction[2:8, 22:28] = 6  # false positive
    target[2:8, 32:44] = 3  # split into two
    prediction[2:8, 32:38], prediction[2:8, 38:44] = 7, 8
    target[12:18, 2:8], target[12:18, 8:14] = 9, 10  # merged
    prediction[12:18, 2:14] = 11
    score = score_instances(target, prediction, name="a")
    layers = outcome_layers(score, score.overlap.match(0.6))
    mistakes = error_map(target, prediction, layers)
    assert {layer.outcome: len(layer.ids) for layer in layers} == {
        "true positive": 1, "false negative": 3, "false positive": 3, "split": 1, "merged": 1,
    }  # fmt: skip
    expected: dict[str, Any] = {
        "true positive": (4, 4),
        "false negative": (4, 14),
        "false positive": (4, 24),
        "split": (4, 34),
        "merged": (14, 10),
    }
    assert {outcome: int(mistakes[place]) for outcome, place in expected.items()} == ERROR_CODES
    assert mistakes[10, 30] == 0
    # The title counts as F1 does, and says which of these the legend has under another name.
    assert (
        in_words(score, score.overlap.match(0.6))
        == "1 true positive, 4 false negatives (1 split), 4 false positives (1 merged)"
    )


def test_small_objects_that_are_missed_show_in_their_class(tmp_path: Path) -> None:
    target = np.zeros((40, 160), np.int64)
    for number, side in enumerate((3, 3, 5, 6, 9, 10)):
        target[2 : 2 + side, 20 * number + 2 : 20 * number + 2 + side] = number + 1
    prediction = np.where(target > 2, target, 0)
    matched = overlap(target, prediction, name="a")
    classes = size_classes([target_outcomes(matched, matched.match(0.5))])
    assert [(each.size_class, each.target_objects, each.true_positives) for each in classes] == [
        ("small", 2, 0), ("medium", 2, 2), ("large", 2, 2),
    ]  # fmt: skip
    assert classes[0].mean_matched_iou is None
    assert (classes[2].smallest_px, classes[2].largest_px, classes[2].recall) == (81, 100, 1.0)
    write_sizes_csv(tmp_path / "sizes.csv", classes)
    with (tmp_path / "sizes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["true_positives"] for row in rows] == ["0", "2", "2"]
    assert rows[0]["mean_matched_iou"] == ""


def test_classes_need_targets_and_keep_equal_sizes_together() -> None:
    assert size_classes([]) == ()
    nothing = np.zeros((8, 8), np.int64)
    empty = overlap(nothing, nothing, name="a")
    assert size_classes([target_outcomes(empty, empty.match(0.5))]) == ()
    equal = np.array([[25.0, 0.8]] * 5)
    assert [each.target_objects for each in size_classes([equal])] == [5]


@pytest.mark.parametrize("pixel_size", [PixelSize(0.13, 0.13, 0.13), PixelSize(0.13, 0.13, 0.5)])
@pytest.mark.parametrize("shape", [(48, 56), (12, 30, 26)])
def test_distances_in_micrometres_are_the_measured_ones_also_where_pixels_are_scaled(
    shape: tuple[int, ...], pixel_size: PixelSize
) -> None:
    target = blobs(2, shape)
    prediction = np.roll(target, 1, axis=-1)
    matches = overlap(target, prediction, name="a").match(0.3)
    assert matches.pairs
    values = distance_values(target, prediction, matches, pixel_size)
    measured = boundary_distances(target, prediction, matches, pixel_size.lengths(len(shape)))
    in_pixels = boundary_distances(target, prediction, matches)
    assert values == pytest.approx(
        {
            "boundary_distance_px": in_pixels.mean.mean(),
            "hausdorff_95_px": in_pixels.hausdorff_95.mean(),
            "boundary_distance_um": measured.mean.mean(),
            "hausdorff_95_um": measured.hausdorff_95.mean(),
        },
        rel=1e-12,
    )


def test_overlays_drawn_in_threads_are_those_drawn_alone(tmp_path: Path) -> None:
    def draw(task: tuple[str, int]) -> bytes:
        folder, seed = task
        target = blobs(seed)
        prediction = np.roll(target, 2, axis=1)
        score = score_instances(target, prediction, name="a")
        path = tmp_path / f"{folder}{seed}.png"
        figure = overlay_figure(target, target, prediction, score, score.overlap.match(0.5), name=f"field µ{seed}")
        save_png(figure, path)
        return path.read_bytes()

    alone = [draw(("alone", seed)) for seed in range(24)]
    assert len(set(alone)) == 24
    assert list(map_bounded(draw, [("threads", seed) for seed in range(24)], 8)) == alone
