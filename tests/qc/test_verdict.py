"""What the test itself says of a verdict, whatever was scored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support import mentions

from parfocal.qc.evaluation.advice import next_steps
from parfocal.qc.evaluation.inputs import Inputs, Item
from parfocal.qc.evaluation.verdict import Judgement, baseline_ahead, is_perfect, with_test, with_unscorable
from parfocal.runtime.store.evaluations import ImageScore, Kind, Metric, Outcome, PairedDifference, Statistics
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry, KeptWeights, ModelManifest, ResultManifest

NAN = "x (prediction): The image has 1 of 9 values that are NaN. Repair it."
PASSED = Judgement("passed", ("It is better.",), ("A remark.",))
DATASET = DatasetManifest(project="p", dataset="d", version=1, images=())
PREDICTION = ResultManifest(project="p", job="j", service="s", method="m", kind="prediction")


def item(label: str, digest: str) -> Item:
    here = Path(label)
    return Item(label, "target", here, here, here, digest, None, (8, 8), None)


def model(**known: str) -> ModelManifest:
    return ModelManifest(
        project="p", model="m", version=1, service="s", method="m", job="j", parameters={}, axes="YX", normaliser={},
        dataset_uri="", dataset_sha256=known,
    )  # fmt: skip


def test_a_model_that_had_learnt_from_the_test_images_fails() -> None:
    verdict = with_test(
        PASSED, Inputs(DATASET, model(a="1"), PREDICTION, "source", [item("x", "1"), item("y", "2")]), 0
    )
    assert verdict.verdict == "failed"
    assert mentions(verdict.reasons[0], "1 of 2 test images", "training images", "(x)")


@pytest.mark.parametrize(("given", "words"), [(None, "No model"), (model(), "made elsewhere")])
def test_what_is_not_known_is_said(given: ModelManifest | None, words: str) -> None:
    verdict = with_test(PASSED, Inputs(DATASET, given, PREDICTION, "source", [item("x", "1")]), 0)
    assert (verdict.verdict, verdict.reasons) == ("passed", PASSED.reasons)
    assert any(words in remark for remark in verdict.remarks)


def test_images_that_were_not_scored_are_named() -> None:
    inputs = Inputs(DATASET, model(a="1"), PREDICTION, "source", [item("x", "2")], ("y", "z"))
    parts = ("2 of 3 test images", "no prediction", ": y, z.")
    verdict = with_test(PASSED, inputs, 1)
    assert verdict.verdict == "failed"
    (reason,) = verdict.reasons
    assert mentions(reason, *parts)
    allowed = with_test(PASSED, inputs, 2)
    assert (allowed.verdict, allowed.reasons) == ("passed", PASSED.reasons)
    assert any(mentions(remark, *parts, "thresholds") for remark in allowed.remarks)


def test_a_prediction_that_cannot_be_scored_fails_the_model_unless_it_is_allowed() -> None:
    what_is_wrong, what_to_do = NAN.split(". ")
    parts = ("1 of 3 predictions", "scored", what_is_wrong)
    verdict = with_unscorable(PASSED, {"x": NAN}, 3, 0)
    assert verdict.verdict == "failed"
    (reason,) = verdict.reasons
    assert mentions(reason, *parts)
    assert what_to_do not in reason
    assert any("2 images" in remark for remark in verdict.remarks)
    allowed = with_unscorable(PASSED, {"x": NAN}, 3, 1)
    assert (allowed.verdict, allowed.reasons) == ("passed", PASSED.reasons)
    assert mentions(allowed.remarks[0], *parts, "thresholds")
    worse = with_unscorable(Judgement("failed", ("It is worse.",), ()), {"x": NAN}, 3, 0)
    assert worse.reasons == (reason, "It is worse.")
    assert with_unscorable(PASSED, {"x": NAN}, 1, 5).verdict == "failed"  # nothing was scored
    assert with_unscorable(PASSED, {}, 3, 0) is PASSED


@pytest.mark.parametrize("stem", ["../evil", "a/b", "a\\b", "", "..", "a\0"])
def test_names_in_a_manifest_cannot_leave_their_folder(stem: str) -> None:
    with pytest.raises(ValidationError, match="is not a valid name"):
        ImageEntry(split="test", role="source", stem=stem, file="f.tif", shape=(8, 8), dtype="uint8", axes="YX")


def test_a_baseline_that_is_better_in_what_the_verdict_does_not_ask_for_is_named() -> None:
    metrics = [
        Metric(key="f1", title="F1", used_by_verdict=True),
        Metric(key="accuracy", title="accuracy"),
        Metric(key="distance", title="distance", unit="px", better="lower"),
        Metric(key="recall", title="recall"),
        Metric(key="objects", title="objects", better="none"),
    ]
    ours = {"f1": 0.5, "accuracy": 0.471, "distance": 2.0, "recall": 0.60001, "objects": 1.0}
    theirs = {"f1": 0.9, "accuracy": 0.51, "distance": 1.5, "recall": 0.60002, "objects": 2.0}
    scores: dict[Kind, list[ImageScore]] = {
        "prediction": [ImageScore("a", ours)],
        "baseline": [ImageScore("a", theirs)],
        "input": [ImageScore("a", {"f1": 0.1, "distance": 3.0})],
    }
    names: dict[Kind, str] = {"baseline": "The threshold", "input": "The input"}
    (remark,) = baseline_ahead(scores, metrics, names)
    assert mentions(remark, "The threshold", "accuracy (0.510 against 0.471)", "distance (1.500 px against 2.000 px)")
    assert not any(word in remark for word in ("F1", "recall", "objects"))


@pytest.mark.parametrize(("best", "values", "perfect"), [(1, [1, 1], True), (1, [1, 0.99], False), (None, [1], False)])
def test_only_the_best_possible_value_in_every_image_is_perfect(
    best: float, values: list[float], perfect: bool
) -> None:
    images = [ImageScore(str(value), {"f1": value}) for value in values]
    assert (
        is_perfect([*images, ImageScore("none", {"f1": math.nan})], Metric(key="f1", title="F1", best=best)) is perfect
    )


def trained(best: int, epochs: int, **more: Any) -> ModelManifest:
    known = {f"train/source/{number}.tif": str(number) for number in range(5)}
    kept = {"best": KeptWeights(epoch=best, metric="val_loss" if best else "")}
    return model(**known).model_copy(update={"epochs": epochs, "weights": kept, **more})


def lost(outcome: Outcome) -> PairedDifference:
    return PairedDifference("f1", "baseline", Statistics(-0.1, -0.1, None, None, None), 0, 3, outcome)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (trained(29, 30), ["29 of 30", "epochs=60", "--from m:1"]),
        (trained(5, 30), ["5 of 30"]),
        (trained(0, 0, origin="elsewhere.zip"), ["elsewhere", "--from m:1"]),
    ],
)
def test_the_first_next_step_follows_from_the_training(model: ModelManifest, words: list[str]) -> None:
    steps = next_steps(model, ["a"], [], "Otsu threshold")
    assert mentions(steps[0], *words)
    assert mentions(steps[1], "(a)")
    assert mentions(steps[2], "5 images")
    assert "parfocal methods" in steps[3]


def test_what_needs_no_training_is_proposed_where_it_is_better() -> None:
    steps = next_steps(trained(20, 30), ["a", "b"], [lost("worse")], "Otsu threshold")
    assert mentions(steps[0], "(a and b)")
    assert mentions(steps[-1], "Otsu threshold")
    even = next_steps(None, ["a"], [lost("not distinguishable")], "Otsu threshold")
    assert len(even) == 2
    assert not any("Otsu" in step for step in even)
