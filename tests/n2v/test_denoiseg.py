"""DenoiSeg against its publication."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learner_suite import LearnerSuite, batch_of, prepared
from scipy.special import softmax

from parfocal.n2v.parameters import DenoiSegParameters
from parfocal.runtime.store.facts import Facts, Port

# Keras 2 draws its seeds with numbers that are not whole.
pytestmark = pytest.mark.filterwarnings("ignore:non-integer arguments to randrange:DeprecationWarning")

LABELLED = Facts(inputs=(Port(role="source"),), targets=(Port(role="target", kind="labels"),))
TINY: dict[str, Any] = {"first_filters": 4, "network_depth": 2, "patch_size": 32, "precision": "float32"}


@pytest.fixture(scope="module")
def denoiseg() -> Any:
    from parfocal.n2v.denoiseg import DenoiSeg

    return DenoiSeg()


def objects(*windows: tuple[slice, slice], shape: tuple[int, int] = (12, 12)) -> Any:
    labels = np.zeros(shape, np.int32)
    for number, window in enumerate(windows, start=1):
        labels[window] = number
    return labels


@pytest.mark.parametrize(("depth", "expected"), [(2, 334_916), (3, 1_370_308), (4, 5_505_476)])
def test_the_network_has_the_published_number_of_parameters(denoiseg: Any, depth: int, expected: int) -> None:
    learner = denoiseg.build(DenoiSegParameters(network_depth=depth), LABELLED)
    assert sum(array.size for array in learner.weights().values()) == expected


def test_touching_objects_have_a_border_between_them() -> None:
    from parfocal.n2v.denoiseg import pixel_classes

    touching = objects((slice(3, 9), slice(2, 6)), (slice(3, 9), slice(6, 10)))
    classes = pixel_classes(touching)
    # As in the authors' function: foreground 36, border 40, background 68.
    assert np.bincount(classes.ravel()).tolist() == [68, 36, 40]
    assert (classes[3:9, 5:7] == 2).all()
    apart = pixel_classes(objects((slice(2, 5), slice(2, 5))))
    assert np.bincount(apart.ravel()).tolist() == [144 - 9 - 12, 9, 12]


def test_the_loss_is_that_of_the_publication_over_annotated_pixels() -> None:
    from parfocal.n2v.denoiseg import denoiseg_loss

    # Two by two pixels: one blind spot of value 2, one pixel of background, one of border, two not annotated.
    targets = np.zeros((1, 2, 2, 6), np.float32)
    targets[0, 0, 0, :2] = 2, 1
    targets[0, 0, 0, 2], targets[0, 0, 1, 4] = 1, 5
    targets[0, 0, :, 5] = 1
    found = denoiseg_loss(0.5)(targets, np.zeros((1, 2, 2, 4), np.float32)).numpy()
    # The publication divides by all four pixels and has 1.64792.
    assert found == pytest.approx(0.5 * 4 + 0.5 * 2 * 1.64792, rel=1e-5)
    alone = targets.copy()
    alone[..., 2:] = 0
    assert denoiseg_loss(0.5)(alone, np.zeros((1, 2, 2, 4), np.float32)).numpy() == pytest.approx(2)


def test_images_without_objects_count_as_not_annotated(denoiseg: Any) -> None:
    empty, drawn = np.zeros((32, 32), np.int32), objects((slice(4, 9), slice(4, 9)), shape=(32, 32))
    cleaned = [denoiseg.clean_labels(each) for each in (empty, drawn)]
    assert (cleaned[0] == -1).all()
    np.testing.assert_array_equal(cleaned[1], drawn)
    inputs = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    parameters = DenoiSegParameters(**TINY)
    targets = prepared(denoiseg, inputs, np.stack(cleaned)[..., np.newaxis], parameters, LABELLED).targets
    assert not targets[0, ..., 2:].any()
    assert targets[1, ..., 5].all()
    assert (targets[1, ..., 4] == 5).sum() == 20
    assert 10 < targets[0, ..., 1].sum() < 22  # 1.5 % of the pixels are hidden in both


def test_thresholds_are_compared_by_objects_found() -> None:
    from parfocal.n2v.denoiseg import average_precision

    real = objects((slice(1, 5), slice(1, 5)), (slice(7, 11), slice(7, 11)))
    assert average_precision(real, real) == 1
    assert average_precision(objects((slice(1, 5), slice(1, 5))), real) == 0.5
    assert average_precision(objects((slice(1, 5), slice(1, 3))), real) == 0  # half is not more than half
    assert average_precision(0 * real, 0 * real) == 1
    # Nobody annotated the second one: whether it is found counts for nothing.
    partly = np.where(real == 2, -1, real)
    assert average_precision(real, partly) == average_precision(partly * (partly > 0), partly) == 1


def test_it_learns_to_find_objects_from_one_annotated_image(denoiseg: Any) -> None:
    from parfocal.n2v.denoiseg import average_precision, label

    rng = np.random.default_rng(0)
    labels = []
    for _ in range(6):
        corners = np.array([(row, column) for row in (3, 18, 33, 48) for column in (3, 18, 33, 48)])
        corners += rng.integers(0, 8, corners.shape)
        labels.append(objects(*((slice(y, y + 6), slice(x, x + 6)) for y, x in corners), shape=(64, 64)))
    clean = np.stack([each > 0 for each in labels]).astype(np.float32)
    noisy = 3 * clean + rng.normal(size=clean.shape).astype(np.float32)
    noisy = ((noisy - noisy.mean()) / noisy.std())[..., np.newaxis]
    # The last image is held out, and four of the others are not annotated.
    known = np.stack([denoiseg.clean_labels(each if number == 0 else 0 * each) for number, each in enumerate(labels)])
    parameters = DenoiSegParameters(**TINY | {"first_filters": 8}, learning_rate=0.005)
    learner = denoiseg.build(parameters, LABELLED)
    for _ in range(200):
        batch = batch_of(noisy[:5], known[:5, ..., np.newaxis])
        learner.train_batch(denoiseg.prepare(batch, parameters, LABELLED, rng))
    output = learner.predict_batch(noisy[5:])
    error = np.mean((output[..., 0] - noisy[5:, ..., 0]) ** 2)
    assert error < 0.9  # of the image's variance: the network was trained
    found = label(softmax(output[..., 1:], axis=-1)[0, ..., 1] > 0.5)
    assert average_precision(found, labels[5]) > 0.7


class TestDenoiSeg(LearnerSuite):
    path = "parfocal.n2v.denoiseg:DenoiSeg"
    parameters = DenoiSegParameters(**TINY, learning_rate=0.003)
    other = DenoiSegParameters(**TINY, learning_rate=0.003, seed=9)
    larger = DenoiSegParameters(**TINY | {"first_filters": 8})
    facts = LABELLED
    patch = (32, 32)
    weights_suffix = ".h5"

    def target_of(self, inputs: Any) -> Any:
        labels = np.zeros(inputs.shape, np.int32)
        labels[:, 5:12, 8:14] = 1
        return labels
