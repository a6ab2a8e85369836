"""Purpose of a dataset: the tasks its targets suit, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from parfocal.qc.dataset.findings import Finding
from parfocal.qc.dataset.images import Record
from parfocal.qc.dataset.parameters import DatasetThresholds
from parfocal.qc.evaluation.words import count


@dataclass(frozen=True)
class Purpose:
    """The tasks that a dataset suits.

    Attributes
    ----------
    tasks
        By target role: "restoration", "translation", "instance segmentation", "semantic segmentation", "detection" or
        "localisation".
    text
        One sentence on them, or on why there is none.
    """

    tasks: Mapping[str, str]
    text: str


_OF_KIND: Final = {
    "unpaired": ("translation", "the images of source and target are not pairs"),
    "sources": ("restoration", "there are images without targets, on which some methods can be trained"),
    "boxes": ("detection", "there are boxes beside the images"),
    "coordinates": ("localisation", "there are coordinates beside the stacks of frames"),
}
"""Task and reason, by kind of dataset."""


def purpose_of(
    records: Sequence[Record], findings: Iterable[Finding], limits: DatasetThresholds, kind: str = ""
) -> Purpose:
    """Say what the images of a dataset of some kind are good for.

    Without target images, or with unpaired ones, the kind tells. Grey targets that are alike to their smoothed sources
    (median correlation) suit restoration, others translation; label images suit instance segmentation, masks semantic
    segmentation.
    """
    sources = [record for record in records if record.picture.role == "source"]
    training = sum(record.picture.split == "train" for record in sources)
    errors = sum(finding.severity == "error" for finding in findings)
    targets = {
        role: [record for record in records if record.picture.role == role and not record.problem]
        for role in dict.fromkeys(record.picture.role for record in records)
        if role.startswith("target")
    }
    tasks: dict[str, str] = {}
    reasons: list[str] = []
    if kind in _OF_KIND:
        tasks["target"], what = _OF_KIND[kind]
        reasons.append(f"{what} ({count(training, 'training image')})")
        targets = {}
    for role, group in targets.items():
        if group:
            tasks[role], reason = _task(role, group, limits)
            reasons.append(reason)
    if not tasks:
        return Purpose({}, "No method of Parfocal can be trained on these data yet: there are no targets.")
    if not training:
        return Purpose(
            tasks, f"These data can test models but not train them: there are no training images ({reasons[0]})."
        )
    dimensions = "volumes" if "Z" in sources[0].picture.axes else "two-dimensional images"
    what = " and ".join(dict.fromkeys(tasks.values()))
    condition = (
        f", once the {count(errors, 'error')} above {'is' if errors == 1 else 'are'} put right" if errors else ""
    )
    text = f"These data are good for {what} of {dimensions}{condition}: {'; '.join(reasons)}."
    return Purpose(tasks, text)


def _task(role: str, records: Sequence[Record], limits: DatasetThresholds) -> tuple[str, str]:
    kind = records[0].picture.kind
    training = [record for record in records if record.picture.split == "train"] or records
    part = "training" if training[0].picture.split == "train" else training[0].picture.split
    images = count(len(training), f"{part} image")
    if kind == "labels":
        objects = int(sum(record.values["objects"] for record in training))
        return "instance segmentation", f"{role} numbers {count(objects, 'object')} in {images}"
    if kind == "mask":
        return "semantic segmentation", f"{role} marks the foreground in {images}"
    likeness = [record.values["likeness"] for record in training if "likeness" in record.values]
    if not likeness:
        return "translation", f"{role} has other contents or sizes than the source in {images}"
    middle = round(float(np.median(likeness)), 2) + 0.0  # never "-0.00"
    if middle >= limits.min_likeness:
        return "restoration", f"{role} shows what the source shows (r = {middle:.2f} once smoothed) in {images}"
    shows = (
        "the inverse of what the source shows" if middle <= -limits.min_likeness else "something else than the source"
    )
    return "translation", f"{role} shows {shows} (r = {middle:.2f}) in {images}"
