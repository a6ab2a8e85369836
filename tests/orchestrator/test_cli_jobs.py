"""What `parfocal jobs` says a job does."""

from __future__ import annotations

import re

import pytest

from parfocal import v1
from parfocal.cli._jobs import _what

DATASET, MODEL, RESULT = "s3://d/default/beads/2", "s3://m/default/beads/1", "s3://r/default/20260101-x"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (
            v1.Job(training=v1.TrainingSpec(model="beads", dataset_uri=DATASET), reserved_uri=MODEL),
            r"train .*beads:1",
        ),
        (v1.Job(training=v1.TrainingSpec(model="beads", dataset_uri=DATASET)), r"train .*beads"),
        (
            v1.Job(prediction=v1.PredictionSpec(model_uri=MODEL, input_uri=DATASET, split="test"), reserved_uri=RESULT),
            r"predict .*beads:1",
        ),
        (
            v1.Job(evaluation=v1.EvaluationSpec(model_uri=MODEL, prediction_uri=RESULT, dataset_uri=DATASET)),
            r"evaluate model beads:1 .*beads:2",
        ),
        (
            v1.Job(evaluation=v1.EvaluationSpec(prediction_uri=RESULT, dataset_uri=DATASET)),
            r"evaluate images .*beads:2",
        ),
        (v1.Job(evaluation=v1.EvaluationSpec(prediction_uri=RESULT)), r"evaluate images without .*"),
        (v1.Job(evaluation=v1.EvaluationSpec(dataset_uri=DATASET)), r"check .*beads:2"),
        (
            v1.Job(comparison=v1.ComparisonSpec(evaluation_uris=[RESULT, RESULT], dataset_uri=DATASET)),
            r"compare 2 .*beads:2",
        ),
    ],
)
def test_every_kind_of_work_says_what_it_is(job: v1.Job, words: str) -> None:
    assert re.fullmatch(words, _what(job))
