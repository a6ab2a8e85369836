"""`parfocal dataset preview`: of a folder without a stack, of a stored dataset, with a method's augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from example_data import write_kind
from PIL import Image
from support import Ended


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_folder_is_drawn_without_a_stack(run: Callable[..., Ended], tmp_path: Path) -> None:
    folder, place = write_kind(tmp_path / "boxes", "boxes"), tmp_path / "new" / "boxes.png"
    assert run("dataset", "preview", folder, "--output", place).code == 0
    plain = size(place)
    again = run("dataset", "preview", folder, "--output", place, "--augment", "-p", "augment_angle=30")
    assert again.code == 2
    assert str(place) in again.err
    values = run(
        "dataset", "preview", folder, "--output", place, "--augment", "-p", "augment_angle=30", "--overwrite", "--json"
    ).json
    assert values == {"preview": str(place)}
    assert size(place)[1] > plain[1]


def test_a_stored_dataset_is_drawn_as_a_method_sees_it(run: Callable[..., Ended], dataset: str, tmp_path: Path) -> None:
    place = tmp_path / "stored.png"
    done = run("dataset", "preview", dataset, "--augment", "--method", "fake-2d", "--output", place)
    assert done.code == 0, done.err
    assert min(size(place)) > 300


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--output", "picture.jpg"], ".png"),
        (["-p", "augment_angle=30"], "--augment"),
        (["--augment", "-p", "augment_angel=30"], "augment_angel"),
        (["--augment", "-p", "augment_angle=300"], "augment_angle"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    run: Callable[..., Ended], tmp_path: Path, arguments: list[str], word: str
) -> None:
    folder = write_kind(tmp_path / "sources", "sources")
    refused = run("dataset", "preview", folder, *arguments)
    assert refused.code == 2
    assert word in refused.err
