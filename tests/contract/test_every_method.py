"""A session with every method: what each can break by itself, from training to quality control.

What belongs to the service is tested in test_contract.py, with a service of each driver. A method is added by
tests/UNIT/contract.json, a further one of the same service by an entry in `further` there.
"""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import PIL.Image
import psutil
import pytest
from contract_session import KILLED, SESSIONS, Session, rpc_error, single_image, single_tables, struct
from example_data import PAIRS, publish_for
from google.protobuf import json_format
from support import (
    ROOT,
    publish_dataset,
    read_published,
    wait_for,
    write_pairs,
)

from parfocal import v1
from parfocal.runtime.datasets.kinds import needed_title, suits
from parfocal.runtime.images.files import inspect_image, read_image
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, ModelManifest, ResultManifest, public_name
from parfocal.runtime.store.store import Location

# By task, what a method makes of an image that is no image itself, by kind; "{}" is the name of the image.
FINDINGS = {
    v1.TASK_DETECTION: {
        "detections": "detections/{}.csv",
        "rois": "rois/{}.zip",
        "voc": "voc/{}.xml",
        "overlay": "overlay/{}.png",
    }
}
# What localisation makes besides its image.
LOCALISED = {
    "widefield": "widefield/{}.tif",
    "density": "density/{}.tif",
    "frames": "frames/{}.csv",
    "localisations": "localisations/{}.csv",
    "picasso": "picasso/{}.hdf5",
    "picasso_info": "picasso/{}.yaml",
}
# What a run has besides.
OF_A_RUN = {v1.TASK_DETECTION: {"detections.csv", "coco.json", "counts.csv"}}
# By task, the type of what is predicted where it is not intensities.
DTYPES = {v1.TASK_INSTANCE_SEGMENTATION: "uint16", v1.TASK_SEMANTIC_SEGMENTATION: "uint8"}
# Enough of them for a worker to be killed between the first and the last.
_KILLED_EPOCHS = 4
_EPOCHS = 2
WITHOUT_PAIRS = {v1.TARGET_KIND_UNPAIRED_IMAGE, v1.TARGET_KIND_NONE}


@dataclass(frozen=True)
class Trained:
    """A finished training, its dataset and the folder the dataset was made of."""

    job: v1.Job
    dataset: str
    folder: Path

    @property
    def model(self) -> str:
        return self.job.outputs[0].uri


@pytest.fixture(scope="module")
def running(
    start_service: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Any]]:
    """Start the service of a method, or go on with the one that runs: the methods of a family share it."""
    now: list[Any] = []

    def start(name: str) -> Any:
        if now and now[0].name == name:
            return now[0]
        if now:
            now.pop().stop()
        settings = {"checkpoint_seconds": "0", "preview_share": "1"}
        if not (ROOT / "services" / name).is_dir():
            place = tmp_path_factory.mktemp(name)
            subprocess.run([str(ROOT / "deploy/tools/new-method"), name, str(place)], check=True)
            settings["pythonpath"] = str(place / "services" / name)
        now.append(start_service(name, **settings))
        return now[0]

    yield start
    for process in now:
        process.stop()


@pytest.fixture(scope="module", params=list(SESSIONS))
def service(request: pytest.FixtureRequest, running: Callable[[str], Any]) -> Iterator[Session]:
    process = running(SESSIONS[request.param]["service"])
    with grpc.insecure_channel(process.address) as channel:
        yield Session(process, request.param, channel)


@pytest.fixture(scope="module")
def judges(start_service: Callable[..., Any]) -> Iterator[grpc.Channel]:
    """The QC service."""
    with grpc.insecure_channel(start_service("qc").address) as channel:
        yield channel


@pytest.fixture(scope="module")
def trained(service: Session, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training of the method on images of its axes and kind of targets."""
    needs, folder = service.method_description.data_requirements, tmp_path_factory.mktemp(service.method)
    uri = publish_for(s3.store(), f"images-{service.method}", folder, needs.target, needs.axes)
    job = service.train(uri, epochs=epochs_of(service))
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    return Trained(job, uri, folder)


def epochs_of(service: Session) -> int:
    return _KILLED_EPOCHS if service.method in KILLED else _EPOCHS


@pytest.fixture(scope="module")
def predicted(service: Session, trained: Trained) -> str:
    """The published prediction of the test images."""
    return predict(service, trained.model, trained.dataset)


def predict(service: Session, model: str, dataset: str, **parameters: Any) -> str:
    """Return the published prediction of the test images of a dataset."""
    spec = v1.PredictionSpec(model_uri=model, input_uri=dataset, split="test", parameters=struct(parameters))
    job = service.finish(service.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    return job.outputs[0].uri


def test_it_describes_itself_completely(service: Session) -> None:
    method = service.method_description
    assert all([method.title, method.summary, method.citation, method.licence, method.data_requirements.axes])
    for schema in method.parameter_schemas:
        for name, field in json.loads(schema.json_schema)["properties"].items():
            assert field.get("description"), f"parameter {name} has no help"
            assert "default" in field, f"parameter {name} has no default"


def test_other_data_and_patches_that_do_not_fit_are_refused(
    service: Session, s3: Any, trained: Trained, tmp_path: Path
) -> None:
    needs = service.method_description.data_requirements
    axes = needs.axes
    pair, shape = PAIRS["ZYX" if axes == "YX" else "YX", False]
    other = publish_dataset(s3.store(), f"other-{service.method}", write_pairs(tmp_path, pair, shape))
    error = rpc_error(lambda: service.jobs.StartJob(service.request(other)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    # Pairs are of another kind for most methods, and of other axes for those that need pairs or images alone.
    of_other_kind = not suits("", needs.target)
    assert (needed_title(needs.target) if of_other_kind else axes) in error.details()
    error = rpc_error(lambda: service.jobs.StartJob(service.request(trained.dataset, patch_size=256)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "patch_size" in error.details()


def test_training_is_watched_epoch_by_epoch_and_publishes_a_model(
    service: Session, trained: Trained, store: Any
) -> None:
    replies = list(service.jobs.WatchJob(v1.WatchJobRequest(job_id=trained.job.id)))
    events = [reply.event for reply in replies if reply.HasField("event")]
    assert [event.sequence for event in events] == list(range(1, trained.job.last_sequence + 1))
    count = int(json_format.MessageToDict(trained.job.resolved_parameters)["epochs"])
    epochs = [event.epoch_completed.epoch for event in events if event.HasField("epoch_completed")]
    assert epochs == list(range(1, count + 1))
    model = ModelManifest.read(store, Location.parse(trained.model) / MODEL_MANIFEST)
    assert (model.method, model.axes) == (service.method, service.method_description.data_requirements.axes)
    assert {"training.csv", "training_report.pdf", "loss.png"} <= {entry.public_name for entry in model.files}


def test_pictures_show_how_far_the_training_is(service: Session, trained: Trained) -> None:
    needs, previews = service.method_description.data_requirements, trained.job.previews
    if service.method_description.task == v1.TASK_LOCALISATION:
        assert not previews
        return
    assert [preview.epoch for preview in previews] == list(range(1, epochs_of(service) + 1))
    for preview in previews:
        assert ("target" in preview.pictures) == (needs.target not in WITHOUT_PAIRS)
        sizes = set()
        for name in preview.pictures:
            request = v1.ReadPreviewRequest(job_id=trained.job.id, epoch=preview.epoch, picture=name)
            with PIL.Image.open(io.BytesIO(service.jobs.ReadPreview(request).png)) as picture:
                assert picture.format == "PNG"
                sizes.add(picture.size)
        assert len(sizes) == 1
    request = v1.ReadPreviewRequest(job_id=trained.job.id, epoch=1, picture="../input")
    error = rpc_error(lambda: service.jobs.ReadPreview(request))
    assert error.code() == grpc.StatusCode.NOT_FOUND


def test_a_training_whose_worker_is_killed_gives_the_same_model(service: Session, trained: Trained, store: Any) -> None:
    """Cancelled trainings are resumed by the service (test_contract.py); what a checkpoint holds is the method's."""
    if service.method not in KILLED:
        pytest.skip("another method of its family is killed")
    for epochs in (_KILLED_EPOCHS, 40, 200):  # more of them where they are fast
        job = service.jobs.StartJob(service.request(trained.dataset, epochs=epochs)).job
        get = v1.GetJobRequest(job_id=job.id)
        wait_for(lambda get=get: service.jobs.GetJob(get).job.progress.epoch >= 1, 120, "the first epoch")
        server = psutil.Process(service.process.process.pid)
        for worker in (child for child in server.children() if job.id in child.cmdline()):
            worker.kill()
        done = service.finish(job)
        if done.attempt > 1:
            break
    assert (done.state, done.attempt) == (v1.JOB_STATE_SUCCEEDED, 2), done.error.text
    undisturbed = trained.job if epochs == _KILLED_EPOCHS else service.train(trained.dataset, epochs=epochs)
    models = [
        ModelManifest.read(store, Location.parse(each.outputs[0].uri) / MODEL_MANIFEST) for each in (undisturbed, done)
    ]
    by_time = {"training.csv", "training_report.pdf", "loss.png"}
    files = [
        {entry.public_name: entry.sha256 for entry in model.files if entry.public_name not in by_time}
        for model in models
    ]
    assert files[0]
    assert files[0] == files[1]
    assert models[0].facts == models[1].facts
    assert models[0].metrics == models[1].metrics
    # It went on from a checkpoint: no epoch was done twice but the one in which the worker was killed.
    replies = list(service.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id)))
    done_epochs = [reply.event.epoch_completed.epoch for reply in replies if reply.event.HasField("epoch_completed")]
    assert set(done_epochs) == set(range(1, epochs + 1))
    assert len(done_epochs) <= epochs + 1


def test_prediction_keeps_names_shape_and_pixel_size(
    service: Session, trained: Trained, predicted: str, store: Any, tmp_path: Path
) -> None:
    place = Location.parse(predicted)
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    task = service.method_description.task
    if task in FINDINGS:
        for number, image in enumerate(result.images):
            names = {kind: public_name(name) for kind, name in image.outputs.items()}
            assert names == {kind: name.format(f"field{number}") for kind, name in FINDINGS[task].items()}
        assert {name for entry in result.files if "/" not in (name := entry.public_name)} == OF_A_RUN[task]
        return
    names = [public_name(image.outputs["prediction"]) for image in result.images]
    assert names == ["field0.tif", "field1.tif", "field2.tif"]
    store.download(place / result.images[0].outputs["prediction"], tmp_path / "field0.tif")
    output, source = (inspect_image(path / "field0.tif") for path in (tmp_path, trained.folder / "test" / "source"))
    if task == v1.TASK_LOCALISATION:
        names = {kind: public_name(name) for kind, name in result.images[0].outputs.items() if kind != "prediction"}
        assert names == {kind: name.format("field0") for kind, name in LOCALISED.items()}
        finer = output.shape[0] // source.shape[1]
        assert (output.axes, output.shape) == ("YX", (finer * source.shape[1], finer * source.shape[2]))
        assert output.pixel_size is not None
        assert source.pixel_size is not None
        assert output.pixel_size.x == pytest.approx(source.pixel_size.x / finer)
        return
    assert (output.shape, str(output.dtype)) == (source.shape, DTYPES.get(task, "float32"))
    assert output.axes == source.axes
    if source.pixel_size is None:
        assert output.pixel_size == source.pixel_size  # the images of these datasets have none
        return
    assert output.pixel_size is not None
    assert source.pixel_size is not None
    lengths = output.pixel_size.lengths(len(source.shape))
    assert lengths == pytest.approx(source.pixel_size.lengths(len(source.shape)))


def test_a_model_of_two_directions_predicts_in_both(service: Session, trained: Trained, store: Any) -> None:
    (schema,) = (
        json.loads(each.json_schema)
        for each in service.method_description.parameter_schemas
        if each.job_kind == v1.JOB_KIND_PREDICTION
    )
    if "direction" not in schema["properties"]:
        pytest.skip("its models have one direction")
    place = Location.parse(predict(service, trained.model, trained.dataset, direction="target-to-source"))
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    assert result.targets == ("source",)
    names = {path.name for path in (trained.folder / "test" / "target").iterdir()}
    assert {public_name(image.outputs["prediction"]) for image in result.images} == names


def test_a_single_image_gives_what_a_job_gives_bit_for_bit(
    service: Session, trained: Trained, predicted: str, store: Any, tmp_path: Path
) -> None:
    source = read_image(trained.folder / "test" / "source" / "field1.tif")
    task = service.method_description.task
    if task in FINDINGS:
        kinds = {kind: name.format("field1") for kind, name in FINDINGS[task].items() if name.endswith(".csv")}
        tables = single_tables(service, trained.model, source.pixels, source.axes)
        assert tables == {kind: read_published(store, predicted, name) for kind, name in kinds.items()}
        return
    (tmp_path / "batch.tif").write_bytes(read_published(store, predicted, "field1.tif"))
    outputs = single_image(service, trained.model, source.pixels, source.axes)
    assert next(iter(outputs)) == "prediction"
    assert outputs["prediction"].tobytes() == read_image(tmp_path / "batch.tif").pixels.tobytes()


def test_quality_control_of_its_task_judges_it(
    service: Session, trained: Trained, predicted: str, judges: grpc.Channel, store: Any, tmp_path: Path
) -> None:
    task, dataset = service.method_description.task, trained.dataset
    needs = service.method_description.data_requirements
    if needs.target in WITHOUT_PAIRS and needs.axes != "TYX":
        # Whatever it was trained on, it is judged by images with targets.
        folder = write_pairs(tmp_path, *PAIRS[needs.axes, False])
        dataset = publish_dataset(store, f"pairs-{service.method}", folder)
        predicted = predict(service, trained.model, dataset)
    methods = v1.MethodServiceStub(judges).ListMethods(v1.ListMethodsRequest()).methods
    with_targets = (method for method in methods if method.data_requirements.target not in WITHOUT_PAIRS)
    (judge,) = (method.name for method in with_targets if method.task == task)
    qc = Session(None, judge, judges)
    spec = v1.EvaluationSpec(
        method=judge, prediction_uri=predicted, dataset_uri=dataset, split="test", model_uri=trained.model
    )
    job = qc.finish(qc.jobs.StartJob(v1.StartJobRequest(evaluation=spec)).job)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place = Location.parse(job.outputs[0].uri)
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    assert result.verdict["state"] in {"passed", "failed"}
    assert result.verdict["reasons"]
    assert json.loads(read_published(store, str(place), "summary.json"))["images"] == 3
    assert {"report.pdf", "figure.png", "metrics.csv"} <= {entry.public_name for entry in result.files}
