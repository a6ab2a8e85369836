"""Inputs of predictions and results of jobs."""

from __future__ import annotations

import math
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.convert import (
    WHOLE,
    Part,
    convert,
    converted_stem,
    images_in,
    inspect_part,
    is_converted,
    is_makers_format,
    part_of_image,
    part_of_options,
    shown_name,
    taken_again,
)
from parfocal.client.exports import AS_STORED, Formats
from parfocal.client.formats.plates import check_name_of_zarr, plate_of
from parfocal.client.published import read_manifest
from parfocal.client.transfer import OnProgress, download_files, no_progress
from parfocal.client.uploads import ToSend, uploading
from parfocal.runtime.datasets.pairs import PASSED_OVER, is_hidden
from parfocal.runtime.errors import (
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PreconditionError,
    UnavailableError,
    Violation,
    refusal,
)
from parfocal.runtime.images.files import (
    IMAGE_SUFFIXES,
    image_stem,
    inspect_image,
    name_clash,
    open_image,
    printable,
    unreadable_name,
    write_image,
)
from parfocal.runtime.images.needs import ImageNeeds
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.images.taken import EVERYTHING, Taken
from parfocal.runtime.store.manifests import DatasetManifest, ModelManifest, ResultManifest


def find_inputs(path: Path, wells: Sequence[str] = ()) -> list[Path]:
    """Return the images that `path` stands for: the file itself, or all images of the folder.

    A plate stands for its fields: the folder of each, whose name is that of its result (`input_stem`).

    Parameters
    ----------
    path
        A file or folder.
    wells
        Patterns of the wells and fields of plates that are taken; none: all.

    Raises
    ------
    NotFoundError
        There is no such file or folder.
    InvalidInputError
        There are no images, or two have the same name but for their ending or for how accented letters are stored; or
        wells are chosen and there is no plate.
    """
    if not path.exists():
        raise NotFoundError(f"There is no file or folder {path}. Check the name.")
    if path.is_file() or is_makers_format(path):
        paths = [path]
    else:
        check_name_of_zarr(path)
        paths = sorted(item for item in path.iterdir() if _is_image(item))
    if not paths:
        raise InvalidInputError(f"{path} holds no images. Name a TIFF, PNG, JPEG or BMP file, or a folder of them.")
    paths = _with_fields(path, paths, wells)
    problems: list[Violation] = []
    known: dict[str, Path] = {}
    for item in paths:
        if (unreadable := unreadable_name(item)) is not None:
            problems.append(unreadable)
            continue
        other = known.setdefault(input_stem(item), item)
        if other != item:
            problems.append(Violation(item.name, name_clash(item, other)))
    if problems:
        raise refusal(f"{path} cannot be used; nothing was uploaded:", problems)
    return paths


def _with_fields(path: Path, paths: Sequence[Path], wells: Sequence[str]) -> list[Path]:
    """Return the images with the fields of plates in place of these."""
    found: list[Path] = []
    problems: list[Violation] = []
    for item in paths:
        try:
            found += images_in(item, wells) if is_makers_format(item) else [item]
        except InvalidInputError as error:
            problems += error.violations
    if problems:
        raise refusal(f"{path} cannot be used; nothing was uploaded:", problems)
    if wells and found == [*paths]:
        raise InvalidInputError(f"Wells were chosen, but {path} is no plate and holds none. Leave --well out.")
    return found


def passed_over(path: Path) -> list[str]:
    """Return the names of all that `find_inputs` does not take from a folder, but for what the system hides in it."""
    if not path.is_dir() or is_makers_format(path):
        return []
    return sorted(
        printable(item.name) + ("/" if item.is_dir() else "")
        for item in path.iterdir()
        if not _is_image(item) and not is_hidden(item) and item.name not in PASSED_OVER
    )


def _is_image(path: Path) -> bool:
    """Return whether a file of a folder is taken for an image, by its name."""
    return path.name[0] != "." and (path.suffix.lower() in IMAGE_SUFFIXES or is_makers_format(path))


def part_of_training(client: Client, model: ModelManifest) -> str:
    """Return what was taken of the files that a model was trained on, as options of the command line; "": all.

    Raises
    ------
    UnavailableError
        The catalogue does not answer.
    """
    if model.part or not model.dataset_uri:
        return model.part
    try:
        return read_manifest(client, model.dataset_uri, DatasetManifest).part
    except UnavailableError:
        raise
    except ParfocalError:  # deleted, or of a project that does not share it
        return ""


def part_words(client: Client, model: ModelManifest) -> str:
    """Return what was taken of the files that a model was trained on, as people say it; "" where it was all."""
    return part_of_options(part_of_training(client, model), model.part_channels).words


def taken_in_batches(client: Client, model: ModelManifest) -> Taken:
    """Return what is taken of the images of a folder in the store, unless somebody chooses: what a training took.

    Those are images that services read themselves, of which channels alone are taken; see `part_of_image`.

    Raises
    ------
    UnavailableError
        The catalogue does not answer.
    """
    channels = part_of_options(part_of_training(client, model)).channels
    return Taken(channels, names=model.part_channels) if channels else EVERYTHING


def taken_in_training(client: Client, model: ModelManifest, paths: Sequence[Path], axes: str = "") -> tuple[Part, str]:
    """Return what was taken of the files that a model was trained on, and in words, if any of these images has it.

    Parameters
    ----------
    client
        The model's.
    model
        The model.
    paths
        The images to predict.
    axes
        What somebody says that their axes are; "" if the files say it.
    """
    options = part_of_training(client, model)
    return taken_again(options, paths, axes, model.part_channels) if options else (WHOLE, "")


def unsuitable_inputs(
    method: v1.Method, model: ModelManifest, paths: Sequence[Path], axes: str = "", part: Part = WHOLE
) -> dict[Path, Violation]:
    """Return which images cannot be read, or a model cannot be applied to, and why, before any of them is uploaded.

    Parameters
    ----------
    method, model
        The model, and what its method asks for.
    paths
        Image files.
    axes
        What somebody says that their axes are, see `read_image`; "" if the files say it.
    part
        What is taken of each image.
    """
    required = method.data_requirements
    channels = model.input_channels
    needs = ImageNeeds(method.title, required.axes, required.channel_axes)
    problems = {}
    for path in paths:
        try:
            found, shape = _inspect(path, axes, part)
            # An older service does not say where it looks for channels.
            if channels == 1 or required.channel_axes:
                needs.check(found, shape, channels)
        except InvalidInputError as error:
            text = error.violations[0].description if error.violations else error.message
            problems[path] = Violation(input_name(path), text)
    return problems


def most_pixels(paths: Sequence[Path], axes: str = "", part: Part = WHOLE) -> int:
    """Return how many pixels the largest of some readable images has; see `unsuitable_inputs`."""
    return max((math.prod(_inspect(path, axes, part)[1]) for path in paths), default=0)


def _inspect(path: Path, axes: str, part: Part) -> tuple[str, tuple[int, ...]]:
    part = part_of_image(path, part, axes)
    if is_converted(path, part):
        return inspect_part(path, part, axes)
    header = inspect_image(path, axes=axes)
    return header.axes, header.shape


def input_name(path: Path) -> str:
    """Return what messages call an input: the name of the file, or that of a field with its plate."""
    return shown_name(path) if plate_of(path) else path.name


def input_stem(path: Path) -> str:
    """Return the name, without suffix, that the output of an input has."""
    return converted_stem(path) if is_makers_format(path) else image_stem(path)


def upload_inputs(
    client: Client,
    request_id: str,
    paths: Sequence[Path],
    *,
    axes: str = "",
    part: Part = WHOLE,
    on_progress: OnProgress = no_progress,
) -> str:
    """Upload the inputs of a prediction and return their folder in the store.

    Proprietary formats and OME-Zarr are converted to OME-TIFF, and so are images whose axes are given or of which a
    part is taken; others stay as they are.

    Parameters
    ----------
    client
        Whose store and project to use.
    request_id
        Of the prediction that will be started with them.
    paths
        Image files with different names.
    axes
        What somebody says that their axes are, see `read_image`; "" if the files say it.
    part
        What is taken of each image.
    on_progress
        Called after each uploaded image.
    """
    with (
        tempfile.TemporaryDirectory(prefix="parfocal-") as scratch,
        uploading(client, "inputs", request_id=request_id) as upload,
    ):

        def prepare(path: Path) -> ToSend:
            readable, own = path, part_of_image(path, part, axes)
            if is_converted(path, own):
                readable, _ = convert(path, Path(scratch), own, axes)
            elif axes:
                readable = Path(scratch) / f"{input_stem(path)}.tif"
                write_image(readable, open_image(path, Scratch(Path(scratch) / "arrays"), axes=axes))
            # In the store accented letters are stored in one way, whatever this computer's is.
            return ToSend(readable, unicodedata.normalize("NFC", readable.name), is_copy=readable != path)

        upload.finish(upload.send_all([(input_name(path), path) for path in paths], prepare, on_progress))
    return upload.uri


def read_result(client: Client, job: v1.Job) -> ResultManifest:
    """Return the manifest of what a prediction, evaluation or comparison published."""
    return read_manifest(client, result_uri(job), ResultManifest)


def is_gone(client: Client, job: v1.Job) -> bool:
    """Return whether what a job made was deleted: a model, a result or a part of one."""
    if job.state != v1.JOB_STATE_SUCCEEDED:
        return False
    try:
        client.catalog.read(job.outputs[0].uri)
    except NotFoundError:
        return True
    return False


def result_uri(job: v1.Job) -> str:
    """Return where a job published its result; raise PreconditionError if it has none."""
    for output in job.outputs:
        if output.kind in {"result", "evaluation", "comparison"}:
            return output.uri
    if job.prediction.HasField("part"):
        part = job.prediction.part
        raise PreconditionError(
            f"The job {job.id} did part {part.number} of {part.count} of a prediction: its result is that of the job "
            "that merged all parts."
        )
    state = v1.JobState.Name(job.state).removeprefix("JOB_STATE_")
    raise PreconditionError(f"The job {job.id} has no result: it is {state}.")


def download_result(
    client: Client,
    job: v1.Job,
    folder: Path,
    *,
    overwrite: bool = False,
    formats: Formats = AS_STORED,
    on_progress: OnProgress = no_progress,
) -> list[Path]:
    """Download what a job published, under its own names, to `folder` and return the paths.

    Parameters
    ----------
    client, job
        The job, and who may read its result.
    folder
        Where the files go.
    overwrite
        Whether files that exist are replaced.
    formats
        Formats that images and tables get, with the endings of their names.
    on_progress
        Called after each file.

    Raises
    ------
    DiskFullError
        There is no room.
    AlreadyExistsError
        Some of the files exist and `overwrite` is false.
    PreconditionError
        The job has no result, or packages are missing that write the formats.
    """
    manifest, uri = read_result(client, job), result_uri(job)
    exporter = formats.exporter(uri, manifest)
    return download_files(
        client,
        uri,
        manifest.files,
        folder,
        overwrite=overwrite,
        on_progress=on_progress,
        name=exporter.name,
        finish=exporter.finish,
    )
