"""Dataset QC as a job: a real QC service, a real store, sound datasets and some with defects made on purpose."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import write_kind
from scipy import ndimage
from support import filament_pair, nuclei_pair, publish_dataset, publish_kind, read_published, write_pairs

from parfocal import v1
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location, Store


@dataclass(frozen=True)
class Outcome:
    job: v1.Job
    store: Store

    @property
    def place(self) -> Location:
        return Location.parse(self.job.outputs[0].uri)

    @property
    def summary(self) -> Any:
        return json.loads(read_published(self.store, str(self.place), "summary.json"))

    def table(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(read_published(self.store, str(self.place), name).decode())))

    def images(self, check: str) -> list[str]:
        """The images of all findings of a check."""
        return [name for finding in self.summary["findings"] if finding["check"] == check for name in finding["images"]]


@pytest.fixture(scope="module")
def evaluate(run_job: Any, s3: Any) -> Callable[..., Outcome]:
    """Judge a folder as a stored dataset."""
    store = s3.store()

    def run(folder: Path, split: str = "", kind: str | None = None, **parameters: Any) -> Outcome:
        name = folder.name.rstrip("0123456789")
        uri = publish_dataset(store, name, folder) if kind is None else publish_kind(store, name, folder, kind)
        spec = v1.EvaluationSpec(method="dataset", dataset_uri=uri, split=split, parameters=values_struct(parameters))
        job = run_job(v1.StartJobRequest(evaluation=spec))
        assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
        return Outcome(job, store)

    return run


@pytest.fixture(scope="module")
def filaments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs of 128x160 pixels, large enough for shifts to be found."""
    return write_pairs(tmp_path_factory.mktemp("filaments"), filament_pair, (128, 160))


def change(folder: Path, name: str, function: Callable[[Any], Any]) -> None:
    path = folder / name
    image = read_image(path)
    write_image(path, Image(function(image.pixels), image.axes, image.pixel_size))


def test_sound_pairs_have_nothing_but_notes_and_everything_is_written(
    evaluate: Callable[..., Outcome], filaments: Path
) -> None:
    outcome = evaluate(filaments)
    result = ResultManifest.read(outcome.store, outcome.place / RESULT_MANIFEST)
    names = {entry.public_name for entry in result.files}
    assert names == {
        "images.csv",
        "findings.csv",
        "report.pdf",
        "report.html",
        "summary.json",
        "thumbnails.png",
        "thumbnails_2.png",
    }
    assert result.verdict == {}
    assert outcome.summary["counts"] == {"error": 0, "warning": 0, "note": len(outcome.summary["findings"])}
    assert outcome.job.metrics["errors"] == 0
    assert outcome.summary["purpose"]["tasks"] == {"target": "restoration"}
    rows = outcome.table("images.csv")
    assert len(rows) == 16
    assert [row["image"] for row in rows[:2]] == ["field0", "field0"]
    targets = [row for row in rows if row["role"] == "target"]
    assert all(float(row["shift_px"]) < 0.3 for row in targets if row["shift_px"])
    assert all(float(row["source_psnr"]) > 5 for row in targets)


def test_every_defect_made_on_purpose_is_found_in_its_image_alone(
    evaluate: Callable[..., Outcome], filaments: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(filaments, tmp_path / "defects"))
    change(folder, "train/target/field0.tif", lambda pixels: ndimage.shift(pixels, (3, -2), mode="nearest"))
    change(folder, "train/source/field1.tif", lambda pixels: np.clip(4 * pixels.astype(int), 0, 4095).astype(np.uint16))
    noise = np.random.default_rng(3).normal(500, 20, (128, 160)).astype(np.uint16)
    change(folder, "train/source/field2.tif", lambda _: noise)
    change(folder, "test/target/field2.tif", lambda pixels: ndimage.gaussian_filter(pixels, 12))
    for role in ("source", "target"):
        shutil.copy(folder / "train" / role / "field3.tif", folder / "test" / role / "field1.tif")
    shutil.copy(folder / "train/target/field4.tif", folder / "test/target/field0.tif")
    change(folder, "test/target/field0.tif", lambda pixels: (0.5 * pixels + 7).astype(np.uint16))
    outcome = evaluate(folder)
    assert outcome.images("shifted") == ["train/target/field0"]
    assert outcome.images("saturated") == ["train/source/field1"]
    assert outcome.images("empty") == ["train/source/field2"]
    assert outcome.images("blurred") == ["test/target/field2"]
    leaks = [finding for finding in outcome.summary["findings"] if finding["check"] == "leak"]
    assert [(leak["severity"], leak["images"]) for leak in leaks] == [
        ("error", ["train/source/field3", "test/source/field1"]),
        ("error", ["train/target/field3", "test/target/field1"]),
        ("warning", ["train/target/field4", "test/target/field0"]),
    ]
    assert "r = 1.000" in leaks[2]["text"]
    assert {"train/target/field2", "test/target/field0"} <= set(outcome.images("unlike"))
    (shifted,) = (row for row in outcome.table("images.csv") if "shifted" in row["findings"])
    assert float(shifted["shift_y_px"]) == pytest.approx(3, abs=0.3)
    assert float(shifted["shift_x_px"]) == pytest.approx(-2, abs=0.3)
    assert {row["check"] for row in outcome.table("findings.csv")} >= {
        "leak",
        "shifted",
        "saturated",
        "empty",
        "blurred",
    }
    assert "2 errors" in outcome.summary["purpose"]["text"]


def test_faults_of_labels_are_found_and_the_data_suit_instance_segmentation(
    evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "labels", nuclei_pair, (128, 160))
    target = "train/target/field0.tif"

    def spoil(labels: Any) -> Any:
        number = np.unique(labels)[1]
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        largest = int(np.argmax(sizes))
        row, column = (int(np.mean(axis)) for axis in np.nonzero(labels == largest))
        labels = labels.copy()
        labels[row, column] = 0
        labels[labels == number] = 0
        labels[0, 0] = labels[-1, -1] = number
        return labels

    change(folder, target, spoil)
    change(folder, "test/target/field1.tif", np.zeros_like)
    outcome = evaluate(folder)
    assert outcome.images("holes") == ["train/target/field0"]
    # Where one simulated object covers another, it may cut it in two.
    assert "train/target/field0" in outcome.images("fragmented")
    assert outcome.images("not labelled") == ["test/target/field1"]
    assert outcome.summary["roles"]["target"]["kind"] == "labels"
    assert outcome.summary["purpose"]["tasks"] == {"target": "instance segmentation"}


def test_volumes_and_further_targets_are_judged_too(evaluate: Callable[..., Outcome], tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    folder = tmp_path / "volumes"
    for split, count in (("train", 2), ("test", 1)):
        for number in range(count):
            clean = 5000 + 900 * ndimage.gaussian_filter(rng.normal(size=(8, 64, 72)), (1, 2, 2)) / 0.05
            other = 5000 + 900 * ndimage.gaussian_filter(rng.normal(size=(8, 64, 72)), (1, 2, 2)) / 0.05
            images = {"source": clean + rng.normal(0, 300, clean.shape), "target": clean, "target_DAPI": other}
            for role, pixels in images.items():
                path = folder / split / role / f"stack{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(pixels.clip(0, 65000).astype(np.uint16), "ZYX", PixelSize(0.1, 0.1, 0.3)))
    outcome = evaluate(folder, split="train", max_sheets=1)
    assert {row["split"] for row in outcome.table("images.csv")} == {"train"}
    assert outcome.summary["purpose"]["tasks"] == {"target": "restoration", "target_DAPI": "translation"}
    assert "volumes" in outcome.summary["purpose"]["text"]
    assert "shift unknown" in {finding["check"] for finding in outcome.summary["findings"]}
    assert outcome.summary["counts"]["error"] == 0


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("classes", "semantic segmentation"),
        ("unpaired", "translation"),
        ("sources", "restoration"),
        ("boxes", "detection"),
        ("coordinates", "localisation"),
    ],
)
def test_data_of_every_kind_are_looked_at_as_what_they_are(
    kind: str, task: str, evaluate: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = evaluate(write_kind(tmp_path, kind), kind=kind)
    summary = outcome.summary
    assert summary["counts"]["error"] == 0, summary["findings"]
    assert task in summary["purpose"]["tasks"].values()
    assert task in summary["purpose"]["text"]
    # Images that are no partners are not compared; the objects of a class are not taken for a fragmented one.
    checks = {finding["check"] for finding in summary["findings"]}
    assert not checks & {"unlike", "shifted", "shift unknown", "inverted", "same as source", "fragmented"}
