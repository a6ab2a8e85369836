"""A CycleGAN from the command line: trained on images that are no pairs, and judged by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from example_data import save, write_kind
from support import Ended, ServiceProcess, filament_pair, mentions

from parfocal.runtime.images.files import read_image

SMALL = {
    "epochs": 1,
    "patch_size": 32,
    "patches_per_image": 1,
    "first_filters": 4,
    "residual_blocks": 1,
}


@pytest.fixture(scope="module")
def services(
    start_service: Callable[..., ServiceProcess], share_service: Callable[..., ServiceProcess]
) -> dict[str, ServiceProcess]:
    """CycleGAN and quality control."""
    return {"gan": start_service("gan"), "qc": share_service("qc")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of image that are no pairs, the second in colour."""
    folder = write_kind(tmp_path_factory.mktemp("unpaired"), "unpaired")
    rng = np.random.default_rng(0)
    for path in folder.glob("*/target/*.tif"):
        grey = filament_pair(rng, read_image(path).pixels.shape[:2])[1]
        save(path, np.stack([grey // 8, 255 - grey // 8, grey // 16], axis=-1).astype(np.uint8), "YXS")
    return folder


@pytest.fixture
def dataset(run: Callable[..., Ended], folder: Path) -> str:
    result = run("dataset", "create", "two-kinds", folder, "--kind", "unpaired", "--json")
    assert result.code == 0, result.err
    return f"two-kinds:{result.json['version']}"


def test_a_model_trained_without_pairs_is_judged_by_sets_of_images(run: Callable[..., Ended], dataset: str) -> None:
    asked = [part for name, value in SMALL.items() for part in ("-p", f"{name}={value}")]
    values = run("train", "cyclegan", "--dataset", dataset, "--model", "cycle", *asked, "--json").json
    assert values["job"]["state"] == "SUCCEEDED"
    summary = values["evaluation"]["summary"]
    assert summary["task"] == "translation-unpaired"
    assert summary["details"]["sets"]["prediction"] > 0
    # The model was asked to turn its predictions back.
    assert "cycle_correlation" in summary["metrics"]["prediction"]
    again = run("evaluate", "--model", "cycle", "--dataset", dataset)
    assert again.code == 0, again.err
    assert mentions(again.out, "Verdict: ", "Distance", "Matched intensities")


def test_images_of_other_programs_are_judged_without_pairs(
    run: Callable[..., Ended], dataset: str, folder: Path, tmp_path: Path
) -> None:
    targets = sorted((folder / "test" / "target").iterdir())
    for path, other in zip(sorted((folder / "test" / "source").iterdir()), targets, strict=True):
        save(tmp_path / path.name, read_image(other).pixels, "YXS")
    arguments = ("evaluate", "--prediction", tmp_path, "--dataset", dataset, "--method", "translation-unpaired")
    values = run(*arguments, "--json").json
    assert values["summary"]["details"]["sets"]["prediction"] == values["summary"]["details"]["sets"]["real"]
    # Named after targets, they are no predictions.
    save(tmp_path / targets[0].name, read_image(targets[0]).pixels, "YXS")
    refused = run(*arguments)
    assert refused.code != 0
    assert targets[0].stem in refused.err
