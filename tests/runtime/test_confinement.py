"""Which places a project may read, whatever is written in a request."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from support import publish_dataset

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.confinement import confine, confine_model, confine_request
from parfocal.runtime.store.store import Location, Store


@pytest.fixture(scope="module")
def places(s3: Any) -> Store:
    """A store with inboxes of two projects."""
    inboxes = "lab-a=s3://microscope/exports/lab-a, lab-b=s3://other/b"
    return Store(s3.store().settings.model_copy(update={"inboxes": inboxes}))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://parfocal-datasets/lab-a/beads/1",
        "s3://parfocal-datasets/lab-a/beads/1/",
        "s3://parfocal-models/lab-a/care/2",
        "s3://parfocal-results/lab-a/job-1/inputs",
        "s3://microscope/exports/lab-a",
        "s3://microscope/exports/lab-a/2026/11 é",
    ],
)
def test_a_project_reads_what_is_its_own_and_its_inboxes(places: Store, uri: str) -> None:
    assert str(confine(places, "lab-a", uri, "input_uri")) == uri.rstrip("/")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://parfocal-datasets/lab-b/beads/1",
        "s3://parfocal-datasets/lab-a2/beads/1",
        "s3://parfocal-datasets/LAB-A/beads/1",
        "s3://parfocal-datasets/lab-а/beads/1",  # a Cyrillic letter
        "s3://parfocal-datasets/lab%2da/beads/1",
        "s3://parfocal-datasets/%2e%2e/lab-a",
        "s3://parfocal-datasets/.trash/lab-a",
        "s3://parfocal-datasets/lab-b/.grants/beads.json",
        "s3://parfocal-datasets/lab-b/.incoming/beads/1",
        "s3://parfocal-jobs/lab-a/job-1",
        "s3://parfocal-derived/lab-a/x",
        "s3://microscope/exports/lab-ab",
        "s3://microscope/exports",
        "s3://microscope/lab-a",
        "s3://other/b",
        "s3://PARFOCAL-DATASETS/lab-a/beads/1",
    ],
)
def test_other_places_are_not_there(places: Store, uri: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        confine(places, "lab-a", uri, "input_uri")
    assert caught.value.violations[0].field == "input_uri"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://parfocal-datasets/lab-b/../lab-a/beads/1",
        "s3://parfocal-datasets/lab-a/../lab-b/beads/1",
        "s3://parfocal-datasets/lab-a//beads",
        "s3://parfocal-datasets/lab-a/./beads",
        "s3://parfocal-datasets/lab-a\\..\\lab-b",
        "s3://parfocal-datasets/lab-a/beads\0",
        "s3://parfocal-datasets",
        "s3:///lab-a/beads/1",
        "http://127.0.0.1:9000/parfocal-datasets/lab-a/beads/1",
        "https://example.org/lab-a",
        "file:///etc/passwd",
        "/etc/passwd",
        "lab-a/beads/1",
        "S3://parfocal-datasets/lab-a/beads/1",
        " s3://parfocal-datasets/lab-a/beads/1",
    ],
)
def test_what_is_no_address_is_refused(places: Store, uri: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        confine(places, "lab-a", uri, "input_uri")
    assert caught.value.violations[0].field == "input_uri"


def _specs() -> list[tuple[str, str]]:
    """Return all fields with addresses of all that can be started, from the contract itself."""
    found = []
    for spec in v1.StartJobRequest.DESCRIPTOR.oneofs_by_name["spec"].fields:
        for field in spec.message_type.fields:
            if field.name.endswith(("_uri", "_uris")):
                found.append((spec.name, field.name))
    return found


@pytest.mark.parametrize(("spec", "field"), _specs())
def test_every_address_of_every_kind_of_job_is_confined(places: Store, spec: str, field: str) -> None:
    request = v1.StartJobRequest(project="lab-a", request_id="r")
    message = getattr(request, spec)
    for uri, error in (("s3://parfocal-results/lab-b/x", NotFoundError), ("http://x", InvalidInputError)):
        message.ClearField(field)
        if field.endswith("_uris"):
            getattr(message, field).append(uri)
        else:
            setattr(message, field, uri)
        with pytest.raises(error) as caught:
            confine_request(places, "lab-a", request)
        assert caught.value.violations[0].field == f"{spec}.{field}"


def test_a_service_admits_no_job_on_data_of_another_project(
    store: Store, start_service: Any, pairs_folder: Any
) -> None:
    uri = publish_dataset(store, "theirs", pairs_folder, "lab-b")
    service = start_service("fake")
    request = v1.StartJobRequest(project="lab-a", request_id="foreign")
    request.training.CopyFrom(v1.TrainingSpec(method="fake-2d", dataset_uri=uri, model="m"))
    with grpc.insecure_channel(service.address) as channel, pytest.raises(grpc.RpcError) as caught:
        v1.JobServiceStub(channel).StartJob(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert not store.folders(store.models / "lab-a")


def test_single_images_take_models_alone(places: Store) -> None:
    assert confine_model(places, "s3://parfocal-models/lab-b/m/1", "model_uri") == Location(
        "parfocal-models", "lab-b/m/1"
    )
    with pytest.raises(NotFoundError):
        confine_model(places, "s3://parfocal-results/lab-b/m/1", "model_uri")
    with pytest.raises(InvalidInputError):
        confine_model(places, "http://127.0.0.1/m/1", "model_uri")


@pytest.mark.parametrize("text", ["lab-a", "lab-a=/data", "lab-a=s3://bucket", "=s3://bucket/x", "lab-a=http://b/x"])
def test_a_wrong_inbox_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="PROJECT=s3://BUCKET/PREFIX"):
        Settings(inboxes=text)


def test_an_inbox_lies_in_none_of_parfocals_buckets() -> None:
    with pytest.raises(ValueError, match="own buckets"):
        Settings(inboxes="lab-a=s3://microscope/a, lab-a=s3://parfocal-datasets/lab-b")
    with pytest.raises(ValueError, match="own buckets"):
        Settings(bucket_jobs="work", inboxes="lab-a=s3://work/lab-b")
