"""Comparisons as jobs in a real store, of real evaluations of predictions made from the targets.

Jobs run as the worker runs them, but in this process, where starting costs nothing; one runs by the service.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support import filament_pair, mentions, publish_dataset, publish_images, publish_model, read_published, wait_for

from parfocal import v1
from parfocal.qc.evaluation import room
from parfocal.qc.metrics.paired import holm
from parfocal.runtime.errors import CancelledError
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    ResultManifest,
)
from parfocal.runtime.store.store import Location, Store

Change = Callable[[Any, int], Any]


class Bench:
    """A store with all that a comparison needs: publishes predictions and models, and runs jobs to their end."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self.store: Store = worker.store
        self._folder: Path = worker.folder
        self._number = 0

    def evaluate(
        self,
        dataset: str,
        change: Change,
        *,
        method: str = "restoration",
        model: str = "",
        targets: tuple[str, ...] = ("target",),
        skip: str = "",
        **parameters: Any,
    ) -> str:
        """Publish the test targets, changed, as a prediction; return the address of its evaluation."""
        self._number += 1
        folder = self._folder / f"prediction-{self._number}"
        place = Location.parse(dataset)
        manifest = DatasetManifest.read(self.store, place / DATASET_MANIFEST)
        for role in targets:
            for number, entry in enumerate(manifest.select("test", role)):
                if entry.stem == skip:
                    continue
                path = folder / ("" if role == targets[0] else role) / f"{entry.stem}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                self.store.download(place / entry.file, path)
                image = read_image(path)
                write_image(path, Image(change(image.pixels, number), "YX", image.pixel_size))
        spec = v1.EvaluationSpec(
            method=method,
            dataset_uri=dataset,
            prediction_uri=publish_images(self.store, folder, targets),
            split="test",
            model_uri=model,
            parameters=values_struct({"maps": False, **parameters}),
        )
        job = self.run(v1.StartJobRequest(evaluation=spec))
        assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
        return str(job.outputs[0].uri)

    def model(self, name: str, dataset: str, trained_on: dict[str, str] | None = None) -> str:
        """Publish a model that was trained on a dataset."""
        return publish_model(self.store, name, dataset, dataset_sha256=trained_on or {})

    def compare(self, dataset: str, evaluations: list[str], method: str = "restoration", **parameters: Any) -> v1.Job:
        return self.run(comparison_request(dataset, evaluations, method, **parameters))

    def run(self, request: v1.StartJobRequest, *, cancel: bool = False) -> v1.Job:
        def mark(context: JobContext) -> None:
            job = context.job
            self._worker.jobs.mark_cancelled(job, job.attempt, keep_best=False, why="no longer wanted")
            wait_for(lambda: is_cancelled(context), what="the mark")

        return self._worker.run(request, mark if cancel else None)

    def files(self, job: v1.Job) -> dict[str, bytes]:
        """Return what a comparison published, by name."""
        assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
        (output,) = job.outputs
        assert output.kind == "comparison"
        place = Location.parse(output.uri)
        return {
            entry.public_name: self.store.read(place / entry.name)
            for entry in ResultManifest.read(self.store, place / RESULT_MANIFEST).files
        }

    def summary(self, job: v1.Job) -> dict[str, Any]:
        assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
        return dict(json.loads(read_published(self.store, job.outputs[0].uri, "summary.json")))


def is_cancelled(context: JobContext) -> bool:
    try:
        context.check_cancelled()
    except CancelledError:
        return True
    return False


def comparison_request(
    dataset: str, evaluations: list[str], method: str = "restoration", **parameters: Any
) -> v1.StartJobRequest:
    spec = v1.ComparisonSpec(
        method=method, dataset_uri=dataset, evaluation_uris=evaluations, parameters=values_struct(parameters)
    )
    return v1.StartJobRequest(comparison=spec)


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def noisy(sigma: float) -> Change:
    def change(pixels: Any, number: int) -> Any:
        noise = np.random.default_rng(number).normal(0, sigma * (1 + 0.1 * number), pixels.shape)
        return (pixels + noise).astype(np.float32)

    return change


def moved(labels: Any, number: int) -> Any:
    return np.roll(labels, 1, axis=1)


def moved_far(labels: Any, number: int) -> Any:
    return np.roll(labels, 3 + number, axis=1)


@pytest.fixture(scope="module")
def bench(worker: Any) -> Bench:
    return Bench(worker)


@pytest.fixture(scope="module")
def ten(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with ten test images and a second target."""
    folder, rng = tmp_path_factory.mktemp("ten"), np.random.default_rng(5)
    for split, count in (("train", 2), ("test", 10)):
        for number in range(count):
            source, target = filament_pair(rng, (48, 56))
            for role, pixels in (("source", source), ("target", target), ("target_B", target[::-1])):
                path = folder / split / role / f"field{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(np.ascontiguousarray(pixels), "YX", PixelSize(0.1, 0.1, None)))
    return publish_dataset(bench.store, "ten", folder)


@pytest.fixture(scope="module")
def good(bench: Bench, ten: str) -> str:
    return bench.evaluate(ten, noisy(5), model=bench.model("good", ten))


@pytest.fixture(scope="module")
def poor(bench: Bench, ten: str) -> str:
    return bench.evaluate(ten, noisy(50), model=bench.model("poor", ten))


def is_model(row: dict[str, str], image: str) -> bool:
    """Whether a row of comparison.csv is that of a model on this image."""
    return row["image"] == image and row["candidate"] in {"good:1", "poor:1"}


def test_a_picture_that_does_not_fit_the_memory_is_left_out_and_the_rest_is_told(
    bench: Bench, ten: str, good: str, poor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 1000)
    job = bench.run(comparison_request(ten, [poor, good]))
    assert set(bench.files(job)) >= {"comparison.csv", "figure.png", "report.pdf"}
    assert "images.png" not in bench.files(job)
    assert any(
        mentions(text, "picture", "48 x 56", "GiB of memory", "predictions of all models")
        for text in bench.summary(job)["remarks"]
    )


def test_a_real_difference_is_said_in_one_sentence_and_all_tables_agree(
    bench: Bench, run_job: Any, ten: str, good: str, poor: str
) -> None:
    job = run_job(comparison_request(ten, [poor, good]))
    files, summary = bench.files(job), bench.summary(job)
    assert set(files) == {
        "comparison.csv",
        "tests.csv",
        "summary.json",
        "figure.png",
        "images.png",
        "report.pdf",
        "report.html",
    }
    assert mentions(summary["sentences"][0], "10 test images", "good:1 is better than poor:1", "dB", "PSNR", "95 %")
    assert mentions(summary["sentences"][0], "Holm", "10 comparisons")
    assert [each["kind"] for each in summary["candidates"]] == ["model", "model", "input", "baseline"]

    table = rows_of(files["comparison.csv"])
    scored = rows_of(read_published(bench.store, good, "metrics.csv"))
    psnr = {row["image"]: row["psnr"] for row in scored if row["kind"] == "prediction"}
    assert {row["image"]: row["psnr"] for row in table if row["candidate"] == "good:1"} == psnr
    tests = rows_of(files["tests.csv"])
    assert len(tests) == 10  # five pairs with a model in it, in two metrics
    for test in tests:
        first, second = (
            [float(row[test["metric"]]) for row in table if row["candidate"] == test[name]]
            for name in ("first", "second")
        )
        assert float(test["wilcoxon_p"]) == pytest.approx(stats.wilcoxon(first, second).pvalue)
        assert float(test["mann_whitney_p"]) == pytest.approx(stats.mannwhitneyu(first, second, method="exact").pvalue)
        assert float(test["mean_difference"]) == pytest.approx(np.mean(first) - np.mean(second))
        assert float(test["difference_low"]) <= float(test["mean_difference"]) <= float(test["difference_high"])
    corrected = holm([float(test["wilcoxon_p"]) for test in tests])
    assert [float(test["wilcoxon_p_holm"]) for test in tests] == pytest.approx(list(corrected))
    assert (tests[0]["first"], tests[0]["second"], tests[0]["outcome"]) == ("poor:1", "good:1", "second is better")

    sums = {image: sum(float(row["psnr"]) for row in table if is_model(row, image)) for image in psnr}
    assert summary["best_images"]["target"] == max(sums, key=sums.__getitem__)
    assert summary["worst_images"]["target"] == min(sums, key=sums.__getitem__)
    assert job.metrics["psnr good:1"] == pytest.approx(np.mean([float(value) for value in psnr.values()]))
    hints = [
        f"{test['first']} and {test['second']} in {test['metric'].upper()}"
        for test in tests
        if test["outcome"] == "not shown" and float(test["difference_low"]) * float(test["difference_high"]) > 0
    ]
    assert len(job.warnings) == (1 if hints else 0)  # nothing else to be known
    assert all(hint in job.warnings[0] for hint in hints)


def test_translation_is_compared_target_by_target(bench: Bench, ten: str) -> None:
    both = ("target", "target_B")
    evaluations = [
        bench.evaluate(ten, noisy(sigma), method="translation", targets=both, model=bench.model(name, ten))
        for name, sigma in (("clear", 5), ("dull", 60))
    ]
    job = bench.compare(ten, evaluations, "translation")
    summary, files = bench.summary(job), bench.files(job)
    assert {"images.png", "images_target_B.png"} <= set(files)
    assert list(summary["metrics"]) == list(both)
    assert [each["name"] for each in summary["candidates"]] == ["clear:1", "dull:1", "linear predictor"]
    assert any(mentions(each, "target_B", "clear:1 is better than dull:1") for each in summary["sentences"])
    assert len(rows_of(files["comparison.csv"])) == 60


def test_found_objects_are_compared_image_by_image(bench: Bench, nuclei_folder: Path) -> None:
    dataset = publish_dataset(bench.store, "nuclei", nuclei_folder)
    near, far = (
        bench.evaluate(dataset, change, method="instances", model=bench.model(name, dataset))
        for name, change in (("near", moved), ("far", moved_far))
    )
    job = bench.compare(dataset, [near, far], "instances")
    summary = bench.summary(job)
    assert list(summary["shown"]) == ["f1", "mean_accuracy", "panoptic_quality"]
    means = summary["metrics"]["target"]["f1"]
    assert means["near:1"]["mean"] > means["far:1"]["mean"]
    assert "Otsu threshold" in means
    assert bench.files(job)["images.png"].startswith(b"\x89PNG")


def test_other_test_images_are_refused_by_name(bench: Bench, ten: str, good: str) -> None:
    partial = bench.evaluate(ten, noisy(5), model=bench.model("partial", ten), skip="field3")
    job = bench.compare(ten, [good, partial])
    assert job.state == v1.JOB_STATE_FAILED
    assert mentions(job.error.text, "field3", "good:1", "partial:1")


def test_what_is_no_evaluation_is_refused(bench: Bench, ten: str, good: str) -> None:
    manifest = ResultManifest.read(bench.store, Location.parse(good) / RESULT_MANIFEST)
    job = bench.compare(ten, [good, manifest.images[0].outputs["prediction"]])
    assert job.state == v1.JOB_STATE_FAILED
    assert mentions(job.error.text, "a prediction", "evaluation")


def test_a_model_that_has_seen_the_test_images_is_named(bench: Bench, ten: str, good: str) -> None:
    manifest = DatasetManifest.read(bench.store, Location.parse(ten) / DATASET_MANIFEST)
    digests = {entry.name: entry.sha256 for entry in manifest.files if entry.name.startswith("test/source/")}
    seen = bench.evaluate(ten, noisy(3), model=bench.model("seen", ten, digests))
    job = bench.compare(ten, [good, seen], figures=False)
    assert job.state == v1.JOB_STATE_SUCCEEDED
    assert any("seen:1 was trained on 10 of 10 test images" in text for text in job.warnings)
    assert bench.summary(job)["sentences"][0].startswith("seen:1 was trained")


def test_a_cancelled_comparison_publishes_nothing(bench: Bench, ten: str, good: str, poor: str) -> None:
    job = bench.run(comparison_request(ten, [good, poor]), cancel=True)
    assert job.state == v1.JOB_STATE_CANCELLED
    assert "no longer wanted" in job.message
    assert not job.outputs
    assert not list(bench.store.objects(Location.parse(job.reserved_uri)))


def test_a_target_whose_predictions_can_none_of_them_be_scored_fails_and_is_not_compared(
    bench: Bench, ten: str
) -> None:
    calls = itertools.count()

    def second_target_diverged(pixels: Any, number: int) -> Any:
        return pixels.astype(np.float32) * (np.nan if next(calls) >= 10 else 1)

    def one_diverged(pixels: Any, number: int) -> Any:
        return pixels.astype(np.float32) * (np.nan if number == 4 else 1)

    both, method = ("target", "target_B"), "translation"
    uri = bench.evaluate(ten, second_target_diverged, method=method, targets=both, model=bench.model("half", ten))
    place = Location.parse(uri)
    summary, verdict = (json.loads(read_published(bench.store, uri, f"{name}.json")) for name in ("summary", "verdict"))
    assert verdict["state"] == "failed"
    assert verdict["reasons"][0].startswith("target_B: ")
    assert mentions(verdict["reasons"][0], "10 of 10", "scored", "target_B/field0 (prediction)", "2688 of 2688")
    assert list(summary["targets"]) == ["target"]
    assert len(summary["unscorable"]) == 10
    assert ResultManifest.read(bench.store, place / RESULT_MANIFEST).targets == ("target",)
    # It is compared in the target that it has, and refused where it lacks an image.
    other = bench.evaluate(ten, noisy(5), method=method, targets=both, model=bench.model("whole", ten))
    assert list(bench.summary(bench.compare(ten, [uri, other], method))["metrics"]) == ["target"]
    lacking = bench.evaluate(ten, one_diverged, method=method, targets=both[:1], model=bench.model("lacking", ten))
    refused = bench.compare(ten, [uri, lacking], method)
    assert refused.state == v1.JOB_STATE_FAILED
    assert mentions(refused.error.text, "field4", "half:1", "lacking:1")
