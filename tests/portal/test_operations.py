"""Operations on labels and boxes: exact pixels, exact undo, and refusals that change nothing."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.portal.annotate import shapes
from parfocal.portal.annotate.boxes import BoxEditor, DrawnBox
from parfocal.portal.annotate.labels import LabelEditor
from parfocal.portal.annotate.operations import parse, to_text
from parfocal.portal.annotate.rebasing import Seen, can_follow, digest_of
from parfocal.runtime.errors import InvalidInputError

SHAPE = (24, 30)


def editor(plane: NDArray[Any], **more: Any) -> LabelEditor:
    return LabelEditor(np.array(plane, np.uint32)[np.newaxis, np.newaxis], **more)


def do(one: LabelEditor | BoxEditor, **content: Any) -> Any:
    operation = one.resolve(parse(content))
    assert parse(to_text(operation)) == operation
    one.apply(operation)
    return operation


def spread(area: shapes.Area, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    plane = np.zeros(shape, bool)
    plane[area.window] = area.mask
    return plane


def winding(points: list[tuple[float, float]], x: float, y: float) -> int:
    """How often a polygon turns around a point, from the angles under which it sees the edges."""
    turns = 0.0
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        one, other = complex(x0 - x, y0 - y), complex(x1 - x, y1 - y)
        turns += np.angle(other / one)
    return round(turns / (2 * math.pi))


@pytest.mark.parametrize("seed", range(6))
def test_a_polygon_covers_the_pixels_whose_centres_it_turns_around(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.uniform((-4, -4), (34, 28), (rng.integers(3, 9), 2))]
    expected = [[winding(points, x + 0.5, y + 0.5) != 0 for x in range(SHAPE[1])] for y in range(SHAPE[0])]
    np.testing.assert_array_equal(spread(shapes.polygon(points, SHAPE)), expected)


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    corners = [(2.0, 2.0), (20.5, 3.5), (18.5, 20.5), (3.5, 19.5)]
    first = spread(shapes.polygon([corners[0], corners[1], corners[2]], SHAPE))
    second = spread(shapes.polygon([corners[0], corners[2], corners[3]], SHAPE))
    whole = spread(shapes.polygon(corners, SHAPE))
    assert not (first & second).any()
    np.testing.assert_array_equal(first | second, whole)
    # A rectangle between pixels has exactly its pixels.
    exact = spread(shapes.polygon([(4, 5), (9, 5), (9, 8), (4, 8)], SHAPE))
    assert exact.sum() == 15
    assert exact[5:8, 4:9].all()


@pytest.mark.parametrize(("diameter", "seed"), [(1, 0), (2.5, 1), (6, 2), (9, 3)])
def test_a_brush_covers_what_is_within_half_its_size_of_the_path(diameter: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.uniform((-3, -3), (33, 27), (5, 2))]
    expected = np.zeros(SHAPE, bool)
    for row, column in np.ndindex(SHAPE):
        centre = complex(column + 0.5, row + 0.5)
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            begin, along = complex(x0, y0), complex(x1 - x0, y1 - y0)
            place = ((centre - begin) * along.conjugate()).real / abs(along) ** 2
            expected[row, column] |= abs(centre - begin - min(max(place, 0), 1) * along) <= diameter / 2
    for x, y in points:
        if 0 <= y < SHAPE[0] and 0 <= x < SHAPE[1]:
            expected[int(y), int(x)] = True
    np.testing.assert_array_equal(spread(shapes.stroke(points, diameter, SHAPE)), expected)


def test_the_finest_brush_paints_the_pixel_below_it() -> None:
    for x, y in ((3.02, 4.97), (3.5, 4.5), (3.99, 4.0)):
        plane = spread(shapes.stroke([(x, y)], 0.5, SHAPE))
        assert np.argwhere(plane).tolist() == [[4, 3]]


def test_drawing_makes_an_object_with_the_next_number_and_leaves_others_alone() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[4:10, 4:10] = 7
    one = editor(plane)
    made = do(one, do="draw", shape="polygon", points=[[8, 8], [14, 8], [14, 14], [8, 14]])
    assert made.object == 8
    expected = plane.copy()
    expected[8:14, 8:14] = 8
    expected[4:10, 4:10] = 7
    np.testing.assert_array_equal(one.labels[0, 0], expected)
    do(one, do="draw", shape="polygon", points=[[8, 8], [14, 8], [14, 14], [8, 14]], object=8, protect=False)
    expected[8:14, 8:14] = 8
    np.testing.assert_array_equal(one.labels[0, 0], expected)


def test_a_brush_begun_on_an_object_extends_it_and_erasing_takes_away() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[4:10, 4:10] = 3
    plane[4:10, 12:18] = 4
    one = editor(plane)
    do(one, do="draw", shape="brush", size=1, points=[[9.5, 6.5], [13.5, 6.5]], object=3)
    expected = plane.copy()
    expected[6, 10:12] = 3
    np.testing.assert_array_equal(one.labels[0, 0], expected)
    do(one, do="erase", size=1, points=[[0.5, 5.5], [25.5, 5.5]], object=4)
    expected[5, 12:18] = 0
    np.testing.assert_array_equal(one.labels[0, 0], expected)
    do(one, do="erase", size=1, points=[[0.5, 5.5], [25.5, 5.5]])
    expected[5] = 0
    np.testing.assert_array_equal(one.labels[0, 0], expected)


def test_the_larger_part_keeps_the_number_and_the_pixels_below_the_cut() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[5:15, 5:25] = 9
    plane[18, 5] = 12
    one = editor(plane)
    operation = do(one, do="split", object=9, points=[[18.5, 2.5], [18.5, 20.5]])
    assert operation.parts == (13,)
    expected = plane.copy()
    expected[5:15, 19:25] = 13
    np.testing.assert_array_equal(one.labels[0, 0], expected)


@pytest.mark.parametrize("ends", [[[3.5, 3.5], [26.5, 20.5]], [[26.5, 2.5], [4.5, 21.5]], [[3.5, 11.5], [27.5, 12.5]]])
def test_any_line_through_a_disc_gives_two_parts_that_are_the_disc(ends: list[list[float]]) -> None:
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    disc = (y - 12) ** 2 + (x - 15) ** 2 <= 64
    one = editor(np.where(disc, 5, 0))
    do(one, do="split", object=5, points=ends)
    after = one.labels[0, 0]
    np.testing.assert_array_equal(after > 0, disc)
    (x0, y0), (x1, y1) = ends
    side = (x + 0.5 - x0) * (y1 - y0) - (y + 0.5 - y0) * (x1 - x0)
    # Beyond the pixels of the line itself everything lies on the side of its part.
    distance = np.abs(side) / math.hypot(x1 - x0, y1 - y0)
    (new,) = set(np.unique(after)) - {0, 5}
    assert len(set(np.sign(side[after == new]))) == 1
    far = disc & (distance > 1.5)
    assert ((after == new) == (np.sign(side) == np.sign(side[after == new][0])))[far].all()
    assert (after == 5).sum() >= (after == new).sum()
    for number in (5, new):
        assert ndimage.label(after == number, np.ones((3, 3)))[1] == 1


def test_a_line_that_does_not_divide_is_refused() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[5:15, 5:25] = 9
    one = editor(plane)
    for points in ([[8, 8], [8, 20]], [[1, 1], [1, 20]]):
        with pytest.raises(InvalidInputError, match="does not divide object 9"):
            do(one, do="split", object=9, points=points)
    # Not where only a corner pixel would be cut off.
    with pytest.raises(InvalidInputError, match="does not divide"):
        do(one, do="split", object=9, points=[[6.5, 4.5], [4.5, 6.5]])
    np.testing.assert_array_equal(one.labels[0, 0], plane)
    assert one.steps == 0


def test_merging_keeps_the_first_number_and_deleting_removes() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[2:6, 2:6], plane[2:6, 6:10], plane[10:14, 10:14] = 2, 5, 6
    one = editor(plane, classes={2: 1, 5: 2, 6: 2})
    do(one, do="merge", object=5, others=[2, 6])
    expected = np.where(plane > 0, 5, 0)
    np.testing.assert_array_equal(one.labels[0, 0], expected)
    assert one.classes == {5: 2}
    do(one, do="delete", object=5)
    assert not one.labels.any()
    assert one.classes == {}
    one.undo()
    one.undo()
    np.testing.assert_array_equal(one.labels[0, 0], plane)
    assert one.classes == {2: 1, 5: 2, 6: 2}
    with pytest.raises(InvalidInputError, match="no object 9"):
        do(one, do="merge", object=2, others=[9])


def test_holes_are_filled_but_not_other_objects_in_them() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[2:12, 2:12] = 1
    plane[4:8, 4:8] = 0
    plane[5, 5] = 2
    one = editor(plane)
    do(one, do="fill", object=1)
    expected = plane.copy()
    expected[2:12, 2:12] = 1
    expected[5, 5] = 2
    np.testing.assert_array_equal(one.labels[0, 0], expected)


def test_objects_of_volumes_are_drawn_in_a_plane_and_deleted_in_all() -> None:
    volume = np.zeros((2, 3, 8, 9), np.uint32)
    volume[1, :, 2:5, 2:5] = 4
    one = LabelEditor(volume.copy())
    do(one, do="draw", shape="polygon", points=[[5, 2], [7, 2], [7, 5], [5, 5]], object=4, t=1, z=2)
    expected = volume.copy()
    expected[1, 2, 2:5, 5:7] = 4
    np.testing.assert_array_equal(one.labels, expected)
    do(one, do="delete", object=4, t=1)
    assert not one.labels.any()
    one.undo()
    np.testing.assert_array_equal(one.labels, expected)
    with pytest.raises(InvalidInputError, match="no plane z 3"):
        do(one, do="draw", shape="brush", points=[[1, 1]], z=3)


def test_areas_of_classes_are_drawn_and_changed_around_a_point() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[2:6, 2:6] = plane[10:14, 10:14] = 1
    one = editor(plane, areas=True)
    do(one, do="reclassify", object=1, classed=2, at=[11.5, 11.5])
    expected = plane.copy()
    expected[10:14, 10:14] = 2
    np.testing.assert_array_equal(one.labels[0, 0], expected)
    do(one, do="draw", shape="polygon", points=[[2, 2], [4, 2], [4, 4], [2, 4]], object=2, protect=False)
    expected[2:4, 2:4] = 2
    np.testing.assert_array_equal(one.labels[0, 0], expected)
    with pytest.raises(InvalidInputError, match="cannot be split"):
        do(one, do="split", object=1, points=[[1, 1], [9, 9]])


def test_what_another_program_corrected_replaces_the_labels_and_can_be_undone() -> None:
    plane = np.zeros(SHAPE, np.uint32)
    plane[2:6, 2:6] = 1
    other = np.zeros((1, 1, *SHAPE), np.uint32)
    other[..., 3:9, 3:9] = 70_000
    one = editor(plane, load=lambda digest: other if digest == "ab" * 32 else plane)
    do(one, do="replace", file="ab" * 32)
    np.testing.assert_array_equal(one.labels, other)
    one.undo()
    np.testing.assert_array_equal(one.labels[0, 0], plane)


@pytest.mark.parametrize("seed", range(4))
def test_undo_is_exact_and_the_kept_operations_give_the_same_labels_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = np.kron(rng.integers(0, 3, (6, 6)), np.ones((6, 6), int)) * np.arange(1, 37)[:, np.newaxis] // 6
    one, states, kept = editor(plane), [], []
    while len(kept) < 60:
        there = np.unique(one.labels)[1:].tolist() or [1]
        first, second = (int(number) for number in rng.choice(there, 2))
        points = rng.uniform(-2, 38, (int(rng.integers(1, 6)), 2)).round(2).tolist()
        content: dict[str, Any] = [
            {"do": "draw", "shape": "polygon", "points": points},
            {"do": "draw", "shape": "brush", "points": points, "size": 5, "object": first, "protect": False},
            {"do": "erase", "points": points, "size": 7},
            {"do": "split", "object": first, "points": [points[0], points[-1]]},
            {"do": "merge", "object": first, "others": [second]},
            {"do": "fill", "object": first},
            {"do": "delete", "object": first},
            {"do": "reclassify", "object": first, "classed": int(rng.integers(0, 4))},
        ][rng.choice(8, p=[0.3, 0.2, 0.1, 0.15, 0.05, 0.05, 0.05, 0.1])]
        before = (one.labels.copy(), dict(one.classes))
        try:
            operation = one.resolve(parse(content))
            one.apply(operation)
        except InvalidInputError:
            np.testing.assert_array_equal(one.labels, before[0])
            assert one.classes == before[1]
            continue
        states.append(before)
        kept.append(to_text(operation))
    again = editor(plane)
    for text in kept:
        again.apply(parse(text))
    np.testing.assert_array_equal(again.labels, one.labels)
    assert again.classes == one.classes
    for labels, classes in reversed(states):
        one.undo()
        np.testing.assert_array_equal(one.labels, labels)
        assert one.classes == classes
    np.testing.assert_array_equal(one.labels[0, 0], plane)


def test_boxes_are_added_moved_classed_and_deleted() -> None:
    first = DrawnBox(4, (2, 3, 8, 9), 1)
    one = BoxEditor((first,), SHAPE, classes=2)
    assert do(one, do="box", corners=[20, 12, 14, 50], classed=2).object == 5
    assert one.boxes == (first, DrawnBox(5, (14, 12, 20, 24), 2))
    do(one, do="move", object=4, corners=[3, 3, 9, 9])
    do(one, do="reclassify", object=4, classed=2)
    assert one.boxes[0] == DrawnBox(4, (3, 3, 9, 9), 2)
    do(one, do="delete", object=5)
    assert len(one.boxes) == 1
    for _ in range(4):
        one.undo()
    assert one.boxes == (first,)
    with pytest.raises(InvalidInputError, match="smaller than a pixel"):
        do(one, do="box", corners=[40, 3, 50, 9], classed=1)
    with pytest.raises(InvalidInputError, match="class of the box"):
        do(one, do="box", corners=[4, 3, 9, 9])


@pytest.mark.parametrize(
    "content",
    [
        {"do": "explode"},
        {"do": "draw", "shape": "polygon", "points": []},
        {"do": "draw", "shape": "polygon", "points": [[float("nan"), 1]]},
        {"do": "draw", "shape": "brush", "points": [[1, 1]], "size": 1e9},
        {"do": "delete", "object": 2**32},
        {"do": "replace", "file": "../../x"},
        "no json",
    ],
)
def test_what_is_no_operation_is_refused(content: Any) -> None:
    with pytest.raises(InvalidInputError, match="This cannot be done"):
        parse(content)


def drawn(x: float, y: float, number: int = 0, **more: Any) -> dict[str, Any]:
    points = [[x, y], [x + 4, y], [x + 4, y + 4], [x, y + 4]]
    return {"do": "draw", "shape": "polygon", "points": points, "object": number, **more}


@pytest.mark.parametrize(
    ("mine", "theirs", "follows"),
    [
        (drawn(0, 0), drawn(20, 20, 7), True),
        (drawn(0, 0), drawn(2, 2, 7), False),
        (drawn(0, 0), drawn(2, 2, 7, z=1), True),
        (drawn(0, 0, 3), drawn(20, 20, 3), False),
        (drawn(0, 0, 3), {"do": "delete", "object": 3}, False),
        (drawn(0, 0, 3), {"do": "delete", "object": 4}, True),
        (drawn(0, 0, protect=False), {"do": "reclassify", "object": 4, "classed": 1}, False),
        ({"do": "erase", "points": [[1, 1]]}, {"do": "fill", "object": 4}, False),
        ({"do": "erase", "points": [[1, 1]], "object": 2}, {"do": "fill", "object": 4}, True),
        ({"do": "merge", "object": 1, "others": [2]}, {"do": "split", "object": 2, "points": [[1, 1]]}, False),
        ({"do": "merge", "object": 1, "others": [2]}, {"do": "split", "object": 3, "points": [[1, 1]]}, True),
        ({"do": "replace", "file": "0" * 64}, drawn(0, 0, 3), False),
        ({"do": "box", "corners": [0, 0, 4, 4]}, {"do": "box", "corners": [9, 9, 12, 12], "object": 5}, True),
        ({"do": "box", "corners": [0, 0, 4, 4]}, {"do": "box", "corners": [3, 3, 6, 6], "object": 5}, False),
        ({"do": "move", "object": 5, "corners": [0, 0, 4, 4]}, {"do": "delete", "object": 5}, False),
    ],
)
def test_corrections_of_two_windows_follow_each_other_unless_they_touch_the_same(
    mine: dict[str, Any], theirs: dict[str, Any], follows: bool
) -> None:
    assert can_follow("labels", [mine], [to_text(parse(theirs))]) == follows
    assert can_follow("labels", [theirs], [to_text(parse(mine))]) == follows


def test_in_class_images_the_number_of_a_class_is_no_object() -> None:
    assert can_follow("classes", [drawn(0, 0, 2)], [to_text(parse(drawn(20, 20, 2)))])
    assert not can_follow("classes", [drawn(0, 0, 2)], [to_text(parse({"do": "delete", "object": 1, "at": [3, 3]}))])


def test_a_window_misses_what_others_did_since_and_not_what_it_did_itself() -> None:
    texts = [to_text(parse(drawn(0, number, number + 1))) for number in range(4)]
    seen = Seen(digest_of(texts[:1]), frozenset({digest_of([texts[2]])}))
    assert seen.missed(texts) == [texts[1], texts[3]]
    assert seen.missed(texts[:1]) == []
    assert Seen(digest_of([])).missed(texts) == texts
    assert seen.missed(texts[1:]) is None, "what it has seen was undone"
