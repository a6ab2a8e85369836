"""Pictures of a validation image that people see while a training goes on.

They are PNG files in `previews/<attempt>-<epoch>/` of the job's folder, which count only where its record names them:
a worker that was replaced writes to places of its own attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from parfocal import v1
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.store.store import Location

MOST: Final = 8
"""So many are kept: the first, the newest, and some between them."""


def save_preview(jobs: JobStore, job: v1.Job, epoch: int, image: str, pictures: Mapping[str, bytes]) -> v1.Job:
    """Keep pictures after an epoch, PNG files by their names, and forget some of earlier epochs; return the job.

    Raises
    ------
    StaleWorkerError
        Another attempt has the job.
    UnavailableError
        The store does not answer; it is not waited for.
    """
    preview = v1.TrainingPreview(epoch=epoch, attempt=job.attempt, image=image, pictures=list(pictures))
    for name, data in pictures.items():
        jobs.store.write(_place(jobs, job, preview) / f"{name}.png", data)

    def change(job: v1.Job) -> v1.JobEvent:
        # After a resume epochs since the checkpoint are done again.
        kept = thinned([*(known for known in job.previews if known.epoch < epoch), preview])
        del job.previews[:]
        job.previews.extend(kept)
        return v1.JobEvent(preview=preview)

    job = jobs.change(job.project, job.id, change, attempt=job.attempt)
    named = {_place(jobs, job, known) for known in job.previews}
    for item in list(jobs.store.objects(_root(jobs, job))):
        folder = item.location.parent
        # A later attempt may be writing one that this job does not name yet.
        if folder not in named and int(folder.name.split("-")[0]) <= job.attempt:
            jobs.store.delete(item.location)
    return job


def read_preview(jobs: JobStore, job: v1.Job, epoch: int, picture: str) -> bytes:
    """Return a picture of a training as PNG; raise NotFoundError where the job names none like this."""
    for preview in job.previews:
        if preview.epoch == epoch and picture in preview.pictures:
            return jobs.store.read(_place(jobs, job, preview) / f"{picture}.png")
    raise NotFoundError(f"The training {job.id} has no picture {picture!r} after epoch {epoch}.")


def thinned(previews: Sequence[v1.TrainingPreview]) -> list[v1.TrainingPreview]:
    """Return the first and the last of previews in order of epochs, and so many between them that all are few."""
    kept = list(previews)
    while len(kept) > MOST:
        gaps = [after.epoch - before.epoch for before, after in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def _root(jobs: JobStore, job: v1.Job) -> Location:
    return jobs.folder(job.project, job.id) / "previews"


def _place(jobs: JobStore, job: v1.Job, preview: v1.TrainingPreview) -> Location:
    return _root(jobs, job) / f"{preview.attempt:04d}-{preview.epoch:06d}"
