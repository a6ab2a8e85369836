"""`parfocal models import` and `export`: a folder of stardist becomes a model that predicts, and a package of it."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import ROOT, Ended, ServiceProcess

from parfocal.runtime.images.files import Image, read_image, write_image

# Written by stardist itself, in its own environment.
WRITE_FOLDER = """
import sys
from stardist.models import Config2D, StarDist2D
config = Config2D(n_rays=8, grid=(2, 2), unet_n_depth=1, unet_n_filter_base=4, train_patch_size=(64, 64))
model = StarDist2D(config, "small", sys.argv[1])
model.keras_model.save_weights(str(model.logdir / "weights_best.h5"))
"""


@pytest.fixture(scope="module")
def services(
    start_service: Callable[..., ServiceProcess], share_service: Callable[..., ServiceProcess]
) -> dict[str, ServiceProcess]:
    return {"fake": share_service("fake"), "stardist": start_service("stardist")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("stardist")
    python = ROOT / ".venvs" / "stardist" / "bin" / "python"
    subprocess.run([str(python), "-c", WRITE_FOLDER, str(parent)], check=True, capture_output=True)
    return parent / "small"


def test_an_imported_model_is_listed_shown_and_predicts(
    run: Callable[..., Ended], folder: Path, tmp_path: Path
) -> None:
    imported = run("models", "import", "outside", folder, "--method", "stardist-2d", "--json")
    assert imported.code == 0, imported.err
    manifest = imported.json
    assert (manifest["model"], manifest["version"], manifest["origin"]) == ("outside", 1, "small")
    assert {entry["name"] for entry in manifest["files"]} >= {"config.json", "weights_best.h5", "thresholds.json"}
    shown = run("models", "show", "outside")
    assert shown.code == 0, shown.err
    assert "Imported from" in shown.out
    rng = np.random.default_rng(0)
    write_image(tmp_path / "images" / "a.tif", Image(rng.integers(0, 99, (2, 48, 64), np.uint16), "TYX"))
    predicted = run("predict", "--model", "outside", tmp_path / "images", "--output", tmp_path / "out")
    assert predicted.code == 0, predicted.err
    assert read_image(tmp_path / "out" / "a.tif").axes == "TYX"
    assert (tmp_path / "out" / "trackmate" / "a.csv").read_text().startswith("frame,id,name,x,y,z,radius,quality")


def test_a_model_is_exported_as_a_package_with_its_example_verdict_and_licence(
    run: Callable[..., Ended], folder: Path, tmp_path: Path
) -> None:
    assert run("models", "import", "given", folder, "--method", "stardist-2d").code == 0
    package, author = tmp_path / "given.zip", ("--author", "Ada Lovelace")
    exported = run("models", "export", "given", *author, "--licence", "MIT", "--output", package, "--json")
    assert exported.code == 0, exported.err
    assert exported.json == {"model": "given:1", "file": str(package), "licence": "MIT", "weights": "best"}
    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
        description = yaml.safe_load(archive.read("rdf.yaml"))
        documentation = archive.read("README.md").decode()
    said = description["config"]["parfocal"]
    assert names == {
        *("rdf.yaml", "README.md", "weights.tensorflow.zip", "test_input.npy", "test_output.npy"),
        *("config.json", "thresholds.json", "weights_best.h5", "parfocal.json"),
    }
    assert all(len(each["sha256"]) == 64 for each in description["attachments"])
    assert (description["license"], description["authors"]) == ("MIT", [{"name": "Ada Lovelace"}])
    assert (said["verdict"]["state"], said["origin"]) == ("unchecked", "small")
    (step,) = description["outputs"][0]["postprocessing"]
    assert step["id"] == "stardist_postprocessing"
    assert step["kwargs"]["grid"] == [2, 2]
    assert "## Validation" in documentation
    # What exists is not replaced, a licence is not made up, and the author of a package is somebody.
    for arguments, message in (
        ([*author, "--licence", "MIT", "--output", package], "exists"),
        ([*author], "--licence"),
        ([*author, "--licence", "free for all"], "spdx.org"),
        (["--licence", "MIT"], "--author"),
    ):
        refused = run("models", "export", "given", *arguments)
        assert refused.code == 2
        assert message in refused.err
    assert not Path("given-1.bioimageio.zip").exists()
    # The package comes back as the same model, and what it says of itself stays its own word.
    returned = run("models", "import", "back", package, "--json")
    assert returned.code == 0, returned.err
    manifest, former = returned.json, run("models", "show", "given", "--json").json
    digests = [{entry["name"]: entry["sha256"] for entry in each["files"]} for each in (manifest, former)]
    assert digests[0].items() <= digests[1].items()
    assert {key: manifest[key] for key in ("method", "parameters", "facts", "normaliser")} == {
        key: former[key] for key in ("method", "parameters", "facts", "normaliser")
    }
    assert (manifest["package"]["authors"], manifest["package"]["verdict"]) == (["Ada Lovelace"], "unchecked")
    assert manifest["verdict"]["state"] == "unchecked"
    shown = run("models", "show", "back")
    assert "said by the package" in shown.out
    # Another method than the package's is refused.
    refused = run("models", "import", "back", package, "--method", "stardist-3d")
    assert refused.code == 2
    assert "stardist-2d" in refused.err


@pytest.mark.parametrize(
    ("source", "method", "message"),
    [
        ("empty", "stardist-2d", "it lacks config.json"),
        ("nowhere", "stardist-2d", "publishes 2D_versatile_fluo"),
        ("empty", "fake-2d", "but its own"),
        ("empty", "stardist-4d", "'stardist-4d'"),
        ("empty", "", "--method"),
    ],
)
def test_what_cannot_be_imported_is_said(
    run: Callable[..., Ended], tmp_path: Path, source: str, method: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    place = tmp_path / source if source == "empty" else source
    refused = run("models", "import", "bad", place, *(("--method", method) if method else ()))
    assert refused.code != 0
    assert message in refused.err
    assert "bad" not in run("models", "list").out
