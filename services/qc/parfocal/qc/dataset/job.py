"""The job that judges a dataset alone: measure all images, find what is wrong, publish tables, sheets and findings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal import v1
from parfocal.qc.dataset.checks import check_dataset, check_grey, check_masks, check_objects, check_pairs
from parfocal.qc.dataset.duplicates import check_duplicates
from parfocal.qc.dataset.findings import SEVERITIES, Checks, Finding, finding_json, in_order, write_findings_csv
from parfocal.qc.dataset.images import (
    COLUMNS,
    Measured,
    Picture,
    Record,
    count_tiny,
    measure_field,
    write_images_csv,
)
from parfocal.qc.dataset.parameters import DatasetParameters, DatasetThresholds
from parfocal.qc.dataset.purpose import Purpose, purpose_of
from parfocal.qc.dataset.report import dataset_report
from parfocal.qc.dataset.sheets import MOST_ROLES, Tile, write_sheets
from parfocal.qc.evaluation.inputs import scratch_of
from parfocal.qc.evaluation.publish import packages_of, publish_result, published_before
from parfocal.qc.evaluation.room import Held, SizedImage, size_of, workers_that_fit
from parfocal.qc.metrics.objects.labels import Kind, kind_of_target
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.qc.report import write_report
from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.images.files import PixelSize, open_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    ResultFile,
)
from parfocal.runtime.store.publish import empty_folder
from parfocal.runtime.store.store import Location

DEFINITION: Final = (
    "Noise: median of the absolute second differences along Y and X, divided by 6 x 0.6745. Signal: 99.8 minus 2 "
    "percentile of the image smoothed with sigma 2 pixels. Sharpness: standard deviation between Gaussians of sigma 1 "
    "and 2 pixels by that between 2 and 8, both without the part of the noise. Shift: largest cross-correlation of "
    "the structures of 1.5 to 8 pixels, given only where more than half of the parts of the image, and three at "
    "least, come within a pixel of the whole. Almost the same: Pearson's correlation of 32x32 block means without "
    "their surroundings."
)
"""Definitions of the numbers, to be printed beside them."""

_LOOKED_AT: Final = 8
# Grey images are gone through in bands: of a pair, at most 320 MB, by tracemalloc at 1,500 to 4,500 px a side.
_PIXEL_BYTES: Final = 80
_HELD: Final = Held(pixels=2**22, planes=2)
# A label image is held whole with the numbers of its objects and of their parts: 32 to 36 bytes, measured alike.
_LABEL_BYTES: Final = 40


def evaluate(context: JobContext) -> None:
    """Judge the dataset of the job and publish what was found."""
    parameters = context.parameters
    assert isinstance(parameters, DatasetParameters)
    if published_before(context) is not None:
        return
    context.report_progress(v1.Progress(stage="preparing"), message="looking at the targets", at_once=True)
    context.describe(precision="float32")
    spec = context.job.evaluation
    dataset = DatasetManifest.read(context.store, Location.parse(spec.dataset_uri) / DATASET_MANIFEST)
    source = _Images(context, dataset, spec.split)
    workers = min(
        workers_that_fit(source.sizes(held_whole=whole), needed, held, what="checking it")
        for whole, needed, held in ((False, _PIXEL_BYTES, _HELD), (True, _LABEL_BYTES, None))
    )
    folder, scratch = empty_folder(context.scratch / "evaluation"), empty_folder(context.scratch / "thumbnails")
    records = _measure(context, source, scratch, workers)
    limits = parameters.thresholds()
    findings = find(records, limits, whole=not spec.split)
    purpose = purpose_of(records, findings, limits, dataset.kind)
    context.report_progress(v1.Progress(stage="drawing", fraction=1.0), message="drawing", at_once=True)
    checks = Checks(findings)
    names = {record.label: [check for _, check in checks.of([record.label])] for record in records}
    write_images_csv(folder / "images.csv", records, names)
    write_findings_csv(folder / "findings.csv", findings)
    roles = list(dict.fromkeys(record.picture.role for record in records))
    sheets = write_sheets(folder, _tiles(records, checks, scratch, roles), roles, parameters.max_sheets)
    summary = summarise(records, findings, purpose, limits, sheets)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    facts = {"Images": str(len(records)), "Job": context.job.id}
    name = f"{dataset.dataset}, version {dataset.version}"
    write_report(dataset_report(name, summary, facts, packages_of(context), folder), folder)
    _publish(context, source, records, summary, folder)


def find(records: Sequence[Record], limits: DatasetThresholds, *, whole: bool = True) -> list[Finding]:
    """Return all findings on the images of a dataset, errors first; adds the number of tiny objects to the records."""
    found = list(check_dataset(records, whole=whole))
    by_role = sorted(records, key=_role)
    for role, group in groupby(by_role, key=_role):
        usable = [record for record in group if not record.problem]
        if not usable:
            continue
        kind = usable[0].picture.kind
        if kind == "image":
            found += check_grey(role, usable, limits)
        elif kind == "labels":
            count_tiny(usable, limits.tiny_object)
            found += check_objects(role, usable, limits)
        else:
            found += check_masks(role, usable)
        found += check_duplicates(role, usable, limits)
        if role.startswith("target"):
            found += check_pairs(role, usable, limits)
    return in_order(found)


def summarise(
    records: Sequence[Record],
    findings: Sequence[Finding],
    purpose: Purpose,
    limits: DatasetThresholds,
    sheets: Sequence[str],
) -> dict[str, Any]:
    """Return everything that was found as plain JSON types; every number is finite."""
    roles: dict[str, dict[str, Any]] = {}
    for role, members in groupby(sorted(records, key=_role), key=_role):
        group = list(members)
        known = {name: [each.values[name] for each in group if name in each.values] for name in COLUMNS}
        roles[role] = {
            "kind": group[0].picture.kind,
            "images": {
                part: sum(record.picture.split == part for record in group)
                for part in dict.fromkeys(record.picture.split for record in group)
            },
            "median": {name: float(np.median(values)) for name, values in known.items() if values},
        }
    return {
        "task": "dataset",
        "definition": DEFINITION,
        "purpose": {"text": purpose.text, "tasks": dict(purpose.tasks)},
        "counts": {name: sum(finding.severity == name for finding in findings) for name in SEVERITIES},
        "findings": [finding_json(finding) for finding in findings],
        "images": len(records),
        "roles": roles,
        "units": COLUMNS,
        "thresholds": limits.model_dump(),
        "sheets": list(sheets),
    }


class _Images:
    """The images of a dataset by field of view, fetched when their turn comes."""

    def __init__(self, context: JobContext, dataset: DatasetManifest, split: str) -> None:
        self._context = context
        self._place = Location.parse(context.job.evaluation.dataset_uri)
        self._entries = {entry.name: entry for entry in dataset.files}
        # What can be wrong with grey images or labels is right for classes: one number for many objects.
        self._images = [image for image in dataset.images if split in {"", image.split} and image.role != CLASS_ROLE]
        self._classes = dataset.kind == "classes"
        self._unpaired = dataset.unpaired
        roles = sorted({image.role for image in self._images}, key=lambda role: (role.startswith("target"), role))
        self._kinds: dict[str, Kind] = {role: self._kind(role) for role in roles}
        self._files = {(image.split, image.role, image.stem): image.file for image in self._images}
        order = {"train": 0, "test": 1}
        self._images.sort(
            key=lambda image: (order.get(image.split, 2), image.split, image.stem, roles.index(image.role))
        )

    def sizes(self, *, held_whole: bool) -> list[SizedImage]:
        """Return the sizes of the label images, which are held whole, or of the others."""
        return [
            size_of(image, f"{image.split}/{image.role}/{image.stem}")
            for image in self._images
            if (self._kinds[image.role] == "labels") is held_whole
        ]

    def fields(self) -> Iterator[list[Picture]]:
        """Yield the images of one field of view after the other, training images first; an unpaired image is alone."""
        for _, images in groupby(self._images, key=self._field):
            yield [self._picture(image) for image in images]

    def count(self) -> int:
        """Return the number of fields of view."""
        return len({self._field(image) for image in self._images})

    def entry(self, record: Record) -> FileEntry:
        """Return the file of a record."""
        return self._entries[self._files[record.picture.split, record.picture.role, record.picture.stem]]

    def _field(self, image: ImageEntry) -> tuple[str, str, str]:
        return image.split, image.stem, image.role if image.split in self._unpaired else ""

    def _picture(self, image: ImageEntry) -> Picture:
        return Picture(
            split=image.split,
            role=image.role,
            stem=image.stem,
            path=self._fetch(image),
            axes=image.axes,
            pixel_size=_pixel_size(image),
            kind=self._kinds[image.role],
        )

    def _kind(self, role: str) -> Kind:
        """Tell what a role holds by some of its images: one grey image makes all grey, one label image all labels."""
        if not role.startswith("target"):
            return "image"
        if role == "target" and self._classes:
            # One number for many objects is what class images have, as masks do.
            return "mask"
        images = [image for image in self._images if image.role == role]
        kinds = set()
        for index in np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(int)):
            self._context.check_cancelled()
            kinds.add(kind_of_target(open_image(self._fetch(images[index]), scratch_of(self._context)).pixels))
        return next(kind for kind in ("image", "labels", "mask") if kind in kinds)

    def _fetch(self, image: ImageEntry) -> Path:
        return self._context.cache.fetch(self._context.store, self._place, self._entries[image.file])


def _measure(context: JobContext, images: _Images, scratch: Path, workers: int) -> list[Record]:
    total = images.count()
    records: list[Record] = []
    measure = partial(measure_field, scratch=scratch_of(context))
    for number, measured in enumerate(map_bounded(measure, images.fields(), workers), start=1):
        context.check_cancelled()
        records.extend(measured.records)
        _keep(scratch, measured)
        context.report_image(
            v1.ImageCompleted(name=f"{measured.split}/{measured.stem}"),
            v1.Progress(stage="measuring", step=number, steps=total, fraction=number / total),
        )
    return records


def _keep(scratch: Path, measured: Measured) -> None:
    """Keep the thumbnails of a field on disk until they are drawn."""
    for record, thumbnail in zip(measured.records, measured.thumbnails, strict=True):
        path = _thumbnail(scratch, record.picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, thumbnail, allow_pickle=False)


def _thumbnail(scratch: Path, picture: Picture) -> Path:
    return scratch / picture.split / picture.role / f"{picture.stem}.npy"


def _tiles(records: Sequence[Record], checks: Checks, scratch: Path, roles: Sequence[str]) -> dict[str, list[Tile]]:
    tiles: dict[str, list[Tile]] = {}
    for (split, stem), members in groupby(records, key=lambda each: (each.picture.split, each.picture.stem)):
        group = list(members)
        paths = {record.picture.role: _thumbnail(scratch, record.picture) for record in group}
        load = partial(_load, [paths.get(role) for role in roles[:MOST_ROLES]])
        tiles.setdefault(split, []).append(Tile(stem, checks.of(record.label for record in group), load))
    return tiles


def _load(paths: Sequence[Path | None]) -> list[npt.NDArray[np.uint8] | None]:
    return [None if path is None else np.load(path, allow_pickle=False) for path in paths]


def _publish(
    context: JobContext, images: _Images, records: Sequence[Record], summary: Mapping[str, Any], folder: Path
) -> None:
    """Publish the files. There is no verdict: that is for models."""
    spec = context.job.evaluation
    metrics = {f"{name}s": float(number) for name, number in summary["counts"].items()}
    publish_result(
        context,
        folder,
        "evaluation",
        metrics,
        input_uri=spec.dataset_uri,
        split=spec.split,
        targets=tuple(role for role in summary["roles"] if role.startswith("target")),
        summary={"images": len(records), "metrics": metrics, "purpose": summary["purpose"]["text"]},
        images=tuple(
            ResultFile(input=record.label, input_sha256=images.entry(record).sha256, reason=record.problem)
            for record in records
        ),
    )


def _pixel_size(image: ImageEntry) -> PixelSize | None:
    size = image.pixel_size_um
    if size is None or size[0] is None or size[1] is None:
        return None
    return PixelSize(size[0], size[1], size[2])


def _role(record: Record) -> str:
    return record.picture.role
