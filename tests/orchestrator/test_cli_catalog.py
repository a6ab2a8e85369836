"""Deleting and restoring by command, and what there is in all projects; without a key of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import Ended, ServiceProcess, mentions

from parfocal.client import Client
from parfocal.client.models import list_models
from parfocal.client.previews import preview_stored
from parfocal.client.results import download_result
from parfocal.runtime.images.acquired import Acquired
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.store.store import Store


@pytest.fixture(scope="module")
def services(share_service: Callable[..., ServiceProcess]) -> dict[str, ServiceProcess]:
    return {"fake": share_service("fake")}


@pytest.fixture
def versions() -> list[str]:
    """No version to share: the tests delete theirs."""
    return []


@pytest.fixture(autouse=True)
def without_key(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.delenv(f"PARFOCAL_S3_{name}")


def test_a_dataset_is_deleted_and_comes_back(run: Callable[..., Ended], dataset: str) -> None:
    name = dataset.partition(":")[0]
    unclear = run("dataset", "delete", name, "--yes")
    assert unclear.code == 2
    assert f"{name}:1" in unclear.err
    deleted = run("dataset", "delete", dataset, "--yes", "--json")
    assert deleted.json["deleted"] == dataset
    assert deleted.json["removed_after"]
    assert dataset not in run("dataset", "list").out
    assert dataset in run("dataset", "list", "--deleted").out
    assert run("dataset", "show", dataset).code == 3
    refused = run("train", "fake-2d", "--dataset", dataset, "--model", "never")
    assert refused.code == 3
    assert run("dataset", "delete", dataset, "--yes").code == 3
    assert run("dataset", "restore", dataset).code == 0
    assert dataset in run("dataset", "list").out


def test_people_are_asked_before_anything_is_deleted(
    run: Callable[..., Ended], dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.confirm", _decline)
    assert run("dataset", "delete", dataset).code == 130
    assert dataset in run("dataset", "list").out


def _decline(text: str, **_options: object) -> None:
    import click

    assert "Delete the dataset" in text
    raise click.Abort


def test_models_and_results_are_deleted_too(
    run: Callable[..., Ended], model: str, images: Path, tmp_path: Path
) -> None:
    predicted = run("predict", "--model", model, images / "test" / "source", "--output", tmp_path / "out", "--json")
    assert predicted.code == 0, predicted.err
    with Client() as client:
        job = client.jobs(limit=1)[0]
        files = download_result(client, job, tmp_path / "again")
        assert {path.suffix for path in files} >= {".tif"}
        assert list_models(client)[0].manifest.model == "m"
        assert preview_stored(client, "spots", {})[:4] == b"\x89PNG"
    listed = run("results", "list")
    assert job.id in listed.out
    assert model in listed.out
    deleted = run("models", "delete", model, "--yes")
    assert f" {job.id}," in deleted.err, "it says what was made with the model"
    assert model not in run("models", "list").out
    assert run("results", "delete", job.id, "--yes").code == 0
    assert job.id not in run("results", "list").out
    assert run("results", "list", "--deleted", "--json").json[0]["name"] == job.id
    assert run("results", "restore", job.id).code == 0
    assert run("models", "restore", model).code == 0
    assert model in run("models", "list").out


def test_what_is_shared_is_used_under_its_project(
    run: Callable[..., Ended], dataset: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, name = environment["PARFOCAL_PROJECT"], dataset.partition(":")[0]
    train = ("train", "fake-2d", "--dataset", f"{own}/{dataset}", "--model", "theirs", "--no-qc")
    monkeypatch.setenv("PARFOCAL_PROJECT", "partner")
    assert run(*train).code == 3
    monkeypatch.setenv("PARFOCAL_PROJECT", own)
    shared = run("dataset", "share", name, "--with", "partner", "--json")
    assert shared.code == 0, shared.err
    assert (shared.json["project"], shared.json["with_project"]) == (own, "partner")
    assert mentions(run("dataset", "shares").out, name, "with partner")
    monkeypatch.setenv("PARFOCAL_PROJECT", "partner")
    assert f"{own}/{dataset}" in run("dataset", "list").out
    assert mentions(run("dataset", "shares").out, f"{own}/{name}", f"by {own}")
    trained = run(*train)
    assert trained.code == 0, trained.err
    monkeypatch.setenv("PARFOCAL_PROJECT", own)
    assert run("dataset", "unshare", name, "--with", "partner").code == 0
    assert run("dataset", "unshare", name, "--with", "partner").code == 3
    monkeypatch.setenv("PARFOCAL_PROJECT", "partner")
    assert run(*train).code == 3


def test_storage_says_what_takes_space(run: Callable[..., Ended], dataset: str, environment: dict[str, str]) -> None:
    own = environment["PARFOCAL_PROJECT"]
    assert own in [each["project"] for each in run("projects", "--json").json]
    rows = run("storage", "--all-projects", "--json").json
    assert [row["bytes"] for row in rows] == sorted((row["bytes"] for row in rows), reverse=True)
    (found,) = [row for row in rows if (row["project"], row["kind"]) == (own, "dataset")]
    assert found["entries"] >= 1
    assert found["bytes"] > 1000
    kinds = {row["kind"] for row in rows if row["project"] == own}
    assert kinds == {"dataset", "model", "result", "job", "preview"}
    shown = run("storage")
    assert mentions(shown.out, own, "datasets", "models", "results", "jobs", "previews")


def test_without_a_catalogue_the_message_says_what_to_do(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARFOCAL_CATALOG")
    result = run("results", "list")
    assert result.code == 4
    assert "PARFOCAL_CATALOG" in result.err


def test_images_of_an_inbox_become_a_dataset(
    run: Callable[..., Ended], store: Store, images: Path, tmp_path: Path
) -> None:
    place = store.results / "cli-catalog" / "_inboxes" / "scope-1"
    for path in sorted(images.rglob("*.tif")):
        store.write(place / "pairs" / path.relative_to(images).as_posix(), path.read_bytes())
    for path in sorted((images / "train" / "source").iterdir()):
        store.write(place / "loose" / "monday" / path.name, path.read_bytes())
    made = run("dataset", "create", "from-inbox", "--from-inbox", "scope-1/pairs", "--json")
    assert made.code == 0, made.err
    assert (made.json["kind"], made.json["version"]) == ("paired", 1)
    loose = run("dataset", "create", "loose", "--from-inbox", "scope-1/loose", "--kind", "sources", "--json")
    assert loose.code == 0, loose.err
    assert loose.json["kind"] == "sources"
    empty = run("dataset", "create", "none", "--from-inbox", "scope-1/nothing")
    assert (empty.code, "nothing in scope-1/nothing" in empty.err) == (3, True)
    unknown = run("dataset", "create", "none", "--from-inbox", "scope-9")
    assert (unknown.code, "scope-1" in unknown.err) == (3, True)
    pixels = np.stack([read_image(path).pixels for path in sorted((images / "train" / "source").iterdir())[:2]])
    for name, channels in (("a.tif", ("DAPI", "GFP")), ("b.tif", ("GFP", "RFP"))):
        write_image(tmp_path / name, Image(pixels, "CYX", acquired=Acquired(channels)))
        store.write(place / "composites" / name, (tmp_path / name).read_bytes())
    taken = run("dataset", "create", "taken", "--from-inbox", "scope-1/composites", "--channel", "GFP", "--json")
    assert (taken.code, taken.json["part"], taken.json["train"]) == (0, "--channel GFP", 2), taken.err
    assert run("dataset", "create", "first", "--from-inbox", "scope-1/composites", "--channel", "1").code == 0
    assert "channel 1 (DAPI)" in run("dataset", "show", "first").out
    refused = run("dataset", "create", "taken", "--from-inbox", "scope-1/composites", "--channel", "DAPI")
    assert refused.code == 2
    assert mentions(refused.err, "scope-1/composites cannot become", "b.tif: it has no channel 'DAPI'", "GFP, RFP")
    store.write(place / "zarr" / "a.ome.zarr" / "zarr.json", b"{}")
    folder = run("dataset", "create", "none", "--from-inbox", "scope-1/zarr")
    assert (folder.code, mentions(folder.err, "a.ome.zarr")) == (2, True)
    assert run("dataset", "create", "none", images, "--from-inbox", "scope-1").code == 2
    assert run("dataset", "create", "none").code == 2
