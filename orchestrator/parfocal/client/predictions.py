"""Predictions that something else than Parfocal made, brought into the store to be judged like any other."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from parfocal.client.client import Client
from parfocal.client.convert import convert, is_makers_format
from parfocal.client.results import find_inputs, input_stem, upload_inputs
from parfocal.client.transfer import OnProgress, no_progress
from parfocal.client.uploads import ToSend, uploading
from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation, refusal
from parfocal.runtime.images.files import image_stem, inspect_image
from parfocal.runtime.prediction.box_files import DETECTIONS
from parfocal.runtime.prediction.detections import read_detections
from parfocal.runtime.store.manifests import (
    RESULT_MANIFEST,
    DatasetManifest,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.store.names import new_request_id
from parfocal.runtime.store.publish import sha256_of

_METHOD = "external"
_TABLES: Final = {"boxes": (DETECTIONS, read_detections)}
"""By kind of dataset whose targets are no images: what predictions of it are called, and what reads them."""


def publish_prediction(
    client: Client,
    folder: Path,
    dataset: DatasetManifest,
    *,
    split: str = "test",
    on_progress: OnProgress = no_progress,
) -> str:
    """Publish a folder of predictions as those of one split of a dataset, and return its address.

    Parameters
    ----------
    folder
        Images with the names of the split's targets, but for the ending, and of their shapes. Others are refused: they
        were predicted from something else. Where the images are no pairs: with the names and sizes of its sources, and
        the channels of its targets. Of a dataset with boxes, tables of detections (``NAME.csv``, as
        `parfocal.runtime.prediction.detections` reads them).
    dataset, split
        Whose targets they will be compared with.
    on_progress
        Called after each uploaded image.

    Raises
    ------
    NotFoundError
        There is no such folder.
    InvalidInputError
        An image or table cannot be read, has the name of no target or another shape, or none has a target. Nothing is
        published.
    """
    if dataset.kind in _TABLES:
        return _publish_tables(client, folder, dataset, split, on_progress)
    targets = _expected(dataset, split)
    paths = {input_stem(path): path for path in find_inputs(folder)}
    name = f"{dataset.dataset}:{dataset.version}"
    if not paths.keys() & targets.keys():
        raise InvalidInputError(
            f"No image in {folder} has the name of a {split} image of {name}, which has "
            f"{some(list(targets))}. Give predictions the names "
            "of the images that they were predicted from."
        )
    inputs = _inputs(dataset, split)
    job = _result_id(folder)
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        readable = _readable(paths, Path(scratch))
        _check(folder, name, readable, targets, "target")
        return _publish(client, job, readable, client.dataset_uri(name), split, inputs, on_progress)


def publish_predicted_images(
    client: Client, folder: Path, images: Path, *, on_progress: OnProgress = no_progress
) -> str:
    """Publish a folder of predicted images together with the images they were made from, and return its address.

    Parameters
    ----------
    folder
        Predicted images with the names of their inputs, but for the ending, and of their shapes.
    images
        The inputs: a folder, or one image.
    on_progress
        Called after each uploaded image.

    Raises
    ------
    NotFoundError
        There is no such folder.
    InvalidInputError
        An image cannot be read, has the name of no input or another shape, or none has an input. Nothing is published.
    """
    inputs = {input_stem(path): path for path in find_inputs(images)}
    paths = {input_stem(path): path for path in find_inputs(folder)}
    if not paths.keys() & inputs.keys():
        raise InvalidInputError(
            f"No image in {folder} has the name of an image in {images}, which has {some(list(inputs))}. "
            f"Give predictions the names of the images they were made from."
        )
    job = _result_id(folder)
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        readable = _readable(paths, Path(scratch) / "predicted")
        originals = _readable({stem: path for stem, path in inputs.items() if stem in paths}, Path(scratch) / "inputs")
        shapes = _shapes(originals)
        _check(folder, str(images), readable, shapes, "input")
        uri = upload_inputs(client, job, list(originals.values()), on_progress=on_progress)
        digests = {stem: (path.name, "") for stem, path in inputs.items()}
        digests |= {stem: (path.name, sha256_of(path)) for stem, path in originals.items()}
        return _publish(client, job, readable, uri, "", digests, on_progress)


def _publish_tables(client: Client, folder: Path, dataset: DatasetManifest, split: str, on_progress: OnProgress) -> str:
    """Publish a folder of tables; see `publish_prediction`."""
    table, read = _TABLES[dataset.kind]
    name = f"{dataset.dataset}:{dataset.version}"
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}. Check the name.")
    paths = {image_stem(path): path for path in sorted(folder.glob("*.csv")) if path.name[0] != "."}
    known = [entry.stem for entry in dataset.select_annotations(split)]
    if not paths.keys() & {*known}:
        raise InvalidInputError(
            f"No table in {folder} has the name of a {split} image of {name}, which has {some(known)}. "
            f"Save the {table} of each image as NAME.csv."
        )
    problems = [
        Violation(path.name, f"has the name of no {split} image; take it away or name it after its input.")
        for stem, path in paths.items()
        if stem not in known
    ]
    for path in paths.values():
        try:
            read(path)
        except InvalidInputError as error:
            problems.append(Violation(path.name, error.message))
    if problems:
        raise refusal(f"{folder} is no prediction of {name}; nothing was uploaded:", problems)
    uri, inputs = client.dataset_uri(name), _inputs(dataset, split)
    return _publish(client, _result_id(folder), paths, uri, split, inputs, on_progress, table)


def _expected(dataset: DatasetManifest, split: str) -> dict[str, tuple[int, ...]]:
    """Return by stem the shapes that predictions of a split have."""
    targets = dataset.select(split, "target")
    if not dataset.has_unpaired(split):
        return {image.stem: image.shape for image in targets}
    axes, lengths = targets[0].axes, dict(zip(targets[0].axes, targets[0].shape, strict=True))
    expected = {}
    for image in dataset.select(split, "source"):
        own = {axis: length for axis, length in zip(image.axes, image.shape, strict=True) if axis in "ZYX"}
        expected[image.stem] = tuple({**lengths, **own}[axis] for axis in axes)
    return expected


def _inputs(dataset: DatasetManifest, split: str) -> dict[str, tuple[str, str]]:
    """Return by stem the file and the digest of the sources of a split."""
    digests = {entry.name: entry.sha256 for entry in dataset.files}
    return {image.stem: (image.file, digests[image.file]) for image in dataset.select(split, "source")}


def _result_id(folder: Path) -> str:
    """Return an id for images from a folder, with the folder's name: comparisons and reports call them by it."""
    return new_request_id(f"prediction-{folder.resolve().stem}")


def _readable(paths: Mapping[str, Path], scratch: Path) -> dict[str, Path]:
    """Return the images in formats that can be read everywhere, converted to `scratch` where they are not."""
    scratch.mkdir(exist_ok=True)
    return {stem: convert(path, scratch)[0] if is_makers_format(path) else path for stem, path in paths.items()}


def _publish(
    client: Client,
    job: str,
    paths: Mapping[str, Path],
    input_uri: str,
    split: str,
    inputs: Mapping[str, tuple[str, str]],
    on_progress: OnProgress,
    table: str = "",
) -> str:
    """Publish predicted images by stem, or the tables called `table`; `inputs` gives name and digest of their inputs.

    Inputs of which nothing was made are listed too, as those are that a model could not predict.
    """
    with uploading(client, "result", request_id=job) as upload:

        def named(stem: str) -> ToSend:
            path = paths[stem]
            name = f"{table}/{stem}" if table else stem
            return ToSend(path, f"{name}{path.suffix.lower()}")

        files = upload.send_all([(path.name, stem) for stem, path in paths.items()], named, on_progress)
        entries = dict(zip(paths, files, strict=True))
        manifest = ResultManifest(
            project=client.project,
            job=job,
            service=_METHOD,
            method=_METHOD,
            kind="prediction",
            input_uri=input_uri,
            split=split,
            files=tuple(entries[stem] for stem in sorted(entries)),
            images=tuple(
                ResultFile(
                    input=inputs[stem][0],
                    input_sha256=inputs[stem][1],
                    outputs={table or "prediction": entries[stem].name},
                )
                for stem in sorted(entries)
            )
            + tuple(
                ResultFile(input=name, input_sha256=digest, reason="There is no prediction of this name.")
                for stem, (name, digest) in sorted(inputs.items())
                if stem not in entries
            ),
        )
        return upload.publish(RESULT_MANIFEST, manifest).uri


def _shapes(paths: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of images; raise InvalidInputError naming all that cannot be read."""
    shapes: dict[str, tuple[int, ...]] = {}
    problems: list[Violation] = []
    for stem, path in paths.items():
        try:
            shapes[stem] = inspect_image(path).shape
        except InvalidInputError as error:
            problems += error.violations
    if problems:
        raise refusal("Some inputs cannot be read; nothing was uploaded:", problems)
    return shapes


def _check(
    folder: Path, name: str, paths: Mapping[str, Path], shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raise InvalidInputError naming every image that has no `what` of its name and shape."""
    problems: list[Violation] = []
    for stem, path in paths.items():
        try:
            # A label image with a colour table is one of indices.
            shape = inspect_image(path, labels=len(shapes.get(stem, ())) == 2).shape
        except InvalidInputError as error:
            problems += error.violations
            continue
        if stem not in shapes:
            problems.append(
                Violation(path.name, f"has the name of no {what}; take it away or name it after its input.")
            )
            continue
        if shape != shapes[stem]:
            problems.append(
                Violation(path.name, f"has shape {shape}, but its {what} {shapes[stem]}: predict it whole.")
            )
    if problems:
        raise refusal(f"{folder} is no prediction of {name}; nothing was uploaded:", problems)
