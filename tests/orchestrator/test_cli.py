"""The command line against real services and a real store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from example_data import COUNTS, write_kind
from support import Ended, free_ports, interruptible, mentions, wait_for

from parfocal.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.demo.simulate import write_dataset
from parfocal.runtime.datasets.kinds import KINDS
from parfocal.runtime.images.files import Image, write_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location


def test_methods_shows_the_published_parameters_as_a_table(run: Callable[..., Ended]) -> None:
    result = run("methods", "fake-2d")
    assert result.code == 0
    line = next(line for line in result.out.splitlines() if line.strip().startswith("patch_size"))
    for words in ("whole number", "16", "8 to 512", "Edge of a patch"):
        assert words in line
    assert "Parameters of prediction" in result.out


def test_methods_lists_what_all_services_offer(run: Callable[..., Ended]) -> None:
    names = [item["name"] for item in run("methods", "--json").json]
    judging = ["detection", "instances", "localisation", "reconstruction", "residuals", "restoration", "semantic"]
    judging += ["translation", "translation-unpaired"]
    assert names == sorted(["dataset", "fake-2d", "tiles", *judging])


def test_up_says_how_services_of_this_computer_are_named(run: Callable[..., Ended]) -> None:
    result = run("--services", "stardist", "up")
    assert result.code == 2
    assert "--service NAME" in result.err


def test_predict_writes_results_under_the_names_of_the_inputs(
    run: Callable[..., Ended], model: str, images: Path, tmp_path: Path
) -> None:
    result = run("predict", "--model", model, images / "test" / "source", "--output", tmp_path / "out")
    assert result.code == 0, result.err
    assert "not been checked" in result.err
    assert f"parfocal evaluate --model {model}" in result.err
    expected = sorted(path.name for path in (images / "test" / "source").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_predict_replaces_nothing_unless_told(
    run: Callable[..., Ended], model: str, images: Path, tmp_path: Path
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


def test_predict_never_replaces_its_inputs(run: Callable[..., Ended], images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "test" / "source", tmp_path / "in")
    result = run("predict", "--model", "m", tmp_path / "in", "--output", tmp_path / "in", "--overwrite")
    assert result.code == 2
    assert "would replace" in result.err


def test_predict_names_the_images_that_were_left_out(
    run: Callable[..., Ended], model: str, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images / "test" / "source", tmp_path / "in")
    write_image(tmp_path / "in" / "colour.tif", Image(np.zeros((64, 64, 3), np.uint8), "YXS"))
    result = run("predict", "--model", model, tmp_path / "in", "--output", tmp_path / "out")
    assert result.code == 0
    assert mentions(result.err, "1 of 4 images", "left out")
    assert any(mentions(line, "colour.tif: ", "YXS", "64x64x3", "Fake 2D") for line in result.err.splitlines())
    assert "3 of 4 predicted" in result.out
    assert "colour.tif" in result.out


def test_images_that_do_not_suit_the_model_are_refused_before_they_are_uploaded(
    run: Callable[..., Ended], model: str, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "colour.tif", Image(np.zeros((64, 64, 3), np.uint8), "YXS"))
    write_image(tmp_path / "in" / "dapi+gfp.tif", Image(np.zeros((2, 64, 64), np.uint16), "CYX"))
    client = Client(Settings())
    before = client.store.folders(client.store.results / client.project)
    for command in (
        ("predict", tmp_path / "in", "--output", tmp_path / "out"),
        ("evaluate", "--images", tmp_path / "in"),
    ):
        result = run(*command, "--model", model)
        assert result.code == 2
        for words in ("nothing was uploaded", "- colour.tif: ", "- dapi+gfp.tif: ", "Convert colour"):
            assert words in result.err
    assert client.store.folders(client.store.results / client.project) == before
    client.close()


def test_weights_are_those_that_the_model_lists(
    run: Callable[..., Ended], model: str, dataset: str, images: Path, tmp_path: Path
) -> None:
    shown = run("models", "show", model).out
    assert "last (epoch 4)" in shown
    image = min((images / "test" / "source").iterdir())
    predict = ("predict", "--model", model, image, "--output")
    for weights in ("best", "last"):
        assert run(*predict, tmp_path / weights, "-p", f"weights={weights}").code == 0
    refused = run(*predict, tmp_path / "none", "-p", "weights=better")
    assert refused.code == 2
    assert "best, last" in refused.err
    train = ("train", "fake-2d", "--dataset", dataset, "--model", "further", "--no-qc", "--from", model)
    refused = run(*train, "--from-weights", "better")
    assert refused.code == 2
    assert "best, last" in refused.err
    assert run(*train, "--from-weights", "last", "-p", "epochs=1").code == 0


def test_models_and_jobs_are_listed_shown_and_downloaded(run: Callable[..., Ended], model: str, tmp_path: Path) -> None:
    assert model in run("models", "list").out
    shown = run("models", "show", model)
    assert "unchecked" in shown.out
    assert mentions(shown.err, f"parfocal evaluate --model {model}", "--dataset ")
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


def test_a_cancelled_training_is_resumed_and_not_deleted_before(run: Callable[..., Ended], dataset: str) -> None:
    training = ["train", "fake-2d", "--dataset", dataset, "--model", "again", "--detach"]
    job = run(*training, "-p", "epochs=30", "-p", "pause_seconds=0.05", "--json").json["job"]["id"]
    refused = run("jobs", "delete", job)
    assert refused.code == 2
    assert mentions(refused.err, job, "cancel it")
    assert "[y/N]" not in refused.err
    run("jobs", "cancel", job)
    cancelled = run("jobs", "watch", job)
    assert "parfocal jobs resume" in cancelled.err
    resumed = run("jobs", "resume", job)
    assert resumed.code == 0
    assert f"parfocal evaluate --model again:1 --dataset {dataset}" in resumed.err


def test_an_identical_training_is_joined(run: Callable[..., Ended], dataset: str) -> None:
    arguments = ["train", "fake-2d", "--dataset", dataset, "--model", "joined", "--detach", "--json"]
    arguments += ["-p", "epochs=300", "-p", "pause_seconds=0.1"]
    first = run(*arguments).json["job"]["id"]
    joined = run(*arguments)
    assert joined.json["job"]["id"] == first
    assert "joining" in joined.err
    assert "parfocal models show joined" in joined.err
    assert "models show" not in run(*arguments, "--no-qc").err
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
    command = interruptible("train", "fake-2d", "--dataset", dataset, "--model", "left")
    command += ["-p", "epochs=300", "-p", "pause_seconds=0.1"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
    assert mentions(rest, "same command again", "parfocal models show left")
    client = Client(Settings())
    assert client.get(job).state not in (3, 4, 5)
    client.cancel(job)
    wait_for(lambda: client.get(job).HasField("finished_at"), what="the end of the job")
    client.close()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "-p", "epohcs=3"), 2, "'epochs'"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "-p", "epochs=0"), 2, "at least 1"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "-p", "patch_size=256"), 2, "smaller than"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "no spaces"), 2, "'no spaces'"),
        (("train", "fake-3d", "--dataset", "DATASET", "--model", "x"), 3, "fake-2d"),
        (("train", "fake-2d", "--dataset", "nothing", "--model", "x"), 3, "'nothing'"),
        (("train", "fake-2d", "--dataset", "DATASET", "--model", "x", "--from", "no-model"), 3, "no-model"),
        (("train", "fake-2d", "--model", "x"), 2, "--dataset"),
        (("evaluate", "--model", "nothing", "--dataset", "DATASET"), 3, "nothing"),
        (("compare", "m", "--dataset", "DATASET"), 2, "two models"),
        (("compare", "m", "m", "--dataset", "DATASET"), 2, "Named twice: m"),
        (("compare", "m", "n"), 2, "--dataset"),
        (("compare", "nothing", "nobody", "--dataset", "DATASET"), 3, "nothing"),
        (("compare", "--evaluation", "a", "--evaluation", "b"), 3, "no job 'a'"),
        (("compare", "--evaluation", "a", "--evaluation", "b", "--again"), 2, "leave it out"),
        (("models", "show", "nothing:7"), 3, "nothing"),
        (("models", "show", "a:b"), 2, "a:NUMBER"),
        (("jobs", "show", "nothing"), 3, "nothing"),
        (("jobs", "cancel", "nothing"), 3, "nothing"),
        (("dataset", "show", "nothing"), 3, "nothing"),
        (("dataset", "create", "bad name", "."), 2, "'bad name'"),
        (("dataset", "check", "nothing"), 3, "no folder nothing"),
        (("dataset", "check", ".", "--axes", "xyz"), 2, "'XYZ'"),
        (("dataset", "check", "nothing", "--qc"), 3, "'nothing'"),
        (("dataset", "check", "./nothing"), 3, "no folder"),
        (("dataset", "check", "DATASET", "--again"), 2, "add --qc"),
        (("dataset", "check", "DATASET", "--kind", "boxes"), 2, "--kind"),
        (("dataset", "check", "DATASET", "--qc", "-p", "max_shfit=2"), 2, "'max_shift'"),
        (("logs",), 3, "no logs"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    run: Callable[..., Ended], dataset: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = run(*(dataset if argument == "DATASET" else argument for argument in arguments))
    assert result.code == code
    assert words in result.err


def test_an_error_is_an_object_with_json(run: Callable[..., Ended]) -> None:
    result = run("--json", "dataset", "show", "nothing")
    assert result.code == 3
    assert result.json["error"]["reason"] == "NOT_FOUND"


def test_all_problems_of_a_folder_are_shown_and_nothing_is_stored(
    run: Callable[..., Ended], images: Path, tmp_path: Path
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


def test_a_good_folder_passes_the_check(run: Callable[..., Ended], images: Path) -> None:
    result = run("dataset", "check", images)
    assert result.code == 0
    assert "Training pairs  4" in result.out


@pytest.mark.parametrize("kind", ["boxes", "coordinates", "unpaired", "sources", "classes"])
def test_a_dataset_of_any_kind_is_made_and_says_what_it_is(
    kind: str, run: Callable[..., Ended], tmp_path: Path
) -> None:
    folder, name = write_kind(tmp_path, kind), f"of-{kind}"
    options = ("--kind", kind) if kind == "unpaired" else ()
    checked = run("--json", "dataset", "check", folder, *options)
    assert (checked.code, checked.json["kind"], checked.json["train"]) == (0, kind, COUNTS["train"])
    assert run("dataset", "create", name, folder, *options).code == 0
    shown = run("--json", "dataset", "show", name).json
    assert (shown["kind"], shown["counts"], shown["classes"]) == (
        kind,
        checked.json["counts"],
        checked.json["classes"],
    )
    annotated = COUNTS["train"] + COUNTS["test"] if kind in {"boxes", "coordinates"} else 0
    assert len(shown["annotations"]) == annotated
    assert kind in run("dataset", "show", name).out
    assert f"{name}:1" in {f"{each['dataset']}:{each['version']}" for each in run("--json", "dataset", "list").json}
    assert run("dataset", "check", name).code == 0
    refused = run("train", "fake-2d", "--dataset", name, "--model", "x")
    if kind == "classes":
        assert refused.code == 0
    else:
        assert refused.code == 2
        assert KINDS[kind].title in refused.err
        assert KINDS["paired"].title in refused.err


def test_a_wrong_kind_is_refused_with_the_reason(run: Callable[..., Ended], images: Path) -> None:
    result = run("dataset", "create", "wrong", images, "--kind", "boxes")
    assert result.code == 2
    assert "train/target" in result.err
    assert run("dataset", "show", "wrong").code == 3


@pytest.mark.parametrize("name", ["nucleus", "x=nucleus", "²=nucleus", f"{'1' * 5000}=nucleus"])
def test_a_name_of_a_class_needs_a_grey_value(run: Callable[..., Ended], images: Path, name: str) -> None:
    refused = run("dataset", "create", "named", images, "--class-name", name)
    assert refused.code == 2
    assert "--class-name" in refused.err


def test_every_kind_is_named_in_the_help(run: Callable[..., Ended]) -> None:
    for command in ("create", "check"):
        text = run("dataset", command, "--help").out
        assert all(kind in text for kind in KINDS)


def test_a_stored_dataset_that_lost_a_file_is_told(run: Callable[..., Ended], dataset: str) -> None:
    client = Client(Settings())
    place = Location.parse(client.dataset_uri(dataset))
    name = read_dataset(client, dataset).files[0].name
    client.store.delete(place / name)
    client.close()
    result = run("dataset", "check", dataset)
    assert result.code != 0
    assert name in result.err


def test_a_service_that_is_down_has_its_own_exit_code(run: Callable[..., Ended]) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    result = run("--services", address, "methods")
    assert result.code == 4
    assert address in result.err
    status = run("--services", address, "status")
    assert status.code == 4


def test_a_catalogue_that_is_down_has_its_own_exit_code(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    monkeypatch.setenv("PARFOCAL_CATALOG", f"127.0.0.1:{free_ports(1)[0]}")
    result = run("dataset", "create", "x", images)
    assert result.code == 4
    assert "does not answer" in result.err


def test_without_a_stack_the_message_says_how_to_start(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARFOCAL_CATALOG")
    result = run("models", "list")
    assert result.code == 4
    assert "parfocal up" in result.err
    assert run("status").code == 4


def test_a_wrong_setting_is_named(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARFOCAL_MAX_WORKERS", "many")
    result = run("models", "list")
    assert result.code == 2
    assert "PARFOCAL_MAX_WORKERS" in result.err


def test_a_defect_is_kept_in_a_log_file(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    def broken(_self: Client) -> None:
        raise ZeroDivisionError("for the test")

    monkeypatch.setattr(Client, "services", broken)
    result = run("methods")
    assert result.code == 1
    (log,) = (Path(environment["PARFOCAL_HOME"]) / "logs").iterdir()
    assert str(log) in result.err
    assert "for the test" in log.read_text()


def test_the_options_of_all_commands_work_before_and_after_the_name(run: Callable[..., Ended]) -> None:
    assert run("--project", "elsewhere", "models", "list").code == 0
    assert "elsewhere" in run("models", "list", "--project", "elsewhere").err


def test_demo_does_everything_with_the_users_images(run: Callable[..., Ended], images: Path, tmp_path: Path) -> None:
    result = run(
        *("demo", "--method", "fake-2d", "--data", images, "--output", tmp_path / "demo", "--minutes", "0.5"),
        *("-p", "epochs=2"),
    )
    assert result.code == 0, result.err
    assert "Gaussian filter" in result.out
    assert "Verdict: " in result.out
    assert (tmp_path / "demo" / "qc" / "figure.png").stat().st_size > 1000
    assert len(list((tmp_path / "demo" / "images").iterdir())) == 3


def test_a_demo_leaves_no_files_of_the_one_before_and_none_of_the_user_go(
    run: Callable[..., Ended], tmp_path: Path
) -> None:
    output = tmp_path / "demo"
    arguments = ["demo", "--method", "fake-2d", "--output", output, "--minutes", "0.5", "-p", "epochs=1"]
    for name in ("first", "second"):
        write_dataset(tmp_path / name, 2, 1, 64, 7)
        for role in ("source", "target"):
            (path,) = (tmp_path / name / "test" / role).iterdir()
            path.rename(path.with_name(f"{name}.tif"))
        assert run(*arguments, "--data", tmp_path / name).code == 0
        (output / "notes.txt").write_text("mine")
        assert [path.name for path in (output / "images").iterdir()] == [f"{name}.tif"]
    assert not list((output / "qc").rglob("*first*"))

    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for mine in (output / "images" / "mine.tif", output / "qc" / "metrics.csv"):
        kept = before.get(mine)
        mine.write_text("changed by hand")
        refused = run(*arguments)
        assert refused.code == 2
        assert mentions(refused.err, f"{mine} ", "nothing was done")
        assert mine.read_text() == "changed by hand"
        mine.unlink() if kept is None else mine.write_bytes(kept)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_demo_holds_out_test_images_and_ends_a_slow_training_in_time(run: Callable[..., Ended], tmp_path: Path) -> None:
    write_dataset(tmp_path / "pairs", 6, 0, 64, 3)
    result = run(
        *("demo", "--method", "fake-2d", "--data", tmp_path / "pairs" / "train", "--output", tmp_path / "demo"),
        *("--minutes", "0.02", "--json", "-p", "epochs=1000", "-p", "pause_seconds=0.05"),
    )
    assert result.code == 0, result.err
    assert result.json["job"]["progress"]["epoch"] < 1000
    assert "larger --minutes" in result.err
    assert [path.name for path in (tmp_path / "demo" / "images").iterdir()] == ["field_005.tif"]
