"""Pictures that a training shows: what is kept of them, whose they are, and which part of an image they show."""

from __future__ import annotations

import io
import uuid

import numpy as np
import PIL.Image
import pytest

from parfocal import v1
from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.errors import NotFoundError, StaleWorkerError
from parfocal.runtime.jobs.previews import MOST, read_preview, save_preview, thinned
from parfocal.runtime.jobs.records import JobStore, set_running
from parfocal.runtime.methods.implementation import ValidationImage
from parfocal.runtime.store.store import Store
from parfocal.runtime.training.drawing import draw_boxes, draw_grey, draw_numbers, to_png
from parfocal.runtime.training.validation_pictures import _part


@pytest.fixture
def jobs(store: Store) -> JobStore:
    return JobStore(store)


@pytest.fixture
def job(jobs: JobStore) -> v1.Job:
    record = jobs.create(v1.Job(id=uuid.uuid4().hex, project="previews", service="mine", attempt=1), "digest")
    return jobs.change("previews", record.job.id, set_running)


def files(jobs: JobStore, job: v1.Job) -> set[str]:
    root = jobs.folder(job.project, job.id) / "previews"
    return {item.location.key.removeprefix(f"{root.key}/") for item in jobs.store.objects(root)}


def test_few_previews_are_kept_the_first_and_the_newest_among_them(jobs: JobStore, job: v1.Job) -> None:
    for epoch in range(1, 31):
        job = save_preview(jobs, job, epoch, "a", {"input": b"%d" % epoch})
    epochs = [preview.epoch for preview in job.previews]
    assert len(epochs) == MOST
    assert (epochs[0], epochs[-1]) == (1, 30)
    assert files(jobs, job) == {f"0001-{epoch:06d}/input.png" for epoch in epochs}
    assert read_preview(jobs, job, 30, "input") == b"30"
    for epoch, name in ((2, "input"), (30, "target"), (30, "../job")):
        with pytest.raises(NotFoundError):
            read_preview(jobs, job, epoch, name)
    events = [
        event.preview.epoch for event in jobs.events(jobs.read("previews", job.id), 0) if event.HasField("preview")
    ]
    assert events == list(range(1, 31))


def test_what_is_left_out_lies_where_most_are() -> None:
    made = [v1.TrainingPreview(epoch=epoch) for epoch in (1, 2, 3, 10, 20, 30, 40, 50, 60)]
    assert [preview.epoch for preview in thinned(made)] == [1, 3, 10, 20, 30, 40, 50, 60]


def test_epochs_that_are_done_again_replace_their_pictures(jobs: JobStore, job: v1.Job) -> None:
    for epoch in (1, 3, 5):
        job = save_preview(jobs, job, epoch, "a", {"input": b"first"})

    def again(job: v1.Job) -> None:
        job.attempt = 2

    job = jobs.change("previews", job.id, again)
    job = save_preview(jobs, job, 4, "a", {"input": b"second"})
    assert [(preview.attempt, preview.epoch) for preview in job.previews] == [(1, 1), (1, 3), (2, 4)]
    assert files(jobs, job) == {"0001-000001/input.png", "0001-000003/input.png", "0002-000004/input.png"}


def test_a_worker_that_was_replaced_changes_nothing_that_others_see(jobs: JobStore, job: v1.Job) -> None:
    def again(job: v1.Job) -> None:
        job.attempt = 2

    newer = save_preview(jobs, jobs.change("previews", job.id, again), 1, "a", {"input": b"newer"})
    with pytest.raises(StaleWorkerError):
        save_preview(jobs, job, 1, "a", {"input": b"older"})
    now = jobs.read("previews", job.id).job
    assert now.previews == newer.previews
    assert read_preview(jobs, now, 1, "input") == b"newer"


def test_the_part_of_a_large_image_with_most_in_it_is_shown() -> None:
    source = np.zeros((1000, 900, 1), np.float32)
    source[700:720, 500:520] = 1
    target = np.arange(source.size, dtype=np.int32).reshape(source.shape)
    part = _part(ValidationImage("a", {"source": source}, target), "YX")
    assert part is not None
    assert part.input.shape == (384, 384, 1)
    assert part.input.sum() == 400
    np.testing.assert_array_equal(np.unique(part.targets[part.input > 0]), np.unique(target[source > 0]))


def test_boxes_of_a_part_lie_where_their_objects_are() -> None:
    source = np.zeros((800, 400, 1), np.float32)
    source[500:510, 100:120] = 1
    corners = np.array([[500, 100, 510, 120], [0, 0, 9, 9]], np.float32)
    none = np.zeros(2, bool)
    part = _part(ValidationImage("a", {"source": source}, Boxes(corners, np.array([0, 1]), none, none)), "YX")
    assert part is not None
    ((top, left, bottom, right),) = part.targets.corners.astype(int).tolist()
    assert (bottom - top, right - left) == (10, 20)
    assert part.input[top:bottom, left:right].all()
    assert part.input.sum() == 200


def test_movies_and_targets_of_another_size_have_no_part() -> None:
    frames = ValidationImage("a", {"source": np.zeros((8, 32, 32, 1), np.float32)}, None)
    assert _part(frames, "TYX") is None
    whole = ValidationImage("a", {"source": np.zeros((64, 64, 1), np.float32)}, np.zeros((128, 128, 1)))
    assert _part(whole, "YX") is whole


def test_pictures_show_what_is_there() -> None:
    plane = np.linspace(0, 1000, 64 * 32).reshape(64, 32, 1)
    grey = draw_grey(plane)
    assert (grey.shape, grey.dtype, grey.min(), grey.max()) == ((64, 32), np.uint8, 0, 255)
    assert not draw_grey(np.full((8, 8, 1), 7.0)).any(), "an image without contrast is drawn black"
    labels = np.array([[0, 1, 2], [-1, 8, 3]])
    colours = draw_numbers(labels)
    assert not colours[0, 0].any()
    assert (colours[1, 0] == 128).all()
    assert len({tuple(colours[place]) for place in ((0, 1), (0, 2), (1, 2))}) == 3
    boxed = draw_boxes(grey, np.array([[2, 3, 10, 12]]), np.array([0]))
    changed = np.argwhere((boxed != grey[..., np.newaxis]).any(axis=-1))
    assert (changed.min(axis=0).tolist(), changed.max(axis=0).tolist()) == ([2, 3], [9, 11])
    with PIL.Image.open(io.BytesIO(to_png(boxed))) as picture:
        assert (picture.format, picture.size) == ("PNG", (32, 64))
