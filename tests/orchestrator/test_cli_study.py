"""Parameter studies from the command line: combinations, models that are judged and compared, and repetition."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ended, mentions

from parfocal import v1
from parfocal.client import Client
from parfocal.client.requests import training_request
from parfocal.client.studies import MOST_COMBINATIONS, combinations, model_name, repeatable
from parfocal.runtime.errors import InvalidParameterError
from parfocal.runtime.store.names import check_request_id, is_name

SCHEMA: dict[str, Any] = {
    "properties": {
        "epochs": {"type": "integer", "minimum": 1},
        "loss": {"enum": ["mae", "mse"]},
        "grid": {"type": "array", "items": {"type": "integer"}},
    }
}


def test_all_combinations_of_the_values_are_tried() -> None:
    found = combinations("M", SCHEMA, ["epochs=5, 10", "loss=mae,mse"], {})
    assert found == [{"epochs": epochs, "loss": loss} for epochs in (5, 10) for loss in ("mae", "mse")]
    assert combinations("M", SCHEMA, ["grid=[[1,1],[2,2]]"], {}) == [{"grid": [1, 1]}, {"grid": [2, 2]}]


@pytest.mark.parametrize(
    ("varied", "fixed", "words"),
    [
        ([], {}, "Nothing varies"),
        (["epochs=5"], {}, "two different values"),
        (["epochs=5,5"], {}, "two different values"),
        (["epochs=5,0"], {}, "at least 1"),
        (["epoch=5,6"], {}, "Did you mean 'epochs'"),
        (["epochs=1,2", "epochs=3,4"], {}, "given twice"),
        (["epochs=1,2"], {"epochs": 3}, "given twice"),
        (["grid=[[1],"], {}, "no JSON list"),
        (["grid=[]"], {}, "two different values"),
        ([f"epochs={','.join(map(str, range(1, MOST_COMBINATIONS)))}", "loss=mae,mse"], {}, "vary fewer"),
    ],
)
def test_what_cannot_be_varied_is_said(varied: list[str], fixed: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        combinations("M", SCHEMA, varied, fixed)


def test_models_and_jobs_are_named_by_the_values_alone() -> None:
    assert model_name("beads", {"epochs": 50, "learning_rate": 0.0004}) == "beads-epochs-50-learning_rate-0.0004"
    long = [model_name("b" * 40, {"learning_rate": rate, "patch_size": 64}) for rate in (0.1, 0.2, 0.1)]
    assert all(map(is_name, long))
    assert (long[0] == long[2], long[0] == long[1]) == (True, False)
    first, same, other = (
        repeatable(training_request("m-2d", "s3://d", name, {"epochs": epochs, "a": 1}), name).request_id
        for name, epochs in ((long[0], 1), (long[0], 1), (long[0], 2))
    )
    assert check_request_id(first) == same
    assert first != other


def test_a_study_trains_judges_and_compares_what_is_missing(
    run: Callable[..., Ended], dataset: str, tmp_path: Path
) -> None:
    words = ["study", "train", "fake-2d", "--dataset", dataset, "--model", "tried", "-p", "batch_size=2"]
    assert run(*words, "--vary", "epochs=1,2", "--dry-run").code == 0
    ended = run(*words, "--vary", "epochs=1,2", "--output", tmp_path / "study")
    assert ended.code == 0, ended.err
    assert mentions(ended.err, "1 of 2: epochs 1", "tried-epochs-1", "tried-epochs-2")
    assert mentions(ended.out, "PSNR [dB]", "tried-epochs-1:1", "tried-epochs-2:1", "Wilcoxon")
    with (tmp_path / "study" / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epochs"], row["Model"]) for row in rows] == [("1", "tried-epochs-1:1"), ("2", "tried-epochs-2:1")]
    assert all(float(row["PSNR [dB]"]) > 0 and float(row["Seconds"]) >= 0 for row in rows)
    assert {row["Verdict"] for row in rows} <= {"passed", "failed"}
    assert (tmp_path / "study" / "report.pdf").is_file()

    with Client() as client:
        before = {job.id for job in client.jobs()}
        again = run(*words, "--vary", "epochs=1,2", "--json")
        assert again.code == 0, again.err
        assert {job.id for job in client.jobs()} == before
        assert [row["epochs"] for row in again.json["study"]] == ["1", "2"]
        assert again.json["comparison"]["summary"]["candidates"][0]["name"] == "tried-epochs-1:1"
        # One more value is one more training with its quality control, and a comparison of all.
        more = run(*words, "--vary", "epochs=1,2,3", "--json")
        assert more.code == 0, more.err
        new = [job for job in client.jobs() if job.id not in before]
        assert sorted(str(job.WhichOneof("spec")) for job in new) == [
            "comparison",
            "evaluation",
            "prediction",
            "training",
        ]
    refused = run(*words, "--vary", "epochs=1,2", "--output", tmp_path / "study")
    assert refused.code == 2
    assert "study.csv" in refused.err or "report.pdf" in refused.err


def test_a_study_continues_what_was_cancelled_and_starts_nothing_that_is_refused(
    run: Callable[..., Ended], dataset: str
) -> None:
    words = ["study", "train", "fake-2d", "--dataset", dataset, "--json"]
    refused = run(*words, "--model", "refused", "--vary", "patch_size=16,256")
    assert refused.code == 2
    assert "smaller than" in refused.err
    values = [{"pause_seconds": 0.3, "epochs": epochs} for epochs in (3, 4)]
    with Client() as client:
        (begun,) = (job for job in client.jobs() if job.training.model == "refused-patch_size-16")
        assert client.wait(begun.id).state in {v1.JOB_STATE_CANCELLED, v1.JOB_STATE_SUCCEEDED}
        name = model_name("cut", {"epochs": 4})
        uri = client.dataset_uri(dataset)
        labels = {"parfocal.judge": "test"}
        job = client.start(repeatable(training_request("fake-2d", uri, name, values[1], labels=labels), name))
        client.cancel(job.id)
        assert client.wait(job.id).state == v1.JOB_STATE_CANCELLED
        ended = run(*words, "--model", "cut", "-p", "pause_seconds=0.3", "--vary", "epochs=3,4")
        assert ended.code == 0, ended.err
        assert client.get(job.id).state == v1.JOB_STATE_SUCCEEDED
    assert [row["Model"] for row in ended.json["study"]] == ["cut-epochs-3:1", "cut-epochs-4:1"]


def test_predictions_with_different_values_are_compared_and_leave_the_verdict(
    run: Callable[..., Ended], dataset: str, model: str
) -> None:
    words = ["study", "predict", model, "--dataset", dataset, "--vary", "weights=best,last"]
    ended = run(*words, "--json")
    assert ended.code == 0, ended.err
    assert [row["weights"] for row in ended.json["study"]] == ["best", "last"]
    names = [each["name"] for each in ended.json["comparison"]["summary"]["candidates"][:2]]
    assert mentions(" ".join(names), "weights-best", "weights-last")
    assert run("models", "show", model, "--json").json["verdict"]["state"] == "unchecked"
    with Client() as client:
        before = {job.id for job in client.jobs()}
        assert run(*words).code == 0
        assert {job.id for job in client.jobs()} == before
