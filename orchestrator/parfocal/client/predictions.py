"""Predictions that something else than Parfocal made, brought into the store to be judged like any other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from parfocal.client.client import Client
from parfocal.client.convert import convert, is_makers_format
from parfocal.client.results import find_inputs, input_stem
from parfocal.client.transfer import OnProgress, for_each, no_progress
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images import inspect_image
from parfocal.runtime.manifests import (
    RESULT_MANIFEST,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.names import new_request_id, result_location
from parfocal.runtime.publish import publish, upload_files

_SHOWN = 5
_METHOD = "external"


def publish_prediction(
    client: Client,
    folder: Path,
    dataset: DatasetManifest,
    *,
    split: str = "test",
    on_progress: OnProgress = no_progress,
) -> str:
    """Publish a folder of predicted images as a prediction of one split of a dataset, and return its address.

    Parameters
    ----------
    folder
        Images with the names of the split's targets, but for the ending, and of their shapes. Others are refused: they
        were predicted from something else.
    dataset, split
        Whose targets they will be compared with.
    on_progress
        Called after each uploaded image.

    Raises
    ------
    NotFoundError
        There is no such folder.
    InvalidInputError
        An image cannot be read, has the name of no target or another shape, or none has a target. Nothing is published.
    """
    targets = {image.stem: image for image in dataset.select(split, "target")}
    paths = {input_stem(path): path for path in find_inputs(folder)}
    name = f"{dataset.dataset}:{dataset.version}"
    if not paths.keys() & targets.keys():
        raise InvalidInputError(
            f"No image in {folder} has the name of a {split} image of {name}, which has "
            f"{', '.join(list(targets)[:_SHOWN])}{' …' if len(targets) > _SHOWN else ''}. Give predictions the names "
            "of the images that they were predicted from."
        )
    job = new_request_id("prediction")
    place = result_location(client.store, client.project, job)
    entries: dict[str, FileEntry] = {}
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        readable = {
            stem: convert(path, Path(scratch)) if is_makers_format(path) else path for stem, path in paths.items()
        }
        _check(folder, name, readable, targets)

        def send(stem: str) -> None:
            path = readable[stem]
            entries[stem] = upload_files(client.store, place, [(path, f"{stem}{path.suffix.lower()}")])[0]

        for_each([(path.name, stem) for stem, path in readable.items()], send, on_progress)
    sources = {image.stem: image.file for image in dataset.select(split, "source")}
    digests = {entry.name: entry.sha256 for entry in dataset.files}
    manifest = ResultManifest(
        project=client.project,
        job=job,
        service=_METHOD,
        method=_METHOD,
        kind="prediction",
        input_uri=client.dataset_uri(name),
        split=split,
        files=tuple(entries[stem] for stem in sorted(entries)),
        images=tuple(
            ResultFile(
                input=sources[stem], input_sha256=digests[sources[stem]], outputs={"prediction": entries[stem].name}
            )
            for stem in sorted(entries)
        ),
    )
    return publish(client.store, place, RESULT_MANIFEST, manifest)


def _check(folder: Path, name: str, paths: dict[str, Path], targets: dict[str, ImageEntry]) -> None:
    """Raise InvalidInputError naming every image that is no prediction of a target."""
    problems = []
    for stem, path in paths.items():
        if stem not in targets:
            problems.append(Violation(path.name, "has the name of no target; take it away or name it after its input."))
            continue
        shape = inspect_image(path).shape
        if shape != targets[stem].shape:
            problems.append(Violation(path.name, f"has shape {shape}, but its target {targets[stem].shape}."))
    if problems:
        lines = [f"- {problem.field}: {problem.description}" for problem in problems[:_SHOWN]]
        lines += [f"- and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        text = f"{folder} is no prediction of {name}; nothing was uploaded:"
        raise InvalidInputError("\n".join([text, *lines]), problems)
