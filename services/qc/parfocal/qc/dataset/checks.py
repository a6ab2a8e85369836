"""Checks of all images of a dataset: images that are unlike the others, and faults of each role."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.dataset.findings import Finding, Severity, named
from parfocal.qc.dataset.images import Record, pixel_size_text
from parfocal.qc.dataset.parameters import DatasetThresholds
from parfocal.qc.evaluation.words import count

FEW_IMAGES: Final = 10
"""Fewer training images are worth a note."""

_COMPARED: Final = 5  # images, below which none of them is unlike the others
_SHOWN: Final = 5
_MANY: Final = 0.2
_SMALLEST_SPREAD: Final = 0.15
_LESS_SHARP: Final = float(np.log2(1.5))
_UNUSUAL: Final = 2.0  # log2 of 4
_FAR: Final = 4.0
_UNLIKE: Final = 0.5


def check_dataset(records: Sequence[Record], *, whole: bool = True) -> Iterator[Finding]:
    """Yield what concerns the dataset as a whole: its parts, types and pixel sizes, and images that cannot be used.

    With `whole` false only one part was looked at, and which parts there are is not known.
    """
    sources = [record for record in records if record.picture.role == "source"]
    parts = {record.picture.split for record in records}
    training = sum(record.picture.split == "train" for record in sources)
    if whole and parts == {"train"}:
        text = (
            "There are no test images: quality control requires images that were not used for training. Put a few "
            "pairs into test/source and test/target and create the dataset again."
        )
        yield Finding("warning", "no test images", text)
    if 0 < training < FEW_IMAGES:
        text = (
            f"With {count(training, 'training image')} a method can be tried; with at least {FEW_IMAGES} a model works "
            "better on new images."
        )
        yield Finding("note", "few images", text)
    yield from _mixed(sources, "data types", lambda record: record.dtype)
    if any(record.picture.pixel_size for record in sources):
        yield from _mixed(
            sources, "pixel sizes", lambda record: pixel_size_text(record.picture.pixel_size) or "unknown"
        )
    elif sources:
        text = (
            "The images have no pixel size, so that Parfocal cannot tell whether new images show structures at the "
            "same scale. Export images with their metadata if you can."
        )
        yield Finding("note", "no pixel size", text)
    for record in records:
        if record.problem:
            text = f"{record.label} cannot be measured: {record.problem} Repair it or leave it out."
            yield Finding("error", "unusable", text, (record.label,))


def check_grey(role: str, records: Sequence[Record], limits: DatasetThresholds) -> Iterator[Finding]:
    """Yield what is wrong with the grey images of one role."""
    constant = [record for record in records if record.values["minimum"] == record.values["maximum"]]
    yield from _finding(
        *("error", "constant", constant),
        f"Every pixel has the same value in {_part(constant, records, 'image', role)}",
        "Leave such images out.",
    )
    varied = [record for record in records if record.values["minimum"] < record.values["maximum"]]
    empty = [record for record in varied if record.values.get("rise", np.inf) < limits.min_rise]
    yield from _finding(
        *("warning", "empty", empty),
        f"No structure rises above the noise in {_part(empty, records, 'image', role)}",
        "Check them and leave out images without a sample.",
        lambda record: f"{record.values['rise']:.1f} sigma",
    )
    saturated = _above(records, "saturated_fraction", limits.max_saturated)
    yield from _finding(
        *("warning", "saturated", saturated),
        f"More than {100 * limits.max_saturated:g} % of the pixels are saturated (their true brightness is lost) in "
        f"{_part(saturated, records, 'image', role)}",
        "Record such images again with less light or a shorter exposure, or leave them out.",
        lambda record: f"{100 * record.values['saturated_fraction']:.1f} %",
    )
    clipped = _above(records, "zero_fraction", limits.max_zero)
    yield from _finding(
        *("note", "clipped at 0", clipped),
        f"More than {100 * limits.max_zero:g} % of the pixels are 0 (clipped together with their noise) in "
        f"{_part(clipped, records, 'image', role)}",
        "Use the raw images of the camera if you can.",
        lambda record: f"{100 * record.values['zero_fraction']:.0f} %",
    )
    yield from _blurred(role, records, limits)
    yield from _unusual(role, records, limits)


def check_objects(role: str, records: Sequence[Record], limits: DatasetThresholds) -> Iterator[Finding]:
    """Yield what is wrong with the label images of one role."""
    empty = [record for record in records if not record.values["objects"]]
    yield from _finding(
        *("warning", "not labelled", empty),
        f"No object is labelled in {_part(empty, records, 'label image', role)}",
        "If there are objects in the image, label them or leave the image out: a model trained on it would overlook "
        "such objects.",
    )
    objects, border = (int(sum(record.values[name] for record in records)) for name in ("objects", "at_border"))
    for name, check, what, advice in (
        (
            "fragmented",
            "fragmented",
            "One number is shared by several separate regions",
            "Give each object a number of its own; if they are one object that another object covers, keep it.",
        ),
        ("with_holes", "holes", "Objects have holes", "Fill the holes, unless the objects are rings."),
        (
            "tiny",
            "tiny objects",
            f"Objects are smaller than {limits.tiny_object:g} of the median",
            "Remove them if they were drawn by mistake.",
        ),
    ):
        found = _above(records, name, 0)
        total = int(sum(record.values[name] for record in found))
        yield from _finding(
            *("warning", check, found),
            f"{what} in {_part(found, records, 'label image', role)}, {total} of {objects} objects in all",
            advice,
            lambda record, name=name: f"{record.values[name]:.0f}",  # type: ignore[misc]
        )
    if border > objects / 2:
        text = (
            f"{border} of {objects} objects of {role} touch the border of their image and are truncated. Use larger "
            "images if you can; sizes measured on truncated objects are too small."
        )
        yield Finding("note", "at the border", text)


def check_masks(role: str, records: Sequence[Record]) -> Iterator[Finding]:
    """Yield what is worth knowing about targets that are masks or class images."""
    empty = [record for record in records if not record.values["labelled_fraction"]]
    yield from _finding(
        *("warning", "not labelled", empty),
        f"There is no foreground in {_part(empty, records, 'mask', role)}",
        "If the image shows structures, annotate them or leave the image out.",
    )
    text = (
        f"The images of {role} have one value for many objects. Methods that separate objects require a number for "
        "each object."
    )
    yield Finding("note", "mask", text)


def check_pairs(role: str, records: Sequence[Record], limits: DatasetThresholds) -> Iterator[Finding]:
    """Yield what is wrong between the targets of one role and their sources."""
    same = [record for record in records if record.same]
    yield from _finding(
        *("error", "same as source", same),
        f"Source and target show the same grey values in {_part(same, records, 'pair', role)}",
        "Leave such pairs out: a model would only copy its input.",
    )
    inverted = [record for record in records if record.values.get("likeness", 0) < -limits.min_likeness]
    if len(inverted) < len(records):
        yield from _finding(
            *("error", "inverted", inverted),
            "Dark and bright are inverted between source and target, unlike in the other pairs, in "
            f"{_part(inverted, records, 'pair', role)}",
            "Invert the targets or leave them out.",
        )
    yield from _unlike(role, records, limits)
    asked = [record for record in records if record.shift is not None]
    known = [record for record in asked if "shift_px" in record.values]
    if asked and not known:
        text = (
            f"Whether the images of {role} are shifted against their sources cannot be measured: they have too few "
            "structures in common. Check the registration with images that share structures, for example of beads."
        )
        yield Finding("note", "shift unknown", text)
    # Outlines are drawn by hand, and often a pixel beside or around the object.
    allowed = limits.max_shift * (1 if records[0].picture.kind == "image" else 2)
    shifted = _above(known, "shift_px", allowed)
    if shifted:
        severity: Severity = "error" if shifted[0].values["shift_px"] > _FAR * limits.max_shift else "warning"
        unit = "pixel" if allowed == 1 else "pixels"
        yield from _finding(
            *(severity, "shifted", shifted),
            f"Source and target are shifted by more than {allowed:g} {unit} in {_part(shifted, known, 'pair', role)} "
            "in which the shift can be measured; to align them, move the source by",
            _shift_advice(shifted, known, limits),
            lambda record: _vector(_vectors([record])[0]),
        )


def robust_deviations(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return by how many robust standard deviations values differ from their median (Iglewicz and Hoaglin, 1993).

    The standard deviation is 1.4826 times the median absolute deviation, and 0.15 at least (a tenth, on a scale of
    log2): among images that are all alike every trifle would stand out else.
    """
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    deviations: npt.NDArray[np.float64] = (values - middle) / max(float(spread), _SMALLEST_SPREAD)
    return deviations


def _finding(
    severity: Severity,
    check: str,
    found: Sequence[Record],
    what: str,
    advice: str,
    detail: Callable[[Record], str] | None = None,
) -> Iterator[Finding]:
    """Yield the finding on these images, if there are any."""
    if found:
        labels = tuple(record.label for record in found)
        details = [detail(record) for record in found] if detail is not None else ()
        yield Finding(severity, check, f"{what}: {named(labels, details)}. {advice}", labels)


def _part(found: Sequence[Record], records: Sequence[Record], what: str, role: str) -> str:
    return f"{len(found)} of {count(len(records), what)} of {role}"


def _above(records: Iterable[Record], name: str, limit: float) -> list[Record]:
    """Return the images of which a number is above a limit, the largest first."""
    chosen = [record for record in records if record.values.get(name, -np.inf) > limit]
    return sorted(chosen, key=lambda record: -record.values[name])


def _mixed(records: Sequence[Record], what: str, value: Callable[[Record], str]) -> Iterator[Finding]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(value(record), []).append(record)
    if len(groups) > 1:
        rare = groups[min(groups, key=lambda key: len(groups[key]))]
        frequent = sorted(groups, key=lambda key: (-len(groups[key]), key))
        shown = ", ".join(f"{key} ({len(groups[key])})" for key in frequent[:_SHOWN])
        shown += f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
        yield from _finding(
            *("warning", what, rare),
            f"The sources have different {what}: {shown}. The fewest are those of",
            "Export all images the same way, so that structures look alike in all of them.",
        )


def _blurred(role: str, records: Sequence[Record], limits: DatasetThresholds) -> Iterator[Finding]:
    measured = [record for record in records if record.values.get("sharpness", 0) > 0]
    if len(measured) < _COMPARED:
        return
    values = np.log2([record.values["sharpness"] for record in measured])
    deviations, below = robust_deviations(values), np.median(values) - values
    chosen = [i for i in np.argsort(deviations) if deviations[i] < -limits.max_blur and below[i] > _LESS_SHARP]
    blurred = [measured[index] for index in chosen]
    yield from _finding(
        *("warning", "blurred", blurred),
        f"Fine structures are much weaker than in the other images (median {2 ** np.median(values):.2f}) in "
        f"{_part(blurred, measured, 'image', role)}",
        "Check whether they are out of focus, and leave out those that are.",
        lambda record: f"{record.values['sharpness']:.2f}",
    )


def _unusual(role: str, records: Sequence[Record], limits: DatasetThresholds) -> Iterator[Finding]:
    for name, what in (("median", "brightness"), ("signal", "contrast")):
        measured = [record for record in records if record.values.get(name, 0) > 0]
        if len(measured) < _COMPARED:
            continue
        values = np.log2([record.values[name] for record in measured])
        deviations, factors = robust_deviations(values), values - np.median(values)
        chosen = [
            i
            for i in np.argsort(-np.abs(factors))
            if abs(deviations[i]) > limits.max_deviation and abs(factors[i]) > _UNUSUAL
        ]
        far = [measured[index] for index in chosen]
        if len(far) > _MANY * len(measured):
            text = (
                f"The images of {role} are of several kinds: in {len(far)} of {len(measured)} the {what} differs from "
                "the median by a factor of 4 or more. Put some of each kind into the training set and into the test "
                "set."
            )
            yield Finding("note", f"mixed {what}", text)
            continue
        by_label = {measured[index].label: float(2 ** factors[index]) for index in chosen}
        yield from _finding(
            *("note", f"unusual {what}", far),
            f"The {what} is unusual, in relation to the median, in {_part(far, measured, 'image', role)}",
            "Check whether exposure, stain or sample differed.",
            lambda record, by_label=by_label: f"{by_label[record.label]:.2g} times",  # type: ignore[misc]
        )


def _unlike(role: str, records: Sequence[Record], limits: DatasetThresholds) -> Iterator[Finding]:
    """Yield pairs that are not alike where pairs are alike: files that were mixed up, for example."""
    measured = [record for record in records if "likeness" in record.values]
    middle = float(np.median([record.values["likeness"] for record in measured])) if measured else 0.0
    if middle < limits.min_likeness:
        return
    unlike = [record for record in measured if -limits.min_likeness <= record.values["likeness"] < _UNLIKE * middle]
    yield from _finding(
        *("warning", "unlike", unlike),
        f"Source and target resemble each other less than in the other pairs (median r = {middle:.2f}) in "
        f"{_part(unlike, measured, 'pair', role)}",
        "Check whether files were mixed up or one of the images is faulty.",
        lambda record: f"r = {record.values['likeness']:.2f}",
    )


def _shift_advice(shifted: Sequence[Record], known: Sequence[Record], limits: DatasetThresholds) -> str:
    vectors = _vectors(shifted)
    middle = np.median(vectors, axis=0)
    alike = bool(np.all(np.linalg.norm(vectors - middle, axis=1) <= limits.max_shift))
    if len(shifted) >= 3 and alike and len(shifted) > len(known) / 2:
        return f"All are shifted alike, which points to two cameras or filters: move all sources by {_vector(middle)}."
    return "Register these pairs, or leave them out."


def _vectors(records: Iterable[Record]) -> npt.NDArray[np.float64]:
    return np.array([record.shift.vector for record in records if record.shift and record.shift.vector])


def _vector(vector: npt.NDArray[np.float64]) -> str:
    return " ".join(f"{axis}{value:+.1f}" for axis, value in zip("ZYX"[-len(vector) :], vector, strict=True))
