"""Translation QC without pairs: distances of sets and of images, the verdict, and jobs from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from example_data import save, write_kind
from scipy.ndimage import gaussian_filter
from support import filament_pair, mentions, publish_images, publish_kind, publish_model, read_published

from parfocal import v1
from parfocal.qc.metrics.baselines.histogram import fit_intensity_match
from parfocal.qc.unpaired.judge import CANNOT_SHOW, judge
from parfocal.qc.unpaired.parameters import UnpairedThresholds
from parfocal.qc.unpaired.scoring import MOST_COMPARED, Real, Sets, channels_last, drawn, score_cycle
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.store.evaluations import ImageScore
from parfocal.runtime.store.manifests import TURNED_BACK

SHAPE = (64, 80)


def lines(rng: np.random.Generator) -> Any:
    """Return a clean image (Y, X, 1) of lines."""
    return filament_pair(rng, SHAPE)[1][..., np.newaxis].astype(np.float64)


def spots(rng: np.random.Generator) -> Any:
    """Return an image (Y, X, 1) of blurred spots."""
    image = np.zeros(SHAPE)
    image[rng.integers(SHAPE[0], size=40), rng.integers(SHAPE[1], size=40)] = 1
    return gaussian_filter(image, 2)[..., np.newaxis]


def half_trained(rng: np.random.Generator) -> Any:
    """Return lines that are somewhat blurred and noisy, as a well trained network makes them."""
    image = gaussian_filter(lines(rng), (2, 2, 0))
    return image + rng.normal(0, 0.2 * image.std(), image.shape)


def test_distances_rank_real_trained_and_untrained() -> None:
    rng = np.random.default_rng(0)
    real = Real([lines(rng) for _ in range(12)], min(SHAPE))
    sets = {make.__name__: [make(rng) for _ in range(8)] for make in (lines, half_trained, spots)}
    untrained = [rng.normal(size=(*SHAPE, 1)) for _ in range(8)]
    distances = [real.distance(images) for images in (*sets.values(), untrained)]
    near, trained, other, far = distances
    assert near < 0.8 * trained
    assert near < 0.9 * other
    assert trained < 0.8 * far
    single = [np.mean([real.score(image)["distance"] for image in images]) for images in (sets["lines"], untrained)]
    assert single[0] < 0.9 * single[1]


def test_intensities_are_compared_in_parts_of_the_range() -> None:
    rng = np.random.default_rng(1)
    images = [lines(rng) for _ in range(6)]
    real = Real(images, min(SHAPE))
    low, high = np.mean([np.percentile(image, [0.1, 99.9]) for image in images], axis=0)
    mine = real.score(images[0])["intensity_distance"]
    assert real.score(images[0] + 0.5 * (high - low))["intensity_distance"] == pytest.approx(0.5, abs=mine + 1e-9)
    # Brightness and contrast of a set do not change its distance.
    assert real.distance([3 * image + 7 for image in images]) == pytest.approx(real.distance(images))


def test_matched_intensities_have_the_distribution_and_the_channels_of_the_other_kind() -> None:
    rng = np.random.default_rng(2)
    sources = [rng.normal(10, 2, (40, 50, 2)) for _ in range(3)]
    targets = [rng.gamma(2, (5.0, 50.0, 1.0), (40, 50, 3)) for _ in range(4)]
    match = fit_intensity_match(sources, targets)
    made = np.concatenate([match.apply(source) for source in sources])
    assert made.shape[2] == 3
    np.testing.assert_allclose(
        np.percentile(made, [25, 50, 75], axis=(0, 1)), np.percentile(targets, [25, 50, 75], axis=(0, 1, 2)), rtol=0.1
    )
    # The order of grey values is kept.
    grey = sources[0].mean(axis=2).ravel()
    assert np.all(np.diff(match.apply(sources[0])[..., 0].ravel()[np.argsort(grey)]) >= 0)
    assert match.describe()["images"] == 3
    with pytest.raises(InvalidInputError):
        fit_intensity_match(sources, [])


def test_the_cycle_is_scored_by_error_and_correlation() -> None:
    rng = np.random.default_rng(3)
    source = rng.uniform(0, 10, (40, 50, 1))
    low, high = np.percentile(source, [0.1, 99.9])
    assert score_cycle(source, source + 2, "a") == pytest.approx(
        {"cycle_error": 2 / (high - low), "cycle_correlation": 1.0}
    )
    assert score_cycle(source, -source, "a")["cycle_correlation"] == pytest.approx(-1)
    assert score_cycle(np.ones((20, 20, 1)), source[:20, :20], "a") == {}
    with pytest.raises(InvalidInputError, match="a "):
        score_cycle(source, source[:20], "a")


def test_of_many_images_the_same_are_drawn() -> None:
    assert list(drawn(5)) == [0, 1, 2, 3, 4]
    many = list(drawn(100))
    assert many == list(drawn(100))
    assert len(set(many)) == MOST_COMPARED
    assert many == sorted(many)


@pytest.mark.parametrize(
    ("pixels", "axes", "part"),
    [
        (np.zeros((2, 20, 20)), "ZYX", "ZYX"),
        (np.zeros((20, 12)), "YX", "16"),
        (np.full((20, 20), np.nan), "YX", "NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(pixels: Any, axes: str, part: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        channels_last(Image(pixels, axes), "field7")
    assert mentions(caught.value.message, "field7", part)


@pytest.mark.parametrize(("axes", "shape"), [("YX", (20, 24)), ("CYX", (2, 20, 24)), ("YXS", (20, 24, 3))])
def test_channels_go_last(axes: str, shape: tuple[int, ...]) -> None:
    assert channels_last(Image(np.zeros(shape), axes), "a").shape == (20, 24, {"YX": 1, "CYX": 2, "YXS": 3}[axes])


def scores(distance: float = 20.0, **values: float) -> list[ImageScore]:
    return [ImageScore(f"field{number}", {"distance": distance, **values}) for number in range(4)]


@pytest.mark.parametrize(
    ("sets", "cycle", "verdict"),
    [
        (Sets(10, 110, 30, 4, 8), {"cycle_correlation": 0.9}, "passed"),
        (Sets(10, 110, 30, 4, 8), {}, "passed"),
        (Sets(10, 110, 30, 4, 8), {"cycle_correlation": 0.2}, "failed"),
        (Sets(10, 110, 70, 4, 8), {"cycle_correlation": 0.9}, "failed"),
        (Sets(10, 110, 130, 4, 8), {"cycle_correlation": 0.9}, "failed"),
        (Sets(10, 9, 8, 4, 8), {"cycle_correlation": 0.9}, "failed"),
    ],
)
def test_the_verdict_asks_for_a_closed_gap_and_a_cycle(sets: Sets, cycle: dict[str, float], verdict: str) -> None:
    judgement = judge(scores(**cycle), sets, UnpairedThresholds(), largest_real=30)
    assert judgement.verdict == verdict
    assert CANNOT_SHOW in judgement.remarks
    assert len(judgement.reasons) == (2 if verdict == "passed" and cycle else 1)


def test_the_verdict_names_images_unlike_any_real_one_and_those_that_failed() -> None:
    images = scores()
    images[2] = ImageScore("field2", {"distance": 99.0}, failed_slices=1, failures=("prediction is constant",))
    judgement = judge(
        images, Sets(10, 110, 30, 4, 8), UnpairedThresholds(), largest_real=30, unscorable={"x": "x is damaged."}
    )
    assert judgement.verdict == "failed"
    assert any(mentions(reason, "field2", "constant") for reason in judgement.reasons)
    assert any(mentions(reason, "x is damaged") for reason in judgement.reasons)
    assert any(mentions(remark, "1 prediction", ": field2") for remark in judgement.remarks)
    allowed = judge(images, Sets(10, 110, 30, 4, 8), UnpairedThresholds(max_failed_images=1), largest_real=30)
    assert allowed.verdict == "passed"


# --- jobs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy and clean filaments that are no pairs, the clean ones in the first of three colours."""
    folder = write_kind(tmp_path_factory.mktemp("unpaired"), "unpaired")
    rng = np.random.default_rng(5)
    for split, count in (("train", 6), ("test", 4)):
        for path in (folder / split / "target").iterdir():
            path.unlink()
        for number in range(count):
            save(folder / split / "target" / f"other{number}.tif", coloured(lines(rng)[..., 0]), "YXS")
    return folder


def coloured(image: Any) -> Any:
    scaled = (image - image.min()) / np.ptp(image)
    return np.stack([255 * scaled, 100 * (1 - scaled), 60 * scaled**2], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def judged(run_job: Any, s3: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., v1.Job]:
    """Judge images that are put in the place of the test images' predictions."""
    store = s3.store()
    dataset = publish_kind(store, "unpaired-sets", folder, "unpaired")

    def run(make: Callable[[int], Any], axes: str = "YXS", back: Callable[[Any], Any] | None = None) -> v1.Job:
        from parfocal.runtime.images.files import read_image

        place = tmp_path_factory.mktemp("predicted")
        for number, path in enumerate(sorted((folder / "test" / "source").iterdir())):
            save(place / path.name, make(number), axes)
            if back is not None:
                save(place / TURNED_BACK / path.name, back(read_image(path).pixels))
        spec = v1.EvaluationSpec(
            method="translation-unpaired",
            dataset_uri=dataset,
            prediction_uri=publish_images(store, place),
            split="test",
            model_uri=publish_model(store, "cycle", dataset),
        )
        return run_job(v1.StartJobRequest(evaluation=spec))

    return run


def test_images_like_real_ones_pass_and_are_turned_back(judged: Callable[..., v1.Job], s3: Any) -> None:
    rng = np.random.default_rng(6)
    job = judged(lambda _: coloured(lines(rng)[..., 0]), back=lambda pixels: pixels // 2)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    store, uri = s3.store(), job.outputs[0].uri
    summary = json.loads(read_published(store, uri, "summary.json"))
    assert summary["verdict"] == "passed", summary["reasons"]
    assert summary["task"] == "translation-unpaired"
    sets = summary["details"]["sets"]
    assert sets["prediction"] < sets["baseline"]
    assert (sets["images"], sets["reference"]) == (3, 6)
    assert len(summary["details"]["real_images"]) == 4
    assert summary["headline"]["prediction_cycle_correlation"] == pytest.approx(1, abs=1e-3)
    assert summary["baseline"]["images"] == 5
    for name in ("report.pdf", "report.html", "figure.png", "scores.png", "metrics.csv"):
        assert read_published(store, uri, name)
    assert any(each.uri.startswith("s3://parfocal-models/") for each in job.outputs)


def test_images_unlike_real_ones_fail(judged: Callable[..., v1.Job], s3: Any) -> None:
    rng = np.random.default_rng(7)
    noise = judged(lambda _: rng.integers(0, 255, (*SHAPE, 3)).astype(np.uint8))
    summary = json.loads(read_published(s3.store(), noise.outputs[0].uri, "summary.json"))
    assert summary["verdict"] == "failed"
    assert summary["details"]["sets"]["prediction"] > summary["details"]["sets"]["real"]
    assert "cycle_correlation" not in summary["metrics"]["prediction"]
    # One is constant, one has other channels than real images.
    mixed = judged(lambda number: np.full((*SHAPE, 3), 9, np.uint8) if number else coloured(lines(rng)[..., 0]))
    summary = json.loads(read_published(s3.store(), mixed.outputs[0].uri, "summary.json"))
    assert len(summary["failed_images"]) == 2
    grey = judged(lambda _: lines(rng)[..., 0], "YX")
    assert grey.state == v1.JOB_STATE_FAILED
    assert mentions(grey.error.text, "1 channel", "3")


def test_a_dataset_of_one_kind_is_refused(run_job: Any, s3: Any, pairs_folder: Path, tmp_path: Path) -> None:
    store = s3.store()
    for path in (pairs_folder / "train" / "source").iterdir():
        (tmp_path / "train" / "source").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "source" / path.name).write_bytes(path.read_bytes())
    spec = v1.EvaluationSpec(
        method="translation-unpaired",
        dataset_uri=publish_kind(store, "alone", tmp_path),
        prediction_uri="s3://parfocal-results/default/none",
    )
    with pytest.raises(grpc.RpcError) as caught:
        run_job(v1.StartJobRequest(evaluation=spec))
    assert [each.field for each in from_rpc_error(caught.value, "").violations] == ["evaluation.dataset_uri"]


def test_real_images_with_different_channels_are_refused(run_job: Any, s3: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    store, data = s3.store(), tmp_path / "data"
    for split, role, channels in (("train", "source", 2), ("train", "target", 3), ("test", "source", 2)):
        for number in range(2):
            # One of the training images of the kind that is made has a channel less.
            count = channels - (role == "target" and number)
            image = np.stack([lines(rng)[..., 0]] * count).astype(np.float32)
            save(data / split / role / f"{role}{number}.tif", image, "CYX")
            save(data / "test" / "target" / f"target{number}.tif", np.stack([image[0]] * 3), "CYX")
            save(tmp_path / "made" / f"source{number}.tif", np.stack([image[0]] * 3), "CYX")
    dataset = publish_kind(store, "mixed-channels", data, "unpaired", "CYX")
    spec = v1.EvaluationSpec(
        method="translation-unpaired",
        dataset_uri=dataset,
        prediction_uri=publish_images(store, tmp_path / "made"),
        split="test",
        model_uri=publish_model(store, "mixed", dataset),
    )
    job = run_job(v1.StartJobRequest(evaluation=spec))
    assert job.state == v1.JOB_STATE_FAILED
    assert mentions(job.error.text, "train/target/target1.tif has 2 channels", "3")
