"""Quality control from the command line: models, images of other programs and datasets judged, models compared."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import Ended, mentions

from parfocal.cli import _work
from parfocal.client import Client
from parfocal.client.quality import TRAINING_LABEL, judging_request
from parfocal.client.requests import prediction_request
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.store.store import Location
from parfocal.runtime.store.verdicts import VERDICT_FILE


def test_train_judges_the_model_and_says_where_everything_is(run: Callable[..., Ended], dataset: str) -> None:
    result = run("train", "fake-2d", "--dataset", dataset, "--model", "judged", "-p", "epochs=2")
    assert result.code == 0, result.err
    assert "epoch 2 of 2" in result.err
    for words in ("Prediction", "Input", "Gaussian filter", "PSNR [dB]", "Verdict: ", "jobs download", "s3://"):
        assert words in result.out
    # What fails is not offered for use.
    assert ("predict --model" in result.out) == ("Verdict: passed" in result.out)
    assert ("What to try next" in result.out) == ("Verdict: failed" in result.out)


def test_train_as_json_is_one_object_on_stdout(run: Callable[..., Ended], dataset: str) -> None:
    values = run("train", "fake-2d", "--dataset", dataset, "--model", "json", "-p", "epochs=1", "--json").json
    assert values["job"]["state"] == "SUCCEEDED"
    assert values["evaluation"]["verdict"]["state"] in {"passed", "failed"}
    assert set(values["evaluation"]["summary"]["metrics"]) == {"prediction", "input", "baseline"}


def test_a_training_that_nobody_judged_is_judged_by_the_same_command(run: Callable[..., Ended], dataset: str) -> None:
    words = ["train", "fake-2d", "--dataset", dataset, "--model", "left", "-p", "epochs=1"]
    detached = run(*words, "--detach")
    assert detached.code == 0
    assert "parfocal models show left" in detached.err
    with Client() as client:
        (training,) = (job for job in client.jobs() if job.training.model == "left")
        model = _work.output_uri(client.wait(training.id), "model")
        # A flow runner has begun to judge it.
        request = prediction_request(model, client.dataset_uri(dataset), split="test")
        begun = client.start(judging_request(training.id, request))
        again = run(*words, "--json")
        assert again.code == 0, again.err
        assert again.json["job"]["id"] == training.id
        jobs = {job.id: job for job in client.jobs()}
    mine = {name for name, job in jobs.items() if job.labels.get(TRAINING_LABEL) == training.id}
    assert mine == {begun.id, f"{training.id}-qc"}
    assert [job.id for job in jobs.values() if job.training.model == "left"] == [training.id]
    # There is a verdict, so the same words are a new training.
    assert run(*words, "--json").json["job"]["id"] != training.id


def test_require_pass_decides_the_exit_code(
    run: Callable[..., Ended], dataset: str, images: Path, tmp_path: Path
) -> None:
    # One step so small changes nothing, so that the model cannot pass.
    arguments = ["train", "fake-2d", "--dataset", dataset, "--model", "poor", "-p", "epochs=1"]
    arguments += ["-p", "learning_rate=1e-9"]
    assert run(*arguments).code == 0
    assert run("evaluate", "--model", "poor", "--dataset", dataset, "--require-pass").code == 5
    image = images / "test" / "source" / "field_005.tif"
    refused = run("predict", "--model", "poor", image, "--output", tmp_path / "out", "--require-pass")
    assert refused.code == 5
    assert not (tmp_path / "out").exists()


def in_terminal(columns: int, *arguments: object) -> list[str]:
    """Run a command in a terminal of so many columns, and return the lines that it shows, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    program = "import sys; from parfocal.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        # Linux says that the other end is closed by an error.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert process.returncode == 0, text
    return [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]


@pytest.mark.parametrize("state", ["failed", "passed"])
def test_a_verdict_is_laid_out_for_the_terminal(
    run: Callable[..., Ended], dataset: str, images: Path, tmp_path: Path, state: str
) -> None:
    model = f"shown-{state}"
    made = run("train", "fake-2d", "--dataset", dataset, "--model", model, "-p", "epochs=1", "--json")
    assert made.code == 0, made.err
    reasons = [
        "The score in PSNR comes from the background: +1.50 dB over the whole image, but inside the foreground -0.6 dB",
        "Better than the input in 3 of 3 images, and better than a Gaussian filter in all of them but the last one.",
    ]
    with Client() as client:
        # Of a later check, so that it holds for both states.
        place = Location.parse(client.model_uri(model)) / "qc" / "later" / VERDICT_FILE
        verdict = {"state": state, "reasons": reasons, "created_at": "2999-01-01T00:00:00+00:00"}
        client.store.write(place, json.dumps(verdict).encode())
    image = min((images / "test" / "source").iterdir())
    lines = in_terminal(60, "predict", "--model", model, image, "--output", tmp_path / "out")
    assert f"This model {state} quality control:" in lines[0]
    points = lines[1 : next(number for number, line in enumerate(lines) if line.startswith("Job "))]
    assert max(map(len, points)) <= 60
    starts = [number for number, line in enumerate(points) if line.startswith("  - ")]
    assert [" ".join(line[4:] for line in points[at : at + 2]) for at in starts] == reasons
    in_pipe = run("predict", "--model", model, image, "--output", tmp_path / "again").err
    assert [f"  - {reason}" in in_pipe.splitlines() for reason in reasons] == [True, True]


def test_a_second_evaluation_uses_the_prediction_there_is(
    run: Callable[..., Ended], dataset: str, model: str, tmp_path: Path
) -> None:
    assert run("evaluate", "--model", model, "--dataset", dataset).code == 0
    result = run("evaluate", "--model", model, "--dataset", dataset, "--output", tmp_path / "qc")
    assert result.code == 0
    assert f"predicted with {model} before" in result.err
    names = {path.relative_to(tmp_path / "qc").as_posix() for path in (tmp_path / "qc").rglob("*") if path.is_file()}
    assert {"figure.png", "metrics.csv", "summary.json", "report.pdf", "report.html"} <= names
    assert any(name.startswith("maps/") for name in names)
    known = set(run("jobs", "list").out.split())
    for place, words in ((tmp_path / "qc", "has report.pdf"), (tmp_path / "qc" / "report.pdf", "not a folder")):
        refused = run("evaluate", "--model", model, "--dataset", dataset, "--output", place)
        assert refused.code == 2
        assert words in refused.err
    assert set(run("jobs", "list").out.split()) == known  # nothing was begun


def test_images_of_another_program_are_judged_like_those_of_a_model(
    run: Callable[..., Ended], dataset: str, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in (images / "test" / "target").iterdir():
        pixels = read_image(path).pixels.astype(np.float32)
        write_image(folder / f"{path.stem}.tif", Image(pixels + np.roll(pixels, 1, axis=0), "YX"))
    result = run("evaluate", "--prediction", folder, "--method", "restoration", "--dataset", dataset)
    assert result.code == 0, result.err
    assert "No model is named" in result.out + result.err
    assert "jobs download" in result.out
    next(folder.iterdir()).rename(folder / "other.tif")
    refused = run("evaluate", "--prediction", folder, "--method", "restoration", "--dataset", dataset)
    assert refused.code == 2
    assert mentions(refused.err, "other.tif: ", "no target")


def test_a_model_is_judged_on_images_without_targets(
    run: Callable[..., Ended], model: str, images: Path, tmp_path: Path
) -> None:
    source = images / "test" / "source"
    result = run("evaluate", "--model", model, "--images", source, "--output", tmp_path / "qc")
    assert result.code == 0, result.err
    for words in ("Agreement", "Structure", "Sharpness", "Gaussian filter", "Verdict: ", "3 images"):
        assert words in result.out
    assert "leaves no trace" in result.err
    assert (tmp_path / "qc" / "maps" / "deviation").is_dir()
    # What images without targets show is no verdict on the model.
    assert run("models", "show", model, "--json").json["verdict"]["state"] == "unchecked"


def test_predictions_of_another_program_are_judged_by_their_inputs(
    run: Callable[..., Ended], images: Path, tmp_path: Path
) -> None:
    source, target = (images / "test" / role for role in ("source", "target"))
    result = run("evaluate", "--prediction", target, "--images", source, "--require-pass")
    assert result.code == 0, result.out + result.err
    assert "agree within" in result.out
    shutil.copytree(target, tmp_path / "mine")
    first, second, *_ = sorted((tmp_path / "mine").iterdir())
    first.unlink()
    result = run("evaluate", "--prediction", tmp_path / "mine", "--images", source)
    assert mentions(result.err, "1 of 3 images", "judged", f"{first.stem} (not predicted)")
    second.rename(tmp_path / "mine" / "other.tif")
    refused = run("evaluate", "--prediction", tmp_path / "mine", "--images", source)
    assert refused.code == 2
    assert mentions(refused.err, "other.tif: ", "no input")


def test_a_failure_names_the_image_as_it_is_written(run: Callable[..., Ended], images: Path, tmp_path: Path) -> None:
    source = min((images / "test" / "source").iterdir())
    pixels = read_image(source).pixels[:7, :7]
    for folder in ("mine", "inputs"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "c.tif", Image(pixels, "YX"))
    result = run("evaluate", "--prediction", tmp_path / "mine", "--images", tmp_path / "inputs")
    assert result.code == 1
    assert mentions(result.err, " c is too small", "8x8")


def test_images_unlike_the_training_images_are_named(
    run: Callable[..., Ended], model: str, images: Path, tmp_path: Path
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
    assert mentions(said, "unlike", f"{changed.name}: it is noisier")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--dataset", "DATASET"), 2, "either a model"),
        (("--dataset", "DATASET", "--model", "m", "--prediction", "f", "--method", "restoration"), 2, "either a model"),
        (("--dataset", "DATASET", "--prediction", "f"), 2, "--method"),
        (("--dataset", "DATASET", "--prediction", "nowhere", "--method", "restoration"), 3, "nowhere"),
        (("--dataset", "DATASET", "--prediction", "nowhere", "--method", "fake-2d"), 2, "restoration"),
        (("--dataset", "DATASET", "--prediction", "nowhere", "--method", "dataset"), 2, "dataset check"),
        (("--dataset", "DATASET", "--prediction", "nowhere", "--method", "residuals"), 2, "--images"),
        (("--dataset", "DATASET", "--images", "nowhere", "--model", "m"), 2, "either a dataset"),
        (("--model", "m"), 2, "either a dataset"),
        (("--model", "m", "--images", "nowhere", "--again"), 2, "judged anew"),
        (("--dataset", "DATASET", "--prediction", "f", "--method", "restoration", "--again"), 2, "leave it out"),
        (("--prediction", "nowhere", "--images", "nowhere"), 3, "nowhere"),
        (
            ("--prediction", "nowhere", "--images", "nowhere", "--method", "instances"),
            2,
            "for instances",
        ),
    ],
)
def test_evaluate_says_what_it_needs(
    run: Callable[..., Ended], dataset: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = run("evaluate", *(dataset if argument == "DATASET" else argument for argument in arguments))
    assert result.code == code, result.err
    assert words in result.err


def test_compare_scores_what_is_missing_and_says_which_difference_is_real(
    run: Callable[..., Ended], dataset: str, model: str, tmp_path: Path
) -> None:
    arguments = ["train", "fake-2d", "--dataset", dataset, "--model", "rival", "-p", "epochs=2", "--json"]
    trained = run(*arguments)
    evaluated = next(job for job in run("jobs", "list", "--json").json if "evaluation" in job)["id"]
    rival = f"rival:{trained.json['model']['version']}"
    result = run("compare", model, rival, "--dataset", dataset, "--output", tmp_path / "compared")
    assert result.code == 0, result.err
    assert f"(job {evaluated})" in result.err
    assert mentions(result.out, "Gaussian filter", "PSNR [dB]", "not shown", "no difference", f"{model} and {rival}")
    assert mentions(result.err, "9 images", "10 comparisons")
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
    assert {test["metric"] for test in again.json["summary"]["tests"]} == {"ssim"}
    assert {each["name"] for each in again.json["summary"]["candidates"][:2]} == {model, rival}
    job = again.json["job"]["id"]
    assert run("jobs", "download", job, "--output", tmp_path / "again").code == 0
    refused = run("compare", model, "--evaluation", job, "--dataset", dataset)
    assert refused.code == 2
    assert f"The job {job} is no evaluation" in refused.err


def test_quality_control_of_a_dataset_prints_findings_and_brings_the_sheets(
    run: Callable[..., Ended], images: Path, tmp_path: Path
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
    assert f"check dataset {name}" in run("jobs", "list").out


def test_quality_control_of_a_folder_says_how_to_store_it(run: Callable[..., Ended], images: Path) -> None:
    result = run("dataset", "check", images, "--qc", "--axes", "zyx")
    assert result.code == 2
    assert f"parfocal dataset create NAME {images} --axes ZYX" in result.err


def test_a_dataset_without_test_images_cannot_judge(run: Callable[..., Ended], images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "train", tmp_path / "images")
    created = run("dataset", "create", "untested", tmp_path / "images")
    assert created.code == 0
    assert "no test images" in created.err
    trained = run("train", "fake-2d", "--dataset", "untested", "--model", "untested", "-p", "epochs=1")
    assert trained.code == 0
    assert "cannot judge" in trained.err
    judged = run("evaluate", "--model", "untested", "--dataset", "untested")
    assert judged.code == 2
    assert "no test images" in judged.err
