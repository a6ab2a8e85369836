"""Inputs of predictions and results of jobs."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.convert import convert, converted_stem, inspect_makers_format, is_makers_format
from parfocal.client.transfer import OnProgress, download_files, for_each, no_progress
from parfocal.runtime.errors import InvalidInputError, NotFoundError, PreconditionError, Violation, refusal
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem, inspect_image, name_clash, unreadable_name
from parfocal.runtime.images.needs import ImageNeeds
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ModelManifest, ResultManifest
from parfocal.runtime.store.names import result_location
from parfocal.runtime.store.store import Location


def find_inputs(path: Path) -> list[Path]:
    """Return the images that `path` stands for: the file itself, or all images of the folder.

    Raises
    ------
    NotFoundError
        There is no such file or folder.
    InvalidInputError
        There are no images, some cannot be read, or two have the same name but for their ending or for how accented
        letters are stored.
    """
    if not path.exists():
        raise NotFoundError(f"There is no file or folder {path}. Check the name.")
    if path.is_file() or is_makers_format(path):
        paths = [path]
    else:
        paths = sorted(
            item
            for item in path.iterdir()
            if item.name[0] != "." and (item.suffix.lower() in IMAGE_SUFFIXES or is_makers_format(item))
        )
    if not paths:
        raise InvalidInputError(f"{path} holds no images. Name a TIFF or PNG file, or a folder of them.")
    problems: list[Violation] = []
    known: dict[str, Path] = {}
    for item in paths:
        if (unreadable := unreadable_name(item)) is not None:
            problems.append(unreadable)
            continue
        other = known.setdefault(input_stem(item), item)
        if other != item:
            problems.append(Violation(item.name, name_clash(item, other)))
        if not is_makers_format(item):
            try:
                inspect_image(item)
            except InvalidInputError as error:
                problems += error.violations
    if problems:
        raise refusal(f"{path} cannot be used; nothing was uploaded:", problems)
    return paths


def unsuitable_inputs(method: v1.Method, model: ModelManifest, paths: Sequence[Path]) -> list[Violation]:
    """Return which images a model cannot be applied to, and why, before any of them is uploaded.

    The service looks at the same, image by image: it leaves out those that do not suit.
    """
    required = method.data_requirements
    channels = model.input_channels
    if channels > 1 and not required.channel_axes:
        return []  # an older service does not say where it looks for channels
    needs = ImageNeeds(method.title, required.axes, required.channel_axes)
    problems = []
    for path in paths:
        try:
            axes, shape = inspect_makers_format(path) if is_makers_format(path) else _inspect(path)
            needs.check(axes, shape, channels)
        except InvalidInputError as error:
            problems.append(
                Violation(path.name, error.violations[0].description if error.violations else error.message)
            )
    return problems


def _inspect(path: Path) -> tuple[str, tuple[int, ...]]:
    header = inspect_image(path)
    return header.axes, header.shape


def input_stem(path: Path) -> str:
    """Return the name, without suffix, that the output of an input has."""
    return converted_stem(path) if is_makers_format(path) else image_stem(path)


def upload_inputs(
    client: Client, request_id: str, paths: Sequence[Path], *, on_progress: OnProgress = no_progress
) -> str:
    """Upload the inputs of a prediction and return their folder in the store.

    Makers' formats are converted to OME-TIFF; other images stay as they are.

    Parameters
    ----------
    client
        Whose store and project to use.
    request_id
        Of the prediction that will be started with them.
    paths
        Image files with different names.
    on_progress
        Called after each uploaded image.
    """
    folder = result_location(client.store, client.project, request_id) / "inputs"
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:

        def send(path: Path) -> None:
            readable = convert(path, Path(scratch)) if is_makers_format(path) else path
            # In the store accented letters are stored in one way, whatever this computer's is.
            client.store.upload(readable, folder / unicodedata.normalize("NFC", readable.name))

        for_each([(path.name, path) for path in paths], send, on_progress)
    return str(folder)


def read_result(client: Client, job: v1.Job) -> ResultManifest:
    """Return the manifest of what a prediction, evaluation or comparison published."""
    return ResultManifest.read(client.store, Location.parse(result_uri(job)) / RESULT_MANIFEST)


def result_uri(job: v1.Job) -> str:
    """Return where a job published its result; raise PreconditionError if it has none."""
    for output in job.outputs:
        if output.kind in {"result", "evaluation", "comparison"}:
            return output.uri
    state = v1.JobState.Name(job.state).removeprefix("JOB_STATE_")
    raise PreconditionError(f"The job {job.id} has no result: it is {state}.")


def download_result(
    client: Client, job: v1.Job, folder: Path, *, overwrite: bool = False, on_progress: OnProgress = no_progress
) -> list[Path]:
    """Download what a job published, under its own names, to `folder` and return the paths.

    Raises
    ------
    AlreadyExistsError
        Some of the files exist and `overwrite` is false.
    PreconditionError
        The job has no result.
    """
    manifest = read_result(client, job)
    return download_files(
        client.store,
        Location.parse(result_uri(job)),
        manifest.files,
        folder,
        overwrite=overwrite,
        on_progress=on_progress,
    )
