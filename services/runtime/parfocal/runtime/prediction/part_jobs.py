"""The job that does a part of a prediction, and what the job that merges all parts takes from their results."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import output_stem
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.steps import Steps
from parfocal.runtime.prediction.inputs import InputFile
from parfocal.runtime.prediction.job_files import (
    FetchedImage,
    fetch_ahead,
    output_folder,
    refuse_all,
    report_tiles,
    scratch_of,
    send,
)
from parfocal.runtime.prediction.loaded_model import LoadedModel, predict_image
from parfocal.runtime.prediction.pace import Pace
from parfocal.runtime.prediction.parts import MergedSteps, PartFile, Parts, Share
from parfocal.runtime.prediction.unit import OnTile, SharedSteps
from parfocal.runtime.store.manifests import PART, RESULT_MANIFEST, FileEntry, ResultFile, ResultManifest
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location


def predict_part(context: JobContext, model: LoadedModel, inputs: Sequence[InputFile]) -> None:
    """Compute the job's part of each image and publish it, to be merged with the others."""
    spec, parameters = context.job.prediction, context.parameters
    assert isinstance(parameters, PredictionParameters)
    done: list[ResultFile] = []
    files: list[FileEntry] = []
    pace = Pace()
    context.stages.enter("predicting")
    for number, item in enumerate(fetch_ahead(context, inputs, pace)):
        context.check_cancelled()
        begin = time.monotonic()
        share = Share.of(spec.part).turned(number)
        with pace.stage("predicting"):
            path, reason = _compute(context, model, parameters, item, share, (number, len(inputs)))
        outputs = {}
        if path is not None:
            if item.image is not None:
                pace.add_pixels(math.prod(item.image.pixels.shape) // spec.part.count)
            with pace.stage("writing"):
                files.append(send(context, path))
            outputs = {PART: files[-1].name}
        seconds = round(time.monotonic() - begin, 3)
        digest = sha256_of(item.path)
        done.append(ResultFile(input=item.name, input_sha256=digest, outputs=outputs, seconds=seconds, reason=reason))
        context.report_image(
            v1.ImageCompleted(name=item.name, seconds=seconds),
            v1.Progress(stage="predicting", step=len(done), steps=len(inputs), fraction=len(done) / len(inputs)),
        )
    if not files:
        raise refuse_all([(result.input, result.reason) for result in done])
    published = ResultManifest(
        project=context.job.project,
        job=context.job.id,
        service=context.service.name,
        method=context.method.name,
        kind=PART,
        model_uri=spec.model_uri,
        input_uri=spec.input_uri,
        split=spec.split,
        parameters=parameters.model_dump(mode="json"),
        environment=context.environment,
        files=tuple(files),
        images=tuple(done),
        warnings=tuple(context.job.warnings),
        part=(spec.part.number, spec.part.count),
    )
    context.publish(RESULT_MANIFEST, published, PART, pace.metrics())


def _compute(
    context: JobContext,
    model: LoadedModel,
    parameters: PredictionParameters,
    item: FetchedImage,
    share: Share,
    position: tuple[int, int],
) -> tuple[Path | None, str]:
    """Return the file with what was computed of an image, or why there is none."""
    if item.image is None:
        return None, item.reason
    folder, stem = output_folder(context), output_stem(item.name)
    path = folder / PART / f"{stem}.zip"
    units = 0
    try:
        with PartFile(path, share) as file:

            def steps(unit: int, on_step: OnTile | None) -> Steps:  # noqa: ARG001
                nonlocal units
                units += 1
                return file.steps(unit)

            predict_image(
                model,
                item.image,
                parameters,
                folder,
                stem,
                on_tile=report_tiles(context, item.name, *position),
                scratch=scratch_of(context),
                steps=steps,
            ).close()
            if file.described < units:
                raise InvalidInputError(
                    f"{model.method.title} goes through an image in a way that several jobs cannot share. Predict it "
                    "in one job."
                )
    except InvalidInputError as error:
        path.unlink(missing_ok=True)
        return None, error.message
    return path, ""


class Merge:
    """The results of the jobs that did the parts of a prediction, for the job that puts them together.

    Admission has seen that they are all parts of this prediction.

    Parameters
    ----------
    context
        The job that merges.
    inputs
        Its images.

    Raises
    ------
    InvalidInputError
        The parts are of other images: some came or went meanwhile.
    """

    def __init__(self, context: JobContext, inputs: Sequence[InputFile]) -> None:
        self._context = context
        self._places = [Location.parse(uri) for uri in context.job.prediction.part_uris]
        read = [ResultManifest.read(context.store, place / RESULT_MANIFEST) for place in self._places]
        numbers = [manifest.part[0] if manifest.part else 0 for manifest in read]
        order = sorted(range(len(read)), key=numbers.__getitem__)
        self._places = [self._places[at] for at in order]
        self.manifests = [read[at] for at in order]
        names = [item.name for item in inputs]
        for manifest in self.manifests:
            if [image.input for image in manifest.images] != names:
                raise InvalidInputError(
                    f"The part {manifest.job} was made of other images than there are now in "
                    f"{context.job.prediction.input_uri}. Predict them again."
                )

    @property
    def environment(self) -> dict[str, Any]:
        """What the parts were computed on; differences are said in words."""
        known = [manifest.environment for manifest in self.manifests]
        devices = dict.fromkeys(str(each.get("device", "")) for each in known)
        return {**known[0], "device": ", ".join(filter(None, devices))}

    def warn(self) -> None:
        """Say where the parts were computed in different precision."""
        used = dict.fromkeys(str(manifest.environment.get("precision", "")) for manifest in self.manifests)
        if len(used) > 1:
            self._context.warn(
                f"The parts of this prediction were computed in different precision ({', '.join(used)}), because their "
                "devices differ. Set precision to float32 to have all of them alike."
            )
        for text in dict.fromkeys(text for manifest in self.manifests for text in manifest.warnings):
            self._context.warn(text)

    def reason(self, number: int, item: FetchedImage) -> str:
        """Return why nothing can be made of an image, or nothing; raise InvalidInputError if it has changed."""
        parts = [manifest.images[number] for manifest in self.manifests]
        if reason := next((part.reason for part in parts if part.reason), ""):
            return reason
        digest = sha256_of(item.path)
        if any(part.input_sha256 != digest for part in parts):
            raise InvalidInputError(
                f"{item.name} was changed while its parts were predicted. Predict it again.",
            )
        return ""

    def open(self, number: int, stack: ExitStack) -> SharedSteps:
        """Return what gives the steps of the units of an image, until `stack` is closed."""
        paths = []
        for place, manifest in zip(self._places, self.manifests, strict=True):
            image = manifest.images[number]
            entry = next(entry for entry in manifest.files if entry.name == image.outputs[PART])
            paths.append(self._context.cache.fetch(self._context.store, place, entry))
        parts = stack.enter_context(Parts(paths, self.manifests[0].images[number].input, turn=number))
        return lambda unit, on_step: MergedSteps(parts, unit, on_step)
