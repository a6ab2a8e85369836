"""What is said before a StarDist training: objects beyond the field of view, and which parameter is at fault."""

from __future__ import annotations

from typing import Any

import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry, ObjectSizes
from parfocal.stardist.parameters import StarDist2DParameters, StarDist3DParameters, advise, check_dataset


def dataset(shape: tuple[int, ...], largest: tuple[int, ...] = (), dtype: str = "uint16") -> DatasetManifest:
    axes = "ZYX"[-len(shape) :]
    images = tuple(
        ImageEntry(split="train", role=role, stem="a", file=f"train/{role}/a.tif", shape=shape, dtype=dtype, axes=axes)
        for role in ("source", "target")
    )
    sizes = {}
    if largest:
        median = tuple(length / 2 for length in largest)
        sizes["train"] = ObjectSizes(objects=9, median=median, largest=largest, largest_in="target/a.tif")
    return DatasetManifest(project="p", dataset="d", version=1, images=images, object_sizes=sizes)


# Measured by stardist itself on untrained networks (`_axes_tile_overlap`), for depth and grid.
@pytest.mark.parametrize(
    ("depth", "grid", "measured"),
    [(1, 1, 10), (1, 2, 22), (1, 4, 44), (2, 1, 23), (2, 2, 46), (2, 4, 93), (3, 1, 47), (3, 2, 92), (3, 4, 181)],
)
def test_the_field_of_view_of_the_unet(depth: int, grid: int, measured: int) -> None:
    parameters = StarDist2DParameters(network_depth=depth, grid=grid)
    assert parameters.field_of_view == pytest.approx((measured,) * 2, rel=0.1)


@pytest.mark.parametrize(("grid", "measured"), [(1, 17), (2, 30), (4, 49)])
def test_the_field_of_view_of_the_resnet(grid: int, measured: int) -> None:
    parameters = StarDist3DParameters(backbone="resnet", grid=grid)
    assert parameters.field_of_view == pytest.approx((17, measured, measured), rel=0.1)


def test_objects_beyond_what_the_network_sees_are_told_with_what_to_change() -> None:
    told = advise(StarDist2DParameters(patch_size=64), dataset((512, 512), (360, 361)))
    assert len(told) == 1
    for words in (
        "360 x 361",
        "target/a.tif",
        "180 x 180.5",
        "92 x 92",
        "64 x 64",
        "grid 8",
        "patch_size 384",
        "4 times",
    ):
        assert words in told[0]
    larger = StarDist2DParameters(patch_size=384, grid=8)
    assert advise(larger, dataset((512, 512), (360, 361))) == []


@pytest.mark.parametrize("largest", [(), (90, 60)])
def test_nothing_is_said_of_objects_that_fit_or_are_unknown(largest: tuple[int, ...]) -> None:
    assert advise(StarDist2DParameters(), dataset((512, 512), largest)) == []


def test_objects_with_more_planes_than_a_patch() -> None:
    told = advise(StarDist3DParameters(patch_depth=16), dataset((64, 320, 320), (20, 40, 40)))
    assert "patch_depth 20" in told[0]


@pytest.mark.parametrize(
    ("parameters", "shape", "field", "value"),
    [
        (StarDist3DParameters(), (16, 320, 320), "patch_depth", 16),
        (StarDist3DParameters(), (64, 80, 320), "patch_size", 80),
        (StarDist2DParameters(), (100, 300), "patch_size", 96),
    ],
)
def test_the_parameter_at_fault_is_named_with_a_value_that_fits(
    parameters: Any, shape: tuple[int, ...], field: str, value: int
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_dataset(parameters, dataset(shape))
    assert f"Choose {field} {value} or less" in caught.value.message
    assert [each.field for each in caught.value.violations] == [field, "train/target/a.tif"]
    check_dataset(parameters.model_copy(update={field: value}), dataset(shape))


def test_stacks_too_thin_for_any_patch_are_told_so() -> None:
    with pytest.raises(InvalidInputError, match="patch_depth"):
        check_dataset(StarDist3DParameters(), dataset((3, 320, 320)))


def test_decimal_labels_of_an_older_dataset_are_not_to_be_clipped() -> None:
    with pytest.raises(InvalidInputError, match="create the dataset again") as caught:
        check_dataset(StarDist2DParameters(), dataset((256, 256), dtype="float32"))
    assert "bit" not in caught.value.message
