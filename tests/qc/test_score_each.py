"""Predictions that cannot be scored are failed images; test data that cannot be used ends the job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support import mentions

from parfocal.qc.comparison.candidates import Evaluation
from parfocal.qc.evaluation.score_each import PredictionError, of_prediction, score_each
from parfocal.runtime import traces
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.evaluations import EvaluationSummary
from parfocal.runtime.store.manifests import ResultFile, ResultManifest

NAN = "x (prediction): The image has 1 of 9 values that are NaN. Repair it."


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
        self.stages = traces.Stages()
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
    each = score_each(context, items, score, shown=lambda _: {}, unscorable=unscorable, left_out={}, workers=2)  # type: ignore[arg-type]
    return list(each), unscorable, context


def test_what_cannot_be_scored_is_named_and_the_others_go_on() -> None:
    scored, unscorable, context = score_all("bd", PredictionError("It is odd."))
    assert scored == context.completed == ["a", "c"]
    assert unscorable == {"b": "It is odd.", "d": "It is odd."}
    assert context.steps == [1, 2, 3, 4]
    assert any(mentions(warning, "prediction of b", "It is odd.") for warning in context.warnings)


def test_nothing_to_score_and_bad_test_data_end_the_job() -> None:
    with pytest.raises(InvalidInputError, match=r"None of the 4 .*It is odd"):
        score_all("abcd", PredictionError("It is odd."))
    with pytest.raises(InvalidInputError, match="The target is constant"):
        score_all("b", InvalidInputError("The target is constant"))


def test_a_comparison_has_the_images_that_were_scored() -> None:
    images = (ResultFile(input="a", input_sha256="1"), ResultFile(input="x", input_sha256="2", reason=NAN))
    manifest = ResultManifest(project="p", job="j", service="qc", method="m", kind="evaluation", images=images)
    summary = EvaluationSummary.model_construct()
    assert Evaluation("s3://a/b", "m", manifest, summary, {}).images("target") == {"a": "1"}
