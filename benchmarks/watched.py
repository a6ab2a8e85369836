"""Trainings that stop after some minutes, and the predictions of test images by their networks on the way."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import events, run_job
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import Image, read_image
from parfocal.runtime.methods.implementation import Implementation, Selection
from parfocal.runtime.methods.service import Service, load_object, values_struct
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.store import Location, Store

Look = Callable[[Implementation[Any, Any], Any, Any, Facts], Mapping[str, float]]
"""Returns scores on test images of an implementation, its learner, the parameters and the facts."""


@dataclass(frozen=True)
class Trained:
    """A model and the way to it.

    Attributes
    ----------
    uri, model
        Where it is published, and its manifest.
    rows
        For each epoch: "epoch", "minutes" of all epochs so far, losses and scores.
    """

    uri: str
    model: ModelManifest
    rows: list[dict[str, float]]


def chosen(rows: Sequence[Mapping[str, float]], selection: Selection, minutes: float) -> Mapping[str, float]:
    """Return the row of the epoch whose weights would have been kept, had training ended after some minutes."""
    best: Mapping[str, float] | None = None
    for row in rows:
        value = row.get(selection.metric)
        if value is None or row["minutes"] > minutes:
            continue
        if selection.improves(value, None if best is None else best[selection.metric]):
            best = row
    if best is None:
        raise SystemExit(f"no epoch was assessed within {minutes:g} minutes: give it more")
    return best


def train(
    service: Service,
    store: Store,
    method: str,
    dataset: str,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    minutes: float | None = None,
    look: Look | None = None,
    look_every: int = 1,
) -> Trained:
    """Train through the worker's code, for some minutes at most, and look at test images every so many epochs.

    What else runs on the machine takes its part of these minutes; those of the processor that the training had are
    in the rows as "processor_minutes". A method that assesses validation images keeps its own rhythm, and test images
    are looked at then. They select nothing: weights are chosen as in any training.
    """
    if look is not None:
        service = _watched(service, method, look, look_every)
    spec = v1.TrainingSpec(
        method=method, dataset_uri=dataset, model=f"benchmark-{method}", parameters=values_struct(dict(parameters))
    )
    job = run_job(service, store, v1.StartJobRequest(training=spec), folder, minutes)
    rows: list[dict[str, float]] = []
    for event in events(store, job):
        if event.HasField("epoch_completed"):
            done = event.epoch_completed
            before = rows[-1]["minutes"] if rows else 0.0
            rows.append({"epoch": done.epoch, "minutes": before + done.seconds / 60, **done.metrics})
    uri = job.outputs[0].uri
    return Trained(uri, ModelManifest.read(store, Location.parse(uri) / MODEL_MANIFEST), rows)


def _watched(service: Service, name: str, look: Look, every: int) -> Service:
    method = service.method(name)
    base: type[Implementation[Any, Any]] = load_object(method.implementation)
    begin = time.process_time()

    class Watched(base):  # type: ignore[valid-type, misc]
        def assess_every(self, parameters: Any) -> int:
            return int(super().assess_every(parameters)) or every

        def assess(self, learner: Any, images: Any, parameters: Any, facts: Facts) -> dict[str, float]:
            scores = super().assess(learner, images, parameters, facts)
            spent = (time.process_time() - begin) / 60
            return {**scores, **look(self, learner, parameters, facts), "processor_minutes": spent}

    # Implementations are named as text.
    globals()["Watched"] = Watched
    changed = replace(method, implementation=f"{__name__}:Watched")
    return replace(service, methods=tuple(changed if each is method else each for each in service.methods))


def read_images(folder: Path) -> dict[str, Image]:
    """Return the images of a folder by stem, in the order of their names."""
    return {stem: read_image(path) for stem, path in sorted(find_images(folder).items())}


def normalised(implementation: Implementation[Any, Any], image: Image) -> NDArray[np.float32]:
    """Return an image as networks take it: on the scale of the method, channels last."""
    constants = implementation.normaliser.fit(image.pixels, image.axes)
    pixels = implementation.normaliser.apply(image.pixels, constants)
    return pixels if "S" in image.axes else pixels[..., np.newaxis]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV; a column that a row lacks stays empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> list[dict[str, float]]:
    """Return the rows of a table of numbers; empty fields are left out."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
