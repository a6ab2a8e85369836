"""What the test itself says of a verdict, whatever was scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from support import mentions

from parfocal.qc.evaluation.inputs import Inputs, Item
from parfocal.qc.evaluation.verdict import Judgement, with_test, with_unscorable
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry, ModelManifest, ResultManifest

NAN = "x (prediction): The image has 1 of 9 values that are not a number. Repair it."
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
    with pytest.raises(ValidationError, match="is no name"):
        ImageEntry(split="test", role="source", stem=stem, file="f.tif", shape=(8, 8), dtype="uint8", axes="YX")
