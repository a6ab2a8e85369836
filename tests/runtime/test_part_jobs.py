"""Predictions that several jobs share, through the real service: refused in words, merged to what one job makes."""

from __future__ import annotations

import contextlib
import csv
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from image_service import publish_outcomes
from scipy import ndimage
from support import ServiceProcess, wait_for

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.jobs.parts import refuse_part
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultFile, ResultManifest, public_name
from parfocal.runtime.store.names import result_location
from parfocal.runtime.store.store import Location

PARTS = 3


@dataclass
class Parted:
    """The running service, and what it has made."""

    process: ServiceProcess
    jobs: v1.JobServiceStub
    store: Any
    folder: Path
    models: dict[str, str] = field(default_factory=dict)

    def upload(self, images: dict[str, Image]) -> str:
        """Return where images lie in the store."""
        place = result_location(self.store, "default", f"inputs-{uuid.uuid4().hex}")
        for name, image in images.items():
            write_image(self.folder / name, image)
            self.store.upload(self.folder / name, place / name)
        return str(place)

    def start(self, method: str, uri: str, **fields: Any) -> v1.Job:
        parameters = values_struct(fields.pop("parameters", {}))
        spec = v1.PredictionSpec(model_uri=self.models[method], input_uri=uri, parameters=parameters, **fields)
        try:
            return self.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job
        except grpc.RpcError as error:
            raise from_rpc_error(error, "") from None

    def done(self, job: v1.Job) -> v1.Job:
        ended = list(self.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=120))[-1].job
        assert ended.state == v1.JOB_STATE_SUCCEEDED, ended.error.text
        return ended

    def part(self, method: str, uri: str, number: int, count: int = PARTS, **fields: Any) -> str:
        """Return the result of one part."""
        part = v1.PredictionPart(number=number, count=count)
        return self.done(self.start(method, uri, part=part, **fields)).outputs[0].uri

    def merged(self, method: str, uri: str, **fields: Any) -> ResultManifest:
        """Return the result of all parts, which are started backwards."""
        parts = [self.part(method, uri, number, **fields) for number in range(PARTS, 0, -1)]
        job = self.done(self.start(method, uri, part_uris=parts, **fields))
        return self.manifest(job.outputs[0].uri)

    def manifest(self, uri: str) -> ResultManifest:
        return ResultManifest.read(self.store, Location.parse(uri) / RESULT_MANIFEST)

    def files(self, result: ResultManifest, image: ResultFile) -> dict[str, Path]:
        """Return the files of an image by kind."""
        place, paths = result_location(self.store, "default", result.job), {}
        for kind, name in image.outputs.items():
            paths[kind] = self.folder / result.job / public_name(name)
            self.store.download(place / name, paths[kind])
        return paths

    def assert_as_one(
        self, method: str, images: dict[str, Image], **fields: Any
    ) -> tuple[ResultManifest, ResultManifest]:
        """Assert that parts make the same files as one job; return both results."""
        uri = self.upload(images)
        merged = self.merged(method, uri, **fields)
        one = self.manifest(self.done(self.start(method, uri, **fields)).outputs[0].uri)
        assert [image.input for image in merged.images] == [image.input for image in one.images]
        assert merged.kind == one.kind == "prediction"
        for found, expected in zip(merged.images, one.images, strict=True):
            assert found.metrics == expected.metrics
            assert found.clipped_fraction == expected.clipped_fraction
            assert found.drift == expected.drift
            ours, theirs = self.files(merged, found), self.files(one, expected)
            assert ours.keys() == theirs.keys()
            for kind, path in ours.items():
                assert path.suffix == theirs[kind].suffix
                if path.suffix == ".zip":
                    names = [zipfile.ZipFile(each).namelist() for each in (path, theirs[kind])]
                    assert names[0] == names[1]
                else:
                    assert path.read_bytes() == theirs[kind].read_bytes(), kind
        return merged, one


@pytest.fixture(scope="module")
def parted(
    start_service: Callable[..., ServiceProcess], s3: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Parted]:
    process = start_service("outcomes", checkpoint_seconds="0", in_memory_mib="0.001", spare_seconds="60")
    store = s3.store()
    with grpc.insecure_channel(process.address) as channel:
        running = Parted(process, v1.JobServiceStub(channel), store, tmp_path_factory.mktemp("files"))
        running.models.update(publish_outcomes(store, tmp_path_factory.mktemp("weights")))
        yield running
    process.stop()


def picture(*shape: int, axes: str = "YX") -> Image:
    pixels = np.random.default_rng(sum(shape)).integers(100, 4000, shape).astype(np.uint16)
    return Image(pixels, axes, PixelSize(0.1, 0.2))


def blobs(*shape: int) -> Image:
    """Return round objects, and one that is as long as the image."""
    pixels = np.full(shape, 10, np.uint16)
    for y, x in np.random.default_rng(0).integers(20, np.array(shape) - 20, (150, 2)):
        pixels[y - 9 : y + 9, x - 9 : x + 9] = 1000
    pixels[shape[0] // 2 : shape[0] // 2 + 6] = pixels[:, shape[1] // 3 : shape[1] // 3 + 6] = 1000
    return Image(pixels, "YX", PixelSize(0.1, 0.1))


def test_images_of_parts_are_those_of_one_job(parted: Parted) -> None:
    images = {"a.tif": picture(150, 170), "b.tif": picture(40, 40), "c.tif": picture(3, 60, 70, axes="ZYX")}
    merged, one = parted.assert_as_one("gives-larger", images, parameters={"tile_size": 32})
    assert len(merged.parts) == PARTS
    assert not one.parts
    assert merged.environment == one.environment
    # They are looked up by id: an address would keep the parts' files for ever.
    assert not any(job in merged.model_dump_json(exclude={"parts"}) for job in merged.parts)


def test_objects_of_parts_are_those_of_one_job(parted: Parted) -> None:
    image = blobs(2600, 3300)
    merged, _ = parted.assert_as_one("gives-objects", {"a.tif": image})
    (found,) = merged.images
    files = parted.files(merged, found)
    assert set(files) >= {"prediction", "objects"}
    labels = read_image(files["prediction"]).pixels
    _, count = ndimage.label(image.pixels > 500)
    assert labels.max() == count == found.metrics["objects"]
    with files["objects"].open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == count


def test_a_part_is_no_prediction(parted: Parted) -> None:
    uri = parted.upload({"a.tif": picture(80, 90)})
    part = parted.part("gives-larger", uri, 1, parameters={"tile_size": 32})
    manifest = parted.manifest(part)
    assert (manifest.kind, manifest.part, manifest.predictions) == ("part", (1, PARTS), {})
    assert [entry.public_name for entry in manifest.files] == ["part/a.zip"]
    with pytest.raises(InvalidInputError, match="all parts"):
        parted.start("gives-larger", uri, part_uris=[part], parameters={"tile_size": 32})


@pytest.fixture(scope="module")
def two(parted: Parted) -> tuple[str, list[str]]:
    """Return images, and the results of their two parts."""
    uri = parted.upload({"a.tif": picture(80, 90)})
    return uri, [parted.part("gives-larger", uri, number, 2, parameters={"tile_size": 32}) for number in (1, 2)]


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"parameters": {"tile_size": 64}}, InvalidInputError, "part_uris"),
        ({"parts": [0]}, InvalidInputError, "part_uris"),
        ({"parts": [0, 0]}, InvalidInputError, "part_uris"),
        ({"model": "gives-colours"}, InvalidInputError, "part_uris"),
        ({"part": (1, 2)}, InvalidInputError, "part_uris"),
        ({"gone": True}, NotFoundError, "part_uris"),
        ({"dataset": True}, NotFoundError, "part_uris"),
        ({"written": "a-request"}, InvalidInputError, "part_uris"),
        ({"written": "with a job"}, InvalidInputError, "part_uris"),
        ({"written": "of another job"}, InvalidInputError, "part_uris"),
        ({"parts": [], "part": (3, 2)}, InvalidInputError, "part.number"),
        ({"parts": [], "part": (1, 1)}, InvalidInputError, "part.count"),
        ({"parts": [], "part": (1, 1000)}, InvalidInputError, "part.count"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    parted: Parted, two: tuple[str, list[str]], change: dict[str, Any], error: type[ParfocalError], field: str
) -> None:
    uri, parts = two
    fields: dict[str, Any] = {"part_uris": [parts[at] for at in change.get("parts", [0, 1])]}
    if "gone" in change:
        fields["part_uris"][1] = str(result_location(parted.store, "default", "gone"))
    if "dataset" in change:
        # A place that people write into themselves, which the project may read.
        place = parted.store.datasets / "default" / "parts" / "1"
        parted.store.copy(Location.parse(parts[1]) / RESULT_MANIFEST, place / RESULT_MANIFEST)
        fields["part_uris"][1] = str(place)
    if "written" in change:
        # As if somebody had uploaded it among images to be predicted: alone, beside a job, or naming one.
        manifest = parted.manifest(parts[1])
        other = parted.done(parted.start("gives-larger", uri, parameters={"tile_size": 32}))
        names = {"a-request": f"inputs-{uuid.uuid4().hex}", "with a job": other.id}
        place = result_location(parted.store, "default", names.get(change["written"], f"inputs-{uuid.uuid4().hex}"))
        if change["written"] != "of another job":
            manifest = manifest.model_copy(update={"job": place.name})
        parted.store.write(place / RESULT_MANIFEST, manifest.model_dump_json().encode())
        fields["part_uris"][1] = str(place)
    if "part" in change:
        number, count = change["part"]
        fields["part"] = v1.PredictionPart(number=number, count=count)
    with pytest.raises(error) as raised:
        parted.start(
            change.get("model", "gives-larger"), uri, parameters=change.get("parameters", {"tile_size": 32}), **fields
        )
    assert [violation.field for violation in raised.value.violations] == [f"prediction.{field}"]


def test_a_process_that_has_merged_takes_no_other_job(parted: Parted, two: tuple[str, list[str]]) -> None:
    uri, parts = two
    job = parted.done(parted.start("gives-larger", uri, part_uris=parts, parameters={"tile_size": 32}))
    assert parted.process.process is not None
    service = psutil.Process(parted.process.process.pid)

    def is_there() -> bool:
        for child in service.children():
            with contextlib.suppress(psutil.Error):  # it has ended
                if job.id in child.cmdline():
                    return True
        return False

    # Sooner than a spare worker would end.
    wait_for(lambda: not is_there(), 15, "the end of the worker")


def test_an_image_that_was_changed_between_parts_and_merge_is_left_out(parted: Parted) -> None:
    uri = parted.upload({"a.tif": picture(80, 90), "b.tif": picture(60, 60)})
    parts = [parted.part("gives-larger", uri, number, 2, parameters={"tile_size": 32}) for number in (1, 2)]
    write_image(parted.folder / "b.tif", picture(60, 61))
    parted.store.upload(parted.folder / "b.tif", Location.parse(uri) / "b.tif")
    job = parted.done(parted.start("gives-larger", uri, part_uris=parts, parameters={"tile_size": 32}))
    first, second = parted.manifest(job.outputs[0].uri).images
    assert first.outputs
    assert not second.outputs
    assert "b.tif" in second.reason


def test_a_method_that_sees_recordings_whole_is_not_divided(parted: Parted) -> None:
    with pytest.raises(InvalidInputError, match="Gives places") as raised:
        parted.start("gives-places", "s3://parfocal-results/default/none", part=v1.PredictionPart(number=1, count=2))
    assert [violation.field for violation in raised.value.violations] == ["prediction.part"]


def test_an_evaluation_does_not_judge_a_part(parted: Parted, two: tuple[str, list[str]]) -> None:
    with pytest.raises(InvalidInputError, match="part 1 of 2"):
        refuse_part(parted.manifest(two[1][0]), "evaluation.prediction_uri")


def test_a_method_that_cannot_be_shared_says_so(parted: Parted) -> None:
    uri = parted.upload({"a.tif": blobs(60, 70)})
    job = parted.start("gives-boxes", uri, part=v1.PredictionPart(number=1, count=2))
    ended = list(parted.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=120))[-1].job
    assert ended.state == v1.JOB_STATE_FAILED
    assert ended.error.code == "INVALID_ARGUMENT"
    assert "Gives boxes" in ended.error.text
