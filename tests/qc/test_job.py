"""What the test itself says of a verdict, whatever was scored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from parfocal.qc.competitors import Evaluation
from parfocal.qc.job import Inputs, Item, PredictionError, of_prediction, score_each, with_test
from parfocal.qc.verdict import Verdict, with_unscorable
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.manifests import DatasetManifest, ImageEntry, ModelManifest, ResultFile, ResultManifest

PASSED = Verdict("passed", ("It is better.",), ("A remark.",))
DATASET = DatasetManifest(project="p", dataset="d", version=1, images=())


def item(label: str, digest: str) -> Item:
    here = Path(label)
    return Item(label, "target", here, here, here, digest, None, (8, 8), None)


def model(**known: str) -> ModelManifest:
    return ModelManifest(
        project="p", model="m", version=1, service="s", method="m", job="j", parameters={}, axes="YX", normaliser={},
        dataset_uri="", dataset_sha256=known,
    )  # fmt: skip


def test_a_model_that_had_learnt_from_the_test_images_fails() -> None:
    verdict = with_test(PASSED, Inputs(DATASET, model(a="1"), "source", [item("x", "1"), item("y", "2")]))
    assert verdict.verdict == "failed"
    assert "1 of 2 test images were among the training images (x)" in verdict.reasons[0]


@pytest.mark.parametrize(("given", "words"), [(None, "No model is named"), (model(), "The model was made elsewhere")])
def test_what_is_not_known_is_said(given: ModelManifest | None, words: str) -> None:
    verdict = with_test(PASSED, Inputs(DATASET, given, "source", [item("x", "1")]))
    assert (verdict.verdict, verdict.reasons) == ("passed", PASSED.reasons)
    assert any(remark.startswith(words) for remark in verdict.remarks)


def test_images_that_were_not_scored_are_named() -> None:
    verdict = with_test(PASSED, Inputs(DATASET, model(a="1"), "source", [item("x", "2")], ("y", "z")))
    assert "2 of 3 test images have no prediction and were not scored: y, z." in verdict.remarks


@pytest.mark.parametrize("stem", ["../evil", "a/b", "a\\b", "", "..", "a\0"])
def test_names_in_a_manifest_cannot_leave_their_folder(stem: str) -> None:
    with pytest.raises(ValidationError, match="is no name"):
        ImageEntry(split="test", role="source", stem=stem, file="f.tif", shape=(8, 8), dtype="uint8", axes="YX")


NAN = "x (prediction): The image has 1 of 9 values that are not a number. Repair it."


@pytest.mark.parametrize(
    ("message", "expected"),
    [("x: the prediction is odd.", "x: the prediction is odd."), ("cut off.", "x (prediction): cut off.")],
)
def test_only_what_is_wrong_with_a_prediction_is_its_fault(message: str, expected: str) -> None:
    with pytest.raises(PredictionError) as caught, of_prediction("x"):
        raise InvalidInputError(message)
    assert caught.value.message == expected
    with pytest.raises(InvalidInputError) as other, of_prediction("x", "input"):
        raise InvalidInputError(message)
    assert not isinstance(other.value, PredictionError)


class _Context:
    """What `score_each` needs of a job."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.completed: list[str] = []
        self.steps: list[int] = []

    def check_cancelled(self) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def report_image(self, image: Any, progress: Any) -> None:
        self.completed.append(image.name)
        self.steps.append(progress.step)

    def report_progress(self, progress: Any) -> None:
        self.steps.append(progress.step)


def score_all(bad: str, error: InvalidInputError) -> tuple[list[str], dict[str, str], _Context]:
    def score(item: Any) -> str:
        if item.label in bad:
            raise error
        return str(item.label)

    context, unscorable = _Context(), {}
    items = [SimpleNamespace(label=label) for label in "abcd"]
    scored = list(score_each(context, items, score, shown=lambda _: {}, unscorable=unscorable))  # type: ignore[arg-type]
    return scored, unscorable, context


def test_what_cannot_be_scored_is_named_and_the_others_go_on() -> None:
    scored, unscorable, context = score_all("bd", PredictionError("It is odd."))
    assert scored == context.completed == ["a", "c"]
    assert unscorable == {"b": "It is odd.", "d": "It is odd."}
    assert context.steps == [1, 2, 3, 4]
    assert "The prediction of b was not scored. It is odd." in context.warnings


def test_nothing_to_score_and_bad_test_data_end_the_job() -> None:
    with pytest.raises(InvalidInputError, match=r"None of the 4 predictions can be scored. It is odd"):
        score_all("abcd", PredictionError("It is odd."))
    with pytest.raises(InvalidInputError, match="The target is constant"):
        score_all("b", InvalidInputError("The target is constant"))


def test_a_prediction_that_cannot_be_scored_fails_the_model_unless_it_is_allowed() -> None:
    sentence = (
        "1 of 3 predictions could not be scored: x (prediction): The image has 1 of 9 values that are not a number."
    )
    verdict = with_unscorable(PASSED, {"x": NAN}, 3, 0)
    assert (verdict.verdict, verdict.reasons) == ("failed", (sentence,))
    assert "Scores and means are those of the 2 images that could be scored." in verdict.remarks
    allowed = with_unscorable(PASSED, {"x": NAN}, 3, 1)
    assert (allowed.verdict, allowed.reasons) == ("passed", PASSED.reasons)
    assert allowed.remarks[0] == f"{sentence} The thresholds allow that."
    worse = with_unscorable(Verdict("failed", ("It is worse.",), ()), {"x": NAN}, 3, 0)
    assert worse.reasons == (sentence, "It is worse.")
    assert with_unscorable(PASSED, {"x": NAN}, 1, 5).verdict == "failed"  # nothing was scored
    assert with_unscorable(PASSED, {}, 3, 0) is PASSED


def test_a_comparison_has_the_images_that_were_scored() -> None:
    images = (ResultFile(input="a", input_sha256="1"), ResultFile(input="x", input_sha256="2", reason=NAN))
    manifest = ResultManifest(project="p", job="j", service="qc", method="m", kind="evaluation", images=images)
    assert Evaluation("s3://a/b", "m", manifest, {}, {}).images("target") == {"a": "1"}
