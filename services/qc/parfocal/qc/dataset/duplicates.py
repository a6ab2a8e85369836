"""Images of a dataset that are there more than once, above all in training and test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from parfocal.qc.dataset.findings import Finding, Severity, named
from parfocal.qc.dataset.images import Record
from parfocal.qc.dataset.parameters import DatasetThresholds
from parfocal.qc.evaluation.words import count
from parfocal.runtime.images.similarity import alike

_LEAK: Final = "Such a test proves nothing: remove the field of view from one of the two sets."


def check_duplicates(role: str, records: Sequence[Record], limits: DatasetThresholds) -> Iterator[Finding]:
    """Yield which images of one role show the same field, equal or almost.

    Label images and masks are compared for equality alone, and those without an object not at all.
    """
    shown = [record for record in records if _shows_something(record)]
    equal = _equal(shown)
    prints = [record for record in shown if record.print is not None]
    near: list[tuple[Record, Record]] = []
    correlations: list[float] = []
    if len(prints) > 1:
        table = np.stack([record.print for record in prints if record.print is not None])
        # Of many frames of one field every two are alike: each image is named once with another, not with all.
        named_already: dict[bool, set[int]] = {True: set(), False: set()}
        for first, second, correlation in alike(table, limits.min_alike):
            pair = prints[first], prints[second]
            known = named_already[_across(pair)]
            if pair[0].digest != pair[1].digest and not {first, second} <= known:
                known.update((first, second))
                near.append(pair)
                correlations.append(correlation)
    one_kind = "label images" if shown and shown[0].picture.kind != "image" else "images"
    for leaks in (True, False):
        chosen = [pair for pair in equal if _across(pair) is leaks]
        yield from _finding(role, chosen, [], f"the same {one_kind}", leaks)
        index = [i for i, pair in enumerate(near) if _across(pair) is leaks]
        yield from _finding(
            role, [near[i] for i in index], [correlations[i] for i in index], f"almost the same {one_kind}", leaks
        )


def _finding(
    role: str, pairs: Sequence[tuple[Record, Record]], correlations: Sequence[float], what: str, leaks: bool
) -> Iterator[Finding]:
    if not pairs:
        return
    names = [f"{first.label} = {second.label}" for first, second in pairs]
    details = [f"r = {value:.3f}" for value in correlations]
    labels = tuple(dict.fromkeys(record.label for pair in pairs for record in pair))
    severity: Severity
    if leaks:
        severity = "warning" if correlations else "error"
        where = f"Training and test have {what} in {count(len(pairs), 'case')} of {role}"
        advice = (
            "If they show the same field of view, the test proves nothing: remove it from one of the two sets."
            if correlations
            else _LEAK
        )
    elif role.startswith("target"):
        severity = "note"
        where = f"There are {what} of {role} more than once in {count(len(pairs), 'case')}"
        advice = "Several sources of one field of view add little variety: a model has to work on new fields."
    else:
        severity = "note" if correlations else "warning"
        where = f"There are {what} of {role} more than once in {count(len(pairs), 'case')}"
        advice = "They count more than others in the training: keep one of each."
    yield Finding(severity, "leak" if leaks else "duplicate", f"{where}: {named(names, details)}. {advice}", labels)


def _equal(records: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Return each image with the first of the same pixels; one in the training images if there is one."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.digest, []).append(record)
    pairs = []
    for group in groups.values():
        first = next((record for record in group if record.picture.split == "train"), group[0])
        pairs += [(first, record) for record in group if record is not first]
    return pairs


def _across(pair: tuple[Record, Record]) -> bool:
    return pair[0].picture.split != pair[1].picture.split


def _shows_something(record: Record) -> bool:
    if record.problem:
        return False
    if record.picture.kind == "image":
        return record.values["minimum"] < record.values["maximum"]
    return record.values["labelled_fraction"] > 0
