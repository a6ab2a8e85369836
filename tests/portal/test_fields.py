"""The order in which images are offered, and what it is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parfocal.portal.annotate.fields import Field, Stored, in_order
from parfocal.portal.annotate.saving import suggested_use

TABLE = Stored("s3://results/lab/job", "objects/a.csv")


def field(name: str, **more: Any) -> Field:
    return Field(name, name, "", Stored("s3://results/lab/job", f"inputs/{name}"), **more)


def test_images_of_which_the_model_is_least_certain_come_first() -> None:
    sure = field("sure", scores=TABLE, certainty=0.95, found=20)
    unsure = field("unsure", scores=TABLE, certainty=0.55, found=12, unsure=5)
    empty = field("empty", scores=TABLE)
    strange = field("strange", scores=TABLE, certainty=0.9, found=3, differs=("darker than all training images",))
    found = in_order([sure, unsure, empty, strange])
    assert [each.name for each in found.fields] == ["strange", "empty", "unsure", "sure"]
    assert found.order.startswith("Least certain first: by the mean score")
    assert "differ from its training images" in found.order
    assert unsure.doubt == "mean score 0.55, 5 of 12 below 0.5"
    assert empty.doubt == "nothing was found"
    assert strange.doubt == "differs from the training images, mean score 0.90"


def test_without_scores_images_stay_in_the_order_of_their_names() -> None:
    found = in_order([field("b"), field("c"), field("a", differs=("darker",))])
    assert [each.name for each in found.fields] == ["b", "c", "a"]
    assert "says nothing of how certain it is" in found.order


def test_images_without_a_part_of_a_dataset_are_split_where_there_are_enough() -> None:
    own = [field(f"f{number}") for number in range(6)]
    assert suggested_use(own) == "hold-out"
    assert suggested_use(own[:4]) == "train"
    assert suggested_use([replace(own[0], split="test")]) == "train"
    assert suggested_use([replace(own[0], split="test"), replace(own[1], split="train")]) == "same"
