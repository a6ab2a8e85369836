"""A whole stack with identities: the runner judges and predicts for people, and no longer than they may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support import publish_dataset, put_image, wait_for

from parfocal import v1
from parfocal.cli import main
from parfocal.client import Client
from parfocal.client.quality import JUDGE_LABEL
from parfocal.client.requests import training_request
from parfocal.runtime.access.tokens import new_static_token, static_digest
from parfocal.runtime.store.names import versioned_name

_ACCESS = """
[projects.default]
users = [{users}]
operators = ["machine:runner"]
"""


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The access file: Ann and Bob are users, and the runner is an operator."""
    path = tmp_path_factory.mktemp("access") / "access.toml"
    path.write_text(_ACCESS.format(users='"machine:ann", "machine:bob"'))
    return path


@pytest.fixture(scope="module")
def tokens(access: Path) -> dict[str, str]:
    """Their tokens, which the services know."""
    tokens = {name: new_static_token() for name in ("ann", "bob", "runner")}
    entries = [f'[{name}]\nsha256 = "{static_digest(token)}"\n' for name, token in tokens.items()]
    (access.parent / "tokens.toml").write_text("".join(entries))
    (access.parent / "runner").write_text(tokens["runner"])
    return tokens


@pytest.fixture(scope="module")
def guarded(
    access: Path, tokens: dict[str, str], start_stack: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A stack with identities whose client is Ann's."""
    environment = {
        "PARFOCAL_ACCESS_FILE": str(access),
        "PARFOCAL_TOKENS_FILE": str(access.parent / "tokens.toml"),
        "PARFOCAL_RUNNER_TOKEN_FILE": str(access.parent / "runner"),
    }
    folder = tmp_path_factory.mktemp("guarded")
    with start_stack(folder, ("fake", "qc", "catalog"), environment, tokens["ann"]) as stack:
        yield stack


@pytest.fixture(scope="module")
def model(guarded: Any, pairs_folder: Path) -> v1.Job:
    """Ann's training, whose model she wants judged."""
    uri = publish_dataset(guarded.client.store, "pairs", pairs_folder)
    request = training_request("fake-2d", uri, "anns", {"epochs": 1}, labels={JUDGE_LABEL: "test"})
    job: v1.Job = guarded.client.wait(guarded.client.start(request).id)
    assert job.state == v1.JOB_STATE_SUCCEEDED
    return job


def test_the_runner_judges_a_model_for_whoever_trained_it(guarded: Any, model: v1.Job) -> None:
    def judged() -> v1.Job | None:
        found = (job for job in guarded.client.jobs() if job.id == f"{model.id}-qc")
        return next((job for job in found if job.state == v1.JOB_STATE_SUCCEEDED), None)

    evaluation = wait_for(judged, 400, "the evaluation")
    assert (evaluation.created_by, evaluation.requested_by) == ("machine:ann", "machine:runner")


def test_a_schedule_pauses_when_its_maker_loses_the_role(
    guarded: Any,
    model: v1.Job,
    access: Path,
    tokens: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = guarded.client.store
    inbox, output = store.results / "default" / "microscope", store.results / "default" / "predicted"
    put_image(store, inbox / "a01.tif", 1)
    monkeypatch.setenv("PARFOCAL_TOKEN", tokens["ann"])
    name = versioned_name(next(each.uri for each in model.outputs if each.kind == "model"))

    def command(*words: str) -> Any:
        assert main(["--home", str(guarded.folder), "schedule", *words, "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    words = ("--model", name, "--watch", str(inbox), "--output", str(output), "--every", "1d")
    assert command("create", "anns", *words)["active"] is True
    ended = guarded.wait(command("run", "anns")["flow_run"])
    assert ended["state_type"] == "COMPLETED", (ended["state"]["message"], guarded.log_text(ended["id"]))
    (predicted,) = (job for job in guarded.client.jobs() if job.prediction.input_uri == str(inbox))
    assert (predicted.created_by, predicted.requested_by) == ("machine:ann", "machine:runner")

    access.write_text(_ACCESS.format(users='"machine:bob"'))
    with Client(guarded.client.settings.model_copy(update={"token": SecretStr(tokens["bob"])})) as bob:
        wait_for(lambda: bob.catalog.check_schedule("anns").refusal, 30, "the catalogue to know")
        put_image(store, inbox / "a02.tif", 2)
        ended = guarded.wait(command("run", "anns")["flow_run"])
        assert ended["state_type"] == "FAILED"
        message = ended["state"]["message"]
        assert message.startswith("Paused: machine:ann, who made the schedule 'anns', has no role")
        assert not [job for job in bob.jobs() if "a02.tif" in job.prediction.inputs]
    shown = command("show", "anns")
    assert (shown["active"], shown["runs"][0]["message"]) == (False, message)
    deployment = guarded.deployment("predict-new/anns")["id"]
    schedules = guarded.api.get(f"/deployments/{deployment}/schedules").json()
    assert [each["active"] for each in schedules] == [False]
    assert not store.exists(output / "a02.tif")
