"""Datasets that StarDist refuses before the training."""

from __future__ import annotations

from typing import Any

import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry
from parfocal.stardist.parameters import StarDist2DParameters, StarDist3DParameters, check_dataset


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        (StarDist2DParameters(patch_size=48, grid=4), "patch_size"),
        (StarDist3DParameters(patch_depth=20, network_depth=3), "patch_depth"),
        (StarDist3DParameters(patch_size=20, grid=4, backbone="unet"), "patch_size"),
    ],
)
def test_patches_that_do_not_fit_the_network_are_refused(parameters: Any, field: str) -> None:
    dataset = DatasetManifest(project="p", dataset="d", version=1, images=())
    with pytest.raises(InvalidInputError, match=f"{field} .* multiple of"):
        check_dataset(parameters, dataset)


def test_targets_that_are_no_labels_are_refused_by_name() -> None:
    image = ImageEntry(
        split="train", role="target", stem="a", file="train/target/a.tif", shape=(512, 512), dtype="float32", axes="YX"
    )
    dataset = DatasetManifest(project="p", dataset="d", version=1, images=(image,))
    with pytest.raises(InvalidInputError, match=r"train/target/a\.tif.*label images"):
        check_dataset(StarDist2DParameters(), dataset)
