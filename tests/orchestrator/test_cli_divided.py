"""`parfocal predict --parts`: several jobs predict one image, and a command that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_service import publish_outcomes
from support import Ended, S3Server, ServiceProcess, mentions

from parfocal import v1
from parfocal.client import Client
from parfocal.client.parts import (
    LARGE_PIXELS,
    choose_parts,
    find_or_start,
    merge_request,
    part_requests,
    prediction_id,
    step_id,
)
from parfocal.client.requests import prediction_request
from parfocal.client.results import upload_inputs
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import Image, PixelSize, write_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.names import check_request_id, new_request_id
from parfocal.runtime.store.store import Location

PARAMETERS = {"tile_size": 32}


@pytest.fixture(scope="module")
def services(start_service: Callable[..., ServiceProcess]) -> dict[str, ServiceProcess]:
    return {"outcomes": start_service("outcomes", in_memory_mib="0.001")}


@pytest.fixture(scope="module")
def models(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return publish_outcomes(s3.store(), tmp_path_factory.mktemp("weights"), "cli-divided")


@pytest.fixture
def client(environment: dict[str, str], models: dict[str, str]) -> Iterator[Client]:
    with Client(Settings()) as client:
        yield client


@pytest.fixture
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An image that no other test has."""
    rng = np.random.default_rng(len(request.node.name))
    path = tmp_path / "a.tif"
    write_image(path, Image(rng.integers(100, 4000, (130, 150)).astype(np.uint16), "YX", PixelSize(0.1, 0.1)))
    return path


def jobs_of(client: Client, request_id: str) -> dict[str, v1.Job]:
    return {job.id: job for job in client.jobs() if job.id.startswith(request_id)}


def test_parts_are_merged_removed_and_found_again(
    run: Callable[..., Ended], client: Client, models: dict[str, str], image: Path, tmp_path: Path
) -> None:
    command = ("predict", image, "--model", "gives-larger", "-p", "tile_size=32", "--output")
    assert run(*command, tmp_path / "one").code == 0
    result = run(*command, tmp_path / "three", "--parts", 3)
    assert result.code == 0, result.err
    assert "3 of 3 parts done" in result.err
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.tif"))
    assert names == sorted(
        path.relative_to(tmp_path / "three") for path in (tmp_path / "three").rglob("*") if path.is_file()
    )
    for name in names:
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert len(client.jobs()) == 5
    parts = [job for job in client.jobs() if job.prediction.HasField("part")]
    assert sorted(job.prediction.part.number for job in parts) == [1, 2, 3]
    listed = run("jobs", "list").out
    assert all(f"part {number} of 3" in " ".join(listed.split()) for number in (1, 2, 3))
    assert "merge parts" in " ".join(listed.split())
    for job in parts:
        with pytest.raises(NotFoundError):
            client.catalog.entry("result", job.id)
        refused = run("jobs", "download", job.id, "--output", tmp_path / "none")
        assert refused.code != 0
        assert mentions(refused.err, "part", "of 3", "merged")
    # Repeated, it has nothing to do but to download.
    again = run(*command, tmp_path / "again", "--parts", 3)
    assert again.code == 0, again.err
    assert len(client.jobs()) == 5
    assert (tmp_path / "again" / "a.tif").read_bytes() == (tmp_path / "one" / "a.tif").read_bytes()


def test_a_command_that_was_stopped_goes_on_with_what_is_there(
    run: Callable[..., Ended], client: Client, models: dict[str, str], image: Path, tmp_path: Path
) -> None:
    """One part was done and another one cancelled when the command before was killed."""
    from parfocal.client.convert import WHOLE

    request_id = prediction_id(models["gives-larger"], PARAMETERS, [image], f" {WHOLE}")
    uri = upload_inputs(client, new_request_id("inputs"), [image])
    request = prediction_request(models["gives-larger"], uri, PARAMETERS, request_id=request_id)
    first, second = part_requests(request, 2)
    assert client.wait(client.start(first).id).state == v1.JOB_STATE_SUCCEEDED
    cancelled = client.cancel(client.start(second).id)
    assert client.wait(cancelled.id).state == v1.JOB_STATE_CANCELLED
    command = ("predict", image, "--model", "gives-larger", "-p", "tile_size=32", "--parts", 2, "--output")
    result = run(*command, tmp_path / "out")
    assert result.code == 0, result.err
    assert "Uploading" not in result.err
    jobs = jobs_of(client, request_id)
    assert jobs.keys() == {request_id, first.request_id, second.request_id, step_id(second.request_id, "2")}
    assert {job.prediction.input_uri for job in jobs.values()} == {uri}
    assert (tmp_path / "out" / "a.tif").exists()
    # What was merged is gone, and so are the images: it is done again.
    client.catalog.delete("result", request_id)
    for item in list(client.store.objects(Location.parse(uri))):
        client.store.delete(item.location)
    result = run(*command, tmp_path / "anew")
    assert result.code == 0, result.err
    assert "Uploading" in result.err
    assert (tmp_path / "anew" / "a.tif").read_bytes() == (tmp_path / "out" / "a.tif").read_bytes()
    assert step_id(request_id, "2") in jobs_of(client, request_id)


def test_a_part_that_fails_ends_the_others_and_is_told(
    run: Callable[..., Ended], client: Client, image: Path, tmp_path: Path
) -> None:
    result = run("predict", image, "--model", "gives-boxes", "--output", tmp_path / "out", "--parts", 3)
    assert result.code == 1
    assert mentions(result.err, "failed", "Gives boxes", "Repeat the command")
    assert not (tmp_path / "out").exists()
    jobs = [job for job in client.jobs() if job.method == "gives-boxes"]
    assert len(jobs) == 3
    assert {client.wait(job.id).state for job in jobs} <= {v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}


@pytest.mark.parametrize("further", [("--detach",), ("s3",)])
def test_what_cannot_be_divided_is_refused(
    run: Callable[..., Ended], models: dict[str, str], image: Path, tmp_path: Path, further: tuple[str, ...]
) -> None:
    stored = further == ("s3",)
    source, output = ("s3://b/in", "s3://b/out") if stored else (image, tmp_path / "out")
    options = () if stored else further
    result = run("predict", source, "--model", "gives-larger", "--output", output, "--parts", 2, *options)
    assert result.code == 2
    assert "--parts" in result.err


def test_small_images_are_never_divided_and_nobody_is_asked() -> None:
    def ask() -> int:
        raise AssertionError

    assert choose_parts(LARGE_PIXELS - 1, ask) == 1
    assert [choose_parts(LARGE_PIXELS, lambda count=count: count) for count in (0, 1, 4, 1000)] == [1, 1, 4, 64]


def test_services_say_how_many_devices_they_have(client: Client) -> None:
    assert client.devices("gives-larger") == 1
    assert client.devices("nothing") == 0


def test_ids_of_steps_are_short_enough_and_differ() -> None:
    request = prediction_request("s3://m/p/m/1", "s3://r/p/i", request_id="a" * 64)
    ids = [each.request_id for each in part_requests(request, 64)]
    assert len({*ids}) == 64
    for each in (*ids, step_id(ids[-1], "12"), step_id("b" * 64, "1of2")):
        assert check_request_id(each) == each
    assert step_id("a" * 64, "1of2") != step_id("a" * 63 + "b", "1of2")


def test_other_images_or_parameters_have_other_ids(image: Path, tmp_path: Path) -> None:
    known = prediction_id("m", {"a": 1}, [image], "")
    assert known == prediction_id("m", {"a": 1}, [image], "")
    others: list[Any] = [("n", {"a": 1}, [image], ""), ("m", {"a": 2}, [image], ""), ("m", {"a": 1}, [image], "ZYX")]
    other = tmp_path / "b.tif"
    other.write_bytes(image.read_bytes())
    others.append(("m", {"a": 1}, [other], ""))
    assert len({known, *(prediction_id(*each) for each in others)}) == 5


def test_a_merge_names_the_results_of_its_parts(client: Client, models: dict[str, str], image: Path) -> None:
    uri = upload_inputs(client, new_request_id("inputs"), [image])
    request = prediction_request(models["gives-larger"], uri, PARAMETERS, request_id=new_request_id("merge"))
    jobs = [client.wait(find_or_start(client, each).id) for each in part_requests(request, 2)]
    merge = merge_request(request, jobs)
    assert merge.request_id == request.request_id
    assert list(merge.prediction.part_uris) == [job.reserved_uri for job in jobs]
    assert not merge.prediction.HasField("part")
    done = client.wait(client.start(merge).id)
    assert done.state == v1.JOB_STATE_SUCCEEDED
    assert client.start(merge).id == done.id
