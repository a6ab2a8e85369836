"""Batches: each image of a folder in the store once, whatever ends a run."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from support import Ended, mentions, put_image

from parfocal import v1
from parfocal.cli._schedule import interval
from parfocal.client import Client
from parfocal.client.catalog import Catalog
from parfocal.client.results import read_result
from parfocal.flows.batch import Batch, Progress, Step, Unlike, shard_size
from parfocal.flows.batches import BatchRun
from parfocal.runtime.errors import InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from parfocal.runtime.images.acquired import Acquired
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.images.taken import Taken
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import Location


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[Client]:
    with Client(Settings()) as client:
        yield client


@pytest.fixture
def batch(client: Client, model: str, request: pytest.FixtureRequest) -> Batch:
    """An inbox with three images, one of them in a sub-folder, and a model to apply."""
    place = client.store.results / client.project / f"microscope-{crc32(request.node.name.encode())}"
    for number, name in enumerate(("a.tif", "b.tif", "plate/a.tif")):
        put_image(client.store, place / "inbox" / name, number)
    return Batch(place / "inbox", place / "out", (Step(client.model_uri(model)),))


def go(client: Client, batch: Batch) -> Progress:
    return BatchRun(client, batch, settle_seconds=0).run()


def outputs(client: Client, batch: Batch) -> set[str]:
    """Return the names of the predictions, without the tables."""
    prefix = f"{batch.output}/"
    names = {str(item.location).removeprefix(prefix) for item in client.store.objects(batch.output)}
    return {name for name in names if not name.startswith("manifests/")}


def jobs(client: Client) -> int:
    return len(client.jobs())


def test_each_image_is_predicted_once_and_new_ones_later(client: Client, batch: Batch) -> None:
    first = go(client, batch)
    assert (first.found, first.predicted, first.failed) == (3, 3, 0)
    assert outputs(client, batch) == {"a.tif", "b.tif", "plate/a.tif"}
    before = jobs(client)
    again = go(client, batch)
    assert (again.predicted, again.ended_before, jobs(client)) == (0, 3, before)
    put_image(client.store, batch.source / "plate/c.tif", 9)
    put_image(client.store, batch.source / "a.tif", 10)  # another image under an old name
    third = go(client, batch)
    assert (third.predicted, third.ended_before) == (2, 2)
    assert outputs(client, batch) == {"a.tif", "b.tif", "plate/a.tif", "plate/c.tif"}
    tables = [item.location for item in client.store.objects(batch.output / "manifests")]
    rows = [line for place in tables for line in client.store.read(place).decode().splitlines()[1:]]
    assert len(rows) == 5
    assert all(",predicted,s3://" in row for row in rows)


def test_an_image_that_cannot_be_read_is_given_up_and_blocks_nobody(client: Client, batch: Batch) -> None:
    client.store.write(batch.source / "broken.tif", b"no image at all")
    found = [go(client, batch) for _ in range(4)]
    assert [each.predicted for each in found] == [3, 0, 0, 0]
    assert [each.to_repeat for each in found[:2]] == [1, 1]
    assert [each.failed for each in found] == [0, 0, 1, 0]
    assert "broken.tif" in found[2].reasons
    assert found[3].ended_before == 4


def test_an_image_that_ends_its_job_spoils_no_others(
    client: Client, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = BatchRun._result

    def fail(run: BatchRun, job: v1.Job) -> Any:
        """Let the job of each shard with b.tif have failed as a whole."""
        if "b.tif" in job.prediction.inputs:
            job = v1.Job(id=job.id, state=v1.JOB_STATE_FAILED, message="the worker was killed")
        return result(run, job)

    monkeypatch.setattr(BatchRun, "_result", fail)
    found = [go(client, batch) for _ in range(3)]
    assert (sum(each.predicted for each in found), sum(each.failed for each in found)) == (2, 1)
    assert set(found[-1].reasons) == {"b.tif"}


def test_images_whose_results_would_have_one_name_spoil_no_others(client: Client, batch: Batch) -> None:
    put_image(client.store, batch.source / "a.ome.tif", 5)
    first = go(client, batch)
    assert (first.predicted, first.failed, set(first.reasons)) == (3, 1, {"a.tif"})
    put_image(client.store, batch.source / "plate/a.TIFF", 6)
    later = go(client, batch)
    assert (later.predicted, later.failed, set(later.reasons)) == (0, 1, {"plate/a.TIFF"})


def test_what_a_run_did_not_come_to_deliver_is_delivered_by_the_next(
    client: Client, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jobs(client)
    with monkeypatch.context() as patched:

        def die(*_arguments: Any, **_options: Any) -> None:
            raise UnavailableError("the runner was killed")

        patched.setattr(BatchRun, "_deliver", die)
        with pytest.raises(UnavailableError):
            go(client, batch)
    assert outputs(client, batch) == set()
    assert go(client, batch).predicted == 3
    assert jobs(client) == before + 1
    assert outputs(client, batch) == {"a.tif", "b.tif", "plate/a.tif"}


def test_an_answer_that_is_lost_on_its_way_counts_nothing_twice(
    client: Client, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, calls = Catalog.end_batch_inputs, []

    def lose_first(*arguments: Any) -> Any:
        calls.append(end(*arguments))
        if len(calls) == 1:
            raise UnavailableError("the connection was closed")
        return calls[-1]

    monkeypatch.setattr(Catalog, "end_batch_inputs", lose_first)
    first = go(client, batch)
    assert (len(calls), first.predicted + first.elsewhere, first.reasons) == (2, 3, {})
    assert go(client, batch).ended_before == 3
    (table,) = client.store.objects(batch.output / "manifests")
    assert len(client.store.read(table.location).decode().splitlines()) == 4


def test_a_result_that_is_deleted_before_its_delivery_is_made_again(
    client: Client, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        def die(*_arguments: Any, **_options: Any) -> None:
            raise UnavailableError("the runner was killed")

        patched.setattr(BatchRun, "_deliver", die)
        with pytest.raises(UnavailableError):
            go(client, batch)
    (job,) = {job.id for job in client.jobs() if batch.source.key in str(job)}
    client.catalog.delete("result", job)
    second = go(client, batch)
    assert (second.predicted, second.reasons) == (3, {})
    assert outputs(client, batch) == {"a.tif", "b.tif", "plate/a.tif"}


def test_models_are_applied_one_after_the_other(client: Client, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    (step,) = batch.steps
    chain = Batch(batch.source, batch.output, (step, step), keep=True)
    assert chain.key != batch.key
    with monkeypatch.context() as patched:

        def die(*_arguments: Any) -> None:
            raise UnavailableError("the runner was killed")

        patched.setattr(BatchRun, "_job_of_step", die)
        with pytest.raises(UnavailableError):
            go(client, chain)
    before = jobs(client)
    assert go(client, chain).predicted == 3
    assert jobs(client) == before + 1, "the first step was not done again"
    names = {"a.tif", "b.tif", "plate/a.tif"}
    kept = f"steps/1-{versioned_name(step.model_uri).replace(':', '-')}"
    assert outputs(client, chain) == names | {f"{kept}/{name}" for name in names}
    (table,) = client.store.objects(batch.output / "manifests")
    row = next(csv.DictReader(client.store.read(table.location).decode().splitlines()))
    first, second = row["job"].split(" > ")
    assert row["model"] == f"{step.model_uri} > {step.model_uri}"
    assert row["prediction"] == f"{batch.output}/a.tif"
    sources = [read_result(client, client.get(job)).input_uri for job in (first, second)]
    assert sources == [str(batch.source), f"{client.store.results}{client.project}/{first}"]
    related = {(link.uri, link.from_uri) for link in client.catalog.lineage("result", second).relations}
    assert (f"{client.store.results}{client.project}/{second}", sources[1]) in related
    assert go(client, chain).ended_before == 3


def composite(path: Path, channels: dict[str, np.ndarray]) -> bytes:
    """Write the channels as an OME-TIFF with their names, and return its bytes."""
    pixels = np.stack(list(channels.values()))
    write_image(path, Image(pixels, "CYX", acquired=Acquired(tuple(channels))))
    return path.read_bytes()


@pytest.fixture
def model_of_a_channel(run: Callable[..., Ended], images: Path, tmp_path: Path) -> str:
    """A model that was trained on the channel DAPI of composites, NAME:VERSION."""
    folder = Path(shutil.copytree(images, tmp_path / "composites"))
    for path in folder.glob("*/source/*"):
        pixels = read_image(path).pixels
        composite(path, {"GFP": pixels[::-1], "DAPI": pixels})
    made = run("dataset", "create", "composites", folder, "--channel", "DAPI", "--json")
    assert made.code == 0, made.err
    dataset = f"composites:{made.json['version']}"
    trained = run("train", "fake-2d", "--dataset", dataset, "--model", "of-dapi", "--no-qc", "--json")
    assert trained.code == 0, trained.err
    model = f"of-dapi:{trained.json['model']['version']}"
    for command in (("models", "show", model), ("dataset", "show", dataset)):
        assert re.search("Taken of each file +channel DAPI\n", run(*command).out), command
    shown = run("models", "show", model, "--json").json
    assert (shown["part"], shown["part_channels"]) == ("--channel DAPI", ["DAPI"])
    return model


def test_the_channel_is_taken_that_the_training_took(
    run: Callable[..., Ended], client: Client, batch: Batch, model_of_a_channel: str, tmp_path: Path
) -> None:
    place = batch.source.parent / "composites"
    random = np.random.default_rng(5)
    dapi, gfp = (random.integers(0, 4000, (32, 48)).astype(np.uint16) for _ in range(2))
    written = {
        "plane.tif": composite(tmp_path / "plane.tif", {"DAPI": dapi}),
        "first.tif": composite(tmp_path / "first.tif", {"DAPI": dapi, "GFP": gfp}),
        "plate/last.tif": composite(tmp_path / "last.tif", {"RFP": gfp[::-1], "GFP": gfp, "DAPI": dapi}),
        "lacking.tif": composite(tmp_path / "lacking.tif", {"RFP": dapi, "GFP": gfp}),
    }
    for name, content in written.items():
        client.store.write(place / name, content)
    model_uri = client.model_uri(model_of_a_channel)
    own = Batch(place, batch.output, (Step(model_uri),))

    def predicted(output: Location, name: str) -> np.ndarray:
        path = tmp_path / "predicted.tif"
        path.write_bytes(client.store.read(output / name))
        return read_image(path).pixels

    found = [go(client, own) for _ in range(3)]
    assert [(each.predicted, each.to_repeat, each.failed) for each in found] == [(3, 1, 0), (0, 1, 0), (0, 0, 1)]
    assert mentions(found[2].reasons["lacking.tif"], "lacking.tif", "'DAPI'", "RFP, GFP", "--channel")
    assert mentions(found[2].sentence, "1 image was not predicted: lacking.tif: ", "no channel 'DAPI'")
    rows = [
        row
        for item in client.store.objects(own.output / "manifests")
        for row in csv.DictReader(client.store.read(item.location).decode().splitlines())
    ]
    assert {row["input"]: row["reason"] for row in rows} == {
        **dict.fromkeys(written, ""),
        "lacking.tif": found[2].reasons["lacking.tif"],
    }
    for name in ("first.tif", "plate/last.tif"):
        np.testing.assert_array_equal(predicted(own.output, name), predicted(own.output, "plane.tif"))

    # Somebody chooses another channel: that is other work, which is done beside.
    chosen = Batch(place, batch.output.parent / "of-gfp", own.steps, taken=Taken(("GFP",)))
    assert go(client, chosen).predicted == 4
    np.testing.assert_array_equal(predicted(chosen.output, "first.tif"), predicted(chosen.output, "lacking.tif"))
    assert (predicted(chosen.output, "first.tif") != predicted(own.output, "first.tif")).any()

    # A model that was made before it recorded what was taken: its dataset says it.
    manifest = Location.parse(model_uri) / MODEL_MANIFEST
    known = ModelManifest.read(client.store, manifest)
    assert known.part == "--channel DAPI"
    client.store.write(manifest, known.model_copy(update={"part": ""}).to_bytes())
    again = Batch(place, batch.output.parent / "again", own.steps)
    assert go(client, again).predicted == 3
    np.testing.assert_array_equal(predicted(again.output, "first.tif"), predicted(own.output, "plane.tif"))


def test_images_of_this_computer_go_through_several_models(
    run: Callable[..., Ended], client: Client, images: Path, model: str, tmp_path: Path
) -> None:
    source, output = images / "test" / "source", tmp_path / "out"
    command = ("predict", source, "--model", model, "--then", model, "--output", output)
    assert run(*command, "--detach").code == 2
    refused = run(*command, "-p", "3.tile_size=64")
    assert (refused.code, "there are 2 steps" in refused.err) == (2, True)
    ended = run(*command, "--keep-steps", "--json")
    assert ended.code == 0, ended.err
    names = {path.name for path in source.iterdir()}
    assert {path.name for path in output.iterdir() if path.is_file()} >= names
    kept = output / "steps" / f"1-{model.replace(':', '-')}"
    assert {path.name for path in kept.iterdir()} >= names
    last = client.get(ended.json["job"]["id"])
    first = last.prediction.input_uri.rsplit("/", 1)[-1]
    assert client.get(first).state == v1.JOB_STATE_SUCCEEDED
    assert {image["input"] for image in ended.json["images"]} == names


def test_images_unlike_those_of_the_training_are_named_or_end_the_run(
    client: Client, batch: Batch, images: Path
) -> None:
    def run(unlike: Unlike) -> Progress:
        return BatchRun(client, batch, settle_seconds=0, unlike=unlike).run()

    # Noise of 32x48 pixels, where the model was trained with spots.
    with pytest.raises(PreconditionError, match="3 of 3 images of a sample differ"):
        run("stop")
    assert outputs(client, batch) == set()
    before = jobs(client)
    with pytest.raises(PreconditionError):
        run("stop")
    assert jobs(client) == before, "the same sample is not predicted again"
    warned = run("warn")
    assert (warned.predicted, set(warned.unlike)) == (3, {"a.tif", "b.tif", "plate/a.tif"})
    assert "3 images differ from the training data" in warned.sentence
    trained_with = sorted((images / "train" / "source").iterdir())
    for path in trained_with:
        client.store.write(batch.source / "like" / path.name, path.read_bytes())
    alike = run("stop")
    assert (alike.predicted, alike.unlike) == (len(trained_with), {})


def test_images_of_another_project_are_not_even_counted(client: Client, batch: Batch) -> None:
    foreign = client.store.results / "lab-b" / "inbox"
    put_image(client.store, foreign / "a.tif", 1)
    with pytest.raises(NotFoundError):
        go(client, Batch(foreign, batch.output, batch.steps))


def test_two_runs_at_a_time_share_the_images(client: Client, batch: Batch) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: go(client, batch), range(2)))
    assert sum(each.predicted for each in found) == 3
    assert go(client, batch).ended_before == 3


def test_what_another_run_took_meanwhile_is_left_to_it(
    client: Client, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rivals = jobs(client), []
    take_up = BatchRun._take_up

    def late(run: BatchRun, *arguments: Any) -> list[v1.BatchInput]:
        found = take_up(run, *arguments)
        if not rivals:
            rivals.append(run)
            rivals.append(go(client, batch))
        return found

    monkeypatch.setattr(BatchRun, "_take_up", late)
    slow = go(client, batch)
    assert (rivals[1].predicted, slow.predicted, slow.elsewhere, jobs(client)) == (3, 0, 3, before + 1)


def test_an_image_that_is_being_written_is_left_to_the_next_run(
    client: Client, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "parfocal.flows.batches.time.sleep", lambda _seconds: put_image(client.store, batch.source / "b.tif", 77)
    )
    first = BatchRun(client, batch, settle_seconds=5).run()
    assert (first.predicted, first.elsewhere) == (2, 1)
    assert go(client, batch).predicted == 1


def test_results_among_the_images_are_refused(client: Client, batch: Batch) -> None:
    for source, output in ((batch.source, batch.source / "out"), (batch.output / "prediction", batch.output)):
        with pytest.raises(InvalidInputError, match="Choose another folder"):
            go(client, Batch(source, output, batch.steps))


def test_results_are_written_to_a_folder_of_their_own_in_the_project(client: Client, batch: Batch) -> None:
    go(client, batch)
    (job,) = {job.id for job in client.jobs() if job.HasField("prediction") and batch.source.key in str(job)}
    published = client.store.results / client.project / job
    elsewhere = (client.store.models / client.project / "m", client.store.results / "other" / "x", published)
    # A job that has no result, or none yet.
    training = next(job.id for job in client.jobs() if job.HasField("training"))
    elsewhere += (client.store.results / client.project / training,)
    for place in (*elsewhere, published / "below", client.store.results / client.project / "_batches"):
        with pytest.raises(InvalidInputError, match="microscope-1"):
            go(client, Batch(batch.source, place, batch.steps))


@pytest.mark.parametrize(("text", "seconds"), [("15m", 900), ("2 h", 7200), ("1D", 86_400), ("90s", 90)])
def test_an_interval_is_read(text: str, seconds: int) -> None:
    assert interval(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "-5m", "10s", "1.5h", "0m"])
def test_another_interval_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="15m"):
        interval(text)


@pytest.mark.parametrize(
    ("seconds_per_image", "left", "size"),
    [
        (0.0, 1000, 16),
        (1.0, 100_000, 300),  # five minutes
        (1.0, 3200, 100),  # two rounds of the jobs under way
        (1.0, 40, 60),  # not shorter than a minute
        (1e-6, 100_000, 500),
        (900.0, 50, 1),
    ],
)
def test_jobs_take_minutes_and_become_smaller_towards_the_end(seconds_per_image: float, left: int, size: int) -> None:
    assert shard_size(seconds_per_image, left, in_flight=16) == size
