"""Sharing datasets and models with other projects: who reads what then, what is noted, and what deletion says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_matrix import OWN, People, make_people
from catalog_calls import named
from support import ServiceProcess, publish_dataset

from parfocal import v1
from parfocal.catalog.entries import Entries
from parfocal.catalog.trash import Trash
from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError
from parfocal.runtime.store.confinement import confine
from parfocal.runtime.store.grants import Grants
from parfocal.runtime.store.manifests import ResultManifest
from parfocal.runtime.store.store import Location, Store

PARTNER = "partner"
NOT_FOUND = grpc.StatusCode.NOT_FOUND


class As:
    """Calls the catalogue as one person; `refused` returns the code of the error."""

    def __init__(self, stub: v1.CatalogServiceStub, metadata: list[tuple[str, str]]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __call__(self, rpc: str, **fields: Any) -> Any:
        answer = getattr(self._stub, rpc)(getattr(v1, f"{rpc}Request")(**fields), timeout=30, metadata=self._metadata)
        return answer if hasattr(answer, "DESCRIPTOR") else list(answer)

    def refused(self, rpc: str, **fields: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as caught:
            self(rpc, **fields)
        return caught.value.code()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return make_people(tmp_path_factory.mktemp("people"), f'[projects.{PARTNER}]\nusers = ["machine:stranger"]\n')


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def catalog(
    start_service: Callable[..., ServiceProcess], people: People, audit: Path
) -> Iterator[v1.CatalogServiceStub]:
    process = start_service("catalog", audit_file=str(audit), **people.settings)
    with grpc.insecure_channel(process.address) as channel:
        yield v1.CatalogServiceStub(channel)


@pytest.fixture
def operator(catalog: v1.CatalogServiceStub, people: People) -> As:
    return As(catalog, people.metadata("operator"))


@pytest.fixture
def stranger(catalog: v1.CatalogServiceStub, people: People) -> As:
    """Somebody without a role in the project that shares."""
    return As(catalog, people.metadata("stranger"))


def test_what_is_shared_is_read_and_nothing_else(
    operator: As, stranger: As, store: Store, pairs_folder: Path, audit: Path
) -> None:
    uri = publish_dataset(store, "shared", pairs_folder, OWN)
    other = publish_dataset(store, "own", pairs_folder, OWN)
    entry = named("dataset", "shared", 0, OWN)
    assert stranger.refused("GetEntry", uri=uri) is NOT_FOUND
    with pytest.raises(NotFoundError):
        confine(store, PARTNER, uri, "dataset_uri")
    share = operator("ShareEntry", entry=entry, with_project=PARTNER).share
    assert (share.project, share.name, share.with_project) == (OWN, "shared", PARTNER)
    for fields in ({"uri": uri}, {"entry": entry}):
        assert stranger("GetEntry", **fields).entry.uri == uri
        assert stranger("ReadFile", **fields)
        assert stranger("ReadArchive", **fields)
        assert not stranger("SignDownloads", **fields).files
    assert [found.uri for found in stranger("ListEntries", kind=entry.kind, project=OWN, name="shared").entries] == [
        uri
    ]
    assert str(confine(store, PARTNER, f"{uri}/train", "dataset_uri")) == f"{uri}/train"
    (received,) = stranger("ListShares", project=PARTNER, kind=entry.kind, received=True).shares
    assert (received.project, received.name) == (OWN, "shared")
    assert [each.granted_by for each in operator("ListShares", project=OWN, kind=entry.kind).shares] == [
        "machine:operator"
    ]
    # Reading is all, and of this alone.
    for rpc, fields in (
        ("GetEntry", {"uri": other}),
        ("ListEntries", {"kind": entry.kind, "project": OWN}),
        ("GetLineage", {"entry": entry}),
        ("DeleteEntry", {"entry": named("dataset", "shared", 1, OWN)}),
        ("ShareEntry", {"entry": entry, "with_project": "third"}),
        ("ListShares", {"project": OWN, "kind": entry.kind}),
    ):
        assert stranger.refused(rpc, **fields) is NOT_FOUND, rpc
    for place in (other, f"s3://{store.models.bucket}/{OWN}/shared/1", f"s3://{store.datasets.bucket}/{OWN}/shared"):
        with pytest.raises(NotFoundError):
            confine(store, PARTNER, place, "dataset_uri")
    noted = [json.loads(line) for line in audit.read_text().splitlines()]
    assert any(line["who"] == "machine:stranger" and line["shared"] == uri for line in noted)
    operator("WithdrawShare", entry=entry, with_project=PARTNER)
    assert stranger.refused("GetEntry", uri=uri) is NOT_FOUND
    assert not stranger("ListShares", project=PARTNER, kind=entry.kind, received=True).shares
    with pytest.raises(NotFoundError):
        confine(store, PARTNER, uri, "dataset_uri")
    assert operator.refused("WithdrawShare", entry=entry, with_project=PARTNER) is NOT_FOUND


def test_deletion_says_which_projects_use_it_and_waits_for_them(operator: As, store: Store, pairs_folder: Path) -> None:
    uri = publish_dataset(store, "used", pairs_folder, OWN)
    entry = named("dataset", "used", 1, OWN)
    operator("ShareEntry", entry=entry, with_project=PARTNER)
    result = ResultManifest(
        project=PARTNER, job="made-from-it", service="s", method="m", kind="prediction", input_uri=uri, split="test"
    )
    place = store.results / PARTNER / "made-from-it" / "manifest.json"
    store.write(place, result.to_bytes())
    # What was made while it was shared still needs its files.
    operator("WithdrawShare", entry=entry, with_project=PARTNER)
    deleted = operator("DeleteEntry", entry=entry)
    assert (list(deleted.referrers), list(deleted.used_by_projects)) == ([], [PARTNER])
    trash = Trash(Entries(store), days=30)
    trash.empty(now=time.time() + 31 * 86_400)
    assert len(list(store.objects(Location.parse(uri)))) > 1
    store.delete(place)
    trash.empty(now=time.time() + 31 * 86_400)
    assert len(list(store.objects(Location.parse(uri)))) <= 1


def test_wrong_grants_are_refused_and_a_damaged_one_lets_nobody_read(
    operator: As, store: Store, pairs_folder: Path
) -> None:
    uri = publish_dataset(store, "kept", pairs_folder, OWN)
    entry = named("dataset", "kept", 0, OWN)
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert operator.refused("ShareEntry", entry=entry, with_project=OWN) is invalid
    assert operator.refused("ShareEntry", entry=entry, with_project="../x") is invalid
    assert operator.refused("ShareEntry", entry=named("result", "job", 0, OWN), with_project=PARTNER) is invalid
    assert operator.refused("ShareEntry", entry=named("dataset", "none", 0, OWN), with_project=PARTNER) is NOT_FOUND
    store.write(store.datasets / OWN / ".grants/kept.json", b"{")
    with pytest.raises(DamagedError):
        Grants(store).allows(store.datasets, OWN, "kept", PARTNER)
    with pytest.raises((DamagedError, NotFoundError, InvalidInputError)):
        confine(store, PARTNER, uri, "dataset_uri")
