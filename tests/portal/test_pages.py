"""The portal over HTTP: a day from images to results, and what it refuses."""

from __future__ import annotations

import hashlib
import html
import io
import json
import logging
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
import tifffile
from fastapi.routing import APIRoute
from portal_visitor import PROJECT, Visitor
from support import wait_for

from parfocal import v1
from parfocal.client import Client, requests
from parfocal.client.catalog import Catalog
from parfocal.client.datasets import create_dataset, read_dataset
from parfocal.client.requests import training_request
from parfocal.portal.follow import Follower, Steps, make_tiles, take_up
from parfocal.portal.guard import SAFE_METHODS
from parfocal.portal.pages import ROUTERS
from parfocal.portal.pages.data import _class_names
from parfocal.portal.pages.predict import _sources
from parfocal.portal.uploads import UploadedFile, guess_roles
from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import (
    RESULT_MANIFEST,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.store.names import is_job_id, result_location, versioned_name

PAGES = (
    "",
    "data",
    "methods",
    "models",
    "predict",
    "results",
    "jobs",
    "compare",
    "operator",
    "search?q=a",
    "schedules",
    "deleted",
)


@pytest.fixture(scope="module")
def dataset(portal: str, files: dict[str, bytes]) -> Iterator[str]:
    """A dataset that was uploaded and saved in the portal."""
    with Visitor(portal) as visitor:
        upload = visitor.upload(files)
        assert "5 training images, 3 for testing" in visitor.open(f"uploads/{upload}/checks").text
        saved = visitor.send(f"uploads/{upload}/save", name="fibres", description="made up")
        assert saved.url.path == f"/p/{PROJECT}/data/fibres/1"
        assert "5 training images, 3 for testing" in saved.text
        assert visitor.open(f"uploads/{upload}").status_code == 404
        yield "fibres:1"


@pytest.fixture(scope="module")
def model(portal: str, client: Client, dataset: str) -> Iterator[str]:
    """A model that was trained in the portal and judged afterwards."""
    with Visitor(portal) as visitor:
        form = {
            "method": "fake-2d",
            "dataset": dataset,
            "model": "filter",
            "request_id": "once",
            "check": "yes",
        }
        visitor.open("train?method=fake-2d&dataset=fibres:1")

        refused = visitor.send("train", **form, **{"p.epochs": "0", "p.batch_size": "3"})
        assert refused.status_code == 422
        assert "<title>Error: " in refused.text
        assert field(refused.text, "p.epochs") == "0"
        assert field(refused.text, "p.batch_size") == "3"
        assert 'href="#p-epochs"' in refused.text
        assert asked_for(client) == []

        # Slow enough for its time to be known in tenths of a second.
        chosen = {"p.epochs": "3", "p.pause_seconds": "0.1"}
        twice = [visitor.send("train", follow=False, **form, **chosen) for _ in range(2)]
        assert [answer.status_code for answer in twice] == [303, 303]
        assert twice[0].headers["location"] == twice[1].headers["location"]
        job = client.wait(twice[0].headers["location"].rsplit("/", 1)[1])
        assert job.state == v1.JOB_STATE_SUCCEEDED
        assert job.resolved_parameters["epochs"] == 3

        def judged() -> bool:
            text = visitor.open("models/filter/1").text
            return "quality control:" in text and "is judging" not in text

        wait_for(judged, 90, "the verdict")
        yield "filter:1"


def _plain(value: object) -> str:
    """Return a value of a parameter as its form sends it."""
    return (
        str(value).lower()
        if isinstance(value, bool)
        else ""
        if value is None
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def field(text: str, name: str) -> str:
    found = re.search(rf'name="{re.escape(name)}" value="([^"]*)"', text)
    assert found, f"no field {name}"
    return found.group(1)


# From images to results


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_and_runs_no_foreign_script(visitor: Visitor, path: str) -> None:
    answer = visitor.open(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?! (?:type=\"module\" )?src=)|<style|style=\"|\son\w+=\"", answer.text)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', answer.text)


def test_a_dataset_shows_its_images_and_suitable_methods(visitor: Visitor, dataset: str) -> None:
    text = visitor.open("data/fibres/1").text
    assert "good for" in text
    assert "Fake 2D" in text
    (first, *_) = re.findall(r'src="([^"]+pictures[^"]+)"', text)
    picture = visitor.http.get(first)
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    again = visitor.http.get(first, headers={"If-None-Match": picture.headers["etag"]})
    assert again.status_code == 304
    assert "Fake 2D" in visitor.open(f"methods?dataset={dataset}").text


def test_the_picture_of_a_large_image_is_that_of_its_tiles(
    visitor: Visitor, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = visitor.open("data/fibres/1/viewer.json").json()
    info = config["images"][0]["layers"][0]["info"]
    wait_for(lambda: visitor.http.get(info).json().get("state") == "ready", 120, "the tiles")
    (first, *_) = re.findall(r'src="([^"]+pictures[^"]+)"', visitor.open("data/fibres/1").text)
    monkeypatch.setattr("parfocal.portal.pages.files._LARGE", 1)
    drawn = visitor.http.get(f"{first.partition('?')[0]}?side=512").content
    assert drawn == visitor.http.get(info.replace("/info", "/thumbnail")).content


def test_a_model_says_whether_to_trust_it_with_scores_images_and_report(visitor: Visitor, model: str) -> None:
    text = visitor.open("models/filter/1").text
    assert "This model " in text
    for word in ("Input", "Prediction", "PSNR", "fibres:1", "3 epochs"):
        assert word in text
    assert len(re.findall(r'alt="[^"]+, prediction"', text)) == 3
    (report,) = re.findall(r'<iframe class="report" sandbox src="([^"]+)"', text)
    answer = visitor.http.get(report)
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_the_form_of_a_training_says_what_earlier_ones_needed_and_nothing_else(
    visitor: Visitor, client: Client, model: str, dataset: str
) -> None:
    (job,) = [each for each in client.jobs() if each.WhichOneof("spec") == "training" and each.id == "once"]
    assert 0.01 < job.peak_memory.memory_gib < 64
    form = {"method": "fake-2d", "dataset": dataset, "p.epochs": "3"}
    known = {f"p.{name}": _plain(value) for name, value in job.resolved_parameters.items()}
    like = visitor.send("train/estimate", **{**known, **form}).text
    assert "like one earlier training with Fake 2D" in like
    assert f"{job.peak_memory.memory_gib:.1f} GiB" in like
    assert job.environment.device in like
    longer = visitor.send("train/estimate", **{**known, **form, "p.epochs": "1000"}).text
    assert re.search(r"About [\d.]+ (h|min)", longer), "in proportion to the epochs"
    assert "converted to this number of epochs" in longer
    # Nothing follows for a step that takes longer.
    for other in ({"p.batch_size": "7"}, {"p.epochs": "none"}):
        assert "About" not in visitor.send("train/estimate", **{**known, **form, **other}).text


def test_events_of_a_job_go_on_after_the_last_one_seen(visitor: Visitor, client: Client, model: str) -> None:
    (job,) = [each for each in client.jobs() if each.WhichOneof("spec") == "training"]
    page = visitor.open(f"jobs/{job.id}").text
    assert page.count('<td class="number">3') >= 1
    address = f"/p/{PROJECT}/jobs/{job.id}/events"
    events = read_events(visitor.http.get(address).text)
    epochs = [(number, data) for number, name, data in events if name == "epoch"]
    assert [data["epoch"] for _, data in epochs] == [1, 2, 3]
    assert events[-1][1] == "end"
    left = read_events(visitor.http.get(address, headers={"Last-Event-ID": str(epochs[1][0])}).text)
    assert [data["epoch"] for _, name, data in left if name == "epoch"] == [3]


def test_pictures_show_how_far_a_training_is(visitor: Visitor, client: Client, model: str) -> None:
    job = client.get("once")
    assert [preview.epoch for preview in job.previews] == [1, 2, 3]
    newest = visitor.open("jobs/once").text
    earlier = visitor.open("jobs/once?epoch=1").text
    for text, epoch in ((newest, "3 epochs"), (earlier, "1 epoch")):
        pictures = re.findall(r'<img src="([^"]+)" alt="[^"]+, (\w+) after ([^"]+)"', text)
        assert [(name, when) for _, name, when in pictures] == [
            ("input", epoch),
            ("prediction", epoch),
            ("target", epoch),
        ]
        for url, _, _ in pictures:
            picture = visitor.http.get(url)
            assert (picture.headers["content-type"], picture.content[:4]) == ("image/png", b"\x89PNG")
    part = visitor.open("jobs/once/pictures?epoch=2", **{"HX-Request": "true"}).text
    assert "after 2 epochs" in part
    assert "<html" not in part
    for path in ("1-9/input", "1-3/mask", "1-3/..%2Finput"):
        assert visitor.open(f"jobs/once/pictures/{path}.png").status_code == 404
    events = read_events(visitor.http.get(f"/p/{PROJECT}/jobs/once/events").text)
    assert [data["epoch"] for _, name, data in events if name == "pictures"] == [1, 2, 3]


def test_images_of_an_inbox_become_a_dataset_without_the_browser(
    visitor: Visitor, client: Client, files: dict[str, bytes]
) -> None:
    place = client.store.results / PROJECT / "_inboxes" / "scope-1"
    for name, content in files.items():
        client.store.write(place / "plate7" / name.removeprefix("fibres/"), content)
    client.store.write(place / "notes.txt", b"plate 7: fibres")
    assert 'href="/p/pages/inboxes?inbox=scope-1"' in visitor.open("data").text
    everything = visitor.open("inboxes?inbox=scope-1").text
    assert f"{len(files) + 1} files" in everything
    assert f'>plate7</a> <span class="muted">{len(files)} files' in everything
    assert visitor.open("inboxes?inbox=scope-2").status_code == 404
    assert visitor.open("inboxes?inbox=scope-1&folder=../../other").status_code == 422
    taken = visitor.send("inboxes", inbox="scope-1", folder="plate7")
    upload = taken.url.path.rsplit("/", 1)[1]
    fetching = f"uploads/{upload}/fetching"
    wait_for(lambda: visitor.open(fetching).status_code == 204, 30, "the files")
    assert visitor.open(fetching).headers["hx-refresh"] == "true"
    assert "5 training images, 3 for testing" in visitor.open(f"uploads/{upload}/checks").text
    saved = visitor.send(f"uploads/{upload}/save", name="plate7")
    assert saved.url.path == f"/p/{PROJECT}/data/plate7/1"
    assert client.store.read(place / "notes.txt") == b"plate 7: fibres"


def test_fetching_that_was_interrupted_goes_on_where_it_stopped(
    visitor: Visitor, client: Client, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = client.store.results / PROJECT / "_inboxes" / "scope-3"
    for name, content in files.items():
        client.store.write(place / name.removeprefix("fibres/"), content)
    begun = Catalog.inbox_parts

    def broken(self: Catalog, inbox: str, name: str) -> Iterator[bytes]:
        if "/target/" in name:
            raise UnavailableError("The store does not answer.")
        return begun(self, inbox, name)

    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "inbox_parts", broken)
        upload = visitor.send("inboxes", inbox="scope-3", folder="").url.path.rsplit("/", 1)[1]
        wait_for(lambda: visitor.open(f"uploads/{upload}/fetching").status_code == 286, 30, "the problem")
    shown = visitor.open(f"uploads/{upload}").text
    assert "The store does not answer." in shown
    assert "Go on fetching" in shown
    again = visitor.send(f"uploads/{upload}/fetch")
    assert again.status_code == 200
    wait_for(lambda: visitor.open(f"uploads/{upload}/fetching").status_code == 204, 30, "the files")
    assert "5 training images, 3 for testing" in visitor.open(f"uploads/{upload}/checks").text
    visitor.send(f"uploads/{upload}/discard")


def test_what_another_project_shares_is_listed_and_used_like_ones_own(
    visitor: Visitor, settings: Settings, client: Client, pairs_folder: Path
) -> None:
    with Client(settings.model_copy(update={"project": "lab-b"})) as other:
        create_dataset(other, "beads", pairs_folder)
        trained = training_request("fake-2d", other.dataset_uri("beads:1"), "theirs", {"epochs": 1})
        assert other.wait(other.start(trained).id).state == v1.JOB_STATE_SUCCEEDED
        assert "lab-b" not in visitor.open("data").text
    with Visitor(visitor.base, project="lab-b") as owner:
        assert "Share the model theirs" in owner.open("share/model/theirs").text
        refused = owner.send("share/model/theirs", **{"with": "no such/project"})
        assert refused.status_code == 422
        assert 'value="no such/project"' in refused.text
        for kind, name in (("dataset", "beads"), ("model", "theirs")):
            assert (
                f'href="/p/lab-b/share/{kind}/{name}"'
                in owner.open(f"{'data' if kind == 'dataset' else 'models'}/{name}/1").text
            )
            assert "1 other project" in owner.send(f"share/{kind}/{name}", **{"with": PROJECT}).text

    listed = visitor.open("data").text
    assert "shared by lab-b" in listed
    assert f'href="/p/{PROJECT}/data/lab-b~beads/1"' in listed
    shown = visitor.open("data/lab-b~beads/1").text
    assert "Shared by the project lab-b" in shown
    assert "Delete" not in shown
    (first, *_) = re.findall(r'src="([^"]+pictures[^"]+)"', shown)
    assert visitor.http.get(first).headers["content-type"] == "image/png"
    config = visitor.open("data/lab-b~beads/1/viewer.json").json()
    info = config["images"][0]["layers"][0]["info"]
    wait_for(lambda: visitor.http.get(info).json().get("state") != "building", 240, "the tiles")

    assert f'href="/p/{PROJECT}/models/lab-b~theirs/1"' in visitor.open("models").text
    model_page = visitor.open("models/lab-b~theirs/1").text
    assert "Shared by the project lab-b" in model_page
    assert "Delete" not in model_page
    form = visitor.open("train?method=fake-2d&dataset=lab-b/beads:1").text
    assert '<option value="lab-b/beads:1" selected>' in form
    (sheet,) = re.findall(r'src="([^"]+patches.png[^"]+)"', form)
    assert visitor.http.get(html.unescape(sheet)).headers["content-type"] == "image/png"
    assert "<option>lab-b/theirs:1</option>" in form
    sent = {"method": "fake-2d", "dataset": "lab-b/beads:1", "model": "ours", "initial": "lab-b/theirs:1"}
    started = visitor.send("train", follow=False, request_id="on-theirs", **sent, **{"p.epochs": "1"})
    assert started.status_code == 303
    assert client.wait("on-theirs").state == v1.JOB_STATE_SUCCEEDED
    assert "ours:1 on lab-b/beads:1" in visitor.open("jobs/on-theirs").text
    chosen = {"model": "lab-b/theirs:1", "input": "lab-b/beads:1/test"}
    assert "3 images" in visitor.open(f"predict?model={chosen['model']}&input={chosen['input']}").text
    assert visitor.send("predict", follow=False, request_id="with-theirs", **chosen).status_code == 303
    assert client.wait("with-theirs").state == v1.JOB_STATE_SUCCEEDED
    assert "with lab-b/theirs:1" in visitor.open("results/with-theirs").text
    assert visitor.open("results/with-theirs/viewer.json").status_code == 200

    compared = {"a": "lab-b/theirs:1", "b": "ours:1", "dataset": "lab-b/beads:1"}
    chosen_page = visitor.open(f"compare?{urlencode(compared)}").text
    assert "<option selected>lab-b/theirs:1</option>" in chosen_page
    assert "<option selected>lab-b/beads:1</option>" in chosen_page
    visitor.send("compare", request_id="against-theirs", **compared)

    def side_by_side() -> bool:
        time.sleep(1)
        return "Side by side" in visitor.open(f"compare?{urlencode(compared)}").text

    wait_for(side_by_side, 400, "the comparison")
    side = visitor.open(f"compare/viewer.json?{urlencode(compared)}").json()
    assert side["layout"] == "grid"
    assert len(side["images"]) == 3
    for image in side["images"]:
        assert [layer["name"] for layer in image["layers"]] == ["Input", "theirs:1", "ours:1", "Target"]
        # What another project shares is looked at through the project that it is shared with.
        assert [visitor.http.get(layer["info"]).status_code for layer in image["layers"]] == [200] * 4

    # What it was made of is deleted: the answer stays, and it can be made again.
    judged = [job for job in client.jobs() if job.WhichOneof("spec") == "evaluation"]
    (ours,) = (job for job in judged if versioned_name(job.evaluation.model_uri, PROJECT) == "ours:1")
    client.catalog.delete("result", ours.id)
    without = visitor.open(f"compare?{urlencode(compared)}").text
    assert "The evaluation of ours:1 on these images was deleted" in without
    assert "Differences with their intervals" in without
    assert "Side by side" not in without
    missing = visitor.open(f"compare/viewer.json?{urlencode(compared)}")
    assert missing.status_code == 404
    assert "ours:1" in missing.text
    assert "Compare them again" in without
    visitor.send("compare", request_id="once-more", **compared)
    wait_for(side_by_side, 400, "the comparison with a new evaluation")
    (newest, *_) = (job for job in client.jobs((v1.JOB_STATE_SUCCEEDED,)) if job.WhichOneof("spec") == "comparison")
    client.catalog.delete("result", newest.id)
    assert "was deleted" in visitor.open(f"compare?{urlencode(compared)}").text, "that from before"

    visitor.send("annotate", request_id="on-shared", dataset="lab-b/beads:1", kind="labels")
    draft_page = visitor.open("annotate/on-shared").text
    assert "lab-b/beads:1" in draft_page
    assert f'href="/p/{PROJECT}/data/lab-b~beads/1"' in draft_page
    drawn = visitor.open("annotate/on-shared/viewer.json").json()["images"][0]
    assert "lab-b~beads" in drawn["layers"][0]["info"]
    assert [visitor.http.get(layer["info"]).status_code for layer in drawn["layers"]] == [200] * 2
    polygon = {"do": "draw", "shape": "polygon", "points": [[2, 2], [9, 2], [9, 9]], "object": 0, "t": 0, "z": 0}
    for number, change in enumerate(({"operations": [polygon]}, {"done": True})):
        revision = visitor.open(f"annotate/on-shared/images/{drawn['name']}").json()["revision"]
        answer = visitor.http.patch(
            f"/p/{PROJECT}/annotate/on-shared/images/{drawn['name']}",
            json={"change_id": f"c{number}", "session": "s", **change},
            headers={"Origin": visitor.base, "X-CSRF-Token": visitor.token, "If-Match": f'"{revision}"'},
        )
        assert answer.status_code == 200, answer.text
    saved = visitor.send("annotate/on-shared/finish", name="drawn", use="train")
    assert saved.url.path == f"/p/{PROJECT}/data/drawn/1"
    assert read_dataset(client, "drawn:1").parent.endswith("/lab-b/beads/1")

    with Visitor(visitor.base, project="lab-b") as owner:
        owner.send("share/model/theirs", **{"with": PROJECT, "act": "withdraw"})
    assert "lab-b/theirs" not in visitor.open("models").text


def test_one_image_is_tried_and_own_images_are_predicted_and_taken_home(
    visitor: Visitor, client: Client, model: str, files: dict[str, bytes]
) -> None:
    own = {name.rsplit("/", 1)[1]: content for name, content in files.items() if "/test/source/" in name}
    upload = visitor.upload(own)
    page = visitor.open(f"predict?model={model}&input={upload}").text
    tried = visitor.send("predict/try", model=model, input=upload, image=next(iter(own)))
    assert "Nothing was stored" in tried.text
    pictures = re.findall(r'<img src="([^"]+/tried/[^"]+)"', tried.text)
    assert [visitor.http.get(url).headers["content-type"] for url in pictures] == ["image/png"] * 2

    form = {"model": model, "input": upload, "request_id": field(page, "request_id")}
    started = visitor.send("predict", follow=False, **form)
    job = client.wait(started.headers["location"].rsplit("/", 1)[1])
    assert job.state == v1.JOB_STATE_SUCCEEDED
    assert f"{len(own)} images predicted with {model}" in visitor.open(f"results/{job.id}").text
    with zipfile.ZipFile(io.BytesIO(visitor.http.get(f"/p/{PROJECT}/results/{job.id}/all.zip").content)) as archive:
        assert archive.testzip() is None
        assert {*archive.namelist()} == {*own, "manifest.json"}


def test_a_channel_of_composites_is_chosen_once(visitor: Visitor, client: Client, files: dict[str, bytes]) -> None:
    def composite(content: bytes) -> bytes:
        pixels, file = tifffile.imread(io.BytesIO(content)), io.BytesIO()
        tifffile.imwrite(file, np.stack([pixels[::-1], pixels]), imagej=True, metadata={"axes": "CYX"})
        return file.getvalue()

    composites = {name: composite(content) if "/source/" in name else content for name, content in files.items()}
    upload = visitor.upload(composites)
    assert "cannot be used yet" in visitor.open(f"uploads/{upload}/checks").text
    assert "5 training images, 3 for testing" in visitor.open(f"uploads/{upload}/checks?channel=2").text
    assert visitor.open(f"uploads/{upload}/preview.png?channel=2").headers["content-type"] == "image/png"
    saved = visitor.send(f"uploads/{upload}/save", name="composites", channel="2")
    assert saved.url.path == f"/p/{PROJECT}/data/composites/1"
    form = {"method": "fake-2d", "dataset": "composites:1", "model": "composite", "request_id": "composite"}
    begun = visitor.send("train", follow=False, **form, **{"p.epochs": "1"})
    assert client.wait(begun.headers["location"].rsplit("/", 1)[1]).state == v1.JOB_STATE_SUCCEEDED
    for address in ("data/composites/1", "models/composite/1"):
        assert re.search(r"Taken of each file(</dt><dd>|: )channel 2", visitor.open(address).text), address
    listed = visitor.open("models").text.partition(">composite:1</a>")[2].partition("</tr>")[0]
    assert "channel 2" in listed

    own = {name.rsplit("/", 1)[1]: content for name, content in composites.items() if "/test/source/" in name}
    alone = {name.rsplit("/", 1)[1]: content for name, content in files.items() if "/test/source/" in name}
    found = []
    for images in (own, alone):
        upload = visitor.upload(images)
        tried = visitor.send("predict/try", model="composite:1", input=upload, image=next(iter(images)))
        assert "Nothing was stored" in tried.text
        page = visitor.open(f"predict?model=composite:1&input={upload}").text
        assert ("as for the training: channel 2" in page) == (images is own)
        form = {"model": "composite:1", "input": upload, "request_id": field(page, "request_id")}
        started = visitor.send("predict", follow=False, **form)
        job = client.wait(started.headers["location"].rsplit("/", 1)[1])
        assert job.state == v1.JOB_STATE_SUCCEEDED
        content = visitor.http.get(f"/p/{PROJECT}/results/{job.id}/all.zip").content
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found.append([tifffile.imread(io.BytesIO(archive.read(name))) for name in sorted(images)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_comparison_is_planned_and_says_what_is_missing(visitor: Visitor, model: str) -> None:
    text = visitor.open(f"compare?a={model}&b={model}&dataset=fibres:1").text
    assert "Named twice" in text


def test_a_closed_tab_leaves_nothing_behind(visitor: Visitor, client: Client, model: str) -> None:
    form = {"method": "fake-2d", "dataset": "fibres:1", "model": "slow", "request_id": "slow"}
    visitor.send("train", follow=False, **form, **{"p.epochs": "400", "p.pause_seconds": "5"})
    address = f"/p/{PROJECT}/jobs/slow/events"

    def readers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "events of slow"]

    try:
        for _ in range(3):
            with visitor.http.stream("GET", address) as answer:
                assert next(answer.iter_lines()).startswith("retry")
                wait_for(readers, 10, "the stream to be read")
        # The job says nothing for seconds, and goes on for minutes.
        wait_for(lambda: not readers(), 10, "the end of the threads")
    finally:
        client.cancel("slow")


def test_odd_tables_of_imported_results_are_told_in_words(visitor: Visitor, client: Client, model: str) -> None:
    place = result_location(client.store, PROJECT, "imported")
    contents = {"objects/a.csv": b"label,x_px\n1\n2,3,4\nthree,left\n", "objects/b.csv": b"\0\1\2"}
    for name, content in contents.items():
        client.store.write(place / name, content)
    files = tuple(FileEntry(name=name, size=len(data), sha256="0" * 64) for name, data in contents.items())
    images = tuple(
        ResultFile(input=f"{name}.tif", input_sha256="0" * 64, outputs={"objects": f"objects/{name}.csv"})
        for name in "ab"
    )
    about = {"project": PROJECT, "job": "imported", "service": "fake", "method": "fake-2d", "kind": "prediction"}
    client.store.write(place / RESULT_MANIFEST, ResultManifest(**about, files=files, images=images).to_bytes())
    assert visitor.open("results/imported").status_code == 200
    table = visitor.open("results/imported/table/objects/a.csv")
    assert (table.status_code, "2 of 3 rows" in table.text) == (200, True)
    assert "2 of 3 rows" in visitor.open("results/imported/objects?image=a.tif").text
    assert visitor.open("results/imported/table/objects/b.csv").status_code == 422
    odd = visitor.open("results/imported/objects?image=b.tif")
    assert (odd.status_code, "is no table of text" in odd.text) == (200, True)


def test_tiles_are_made_where_their_usual_request_id_is_taken(client: Client, dataset: str) -> None:
    uri = client.dataset_uri(dataset)
    taken = f"tiles-{hashlib.sha256(uri.encode()).hexdigest()[:24]}"
    make_tiles(Follower(), client, uri)

    def of_dataset() -> list[v1.Job]:
        return [job for job in client.jobs() if job.HasField("derivation") and job.derivation.input_uris == [uri]]

    wait_for(lambda: any(job.id == taken for job in of_dataset()), 30, "the tiles")
    client.wait(taken)
    client.delete(taken)
    client.store.write(result_location(client.store, PROJECT, taken) / "a.txt", b"")
    make_tiles(Follower(), client, uri)
    (job,) = wait_for(of_dataset, 30, "the tiles made again")
    assert job.id != taken


def test_what_is_deleted_can_be_restored_and_what_refers_to_it_is_named(
    visitor: Visitor, model: str, files: dict[str, bytes]
) -> None:
    asked = visitor.open("delete/dataset/fibres:1").text
    assert "Delete the dataset fibres:1?" in asked
    assert f'href="/p/{PROJECT}/models/filter/1"' in asked
    upload = visitor.upload(files)
    assert visitor.send(f"uploads/{upload}/save", name="spare").url.path.endswith("/data/spare/1")
    # The tiles of its images are made first.
    wait_for(lambda: '<button class="danger">' in visitor.open("delete/dataset/spare:1").text, 60, "its tiles")
    assert "Nothing was made from it" in visitor.open("delete/dataset/spare:1").text
    gone = visitor.send("delete/dataset/spare:1")
    assert gone.url.path == f"/p/{PROJECT}/deleted"
    assert "The dataset spare:1 was deleted" in gone.text
    assert re.search(r'spare:1</td>.*?class="number">30</td>', gone.text, re.DOTALL), "days left"
    assert visitor.open("data/spare/1").status_code == 404
    assert "spare" not in visitor.open("data").text
    assert visitor.send("restore/dataset/spare:1").url.path == f"/p/{PROJECT}/data/spare/1"
    assert "spare" not in visitor.open("deleted").text
    assert visitor.send("restore/dataset/spare:1").status_code == 404
    assert visitor.open("delete/everything/spare:1").status_code == 404


def test_what_a_job_uses_is_not_deleted(visitor: Visitor, client: Client, model: str) -> None:
    form = {"method": "fake-2d", "dataset": "fibres:1", "model": "busy", "request_id": "busy"}
    visitor.send("train", follow=False, **form, **{"p.epochs": "400", "p.pause_seconds": "5"})
    try:
        asked = visitor.open("delete/dataset/fibres:1").text
        assert "has not ended uses it" in asked
        assert f'href="/p/{PROJECT}/jobs/busy"' in asked
        assert '<button class="danger">' not in asked
        refused = visitor.send("delete/dataset/fibres:1")
        assert (refused.status_code, "is in use by busy" in refused.text) == (409, True)
    finally:
        client.cancel("busy")
    assert visitor.open("data/fibres/1").status_code == 200


# What is refused


def test_an_upload_says_what_is_wrong_with_which_file_and_leaves_it_out(
    visitor: Visitor, files: dict[str, bytes]
) -> None:
    broken = next(name for name in files if "/train/target/" in name)
    upload = visitor.upload({**files, broken: b"no image"})
    text = visitor.open(f"uploads/{upload}/checks", **{"HX-Request": "true"}).text
    assert "cannot be used yet" in text
    assert Path(broken).name in text
    named = re.findall(r'name="file" value="([^"]+)"', text)
    assert named == [broken.replace("/target/", "/source/"), broken]
    assert str(Path("/tmp")) not in text
    left = visitor.http.post(
        f"/p/{PROJECT}/uploads/{upload}/remove",
        data={"csrf": visitor.token, "file": named},
        headers={"Origin": visitor.base},
    )
    assert left.status_code == 200
    assert "4 training images" in visitor.open(f"uploads/{upload}/checks").text
    visitor.send(f"uploads/{upload}/discard")
    assert visitor.open(f"uploads/{upload}").status_code == 404


def test_an_upload_without_test_images_holds_some_out(visitor: Visitor, files: dict[str, bytes]) -> None:
    pairs = {name.replace("/train/", "/"): content for name, content in files.items() if "/train/" in name}
    upload = visitor.upload(pairs)
    assert "4 training images, 1 for testing" in visitor.open(f"uploads/{upload}/checks").text
    assert "5 training images, 0 for testing" in visitor.open(f"uploads/{upload}/checks?shown=yes").text


@pytest.mark.parametrize(
    "name", ["%2e%2e/%2e%2e/evil.tif", "a/%2e%2e/%2e%2e/b.tif", "x%00.tif", "/".join("abcdefghij")]
)
def test_names_of_files_lead_nowhere_else(visitor: Visitor, settings: Settings, name: str) -> None:
    upload = visitor.upload({})
    before = sorted(settings.state_folder.rglob("*"))
    answer = visitor.http.put(
        f"/p/{PROJECT}/uploads/{upload}/files/{name}",
        content=b"x",
        headers={"Origin": visitor.base, "X-CSRF-Token": visitor.token},
    )
    assert answer.status_code in {404, 405, 422}
    assert sorted(settings.state_folder.rglob("*")) == before


@pytest.mark.parametrize(("first", "second"), [("a", "a/b.tif"), ("a/b.tif", "a")])
def test_a_file_is_no_folder(visitor: Visitor, first: str, second: str) -> None:
    upload = visitor.upload({first: b"x"})
    headers = {"Origin": visitor.base, "X-CSRF-Token": visitor.token}
    answer = visitor.http.put(f"/p/{PROJECT}/uploads/{upload}/files/{second}", content=b"x", headers=headers)
    assert answer.status_code == 422
    assert "a file and a folder" in answer.text


def test_addresses_of_pictures_lead_to_them_whatever_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    file = "test/source/cells #1 50% ?.tif"
    image = ImageEntry(split="test", role="source", stem="cells", file=file, shape=(8, 8), dtype="uint8", axes="YX")
    dataset = DatasetManifest(project="p", dataset="odd", version=1, images=(image,))
    monkeypatch.setattr("parfocal.portal.pages.predict.read_dataset", lambda *_: dataset)
    result = ResultManifest(
        project="p", job="j", service="s", method="m", kind="prediction", split="test", input_uri="s3://b/p/odd/1"
    )
    found = _sources(SimpleNamespace(project="p"), result)  # type: ignore[arg-type]
    assert found == {"cells": "/p/p/data/odd/1/pictures/test/source/cells%20%231%2050%25%20%3F.tif"}


def test_cookies_of_other_programs_do_no_harm(portal: str, visitor: Visitor) -> None:
    session = visitor.http.cookies["parfocal_session"]
    for cookie in ("a/b=1", "x@y=2", "=", '"'):
        answer = httpx.get(f"{portal}/p/{PROJECT}/data", headers={"Cookie": f"{cookie}; parfocal_session={session}"})
        assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)


def test_a_foreign_name_of_the_portal_is_refused(portal: str) -> None:
    answer = httpx.get(f"{portal}/p/{PROJECT}/data", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    assert "parfocal status" in answer.text
    # A cluster's probes call by the address of the pod.
    assert httpx.get(f"{portal}/health", headers={"Host": "10.0.0.7:8600"}).json() == {"status": "ready"}


def test_every_change_needs_the_origin_and_the_token(visitor: Visitor) -> None:
    routes = [("POST", "/theme")]
    for route in (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)):
        routes += [(method, route.path) for method in route.methods - SAFE_METHODS]
    assert len(routes) > 10
    for method, path in routes:
        url = re.sub(r"\{[^}]+\}", "1", path.replace("{project}", PROJECT))
        foreign = visitor.http.request(method, url, headers={"Origin": "https://evil.example"})
        assert (url, foreign.status_code) == (url, 403)
        silent = visitor.http.request(method, url)
        assert (url, silent.status_code) == (url, 403)
        unsigned = visitor.http.request(method, url, data={"csrf": "0" * 64}, headers={"Origin": visitor.base})
        assert (url, unsigned.status_code) == (url, 403)


def test_what_is_not_there_is_said_in_words(visitor: Visitor) -> None:
    for path in ("data/none/1", "models/none/1", "jobs/none", "results/none", "nowhere"):
        answer = visitor.open(path)
        assert answer.status_code == 404
        assert "none" in answer.text or "no such page" in answer.text
        assert "Traceback" not in answer.text
    assert visitor.http.get("/p/%2e%2e/data").status_code == 404


# Parts


def test_only_grey_values_are_given_names() -> None:
    form = {
        "class.1": " nucleus ",
        "class.2": "",
        "class.x": "no value",
        f"class.{'9' * 5000}": "too long",
        "name": "n",
    }
    assert _class_names(form) == {1: "nucleus"}


def test_folders_of_an_upload_are_recognised() -> None:
    def roles(*paths: str) -> dict[str, str]:
        return guess_roles([UploadedFile(path, 1) for path in paths])

    assert roles("d/train/source/a.tif", "d/test/target/a.tif") == {
        "d/train/source": "train/source",
        "d/test/target": "test/target",
    }
    assert roles("images/a.tif", "masks/a.tif") == {"images": "train/source", "masks": "train/target"}
    assert roles("monday/a.tif", "tuesday/a.tif") == {"monday": "train/source", "tuesday": "train/target"}
    assert roles("a.tif") == {"": "train/source"}


def test_a_portal_that_starts_again_meets_the_judged_model(client: Client, model: str) -> None:
    before = asked_for(client)
    follower = Follower()
    take_up(follower, client)
    assert not follower.runs(f"check {PROJECT} {model}")
    assert asked_for(client) == before


def test_steps_have_ids_by_what_they_ask_for_so_that_none_is_done_twice(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids: list[str] = []

    def start(request: v1.StartJobRequest, **_: object) -> v1.Job:
        ids.append(request.request_id)
        return v1.Job(id=request.request_id)

    monkeypatch.setattr(client, "start", start)
    monkeypatch.setattr(client, "wait", lambda name: v1.Job(id=name, state=v1.JOB_STATE_SUCCEEDED))
    prediction = requests.prediction_request("s3://m/p/m/1", "s3://d/p/d/1", split="test")
    evaluation = requests.evaluation_request("restoration", "s3://r/p/j", "s3://d/p/d/1")
    for steps in ((prediction, evaluation), (evaluation,)):
        # After a restart the prediction is there, and only the evaluation is asked for.
        origin = Steps(client, "20261130-024120-train-care-2d-6b1b64")
        for request in steps:
            origin.do(request, "a step")
    assert ids[1] == ids[2] != ids[0]
    assert all(is_job_id(name) for name in ids)


def read_events(text: str) -> list[tuple[int, str, dict[str, object]]]:
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in fields:
            events.append((int(fields.get("id", 0)), fields["event"], json.loads(fields["data"])))
    return events


def asked_for(client: Client) -> list[str]:
    """Return the ids of all jobs but those that make tiles, which begin when somebody looks at images."""
    return [job.id for job in client.jobs() if not job.HasField("derivation")]


def test_a_browser_that_leaves_while_it_sends_is_no_defect(visitor: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="parfocal.portal.app")
    place = visitor.http.base_url
    head = {
        "Host": place.netloc.decode(),
        "Origin": visitor.base,
        "X-CSRF-Token": visitor.token,
        "Cookie": "; ".join(f"{name}={value}" for name, value in visitor.http.cookies.items()),
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": "100",
    }
    lines = [f"POST /p/{PROJECT}/train/estimate HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    with socket.create_connection((place.host, place.port)) as line:
        line.sendall("\r\n".join([*lines, "", "method="]).encode())
    wait_for(lambda: "a browser left" in caplog.text, 30, "the end of the request")
    assert "defect" not in caplog.text
