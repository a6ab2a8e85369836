"""Classes of objects in an evaluation: where their images are, and their scores as tables, JSON and sentences."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, Item, fetch_files, files_below
from parfocal.qc.evaluation.score_each import of_prediction
from parfocal.qc.evaluation.words import count
from parfocal.qc.metrics.objects.classes import NO_CLASS, ClassCounts, classes_of_objects, count_classes
from parfocal.qc.metrics.objects.instances import Matches
from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.images.files import open_image
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import FileEntry

CLASS_DEFINITION: Final = (
    "An object has the class that is drawn most often inside it. Objects of unknown class in the target are left out, "
    "and images in which no class is known. Right class = found objects that were given their class / found objects. "
    "An object of a class is a true positive (TP) if it was found and given its class; the other targets of the class "
    "are false negatives (FN) and the other predictions of it false positives (FP). Precision, recall and F1 follow as "
    "for all objects."
)
"""Definitions of the numbers, to be printed beside them."""

NO_CLASS_NAME: Final = "none"
FALSE_NEGATIVES: Final = "false negatives"
FALSE_POSITIVES: Final = "false positives"


@dataclass(frozen=True)
class ObjectClasses:
    """The classes of the objects of one image.

    Attributes
    ----------
    target, prediction
        By label: class of the object.
    counts
        Numbers of objects by class and outcome.
    """

    target: Mapping[int, int]
    prediction: Mapping[int, int]
    counts: ClassCounts


def predicted_class_images(inputs: Inputs[Item]) -> dict[str, FileEntry]:
    """Return the class images of a prediction by stem; none where it has no classes."""
    return files_below(inputs.prediction, f"{CLASS_ROLE}/")


def with_class_images(context: JobContext, inputs: Inputs[Item]) -> Inputs[Item]:
    """Return the inputs with the class images of those items that have one in dataset and prediction."""
    spec = context.job.evaluation
    dataset = inputs.dataset
    assert dataset is not None
    predicted = predicted_class_images(inputs)
    entries = {entry.name: entry for entry in dataset.files}
    drawn = {image.stem: entries[image.file] for image in dataset.select(spec.split or "test", CLASS_ROLE)}
    both = [item.label for item in inputs.items if item.label in drawn and item.label in predicted]
    targets = fetch_files(context, spec.dataset_uri, (drawn[label] for label in both))
    predictions = fetch_files(context, spec.prediction_uri, (predicted[label] for label in both))
    images = {label: (targets[drawn[label].name], predictions[predicted[label].name]) for label in both}
    items = []
    for item in inputs.items:
        target, prediction = images.get(item.label, (None, None))
        items.append(replace(item, target_classes=target, predicted_classes=prediction))
    return replace(inputs, items=items)


def score_classes(
    item: Item, target: NDArray[Any], prediction: NDArray[Any], matches: Matches, scratch: Scratch = IN_MEMORY
) -> ObjectClasses | None:
    """Return the classes of the objects of two label images, and what became of them; None without class images.

    Raises
    ------
    PredictionError
        The predicted class image has another shape than its label image, or values that are no classes.
    InvalidInputError
        The class image of the dataset has.
    """
    if item.target_classes is None or item.predicted_classes is None:
        return None
    name = f"{item.label} ({CLASS_ROLE} of the dataset)"
    drawn = classes_of_objects(target, open_image(item.target_classes, scratch, labels=True).pixels, name=name)
    with of_prediction(item.label):
        name = f"{item.label} ({CLASS_ROLE} of the prediction)"
        given = classes_of_objects(
            prediction, open_image(item.predicted_classes, scratch, labels=True).pixels, name=name
        )
    return ObjectClasses(drawn, given, count_classes(matches, drawn, given))


def class_values(counts: ClassCounts) -> dict[str, float]:
    """Return the numbers of one image by the keys of `CLASS_METRICS`, without an accuracy where there is none."""
    values: dict[str, float] = {"class_known": counts.known, "class_correct": counts.right}
    return values if counts.accuracy is None else {"class_accuracy": counts.accuracy, **values}


def pool_classes(counts: Iterable[ClassCounts]) -> ClassCounts | None:
    """Add up the objects of all images; None where no target has a known class."""
    total = sum(counts, ClassCounts())
    return total if total.known or total.false_negatives else None


def confusion(counts: ClassCounts) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Return the names of the rows and of the columns, and the numbers of objects.

    A row for each class of the targets and one for false positives; a column for each class of the predictions, one
    for found objects without a class if there are any, and one for false negatives.
    """
    classes = counts.classes
    none = (
        [NO_CLASS] if any(given == NO_CLASS for _, given in counts.found) or NO_CLASS in counts.false_positives else []
    )
    given = [*classes, *none]
    rows = [
        [counts.found.get((mine, theirs), 0) for theirs in given] + [counts.false_negatives.get(mine, 0)]
        for mine in classes
    ]
    rows.append([counts.false_positives.get(theirs, 0) for theirs in given] + [0])
    columns = [*map(str, classes), *(NO_CLASS_NAME for _ in none), FALSE_NEGATIVES]
    return [*map(str, classes), FALSE_POSITIVES], columns, np.array(rows, np.int64)


def summarise_classes(counts: ClassCounts) -> dict[str, Any]:
    """Return the scores of classes as plain JSON types."""
    rows, columns, table = confusion(counts)
    most_frequent = counts.most_frequent
    return {
        "definition": CLASS_DEFINITION,
        "found": counts.known,
        "correct": counts.right,
        "accuracy": counts.accuracy,
        "unknown": counts.unknown,
        "most_frequent": None if most_frequent is None else {"class": most_frequent[0], "fraction": most_frequent[1]},
        "classes": class_rows(counts),
        "confusion": {"rows": rows, "columns": columns, "objects": table.tolist()},
    }


def class_rows(counts: ClassCounts) -> list[dict[str, Any]]:
    """Return a row for each class: its targets, its predictions, those that are right, and the ratios."""
    rows = []
    for number in counts.classes:
        of_class = counts.counts(number)
        rows.append(
            {
                "class": number,
                "target_objects": of_class.tp + of_class.fn,
                "predicted_objects": of_class.tp + of_class.fp,
                "true_positives": of_class.tp,
                "precision": of_class.precision,
                "recall": of_class.recall,
                "f1": of_class.f1,
            }
        )
    return rows


def write_class_tables(folder: Path, counts: ClassCounts) -> None:
    """Write `classes.csv`, a line for each class, and `confusion.csv`, which class was taken for which."""
    rows = class_rows(counts)
    names, columns, table = confusion(counts)
    with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "confusion.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(
            [
                "target_class",
                *(f"predicted_{name}" if name != FALSE_NEGATIVES else "false_negatives" for name in columns),
            ]
        )
        given = [name if name != FALSE_POSITIVES else "false_positives" for name in names]
        lines.writerows([name, *numbers] for name, numbers in zip(given, table.tolist(), strict=True))


def class_remarks(counts: ClassCounts | None, images: int, of: int) -> list[str]:
    """Say how often the classes that a prediction has are right.

    Parameters
    ----------
    counts
        Over all images; None where no target has a known class.
    images, of
        Number of images with class images, and of all.
    """
    if counts is None:
        why = f"have no images {CLASS_ROLE}" if not images else "have no object of known class"
        return [f"The classes of the objects were not judged: the test images {why}."]
    remarks = []
    most_frequent = counts.most_frequent
    if most_frequent is None:
        remarks.append("No object of known class was found, so that classes were not judged.")
    else:
        remarks.append(
            f"The class is right in {counts.right} of {count(counts.known, 'found object')} of known class "
            f"({100 * counts.right / counts.known:.1f} %); to call all of them class {most_frequent[0]} would be right "
            f"in {100 * most_frequent[1]:.1f} %."
        )
        rows = [row for row in class_rows(counts) if row["target_objects"]]
        if len(rows) > 1:
            worst = min(rows, key=lambda row: float(row["f1"]))
            remarks.append(f"The class with the lowest F1 is {worst['class']}, with F1 {worst['f1']:.3f}.")
    if images < of:
        remarks.append(
            f"Classes were judged in {images} of {count(of, 'test image')}; the others have no class images."
        )
    return remarks
