"""The command line against real services and a real store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import S3Server, ServiceProcess, free_ports, wait_for

from parfocal.cli import main
from parfocal.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.runtime.images import Image, read_image, write_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.simulate import write_dataset
from parfocal.runtime.store import Location

PARFOCAL = Path(sys.executable).with_name("parfocal")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="module")
def services(start_service: Callable[..., ServiceProcess]) -> dict[str, ServiceProcess]:
    return {name: start_service(name) for name in ("fake", "qc")}


@pytest.fixture
def environment(
    s3: S3Server,
    services: dict[str, ServiceProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    values = {
        **s3.environment,
        "PARFOCAL_SERVICES": ",".join(service.address for service in services.values()),
        "PARFOCAL_PROJECT": "cli",
        "PARFOCAL_HOME": str(tmp_path / "home"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def run(environment: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    from parfocal.cli import _render

    def call(*arguments: object) -> Result:
        # The consoles keep the streams they were made with.
        _render.stdout.cache_clear()
        _render.stderr.cache_clear()
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        assert "\x1b" not in captured.out + captured.err, "no colour codes in pipes"
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_dataset(folder, 4, 3, 64, 7)
    return folder


@pytest.fixture
def dataset(run: Callable[..., Result], images: Path) -> str:
    result = run("dataset", "create", "spots", images, "--json")
    assert result.code == 0, result.err
    return f"spots:{result.json['version']}"


@pytest.fixture
def model(run: Callable[..., Result], dataset: str) -> str:
    result = run("train", "fake-2d", "--dataset", dataset, "--model", "m", "--no-qc", "--json")
    assert result.code == 0, result.err
    return f"m:{result.json['model']['version']}"


def test_methods_shows_the_published_parameters_as_a_table(run: Callable[..., Result]) -> None:
    result = run("methods", "fake-2d")
    assert result.code == 0
    line = next(line for line in result.out.splitlines() if line.strip().startswith("patch_size"))
    for words in ("whole number", "16", "8 to 512", "Edge of a patch"):
        assert words in line
    assert "Parameters of prediction" in result.out


def test_methods_lists_what_all_services_offer(run: Callable[..., Result]) -> None:
    names = [item["name"] for item in run("methods", "--json").json]
    assert names == ["dataset", "fake-2d", "instances", "restoration", "semantic", "translation"]


def test_up_says_how_services_of_this_computer_are_named(run: Callable[..., Result]) -> None:
    result = run("--services", "stardist", "up")
    assert result.code == 2
    assert "--service NAME" in result.err


def test_train_judges_the_model_and_says_where_everything_is(run: Callable[..., Result], dataset: str) -> None:
    result = run("train", "fake-2d", "--dataset", dataset, "--model", "judged", "-p", "epochs=2")
    assert result.code == 0, result.err
    assert "epoch 2 of 2" in result.err
    for words in ("Prediction", "Input", "Gaussian filter", "PSNR in dB", "Verdict: ", "figure.png", "s3://"):
        assert words in result.out


def test_train_as_json_is_one_object_on_stdout(run: Callable[..., Result], dataset: str) -> None:
    values = run("train", "fake-2d", "--dataset", dataset, "--model", "json", "-p", "epochs=1", "--json").json
    assert values["job"]["state"] == "SUCCEEDED"
    assert values["evaluation"]["verdict"]["state"] in {"passed", "failed"}
    assert set(values["evaluation"]["summary"]["metrics"]) == {"prediction", "input", "baseline"}


def test_require_pass_decides_the_exit_code(
    run: Callable[..., Result], dataset: str, images: Path, tmp_path: Path
) -> None:
    # Nothing is learnt in one step so small, so the model cannot pass.
    arguments = ["train", "fake-2d", "--dataset", dataset, "--model", "poor", "-p", "epochs=1"]
    arguments += ["-p", "learning_rate=1e-9"]
    assert run(*arguments).code == 0
    assert run("evaluate", "--model", "poor", "--dataset", dataset, "--require-pass").code == 5
    image = images / "test" / "source" / "field_005.tif"
    refused = run("predict", "--model", "poor", image, "--output", tmp_path / "out", "--require-pass")
    assert refused.code == 5
    assert not (tmp_path / "out").exists()


def test_a_second_evaluation_uses_the_prediction_there_is(
    run: Callable[..., Result], dataset: str, model: str, tmp_path: Path
) -> None:
    assert run("evaluate", "--model", model, "--dataset", dataset).code == 0
    result = run("evaluate", "--model", model, "--dataset", dataset, "--output", tmp_path / "qc")
    assert result.code == 0
    assert f"predicted with {model} before" in result.err
    names = {path.relative_to(tmp_path / "qc").as_posix() for path in (tmp_path / "qc").rglob("*") if path.is_file()}
    assert {"figure.png", "metrics.csv", "summary.json", "report.pdf", "report.html"} <= names
    assert any(name.startswith("maps/") for name in names)


def test_images_of_another_program_are_judged_like_those_of_a_model(
    run: Callable[..., Result], dataset: str, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in (images / "test" / "target").iterdir():
        pixels = read_image(path).pixels.astype(np.float32)
        write_image(folder / f"{path.stem}.tif", Image(pixels + np.roll(pixels, 1, axis=0), "YX"))
    result = run("evaluate", "--prediction", folder, "--method", "restoration", "--dataset", dataset)
    assert result.code == 0, result.err
    assert "is not known" in result.out + result.err
    assert "report.pdf" in result.out
    next(folder.iterdir()).rename(folder / "other.tif")
    refused = run("evaluate", "--prediction", folder, "--method", "restoration", "--dataset", dataset)
    assert refused.code == 2
    assert "other.tif: has the name of no target" in refused.err


def test_images_unlike_the_training_images_are_named(
    run: Callable[..., Result], model: str, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    shutil.copytree(images / "test" / "source", folder)
    changed = min(folder.iterdir())
    pixels = read_image(changed).pixels.astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 20 * pixels.std(), pixels.shape)
    write_image(changed, Image((pixels + noise).astype(np.float32), "YX"))
    result = run("predict", "--model", model, folder, "--output", tmp_path / "out")
    assert result.code == 0, result.err
    said = " ".join(result.err.split())
    assert "are unlike the images the model was trained on" in said
    assert f"{changed.name}: it is noisier than any training image" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--dataset", "DATASET"), 2, "either a model"),
        (("--dataset", "DATASET", "--model", "m", "--prediction", "f", "--method", "restoration"), 2, "either a model"),
        (("--dataset", "DATASET", "--prediction", "f"), 2, "--method"),
        (("--dataset", "DATASET", "--prediction", "nowhere", "--method", "restoration"), 3, "nowhere"),
        (("--dataset", "DATASET", "--prediction", "nowhere", "--method", "fake-2d"), 2, "restoration"),
        (("--dataset", "DATASET", "--prediction", "nowhere", "--method", "dataset"), 2, "dataset check"),
    ],
)
def test_evaluate_says_what_it_needs(
    run: Callable[..., Result], dataset: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = run("evaluate", *(dataset if argument == "DATASET" else argument for argument in arguments))
    assert result.code == code, result.err
    assert words in result.err


def test_compare_scores_what_is_missing_and_says_which_difference_is_real(
    run: Callable[..., Result], dataset: str, model: str, tmp_path: Path
) -> None:
    arguments = ["train", "fake-2d", "--dataset", dataset, "--model", "rival", "-p", "epochs=2", "--json"]
    trained = run(*arguments)
    evaluated = next(job for job in run("jobs", "list", "--json").json if "evaluation" in job)["id"]
    rival = f"rival:{trained.json['model']['version']}"
    result = run("compare", model, rival, "--dataset", dataset, "--output", tmp_path / "compared")
    assert result.code == 0, result.err
    assert f"scored before (job {evaluated})" in result.err
    for words in ("Gaussian filter", "PSNR [dB]", "not shown", f"no difference in PSNR between {model} and {rival} is"):
        assert words in result.out
    assert "It takes 9 images for 10 comparisons" in result.err
    names = {path.name for path in (tmp_path / "compared").iterdir()}
    assert names == {
        "figure.png",
        "images.png",
        "comparison.csv",
        "tests.csv",
        "summary.json",
        "report.pdf",
        "report.html",
    }

    first = next(job for job in run("jobs", "list", "--json").json if "evaluation" in job)["id"]
    again = run("compare", "--evaluation", first, "--evaluation", evaluated, "-p", "metrics=ssim", "--json")
    assert again.code == 0, again.err
    assert {test["metric"] for test in again.json["summary"]["tests"]} == {"SSIM"}
    assert {each["name"] for each in again.json["summary"]["competitors"][:2]} == {model, rival}
    job = again.json["job"]["id"]
    assert run("jobs", "download", job, "--output", tmp_path / "again").code == 0
    refused = run("compare", model, "--evaluation", job, "--dataset", dataset)
    assert refused.code == 2
    assert f"The job {job} is no evaluation" in refused.err


def test_predict_writes_results_under_the_names_of_the_inputs(
    run: Callable[..., Result], model: str, images: Path, tmp_path: Path
) -> None:
    result = run("predict", "--model", model, images / "test" / "source", "--output", tmp_path / "out")
    assert result.code == 0, result.err
    assert "has not been checked" in result.err
    expected = sorted(path.name for path in (images / "test" / "source").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_predict_replaces_nothing_unless_told(
    run: Callable[..., Result], model: str, images: Path, tmp_path: Path
) -> None:
    image = next((images / "test" / "source").iterdir())
    arguments = ("predict", "--model", model, image, "--output", tmp_path)
    assert run(*arguments).code == 0
    before = (tmp_path / image.name).stat().st_mtime_ns
    refused = run(*arguments)
    assert refused.code == 2
    assert image.name in refused.err
    assert (tmp_path / image.name).stat().st_mtime_ns == before
    assert run(*arguments, "--overwrite").code == 0
    assert (tmp_path / image.name).stat().st_mtime_ns > before


def test_predict_never_replaces_its_inputs(run: Callable[..., Result], images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "test" / "source", tmp_path / "in")
    result = run("predict", "--model", "m", tmp_path / "in", "--output", tmp_path / "in", "--overwrite")
    assert result.code == 2
    assert "would replace" in result.err


def test_predict_names_the_images_that_were_left_out(
    run: Callable[..., Result], model: str, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images / "test" / "source", tmp_path / "in")
    write_image(tmp_path / "in" / "colour.tif", Image(np.zeros((64, 64, 3), np.uint8), "YXS"))
    result = run("predict", "--model", model, tmp_path / "in", "--output", tmp_path / "out")
    assert result.code == 0
    assert "3 of 4 predicted" in result.out
    assert "colour.tif" in result.out


def test_models_and_jobs_are_listed_shown_and_downloaded(
    run: Callable[..., Result], model: str, tmp_path: Path
) -> None:
    assert model in run("models", "list").out
    shown = run("models", "show", model)
    assert "unchecked" in shown.out
    assert "epochs" in shown.out
    assert run("models", "download", model, "--output", tmp_path / "m").code == 0
    assert (tmp_path / "m" / "model.json").exists()
    assert run("models", "download", model, "--output", tmp_path / "m").code == 2
    job = run("models", "show", model, "--json").json["job"]
    assert job in run("jobs", "list").out
    assert "SUCCEEDED" in run("jobs", "show", job).out
    assert run("jobs", "watch", job).code == 0
    assert run("jobs", "delete", job, "--yes").code == 0
    assert run("jobs", "show", job).code == 3


def test_an_identical_training_is_joined(run: Callable[..., Result], dataset: str) -> None:
    arguments = ["train", "fake-2d", "--dataset", dataset, "--model", "joined", "--detach", "--json"]
    arguments += ["-p", "epochs=300", "-p", "pause_seconds=0.1"]
    first = run(*arguments).json["job"]["id"]
    joined = run(*arguments)
    assert joined.json["job"]["id"] == first
    assert "joining" in joined.err
    other = run(*arguments, "--again").json["job"]["id"]
    assert other != first
    assert run("jobs", "cancel", other).code == 0
    kept = run("jobs", "cancel", first, "--why", "test over")
    assert kept.code == 0
    ended = run("jobs", "watch", first)
    assert ended.code == 1
    assert "cancelled" in ended.err
    assert run("jobs", "watch", other).code == 1


def test_ctrl_c_leaves_the_job_and_says_how_to_get_back(environment: dict[str, str], dataset: str) -> None:
    command = [str(PARFOCAL), "train", "fake-2d", "--dataset", dataset, "--model", "left"]
    command += ["-p", "epochs=300", "-p", "pause_seconds=0.1"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    lines: list[str] = []
    while not any("epoch 1 of" in line for line in lines):
        line = process.stderr.readline()
        assert line, "".join(lines)
        lines.append(line)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    job = next(line for line in lines if line.startswith("Job ")).split()[1]
    assert process.returncode == 130
    assert f"parfocal jobs watch {job}" in rest
    assert f"parfocal jobs cancel {job}" in rest
    client = Client(Settings())
    assert client.get(job).state not in (3, 4, 5)
    client.cancel(job)
    wait_for(lambda: client.get(job).HasField("finished_at"), what="the end of the job")
    client.close()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "-p", "epohcs=3"), 2, "Did you mean 'epochs'"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "-p", "epochs=0"), 2, "at least 1"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "-p", "patch_size=256"), 2, "smaller than"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "no spaces"), 2, "cannot name a model"),
        (("train", "fake-3d", "--dataset", "DATASET", "--model", "x"), 3, "fake-2d"),
        (("train", "fake-2d", "--dataset", "nothing", "--model", "x"), 3, "no dataset named 'nothing'"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "--from", "no-model"), 3, "no-model"),
        (("train", "fake-2d", "--model", "x"), 2, "--dataset"),
        (("evaluate", "--model", "nothing", "--dataset", "DATASET"), 3, "nothing"),
        (("compare", "m", "--dataset", "DATASET"), 2, "two models or more"),
        (("compare", "m", "m", "--dataset", "DATASET"), 2, "Named twice: m"),
        (("compare", "m", "n"), 2, "--dataset"),
        (("compare", "nothing", "nobody", "--dataset", "DATASET"), 3, "nothing"),
        (("compare", "--evaluation", "a", "--evaluation", "b"), 3, "no job 'a'"),
        (("models", "show", "nothing:7"), 3, "nothing"),
        (("models", "show", "a:b"), 2, "a:NUMBER"),
        (("jobs", "show", "nothing"), 3, "nothing"),
        (("jobs", "cancel", "nothing"), 3, "nothing"),
        (("dataset", "show", "nothing"), 3, "nothing"),
        (("dataset", "create", "bad name", "."), 2, "cannot name a dataset"),
        (("dataset", "check", "nothing"), 3, "no folder nothing either"),
        (("dataset", "check", "nothing", "--qc"), 3, "no dataset named 'nothing'"),
        (("dataset", "check", "./nothing"), 3, "There is no folder"),
        (("dataset", "check", "DATASET", "--again"), 2, "add --qc"),
        (("dataset", "check", "DATASET", "--qc", "-p", "max_shfit=2"), 2, "Did you mean 'max_shift'"),
        (("logs",), 3, "no logs"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    run: Callable[..., Result], dataset: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = run(*(dataset if argument == "DATASET" else argument for argument in arguments))
    assert result.code == code
    assert words in result.err


def test_an_error_is_an_object_with_json(run: Callable[..., Result]) -> None:
    result = run("--json", "dataset", "show", "nothing")
    assert result.code == 3
    assert result.json["error"]["reason"] == "NOT_FOUND"


def test_all_problems_of_a_folder_are_shown_and_nothing_is_stored(
    run: Callable[..., Result], images: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "pairs"))
    targets = sorted((folder / "train" / "target").iterdir())
    targets[0].unlink()
    targets[1].write_bytes(targets[1].read_bytes()[:200])
    for arguments in (("dataset", "check", folder), ("dataset", "create", "broken", folder)):
        result = run(*arguments)
        assert result.code == 2
        assert targets[0].stem in result.err
        assert targets[1].name in result.err
    assert run("dataset", "show", "broken").code == 3


def test_a_good_folder_passes_the_check(run: Callable[..., Result], images: Path) -> None:
    result = run("dataset", "check", images)
    assert result.code == 0
    assert "Training pairs  4" in result.out


def test_quality_control_of_a_dataset_prints_findings_and_brings_the_sheets(
    run: Callable[..., Result], images: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "leaking"))
    for role in ("source", "target"):
        seen = sorted((folder / "train" / role).iterdir())[0]
        shutil.copy(seen, folder / "test" / role / "copy.tif")
    name = f"leaking:{run('dataset', 'create', 'leaking', folder, '--json').json['version']}"
    before = run("dataset", "check", name)
    assert before.code == 0
    assert "all there" in before.out
    assert f"dataset check {name} --qc" in before.err
    result = run("dataset", "check", name, "--qc", "--output", tmp_path / "qc")
    assert result.code == 0, result.err
    for words in ("error", "leak", "test/source/copy", "good for restoration", "fake-2d", "thumbnails.png"):
        assert words in result.out
    names = {path.name for path in (tmp_path / "qc").iterdir()}
    assert names == {
        "findings.csv",
        "images.csv",
        "summary.json",
        "thumbnails.png",
        "thumbnails_2.png",
        "report.pdf",
        "report.html",
    }
    again = run("dataset", "check", name, "--qc", "--json")
    assert "before" in again.err
    assert again.json["summary"]["counts"]["error"] == 2
    assert "leak" in run("dataset", "check", name).out
    assert "evaluate leaking" in run("jobs", "list").out


def test_quality_control_of_a_folder_says_how_to_store_it(run: Callable[..., Result], images: Path) -> None:
    result = run("dataset", "check", images, "--qc", "--axes", "zyx")
    assert result.code == 2
    assert f"parfocal dataset create NAME {images} --axes ZYX" in result.err


def test_a_stored_dataset_that_lost_a_file_is_told(run: Callable[..., Result], dataset: str) -> None:
    client = Client(Settings())
    place = Location.parse(client.dataset_uri(dataset))
    name = read_dataset(client, dataset).files[0].name
    client.store.delete(place / name)
    client.close()
    result = run("dataset", "check", dataset)
    assert result.code != 0
    assert name in result.err


def test_a_dataset_without_test_images_cannot_judge(run: Callable[..., Result], images: Path) -> None:
    created = run("dataset", "create", "untested", images / "train")
    assert created.code == 0
    assert "no test images" in created.err
    trained = run("train", "fake-2d", "--dataset", "untested", "--model", "untested", "-p", "epochs=1")
    assert trained.code == 0
    assert "cannot judge" in trained.err
    judged = run("evaluate", "--model", "untested", "--dataset", "untested")
    assert judged.code == 2
    assert "no test images" in judged.err


def test_a_service_that_is_down_has_its_own_exit_code(run: Callable[..., Result]) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    result = run("--services", address, "methods")
    assert result.code == 4
    assert address in result.err
    status = run("--services", address, "status")
    assert status.code == 4


def test_a_store_that_is_down_has_its_own_exit_code(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    monkeypatch.setenv("PARFOCAL_S3_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    result = run("dataset", "create", "x", images)
    assert result.code == 4
    assert "does not answer" in result.err


def test_without_a_stack_the_message_says_how_to_start(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARFOCAL_S3_ENDPOINT")
    result = run("models", "list")
    assert result.code == 4
    assert "parfocal up" in result.err
    assert run("status").code == 4


def test_a_wrong_setting_is_named(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARFOCAL_MAX_WORKERS", "many")
    result = run("models", "list")
    assert result.code == 2
    assert "PARFOCAL_MAX_WORKERS" in result.err


def test_a_defect_is_kept_in_a_log_file(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    def broken(_self: Client) -> None:
        raise ZeroDivisionError("for the test")

    monkeypatch.setattr(Client, "services", broken)
    result = run("methods")
    assert result.code == 1
    (log,) = (Path(environment["PARFOCAL_HOME"]) / "logs").iterdir()
    assert str(log) in result.err
    assert "for the test" in log.read_text()


def test_the_options_of_all_commands_work_before_and_after_the_name(run: Callable[..., Result]) -> None:
    assert run("--project", "elsewhere", "models", "list").code == 0
    assert "elsewhere" in run("models", "list", "--project", "elsewhere").err


def test_demo_does_everything_with_the_users_images(run: Callable[..., Result], images: Path, tmp_path: Path) -> None:
    result = run(
        *("demo", "--method", "fake-2d", "--data", images, "--output", tmp_path / "demo", "--minutes", "0.5"),
        *("-p", "epochs=2"),
    )
    assert result.code == 0, result.err
    assert "Gaussian filter" in result.out
    assert "Verdict: " in result.out
    assert (tmp_path / "demo" / "qc" / "figure.png").stat().st_size > 1000
    assert len(list((tmp_path / "demo" / "images").iterdir())) == 3


def test_demo_holds_out_test_images_and_ends_a_slow_training_in_time(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    write_dataset(tmp_path / "pairs", 6, 0, 64, 3)
    result = run(
        *("demo", "--method", "fake-2d", "--data", tmp_path / "pairs" / "train", "--output", tmp_path / "demo"),
        *("--minutes", "0.02", "--json", "-p", "epochs=1000", "-p", "pause_seconds=0.05"),
    )
    assert result.code == 0, result.err
    assert result.json["job"]["progress"]["epoch"] < 1000
    assert "larger --minutes" in result.err
    assert [path.name for path in (tmp_path / "demo" / "images").iterdir()] == ["field_005.tif"]
