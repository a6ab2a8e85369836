"""The parts of the workflows that work without a server: forms, tables, pages, decisions."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from support import mentions

from parfocal import v1
from parfocal.client.quality import JUDGE_LABEL, TRAINING_LABEL, awaits_verdict, judging_request
from parfocal.client.requests import evaluation_request, prediction_request
from parfocal.flows import _show, _work, deployments, forms
from parfocal.flows._jobs import JobNotSucceededError, Run, job_ending, repeatable_jobs
from parfocal.flows._scores import Evaluated, quality_rows, summary_rows
from parfocal.flows._work import Finished
from parfocal.flows.catalogue import Catalogue, evaluation_choice, job_of_choice
from parfocal.flows.reconcile import Fate, decide, due
from parfocal.runtime.datasets.kinds import KINDS
from parfocal.runtime.store.evaluations import EvaluationSummary, ImageScore, Metric, Statistics
from parfocal.runtime.store.manifests import ResultFile, ResultManifest
from parfocal.runtime.store.names import check_request_id

SCHEMA = {
    "$defs": {"Loss": {"enum": ["mae", "mse"], "type": "string"}},
    "properties": {
        "epochs": {"type": "integer", "default": 100, "minimum": 1, "maximum": 1000, "description": "Rounds."},
        "loss": {"$ref": "#/$defs/Loss", "default": "mae", "title": "Loss"},
        "seed": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}], "default": None, "title": "Seed"},
    },
}


def method(*kinds: v1.JobKind.ValueType) -> v1.Method:
    schemas = [v1.ParameterSchema(job_kind=kind, json_schema=json.dumps(SCHEMA)) for kind in kinds]
    return v1.Method(
        name="sharp-2d",
        title="Sharp 2D",
        task=v1.TASK_RESTORATION,
        summary="Sharpens.",
        job_kinds=kinds,
        parameter_schemas=schemas,
        citation="Someone, 2020.",
    )


TRAIN, PREDICT, COMPARE = v1.JOB_KIND_TRAINING, v1.JOB_KIND_PREDICTION, v1.JOB_KIND_COMPARISON


def accepts(schema: dict[str, Any], values: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(values)


def test_a_form_takes_choices_and_parameters_in_range() -> None:
    form = forms.train_form(method(TRAIN), ["beads:2", "beads:1"])
    values = {"dataset": "beads:1", "model": "m", "parameters": {"epochs": 5, "loss": "mse", "seed": 3}}
    assert accepts(form, values)


def test_a_deployment_takes_its_own_values_and_those_of_its_form_alone() -> None:
    catalogue = Catalogue([method(TRAIN)], ["beads:1"], {})
    (schema,) = [offer.schema for offer in deployments.offers(catalogue, "default") if offer.flow == "train"]
    values = {"dataset": "beads:1", "model": "m"}
    assert accepts(schema, {"method": "sharp-2d", "project": "default", **values})
    assert not accepts(schema, {"settings": {"epochs": 5}, **values})


def test_a_form_offers_the_datasets_that_suit_its_method() -> None:
    finds = method(TRAIN)
    finds.data_requirements.target = v1.TARGET_KIND_BOXES
    kinds = {"beads:1": "", "cells:2": "boxes", "cells:1": "paired", "later:1": "a kind of tomorrow"}
    catalogue = Catalogue([finds, method(TRAIN)], list(kinds), {}, kinds=kinds)
    offers = [offer for offer in deployments.offers(catalogue, "default") if offer.flow == "train"]
    boxes, anything = (offer.form["properties"]["dataset"] for offer in offers)
    assert boxes["enum"] == ["cells:2"]
    assert KINDS["boxes"].title in boxes["description"]
    assert anything["enum"] == list(kinds)
    without = forms.train_form(finds, [])["properties"]["dataset"]
    assert "enum" not in without
    assert KINDS["boxes"].title in without["description"]


def test_drop_downs_leave_out_what_a_method_cannot_use() -> None:
    flat, deep, judge = method(TRAIN, PREDICT), method(TRAIN, PREDICT), method(COMPARE)
    needs = {"YX": flat, "ZYX": deep}
    for axes, each in needs.items():
        each.name = axes.lower()
        each.data_requirements.MergeFrom(v1.DataRequirements(axes=axes, channel_axes="C"))
        each.data_requirements.target = v1.TARGET_KIND_LABELS
    judge.data_requirements.target = v1.TARGET_KIND_PAIRED_IMAGE
    kinds = {
        "planes:1": "labels",
        "volumes:1": "labels",
        "movie:1": "sources",
        "colour:1": "labels",
        "sharp:1": "paired",
    }
    axes = {"planes:1": {"YX"}, "volumes:1": {"ZYX"}, "movie:1": {"TYX"}, "colour:1": {"CYX"}, "sharp:1": {"YX", "ZYX"}}
    known = {name: frozenset(each) for name, each in axes.items()}
    catalogue = Catalogue([flat, deep, judge], list(kinds), {"yx": ["m:1"]}, kinds=kinds, axes=known)
    assert catalogue.datasets_for(flat) == ["planes:1", "colour:1"]
    assert catalogue.datasets_for(deep) == ["volumes:1"]
    by_frame = method(TRAIN)
    by_frame.data_requirements.MergeFrom(v1.DataRequirements(axes="YX", target=v1.TARGET_KIND_NONE, frames=True))
    assert "movie:1" in catalogue.datasets_for(by_frame)
    assert catalogue.datasets_to_predict(flat) == list(kinds)
    assert catalogue.datasets_to_predict(deep) == ["volumes:1", "sharp:1"]
    assert catalogue.datasets_to_compare(judge) == ["planes:1", "volumes:1", "colour:1", "sharp:1"]
    forms_of = {(each.flow, each.name): each.form for each in deployments.offers(catalogue, "default")}
    assert forms_of["train", "zyx"]["properties"]["dataset"]["enum"] == ["volumes:1"]
    assert forms_of["predict", "zyx"]["properties"]["dataset"]["enum"] == ["volumes:1", "sharp:1"]
    assert "movie:1" not in forms_of["compare", "sharp-2d"]["properties"]["dataset"]["enum"]


def test_a_training_can_go_on_from_a_model_of_its_method() -> None:
    catalogue = Catalogue([method(TRAIN)], ["beads:1"], {"sharp-2d": ["m:1"], "other-2d": ["n:1"]})
    (form,) = [offer.form for offer in deployments.offers(catalogue, "default") if offer.flow == "train"]
    assert accepts(form, {"dataset": "beads:1", "model": "m", "initial_model": "m:1"})
    assert not accepts(form, {"dataset": "beads:1", "model": "m", "initial_model": "n:1"})


@pytest.mark.parametrize(
    "values",
    [
        {"model": "m"},
        {"dataset": "beads:3", "model": "m"},
        {"dataset": "beads:1", "model": "a b"},
        {"dataset": "beads:1", "model": "m", "parameters": {"epochs": 0}},
        {"dataset": "beads:1", "model": "m", "parameters": {"loss": "dice"}},
        {"dataset": "beads:1", "model": "m", "parameters": {"epoch": 5}},
    ],
    ids=[
        "no dataset",
        "unknown dataset",
        "bad name",
        "out of range",
        "unknown choice",
        "unknown parameter",
    ],
)
def test_a_form_refuses(values: dict[str, Any]) -> None:
    assert not accepts(forms.train_form(method(TRAIN), ["beads:2", "beads:1"]), values)


def test_a_form_has_no_references_and_no_choice_between_number_and_nothing() -> None:
    text = json.dumps(forms.train_form(method(TRAIN), []))
    assert "$ref" not in text
    assert "anyOf" not in text


def test_an_empty_choice_becomes_a_text_field_with_help() -> None:
    field = forms.train_form(method(TRAIN), [])["properties"]["dataset"]
    assert "enum" not in field
    assert "parfocal dataset create" in field["description"]


def test_the_help_of_a_number_says_its_range() -> None:
    fields = forms.train_form(method(TRAIN), [])["properties"]["parameters"]["properties"]
    assert fields["epochs"]["description"] == "Rounds. (from 1 to 1 000)"


def test_the_fields_keep_the_order_in_which_they_are_published() -> None:
    form = forms.predict_form(method(PREDICT), ["m:1"], [])
    assert [form["properties"][name]["position"] for name in ("model", "dataset", "split")] == [0, 1, 2]
    fields = form["properties"]["parameters"]["properties"]
    assert sorted(fields, key=lambda name: fields[name]["position"]) == ["epochs", "loss", "seed"]


def test_each_workflow_of_each_method_is_one_deployment() -> None:
    both, judge, data = method(TRAIN, PREDICT), method(v1.JOB_KIND_EVALUATION, COMPARE), method(v1.JOB_KIND_EVALUATION)
    judge.name, data.name, data.task = "judge", "data", v1.TASK_DATASET
    catalogue = Catalogue((both, judge, data), ("d:1",), {"sharp-2d": ("m:1",)}, {"judge": ("m:1 on d:1 · job",)})
    found = deployments.offers(catalogue, "default")
    names = ["train/sharp-2d", "predict/sharp-2d", "predict-new/sharp-2d", "compare/judge", "check-dataset/data"]
    assert [f"{offer.flow}/{offer.name}" for offer in found] == [*names, "judge/training"]
    assert found[1].form["properties"]["model"]["enum"] == ["m:1"]
    fields = found[3].form["properties"]
    assert fields["models"]["items"]["enum"] == ["m:1"]
    assert fields["evaluations"]["items"]["enum"] == ["m:1 on d:1 · job"]
    assert found[3].parameters["method"] == "judge"


def test_models_of_another_task_cannot_be_chosen_for_a_comparison() -> None:
    other = method(TRAIN)
    other.name, other.task = "other", v1.TASK_TRANSLATION
    judge = method(COMPARE)
    catalogue = Catalogue((other, judge), (), {"other": ("m:1",)})
    (form,) = [offer.form for offer in deployments.offers(catalogue, "default") if offer.flow == "compare"]
    assert "enum" not in form["properties"]["models"]["items"]


def test_several_models_can_be_chosen_for_a_comparison() -> None:
    form = forms.compare_form(method(COMPARE), ["m:1", "m:2"], [], ["d:1"])
    assert accepts(form, {"models": ["m:1", "m:2"], "dataset": "d:1", "again": True, "parameters": {"loss": "mse"}})
    assert not accepts(form, {"models": ["m:3"]})
    assert accepts(form, {"evaluations": ["a-job", "another-job"]}), "what cannot be chosen can be typed"


def test_an_evaluation_is_chosen_by_what_it_judged_and_found_by_its_job() -> None:
    evaluation = ResultManifest(
        project="p",
        job="20261124-1-evaluate-a",
        service="qc",
        method="restoration",
        kind="evaluation",
        model_uri="s3://models/default/m/2",
        input_uri="s3://datasets/default/d/1",
        split="test",
        created_at=datetime(2026, 11, 24, 15, 30, tzinfo=UTC),
    )
    choice = evaluation_choice(evaluation)
    assert choice == "m:2 on d:1, test images, 2026-11-24 15:30 · 20261124-1-evaluate-a"
    assert job_of_choice(choice) == job_of_choice(" 20261124-1-evaluate-a ") == "20261124-1-evaluate-a"
    foreign = (
        ResultFile(input="a.tif", input_sha256="0", outputs={"prediction": "s3://results/default/prediction-b"}),
    )
    named = evaluation_choice(evaluation.model_copy(update={"model_uri": "", "images": foreign}))
    assert named.startswith("prediction-b on d:1")


def test_request_ids_are_well_formed_and_repeatable() -> None:
    run = Run("9c2f8d38-0f2e-4dfb-9d3a-0b1c2d3e4f50", attempt=99)
    ids = [run.request_id(step, number) for step in ("train", "predict", "qc") for number in (1, 99)]
    assert len({check_request_id(text) for text in ids}) == 6
    assert run.request_id("train") == Run(run.id).request_id("train")


def job(state: v1.JobState.ValueType, text: str = "") -> v1.Job:
    return v1.Job(id="j", state=state, error=v1.JobError(text=text))


RUNNING, SUCCEEDED = job(v1.JOB_STATE_RUNNING), job(v1.JOB_STATE_SUCCEEDED)
FAILED, CANCELLED = job(v1.JOB_STATE_FAILED, "The disk is full."), job(v1.JOB_STATE_CANCELLED)


@pytest.mark.parametrize(
    ("state", "jobs", "fate"),
    [
        ("RUNNING", [RUNNING], Fate.AGAIN),
        ("RUNNING", [SUCCEEDED], Fate.AGAIN),
        ("RUNNING", [], Fate.AGAIN),
        ("PENDING", [], Fate.AGAIN),
        ("RUNNING", [FAILED, SUCCEEDED], Fate.FAILED),
        ("RUNNING", [CANCELLED], Fate.CANCELLED),
        ("CANCELLING", [RUNNING], Fate.CANCELLED),
        ("CRASHED", [RUNNING], Fate.AGAIN),
        ("CRASHED", [FAILED], Fate.LEFT),
    ],
)
def test_a_run_left_behind_follows_its_jobs(state: str, jobs: Sequence[v1.Job], fate: Fate) -> None:
    assert decide(state, jobs).fate is fate


NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)
MODEL = "s3://parfocal-models/default/m/1"


def training(state: v1.JobState.ValueType, hours: float, label: str = JUDGE_LABEL) -> v1.Job:
    """Return a training that ended so many hours ago."""
    found = v1.Job(id="t", state=state, labels={label: "test"}, training=v1.TrainingSpec(model="m"))
    found.finished_at.FromDatetime(NOW - timedelta(hours=hours))
    if state == v1.JOB_STATE_SUCCEEDED:
        found.outputs.add(kind="model", uri=MODEL)
    return found


def judging(spec: str, state: v1.JobState.ValueType) -> v1.Job:
    """Return a job that judges the model of that training."""
    found = v1.Job(id=f"t-{spec}", state=state, labels={TRAINING_LABEL: "t"})
    getattr(found, spec).model_uri = MODEL
    return found


@pytest.mark.parametrize(
    ("job", "others", "awaits", "has_flow_run"),
    [
        (training(v1.JOB_STATE_RUNNING, 0), [], False, False),
        (training(v1.JOB_STATE_SUCCEEDED, 1), [], True, True),
        (training(v1.JOB_STATE_SUCCEEDED, 900), [], True, True),
        (training(v1.JOB_STATE_SUCCEEDED, 900, "another"), [], False, False),
        (training(v1.JOB_STATE_SUCCEEDED, 900), [judging("prediction", v1.JOB_STATE_SUCCEEDED)], True, True),
        (training(v1.JOB_STATE_SUCCEEDED, 900), [judging("evaluation", v1.JOB_STATE_RUNNING)], True, True),
        (training(v1.JOB_STATE_SUCCEEDED, 900), [judging("evaluation", v1.JOB_STATE_SUCCEEDED)], False, False),
        (training(v1.JOB_STATE_SUCCEEDED, 900), [judging("prediction", v1.JOB_STATE_FAILED)], False, False),
        (training(v1.JOB_STATE_SUCCEEDED, 1), [judging("evaluation", v1.JOB_STATE_SUCCEEDED)], False, True),
        (training(v1.JOB_STATE_FAILED, 1), [], False, True),
        (training(v1.JOB_STATE_FAILED, 900), [], False, False),
        (training(v1.JOB_STATE_CANCELLED, 1), [], False, False),
    ],
)
def test_a_labelled_training_is_judged_once(
    job: v1.Job, others: list[v1.Job], awaits: bool, has_flow_run: bool
) -> None:
    assert awaits_verdict(job, [*others, job]) is awaits
    assert due([*others, job], NOW) == ([job] if has_flow_run else [])


def test_all_who_judge_a_model_ask_for_the_same_jobs() -> None:
    for name in ("20261122-221500-train-m-4f3a21", "x" * 63, "x" * 64):
        run = Run("9c2f8d38-0f2e-4dfb-9d3a-0b1c2d3e4f50", training=name)
        for request, step in (
            (prediction_request(MODEL, "s3://d", split="test"), "predict"),
            (evaluation_request("restoration", "s3://r", "s3://d", model_uri=MODEL), "qc"),
        ):
            mine = judging_request(name, request)
            assert check_request_id(mine.request_id) == run.request_id(step)
            assert dict(mine.labels) == dict(run.labels)
            check_request_id(run.request_id(step, 9))
    assert len({Run("r", training="x" * length).request_id("qc") for length in (62, 63, 64)}) == 3


def test_a_run_left_behind_fails_with_the_words_of_its_job() -> None:
    assert decide("RUNNING", [FAILED]).message == "The disk is full."


def test_a_cancelled_job_says_why() -> None:
    cancelled = v1.Job(id="j", state=v1.JOB_STATE_CANCELLED, message="cancelled: no time")
    assert mentions(job_ending(cancelled), "Job j ", "cancelled: no time")


def test_an_epoch_is_one_line() -> None:
    epoch = v1.EpochCompleted(
        epoch=3, metrics={"val_loss": 0.5, "loss": 0.25, "learning_rate": 4e-4}, seconds=1.25, best=True
    )
    line = _show.epoch_line(v1.Job(progress=v1.Progress(epochs=10)), epoch)
    assert line == "Epoch 3 of 10: loss 0.25, validation loss 0.5, learning rate 0.0004, best so far (1.2 s)"


def test_progress_is_one_line() -> None:
    running = v1.Job(
        state=v1.JOB_STATE_RUNNING,
        progress=v1.Progress(stage="training", epoch=3, epochs=10, seconds_left=200),
        metrics={"loss": 0.25},
    )
    assert _show.progress_line(running) == "Training · epoch 3 of 10 · loss 0.25 · about 3 min left"


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (200, "3 min"), (7500, "2 h 5 min")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert _show.duration(seconds) == text


TABLE = """image,slice,kind,failed,psnr,ssim
a,0,input,,20.0,0.5
a,1,input,,22.0,0.7
a,0,prediction,,30.0,0.9
a,1,prediction,,32.0,0.9
"""


def evaluated(table: str = TABLE, **means: dict[str, Statistics]) -> Evaluated:
    """What an evaluation says that has this table; `means` replace those of a kind."""
    metrics = {
        "input": {"psnr": Statistics(21.0, 21.0, None, None, None), "ssim": Statistics(0.6, 0.6, 0.1, 0.5, 0.7)},
        "prediction": {"psnr": Statistics(31.0, 31.0, None, None, None), "ssim": Statistics(0.9, 0.9, 0.0, None, None)},
    }
    summary = EvaluationSummary(
        task="restoration",
        definition="",
        verdict="passed",
        images=1,
        columns=(Metric(key="psnr", title="PSNR", unit="dB", digits=2), Metric(key="ssim", title="SSIM")),
        shown=("ssim", "psnr"),
        metrics=metrics | means,  # type: ignore[arg-type]
        worst_image=ImageScore("a", {}),
        interval={},
        thresholds={},
        baseline={"name": "Gaussian filter"},
    )
    return Evaluated(summary, summary.scores(table))


def test_slices_of_a_stack_are_averaged_in_the_table_of_images() -> None:
    assert quality_rows(evaluated())[1] == {
        "Image": "a",
        "SSIM input": 0.6,
        "SSIM prediction": 0.9,
        "PSNR input": 21.0,
        "PSNR prediction": 31.0,
    }


def test_an_image_without_a_number_has_an_empty_cell() -> None:
    rows = quality_rows(evaluated(TABLE + "b,0,input,,20.0,0.5\nb,0,prediction,,30.0,\n"))
    assert (rows[2]["Image"], rows[2]["SSIM prediction"], rows[2]["PSNR prediction"]) == ("b", "", 30.0)


def test_a_number_that_no_image_has_is_no_mean() -> None:
    table = TABLE.replace("20.0,0.5", "20.0,").replace("22.0,0.7", "22.0,")
    without = evaluated(table, input={"psnr": Statistics(21.0, 21.0, None, None, None)})
    assert summary_rows(without)[0] == {"": "Input", "SSIM": "", "PSNR [dB]": "21.00"}
    assert [row["SSIM input"] for row in quality_rows(without)] == ["", ""]


def test_means_carry_their_interval_where_there_is_one() -> None:
    rows = summary_rows(evaluated())
    assert rows[0] == {"": "Input", "SSIM": "0.600 (0.500 to 0.700)", "PSNR [dB]": "21.00"}


def test_a_prediction_report_names_the_images_that_failed() -> None:
    images = (
        ResultFile(input="a.tif", input_sha256="0", outputs={"prediction": "a.tif"}),
        ResultFile(input="b.tif", input_sha256="1", reason="b.tif has three axes."),
    )
    manifest = ResultManifest(project="p", job="j", service="s", method="m", kind="prediction", images=images)
    page = _show.prediction_report(
        method=method(PREDICT),
        model_uri="s3://parfocal-models/default/m/2",
        finished=Finished(v1.Job(id="j"), "s3://parfocal-results/default/j", manifest),
        notes=["This model has not been checked by quality control."],
    )
    assert "# 1 of 2 images predicted" in page
    assert "`b.tif`: b.tif has three axes." in page
    assert "**m:2**" in page


def test_a_large_picture_is_made_smaller_for_a_page() -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    picture = _work.smaller(buffer.getvalue(), 300_000)
    assert len(picture) <= 300_000
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width / image.height == pytest.approx(1.25, rel=0.02)


def test_a_table_cell_cannot_break_the_table() -> None:
    assert "a\\|b" in _show.markdown_table([{"Name": "a|b"}])


def test_keys_are_such_as_prefect_accepts() -> None:
    assert _show.artifact_key("model", "My_Model.v2:3") == "model-my-model-v2-3"


def test_the_steps_need_no_prefect() -> None:
    names = ("_work", "_quality_pages", "forms", "catalogue", "_api", "schedules")
    modules = ", ".join(f"parfocal.flows.{name}" for name in names)
    code = f"import sys, {modules}; print('prefect' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


class WorkingClient:
    """Has jobs that run until they are told how to end, and reports each of them."""

    def __init__(self, ends: dict[str, v1.JobState.ValueType]) -> None:
        self.ends = ends  # those that end by themselves, one after the other
        self.cancelled: list[str] = []
        self.watched: set[str] = set()
        self.all_watched = threading.Barrier(3, timeout=20)

    def get(self, job_id: str) -> v1.Job:
        return v1.Job(id=job_id, state=v1.JOB_STATE_RUNNING)

    def watch(self, job_id: str, after: int, stop: threading.Event) -> Iterator[v1.WatchJobResponse]:
        self.watched.add(job_id)
        self.all_watched.wait()
        fraction = 0.1 * int(job_id[-1])
        running = v1.Job(id=job_id, state=v1.JOB_STATE_RUNNING, progress=v1.Progress(fraction=fraction))
        yield v1.WatchJobResponse(job=running, event=v1.JobEvent(sequence=after + 1))
        if job_id in self.ends:
            yield v1.WatchJobResponse(job=v1.Job(id=job_id, state=self.ends[job_id]))
        else:
            assert stop.wait(20), "the others are given up"

    def cancel(self, job_id: str, *, why: str) -> None:
        assert "run-b2" in why
        self.cancelled.append(job_id)


class Heard:
    """A listener that remembers from which threads it was told."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.events: set[str] = set()
        self.fractions: list[float] = []

    def started(self, _job: v1.Job, *, again: bool) -> None:
        assert again

    def progressed(self, job: v1.Job) -> None:
        self.threads.add(threading.get_ident())
        self.fractions.append(round(job.progress.fraction, 3))

    def happened(self, job: v1.Job, event: v1.JobEvent) -> None:
        self.threads.add(threading.get_ident())
        assert event.sequence == 1
        self.events.add(job.id)

    def waiting(self, why: str) -> None:
        raise AssertionError(why)


STEPS = dict.fromkeys(("a1", "b2", "c3"), lambda _: v1.StartJobRequest())


def test_jobs_of_several_steps_are_followed_at_the_same_time() -> None:
    client: Any = WorkingClient({f"run-{step}": v1.JOB_STATE_SUCCEEDED for step in STEPS})
    heard = Heard()
    done = repeatable_jobs(client, Run("run"), STEPS, heard)
    assert [job.id for job in done] == ["run-a1", "run-b2", "run-c3"]
    assert heard.events == client.watched
    assert heard.threads == {threading.get_ident()}
    assert heard.fractions[0] == 0, "the bar is that of the job with most to do"
    assert not client.cancelled


def test_a_step_that_fails_is_noticed_while_others_go_on() -> None:
    client: Any = WorkingClient({"run-b2": v1.JOB_STATE_FAILED})
    with pytest.raises(JobNotSucceededError, match="run-b2"):
        repeatable_jobs(client, Run("run"), STEPS, Heard())
    assert {"run-a1", "run-c3"} <= set(client.cancelled)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("follow run-")]
