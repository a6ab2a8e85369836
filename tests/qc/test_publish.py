"""What the test itself says of a verdict, whatever was scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from parfocal.qc.inputs import Inputs, Item
from parfocal.qc.publish import with_test
from parfocal.qc.verdict import Verdict
from parfocal.runtime.manifests import DatasetManifest, ImageEntry, ModelManifest, ResultManifest

PASSED = Verdict("passed", ("It is better.",), ("A remark.",))
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
    verdict = with_test(PASSED, Inputs(DATASET, model(a="1"), PREDICTION, "source", [item("x", "1"), item("y", "2")]))
    assert verdict.verdict == "failed"
    assert "1 of 2 test images were among the training images (x)" in verdict.reasons[0]


@pytest.mark.parametrize(("given", "words"), [(None, "No model is named"), (model(), "The model was made elsewhere")])
def test_what_is_not_known_is_said(given: ModelManifest | None, words: str) -> None:
    verdict = with_test(PASSED, Inputs(DATASET, given, PREDICTION, "source", [item("x", "1")]))
    assert (verdict.verdict, verdict.reasons) == ("passed", PASSED.reasons)
    assert any(remark.startswith(words) for remark in verdict.remarks)


def test_images_that_were_not_scored_are_named() -> None:
    verdict = with_test(PASSED, Inputs(DATASET, model(a="1"), PREDICTION, "source", [item("x", "2")], ("y", "z")))
    assert "2 of 3 test images have no prediction and were not scored: y, z." in verdict.remarks


@pytest.mark.parametrize("stem", ["../evil", "a/b", "a\\b", "", "..", "a\0"])
def test_names_in_a_manifest_cannot_leave_their_folder(stem: str) -> None:
    with pytest.raises(ValidationError, match="is no name"):
        ImageEntry(split="test", role="source", stem=stem, file="f.tif", shape=(8, 8), dtype="uint8", axes="YX")
