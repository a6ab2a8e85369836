"""Who may call what of the catalogue: every RPC by everybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_matrix import FOREIGN, OWN, Case, People, all_services, cases, make_people, outcome
from google.protobuf import message_factory
from support import ServiceProcess

from parfocal import v1
from parfocal.catalog import schedules
from parfocal.catalog.drafts import Record as Draft
from parfocal.catalog.schedules import SCHEDULES
from parfocal.catalog.uploads.records import Record
from parfocal.runtime.access.gate import Gate
from parfocal.runtime.errors import DamagedError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.store.names import dataset_location


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    small = '[projects.small]\nusers = ["machine:user"]\nstored_gib = 0.001\n'
    return make_people(tmp_path_factory.mktemp("people"), small)


@pytest.fixture(scope="module")
def guarded(start_service: Callable[..., ServiceProcess], s3: Any, people: People) -> ServiceProcess:
    """A catalogue with identities, and datasets, uploads and schedules made by different people in both projects."""
    store = s3.store()
    for project in (OWN, FOREIGN):
        for made_by in ("machine:user", "machine:somebody-else"):
            manifest = DatasetManifest(
                project=project, created_by=made_by, dataset=name_of(made_by), version=1, images=()
            )
            place = dataset_location(store, project, name_of(made_by), 1)
            store.write(place / DATASET_MANIFEST, manifest.to_bytes())
            upload = Record(what="dataset", name="sent", version=1, created_at=manifest.created_at, created_by=made_by)
            begun = store.datasets / project / ".incoming" / f"dataset.{name_of(made_by)}.json"
            store.write(begun, upload.model_dump_json().encode())
            draft = Draft(
                title="drawn",
                kind="labels",
                base_uri=str(place),
                created_at=manifest.created_at,
                created_by=made_by,
            )
            store.write(
                store.datasets / project / ".drafts" / name_of(made_by) / "draft.json", draft.model_dump_json().encode()
            )
            schedule = {"name": name_of(made_by), "source": "", "output": "", "steps": [], "created_by": made_by}
            made = {**schedule, "created_at": manifest.created_at.isoformat()}
            place = store.results / project / SCHEDULES / f"{name_of(made_by)}.json"
            store.write(place, json.dumps(made).encode())
    return start_service("catalog", **people.settings)


def name_of(made_by: str) -> str:
    return made_by.replace(":", "-")


def request_of(case: Case) -> Any:
    request = message_factory.GetMessageClass(case.method.input_type)()
    fields = case.method.input_type.fields_by_name
    if "project" in fields:
        request.project = case.project
    if "entry" in fields:
        entry = v1.EntryName(kind=v1.ENTRY_KIND_DATASET, project=case.project, name=name_of(case.made_by), version=1)
        request.entry.CopyFrom(entry)
    if "upload" in fields:
        request.upload = f"dataset/{name_of(case.made_by)}"
    if "draft" in fields:
        request.draft = name_of(case.made_by)
    if case.method.name in {"CheckSchedule", "DeleteSchedule"}:
        request.name = name_of(case.made_by)
    if "kind" in fields and fields["kind"].enum_type is not None:
        request.kind = v1.ENTRY_KIND_DATASET
    return request


def test_every_rpc_is_decided_as_the_table_says(guarded: ServiceProcess, people: People) -> None:
    (service,) = [each for each in all_services() if each.name == "CatalogService"]
    # What is deleted comes last: the others ask for it.
    last = {"DeleteEntry", "RestoreEntry", "AbortUpload", "DeleteSchedule", "DeleteDraft"}
    ordered = sorted(cases([service]), key=lambda case: case.method.name in last)
    wrong, decided = [], set()
    with grpc.insecure_channel(guarded.address) as channel:
        for case in ordered:
            found = outcome(channel, case, request_of(case), people.metadata(case.caller))
            decided.add(found)
            if found != case.expected:
                wrong.append(f"{case}: {found} instead of {case.expected}")
    assert not wrong
    assert decided == {"pass", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"}


def test_projects_are_listed_to_those_who_have_a_role_there(guarded: ServiceProcess, people: People) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        catalog = v1.CatalogServiceStub(channel)
        answer = catalog.ListProjects(v1.ListProjectsRequest(), timeout=10, metadata=people.metadata("viewer"))
    assert list(answer.projects) == [OWN]


@pytest.mark.parametrize("resume", [False, True])
def test_what_would_exceed_the_limit_of_a_project_is_not_signed(
    guarded: ServiceProcess, people: People, resume: bool
) -> None:
    with grpc.insecure_channel(guarded.address) as channel:
        catalog, metadata = v1.CatalogServiceStub(channel), people.metadata("user")
        begin = v1.BeginUploadRequest(
            request_id=f"upload-{resume}", project="small", kind=v1.UPLOAD_KIND_DATASET, name="beads"
        )
        upload = catalog.BeginUpload(begin, timeout=10, metadata=metadata).upload
        files = [v1.UploadFile(name="a.tif", size=2**21, sha256="0" * 64)]
        request = v1.SignUploadsRequest(project="small", upload=upload, files=files, resume=resume)
        with pytest.raises(grpc.RpcError) as refused:
            catalog.SignUploads(request, timeout=10, metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_schedule_is_its_makers_whoever_they_say_they_are(guarded: ServiceProcess, people: People) -> None:
    root = f"s3://parfocal-results/{OWN}"
    model = f"s3://parfocal-models/{OWN}/m/1"
    schedule = v1.Schedule(
        name="mine",
        source_uri=f"{root}/in",
        output_uri=f"{root}/out",
        steps=[v1.BatchStep(model_uri=model)],
        created_by="machine:somebody-else",
        taken=v1.Taken(channels=["DAPI"], planes=v1.Span(first=2, last=9)),
    )
    with grpc.insecure_channel(guarded.address) as channel:
        catalog = v1.CatalogServiceStub(channel)

        def create(**changes: str) -> v1.Schedule:
            wanted = v1.Schedule()
            wanted.CopyFrom(schedule)
            for name, value in changes.items():
                setattr(wanted, name, value)
            request = v1.CreateScheduleRequest(project=OWN, schedule=wanted)
            answer: v1.CreateScheduleResponse = catalog.CreateSchedule(
                request, timeout=10, metadata=people.metadata("user")
            )
            return answer.schedule

        assert create().created_by == create().created_by == "machine:user"
        with pytest.raises(grpc.RpcError) as refused:
            create(output_uri=f"{root}/elsewhere")
        assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
        with pytest.raises(grpc.RpcError) as refused:
            create(name="other", source_uri=f"s3://parfocal-results/{FOREIGN}/in")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        schedule.taken.planes.last = 1
        with pytest.raises(grpc.RpcError) as refused:
            create(name="other")
        assert (refused.value.code(), "Planes 2 to 1" in refused.value.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )
        request = v1.CheckScheduleRequest(project=OWN, name="mine")
        checked = catalog.CheckSchedule(request, timeout=10, metadata=people.metadata("operator"))
    assert (checked.schedule.created_by, checked.refusal) == ("machine:user", "")
    assert [step.model_uri for step in checked.schedule.steps] == [model]
    assert checked.schedule.taken == v1.Taken(channels=["DAPI"], planes=v1.Span(first=2, last=9))


@pytest.mark.parametrize("change", [{"taken": '{"wells": ["A1"]}'}, {"steps": [["s3://m/1", "[1]"]]}, {"steps": 1}])
def test_a_schedule_that_was_changed_by_hand_is_refused(s3: Any, change: dict[str, Any]) -> None:
    store = s3.store()
    place = store.results / OWN / SCHEDULES / "changed.json"
    record = {
        "name": "changed",
        "source": "s3://a/i",
        "output": "s3://a/out",
        "steps": [],
        "created_by": "machine:user",
    }
    record["created_at"] = "2026-01-02T00:00:00Z"
    store.write(place, json.dumps(record).encode())
    known = schedules.Schedules(store)
    assert known.read(OWN, "changed").message().name == "changed"
    store.write(place, json.dumps(record | change).encode())
    with pytest.raises(DamagedError, match="is damaged"):
        known.read(OWN, "changed")


def test_an_address_leads_into_no_other_project(guarded: ServiceProcess, people: People) -> None:
    uri = f"s3://parfocal-datasets/{FOREIGN}/machine-user/1"
    with grpc.insecure_channel(guarded.address) as channel:
        catalog = v1.CatalogServiceStub(channel)
        for request in (v1.GetEntryRequest(uri=uri), v1.ReadFileRequest(uri=uri), v1.SignDownloadsRequest(uri=uri)):
            name = type(request).__name__.removesuffix("Request")
            call = getattr(catalog, name)
            with pytest.raises(grpc.RpcError) as refused:
                list(call(request, timeout=10, metadata=people.metadata("operator")))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert "have a role" in refused.value.details()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('users = ["anna"]', ""),
        ('users = ["group:imaging"]', ""),
        ('operators = ["somebody"]', "has no role in the project 'lab' any more"),
        ('viewers = ["group:imaging"]', "only a viewer"),
    ],
)
def test_a_schedule_may_run_while_who_made_it_may_predict(tmp_path: Path, line: str, words: str) -> None:
    access = tmp_path / "access.toml"
    access.write_text(f"[projects.lab]\n{line}\n")
    made = schedules.Record(
        name="nightly",
        source="s3://a/b",
        output="s3://a/c",
        steps=(),
        created_by="anna",
        created_at=datetime.now(UTC),
        groups=("imaging",),
    )
    said = schedules.refusal(Gate(Settings(access_file=access)), "lab", made)
    assert (words in said) if words else not said
    assert not schedules.refusal(Gate(Settings()), "lab", made), "without identities everybody may do everything"
