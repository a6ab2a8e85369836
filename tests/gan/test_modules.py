"""The networks of pix2pix and CycleGAN, and the pool of earlier images, against what is published of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parfocal.gan.modules import PatchDiscriminator, Reflected, ResnetGenerator, UnetGenerator
from parfocal.gan.pool import ImagePool


def parameters_of(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: UnetGenerator(3, 3), 54_413_955),
        (lambda: UnetGenerator(1, 1), 54_407_809),
        (lambda: ResnetGenerator(3, 3), 11_378_179),
        (lambda: ResnetGenerator(1, 1), 11_365_633),
        (lambda: PatchDiscriminator(6), 2_768_705),
        (lambda: PatchDiscriminator(2), 2_764_609),
        (lambda: PatchDiscriminator(3, instance_norm=True), 2_764_737),
        (lambda: PatchDiscriminator(1, instance_norm=True), 2_762_689),
    ],
    ids=["unet rgb", "unet grey", "resnet rgb", "resnet grey", "judge 6", "judge 2", "instance 3", "instance 1"],
)
def test_the_networks_have_as_many_parameters_as_the_published_ones(make: Any, expected: int) -> None:
    with torch.device("meta"):  # counted, and not filled with numbers
        assert parameters_of(make()) == expected


@pytest.mark.parametrize(("length", "windows"), [(256, 30), (512, 62)])
def test_the_discriminator_judges_as_many_windows_as_the_published_one(length: int, windows: int) -> None:
    judged = PatchDiscriminator(2, filters=1)(torch.zeros(1, 2, length, length))
    assert judged.shape == (1, 1, windows, windows)


def test_a_window_of_the_discriminator_is_70_pixels_wide() -> None:
    judge = PatchDiscriminator(1, filters=2).eval()
    image = torch.randn(1, 1, 256, 256, requires_grad=True)
    judge(image)[0, 0, 15, 15].backward()
    assert image.grad is not None
    seen = np.flatnonzero(image.grad.abs().sum(dim=(0, 1, 2)).numpy())
    assert seen[-1] - seen[0] + 1 == 70


def test_dropout_is_where_the_publication_has_it() -> None:
    with torch.device("meta"):
        levels = [any(isinstance(step, nn.Dropout) for step in up) for up in UnetGenerator(1, 1).up]
    assert levels == [False, False, False, False, True, True, True, False]


def test_weights_are_drawn_from_the_published_distributions() -> None:
    torch.manual_seed(0)
    unet, resnet = UnetGenerator(1, 1, 32, 5), ResnetGenerator(1, 1, 16, 2)
    for module in (*unet.modules(), *resnet.modules(), *PatchDiscriminator(1, 32).modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
            mean, spread = module.weight.mean().item(), module.weight.std().item()
            error = 5 * 0.02 / module.weight.numel() ** 0.5
            assert mean == pytest.approx(float(isinstance(module, nn.BatchNorm2d)), abs=error)
            assert spread == pytest.approx(0.02, abs=error)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("width", [1, 3])
def test_reflection_is_that_of_numpy(width: int) -> None:
    values = np.random.default_rng(0).random((2, 3, 5, 4), np.float32)
    padded = Reflected(width)(torch.from_numpy(values)).numpy()
    np.testing.assert_array_equal(padded, np.pad(values, ((0, 0), (0, 0), (width, width), (width, width)), "reflect"))


def numbered(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(count, 1, 2, 2)


def numbers(images: torch.Tensor) -> list[int]:
    return [int(value) for value in images[:, 0, 0, 0]]


def test_the_pool_is_filled_first_and_then_exchanges_every_second_image() -> None:
    pool, rng = ImagePool(50), np.random.default_rng(0)
    assert numbers(pool.exchange(numbered(0, 50), rng)) == list(range(50))
    count = 4000
    given = numbers(pool.exchange(numbered(50, count), rng))
    earlier = [value != 50 + number for number, value in enumerate(given)]
    # Five standard deviations of a fair coin.
    assert np.mean(earlier) == pytest.approx(0.5, abs=5 * 0.5 / count**0.5)
    # Each image leaves the pool once at most, and stays for 100 rounds in the mean.
    left = [value for value, old in zip(given, earlier, strict=True) if old]
    assert len(set(left)) == len(left)
    ages = [50 + number - value for number, (value, old) in enumerate(zip(given, earlier, strict=True)) if old]
    assert np.mean(ages[1000:]) == pytest.approx(100, rel=0.15)


def test_a_pool_of_nothing_returns_what_is_given() -> None:
    images = numbered(0, 3)
    assert ImagePool(0).exchange(images, np.random.default_rng(0)) is images


def test_a_restored_pool_goes_on_with_the_same_images() -> None:
    pools = [ImagePool(4), ImagePool(4)]
    pools[0].exchange(numbered(0, 6), np.random.default_rng(1))
    pools[1].set_state(pools[0].state(), torch.device("cpu"))
    given = [numbers(pool.exchange(numbered(6, 20), np.random.default_rng(2))) for pool in pools]
    assert given[0] == given[1]
    assert set(given[0]) & set(range(6))
    assert ImagePool(4).state().size == 0
