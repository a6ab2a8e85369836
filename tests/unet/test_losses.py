"""The losses of the U-Nets against computations in numpy, and the weights of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learner_suite import facts_of_classes, prepared
from scipy import ndimage

from parfocal.unet.parameters import Unet2DParameters
from parfocal.unet.weights import balanced_weights, pixel_weights

SHAPE = (2, 6, 5)


def drawn(outputs: int) -> tuple[Any, Any, Any]:
    """Return logits (channels last), classes of which some are not known, and weights."""
    rng = np.random.default_rng(0)
    classes = rng.integers(-1, max(2, outputs), SHAPE)
    return rng.normal(size=(*SHAPE, outputs)) * 2, classes, rng.uniform(0.5, 2, SHAPE)


def probabilities(logits: Any) -> Any:
    if logits.shape[-1] == 1:
        foreground = 1 / (1 + np.exp(-logits[..., 0]))
        return np.stack([1 - foreground, foreground], axis=-1)
    raised = np.exp(logits)
    return raised / raised.sum(axis=-1, keepdims=True)


def of_torch(name: str, logits: Any, classes: Any, weights: Any) -> float:
    import torch

    from parfocal.unet.losses import training_loss

    tensor = torch.from_numpy(np.moveaxis(logits, -1, 1).astype(np.float32))
    return float(training_loss(name, tensor, torch.from_numpy(classes), torch.from_numpy(weights.astype(np.float32))))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", ["cross-entropy", "dice-cross-entropy", "focal"])
def test_losses_are_those_of_their_definitions(name: str, outputs: int) -> None:
    logits, classes, weights = drawn(outputs)
    probability, known = probabilities(logits), classes >= 0
    right = np.take_along_axis(probability, np.maximum(classes, 0)[..., np.newaxis], -1)[..., 0]
    focus = (1 - right) ** 2 if name == "focal" else 1.0
    expected = (weights * focus * -np.log(right))[known].mean()
    if name == "dice-cross-entropy":
        scores = []
        for image in range(SHAPE[0]):
            for number in [1] if outputs == 1 else range(outputs):
                p = probability[image][..., number][known[image]]
                t = (classes[image] == number)[known[image]]
                scores.append((2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5))
        expected += 1 - np.mean(scores)
    assert of_torch(name, logits, classes, weights) == pytest.approx(expected, rel=1e-5)


def test_the_dice_loss_is_that_of_monai_for_its_anchor() -> None:
    import torch

    from parfocal.unet.losses import dice_loss

    logits = torch.tensor([[[[40.0, -40.0], [40.0, -40.0]]]])
    assert float(dice_loss(logits, torch.tensor([[[1, 0], [0, 0]]]))) == pytest.approx(1 / 3, abs=1e-5)


def test_pixels_that_are_not_annotated_change_nothing() -> None:
    logits, classes, weights = drawn(3)
    changed = logits + 100 * (classes < 0)[..., np.newaxis] * np.array([1, 0, -1])
    for name in ("cross-entropy", "dice-cross-entropy", "focal"):
        assert of_torch(name, changed, classes, weights) == pytest.approx(of_torch(name, logits, classes, weights))
    assert of_torch("cross-entropy", logits, np.full(SHAPE, -1), weights) == 0


def test_the_dice_coefficient_is_that_of_all_classes_but_the_background() -> None:
    import torch

    from parfocal.unet.losses import dice_score

    classes = torch.tensor([[[0, 1, 2, -1], [1, 1, 0, 0]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [1, 0, 0, 0]]])
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    # Class 1: 2 of 3 pixels found, 1 too many; class 2: 0 of 1.
    assert dice_score(logits, classes) == pytest.approx((4 / 6 + 0) / 2)
    nothing = torch.zeros((1, 2, 4), dtype=torch.long)
    assert dice_score(torch.full((1, 1, 2, 4), -1.0), nothing) == 1
    assert dice_score(torch.full((1, 1, 2, 4), 1.0), nothing) == 0


def test_class_weights_are_those_of_the_notebooks() -> None:
    counts = np.array([300, 100])
    assert balanced_weights(counts, one_in_total=False) == pytest.approx([400 / 600, 400 / 200])
    assert balanced_weights(counts, one_in_total=True) == pytest.approx([0.25, 0.75])
    weights = balanced_weights(np.array([10, 0, 30]), one_in_total=False)
    assert weights == pytest.approx([2, 0, 2 / 3])


def test_pixels_near_another_class_count_more() -> None:
    classes = np.zeros((1, 9, 12), np.int64)
    classes[:, :, 6:] = 1
    classes[:, :2] = -1
    weights = pixel_weights(classes, [1.0, 2.0], 4.0, 2.0, 1.0)[0]
    assert not weights[:2].any()
    expected = [1 + 4 * np.exp(-((column - 5.5) ** 2) / 8) for column in range(12)]
    np.testing.assert_allclose(weights[4], np.where(np.arange(12) < 6, 1, 2) * expected, rtol=1e-6)
    # Unknown pixels make no boundary.
    assert ndimage.sobel(weights[2:], axis=0).max() == pytest.approx(0, abs=1e-5)


def test_planes_far_apart_are_far_from_a_boundary() -> None:
    classes = np.zeros((1, 4, 3, 3), np.int64)
    classes[:, 2:] = 1
    near, far = (pixel_weights(classes, None, 1.0, 1.0, anisotropy)[0, 1, 1, 1] for anisotropy in (1.0, 4.0))
    assert near == pytest.approx(1 + np.exp(-0.125))
    assert far == pytest.approx(1 + np.exp(-(3.5**2) / 2))


def test_batches_carry_classes_and_weights() -> None:
    from parfocal.unet.network import UnetOfImages

    targets = np.array([[[[0], [1], [-1]]]], np.int8)
    facts = facts_of_classes(class_weights=[0.5, 3.0])
    batch = prepared(UnetOfImages(), np.zeros((1, 1, 3, 1), np.float32), targets, Unet2DParameters(), facts)
    classes, weights = batch.targets
    assert (classes.dtype, classes.tolist()) == (np.int64, [[[0, 1, -1]]])
    assert weights.tolist() == [[[0.5, 3.0, 0.0]]]
