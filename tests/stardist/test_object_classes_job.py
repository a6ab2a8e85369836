"""A training with classes and a prediction as jobs: a real service, a real store, class images from a folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format, struct_pb2
from support import mentions, nuclei_pair, publish_dataset, read_published, wait_for, write_pairs

from parfocal import v1
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, ModelManifest, ResultManifest, public_name
from parfocal.runtime.store.store import Location

FINAL = {v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}
TINY = {
    "epochs": 1,
    "patch_size": 32,
    "patches_per_image": 2,
    "batch_size": 2,
    "network_depth": 1,
    "first_filters": 4,
    "rays": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nuclei with class images: odd numbers are of class 1, even ones of class 2, some are not known."""
    folder = write_pairs(tmp_path_factory.mktemp("classes"), nuclei_pair)
    for path in sorted(folder.glob("*/target/*.tif")):
        labels = read_image(path)
        drawn = np.where(labels.pixels > 0, 2 - labels.pixels % 2, 0).astype(np.uint8)
        drawn[labels.pixels == 1] = 0
        write_image(path.parent.parent / "target_class" / path.name, Image(drawn, labels.axes, labels.pixel_size))
    return folder


@pytest.fixture(scope="module")
def run(start_service: Any) -> Any:
    address = start_service("stardist").address

    def start(**spec: Any) -> v1.Job:
        with grpc.insecure_channel(address) as channel:
            jobs = v1.JobServiceStub(channel)
            get = v1.GetJobRequest(job_id=jobs.StartJob(v1.StartJobRequest(**spec)).job.id)
            wait_for(lambda: jobs.GetJob(get).job.state in FINAL, 180, "the job")
            return jobs.GetJob(get).job

    return start


def training(uri: str, **parameters: Any) -> v1.TrainingSpec:
    values = struct_pb2.Struct()
    json_format.ParseDict({**TINY, **parameters}, values)
    return v1.TrainingSpec(method="stardist-2d", dataset_uri=uri, model="classes", parameters=values)


def test_a_model_of_classes_is_trained_and_its_prediction_counts_them(run: Any, store: Any, folder: Path) -> None:
    uri = publish_dataset(store, "classes", folder)
    trained = run(training=training(uri, classes=2))
    assert trained.state == v1.JOB_STATE_SUCCEEDED, trained.error.text
    model = ModelManifest.read(store, Location.parse(trained.outputs[0].uri) / MODEL_MANIFEST)
    assert model.facts.target_roles == ("target", "target_class")
    assert model.parameters["classes"] == 2
    assert any(name.startswith("train/target_class/") for name in model.dataset_sha256)
    # A threshold near 0, so that a hardly trained model finds objects.
    values = struct_pb2.Struct()
    json_format.ParseDict({"probability_threshold": 0.02}, values)
    spec = v1.PredictionSpec(model_uri=trained.outputs[0].uri, input_uri=uri, split="test", parameters=values)
    predicted = run(prediction=spec)
    assert predicted.state == v1.JOB_STATE_SUCCEEDED, predicted.error.text
    place = Location.parse(predicted.outputs[0].uri)
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    assert result.targets == ("target", "target_class")
    for row, image in zip(
        csv.DictReader(io.StringIO(read_published(store, str(place), "counts.csv").decode())),
        result.images,
        strict=True,
    ):
        assert list(row) == ["image", "objects", "class_1", "class_2", "class_0"]
        table = list(csv.DictReader(io.StringIO(store.read(place / image.outputs["objects"]).decode())))
        assert len(table) == int(row["objects"]) > 0
        for number in "012":
            assert sum(each["class"] == number for each in table) == int(row[f"class_{number}"])
        assert public_name(image.outputs["target_class"]) == f"target_class/{row['image']}"


def test_more_classes_than_were_asked_for_are_refused_with_the_file(run: Any, store: Any, folder: Path) -> None:
    failed = run(training=training(publish_dataset(store, "classes", folder), classes=1))
    assert failed.state == v1.JOB_STATE_FAILED
    assert "target_class/" in failed.error.text
    assert "set classes to 2" in failed.error.text


def test_grey_targets_are_refused_before_anything_is_learnt(run: Any, store: Any, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path, lambda rng, shape: (nuclei_pair(rng, shape)[0],) * 2)
    failed = run(training=training(publish_dataset(store, "grey", folder)))
    assert failed.state == v1.JOB_STATE_FAILED
    assert mentions(failed.error.text, "5 targets", "target/field0.tif", "grey values")
    assert "learning_rate" not in failed.error.text
