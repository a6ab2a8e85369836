"""Annotations are cut and turned as the pixels that they are drawn on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.training.annotated import AnnotatedBatches, cut_boxes, cut_localisations
from parfocal.runtime.training.augmentation import UNCHANGED, Augmentation
from parfocal.runtime.training.sampler import Patch, PatchSampler
from parfocal.runtime.training.split import Region

SHAPE = (40, 56)
CORNERS = np.array([[4, 6, 9, 13], [20, 30, 32, 36], [30, 4, 38, 20]], np.float32)


def batches(image: Any, annotation: Any, cut: Any, flip: bool, rotate: bool) -> AnnotatedBatches[Any]:
    region = Region(index=0, stem="a", start=(0, 0), stop=SHAPE)
    sampler = PatchSampler(
        sources=[image],
        targets=None,
        regions=[region],
        patch_shape=(24, 24),
        patches_per_image=16,
        batch_size=16,
        seed=3,
        normaliser=Normaliser(rule="none"),
        augmentation=Augmentation(flip=flip, rotate90=rotate),
    )
    return AnnotatedBatches("source", sampler, sampler.validation_batches([region]), [annotation], cut)


@pytest.mark.parametrize(("flip", "rotate"), [(True, True), (False, True), (True, False), (False, False)])
def test_boxes_lie_around_their_objects(flip: bool, rotate: bool) -> None:
    image = np.zeros(SHAPE, np.float32)
    for number, (y0, x0, y1, x1) in enumerate(CORNERS.astype(int), start=1):
        image[y0:y1, x0:x1] = number
    boxes = Boxes(CORNERS, np.array([1, 2, 3]), np.zeros(3, bool), np.zeros(3, bool))
    opened = batches(image, boxes, cut_boxes, flip, rotate)
    seen = 0
    for batch in (opened.batch(0, 0), opened.validation_batch(0)):
        for pixels, found in zip(batch.input[..., 0], batch.targets, strict=True):
            for corners, kind, cut_off in zip(found.corners, found.classes, found.truncated, strict=True):
                rows, columns = np.nonzero(pixels == kind)
                around = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
                np.testing.assert_array_equal(corners, around)
                height, width = (CORNERS[kind - 1][2:] - CORNERS[kind - 1][:2]).astype(int)
                assert cut_off == (len(rows) < height * width)
                seen += 1
    assert seen > 10


def test_a_box_belongs_to_the_patch_that_has_its_middle() -> None:
    boxes = Boxes(CORNERS, np.array([1, 2, 3]), np.zeros(3, bool), np.zeros(3, bool))
    region = ((0, SHAPE[0]), (0, SHAPE[1]))
    parts = [cut_boxes(boxes, Patch(0, (y, x), region), (20, 28), UNCHANGED) for y in (0, 20) for x in (0, 28)]
    assert sorted(kind for part in parts for kind in part.classes.tolist()) == [1, 2, 3]


@pytest.mark.parametrize(("flip", "rotate"), [(True, True), (False, True), (True, False)])
def test_emitters_lie_in_their_pixels(flip: bool, rotate: bool) -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform((0, 0), SHAPE, (40, 2))
    image = np.zeros(SHAPE, np.float32)
    image[places[:, 0].astype(int), places[:, 1].astype(int)] = 1
    located = Localisations(np.zeros(40, np.int64), places[:, 0], places[:, 1], np.full(40, np.nan))
    batch = batches(image, located, cut_localisations, flip, rotate).batch(0, 0)
    for pixels, found in zip(batch.input[..., 0], batch.targets, strict=True):
        drawn = np.zeros_like(pixels)
        drawn[found.y.astype(int), found.x.astype(int)] = 1
        np.testing.assert_array_equal(drawn, pixels)
    assert sum(len(found.y) for found in batch.targets) > 50
