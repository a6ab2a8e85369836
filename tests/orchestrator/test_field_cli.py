"""Commands on images as they come from the field: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from support import Ended

from parfocal.runtime.images.files import inspect_image


def test_predict_names_all_that_it_leaves_out_and_takes_given_axes(
    run: Callable[..., Ended], model: str, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    planes = np.random.default_rng(0).integers(50, 900, (3, 64, 64)).astype(np.uint16)
    tifffile.imwrite(folder / "movie.tif", planes, imagej=True, metadata={"axes": "ZYX"})
    (folder / "broken.tif").write_text("broken")
    (folder / "notes.txt").write_text("notes")
    result = run("predict", "--model", model, folder, "--output", out, "--json")
    assert result.code == 0, result.err
    said = " ".join(result.err.split())
    for words in ("broken.tif", "notes.txt", "--axes TYX", "movie.tif, 3 planes"):
        assert words in said
    assert {image["input"]: bool(image["reason"]) for image in result.json["images"]} == {
        "movie.tif": False,
        "broken.tif": True,
    }
    assert inspect_image(out / "movie.tif").axes == "ZYX"
    result = run("predict", "--model", model, folder, "--output", out, "--axes", "tyx", "--overwrite")
    assert result.code == 0, result.err
    assert "plane by plane" not in result.err
    assert inspect_image(out / "movie.tif").axes == "TYX"
    assert run("predict", "--model", model, folder, "--output", out, "--axes", "QYX").code == 2


def test_datasets_of_masks_and_of_stacks_with_other_axes(run: Callable[..., Ended], tmp_path: Path) -> None:
    for split in ("train", "test"):
        for role in ("source", "target"):
            (tmp_path / split / role).mkdir(parents=True)
            for number in range(2):
                pixels = np.random.default_rng(number).integers(0, 900, (64, 64)).astype(np.uint16)
                mask = np.kron(np.indices((8, 8)).sum(axis=0) % 2 * (np.indices((8, 8))[0] % 2), np.ones((8, 8)))
                tifffile.imwrite(
                    tmp_path / split / role / f"a{number}.tif",
                    pixels if role == "source" else (255 * mask).astype(np.uint8),
                    metadata=None,
                )
    refused = run("dataset", "create", "masks", tmp_path, "--kind", "labels")
    assert refused.code == 2
    assert "--label-components" in refused.err
    made = run("dataset", "create", "masks", tmp_path, "--label-components", "--json")
    assert made.code == 0, made.err
    assert made.json["kind"] == "labels"
    assert made.json["counts"]["train"]["objects"] == 32
    assert made.json["object_sizes"]["train"]["largest"] == [8, 8]
    checked = run("dataset", "check", tmp_path, "--label-components", "--json")
    assert checked.json["object_sizes"]["train"]["largest"] == [8, 8]
