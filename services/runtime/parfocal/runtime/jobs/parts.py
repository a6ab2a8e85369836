"""Checks requests for parts of a prediction, and for merging them, by what jobs have recorded and published."""

from __future__ import annotations

from parfocal import v1
from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError, Violation
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.methods.service import Method, Parameters
from parfocal.runtime.store.manifests import MOST_PARTS, PART, RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location, Store


def check_parts(store: Store, method: Method, spec: v1.PredictionSpec, parameters: Parameters) -> None:
    """Raise an error unless a request for a part, or for merging parts, can be carried out.

    Raises
    ------
    InvalidInputError
        The method cannot be divided, there is no such part, or the results are not those that jobs made of all parts
        of this prediction.
    NotFoundError
        A part is not there, or was deleted.
    """
    if spec.HasField("part"):
        if spec.part_uris:
            raise _refused("part_uris", "A job either does a part or merges all parts: set part or part_uris.")
        if not method.divisible:
            raise _refused("part", f"{method.title} goes through a recording as a whole. Predict it in one job.")
        number, count = spec.part.number, spec.part.count
        if not 2 <= count <= MOST_PARTS:
            raise _refused("part.count", f"A prediction can have 2 to {MOST_PARTS} parts, not {count}.")
        if not 1 <= number <= count:
            raise _refused("part.number", f"There is no part {number} of {count}: parts count from 1.")
        return
    found: dict[int, ResultManifest] = {}
    for uri in spec.part_uris:
        place, manifest = _read(store, uri)
        number, count = manifest.part or (0, 0)
        if manifest.kind != PART or not number:
            raise _refused("part_uris", f"The result {uri} is not a part of a prediction.")
        if not _made_by_its_job(store, place, manifest):
            raise _refused(
                "part_uris",
                f"The part {uri} names the job {manifest.job!r} as the one that made it, and no such job has published "
                "it. Predict this part again.",
            )
        asked = (spec.model_uri, spec.input_uri, spec.split, parameters.model_dump(mode="json"))
        if (manifest.model_uri, manifest.input_uri, manifest.split, manifest.parameters) != asked:
            raise _refused(
                "part_uris",
                f"The part {uri} was made with another model, other images or other parameters than this request "
                "names. Merge parts of one prediction.",
            )
        if count != len(spec.part_uris) or number in found:
            raise _refused(
                "part_uris",
                f"The part {uri} is number {number} of {count}, but {len(spec.part_uris)} results are to be merged"
                f"{' and another one has this number' if number in found else ''}. Name all parts, each once.",
            )
        found[number] = manifest


def refuse_part(manifest: ResultManifest, field: str) -> None:
    """Raise InvalidInputError where a result is only a part; `field` of the request names it."""
    if manifest.kind == PART:
        number, count = manifest.part or (0, 0)
        text = (
            f"{manifest.job} did part {number} of {count} of a prediction. Name the result of the job that merged all "
            "parts."
        )
        raise InvalidInputError(text, [Violation(field, text)])


def _made_by_its_job(store: Store, place: Location, manifest: ResultManifest) -> bool:
    """Return whether the job that a part names has published it.

    Images to be predicted are uploaded among the results as well, so that a place alone does not say who has written
    to it. Records of jobs are written by services alone.
    """
    project, _, name = place.key.partition("/")
    if (manifest.project, manifest.job) != (project, name):
        return False
    try:
        job = JobStore(store).read(project, name).job
    except NotFoundError:
        return False
    asked = job.prediction.part
    published = {(output.kind, output.uri) for output in job.outputs}
    return (PART, str(place)) in published and (asked.number, asked.count) == manifest.part


def _read(store: Store, uri: str) -> tuple[Location, ResultManifest]:
    field = "prediction.part_uris"
    try:
        # Nowhere else: people can write into inboxes and datasets, and so could pass off anything as a prediction.
        place = Location.parse(uri).within(store.results)
        return place, ResultManifest.read(store, place / RESULT_MANIFEST)
    except NotFoundError as error:
        text = (
            f"There is no part of a prediction at {uri}: it has not ended, or it was deleted. Predict this part again."
        )
        raise NotFoundError(text, [Violation(field, text)]) from error
    except (InvalidInputError, DamagedError) as error:
        raise type(error)(error.message, [Violation(field, error.message)]) from error


def _refused(field: str, text: str) -> InvalidInputError:
    return InvalidInputError(text, [Violation(f"prediction.{field}", text)])
