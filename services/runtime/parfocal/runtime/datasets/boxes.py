"""Images with boxes: checked in any format, PASCAL VOC in published datasets, arrays for training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.annotations.box import Annotation, Box, stem_of
from parfocal.runtime.datasets.annotations.coco import parse_coco
from parfocal.runtime.datasets.annotations.voc import parse_voc, voc_bytes
from parfocal.runtime.datasets.annotations.yolo import CLASS_FILES, find_class_file, parse_yolo, read_class_names
from parfocal.runtime.datasets.findings import AS_STORED, Notes, Reading, by, count, file_name, some
from parfocal.runtime.datasets.pairs import CheckedImage, check_images, no_partner
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import DEFAULT_LIMITS, ImageLimits

SUFFIXES: Final = (".xml", ".json", ".txt")
"""Suffixes of files with boxes: PASCAL VOC, COCO, YOLO."""


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image.

    Attributes
    ----------
    corners
        float32 (N, 4): [y0, x0, y1, x1] in pixels from the upper left corner of the image, between pixels: a box
        around the whole image is [0, 0, Y, X].
    classes
        int64 (N,): index of the class among those of the dataset.
    difficult, truncated
        bool (N,): objects that are hard to recognise, and that the border of the image cuts off.
    """

    corners: NDArray[np.float32]
    classes: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    def select(self, which: NDArray[np.bool_]) -> Boxes:
        """Return some of the boxes."""
        return Boxes(self.corners[which], self.classes[which], self.difficult[which], self.truncated[which])


@dataclass(frozen=True)
class BoxedImage:
    """One image fit for use with its boxes, all of them inside it; no box means background only."""

    image: CheckedImage
    boxes: tuple[Box, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X) in pixels."""
        return plane_shape(self.image)

    def arrays(self, classes: Sequence[str]) -> Boxes:
        """Return the boxes as arrays; `classes` are the names of the classes of the dataset."""
        return _arrays(self.boxes, classes)

    def to_voc(self) -> bytes:
        """Return the boxes as the PASCAL VOC file that a published dataset has."""
        return voc_bytes(f"{self.image.stem}.tif", self.shape, self.boxes)


@dataclass(frozen=True)
class BoxReport:
    """Images with boxes fit for training, in natural order of their names.

    Attributes
    ----------
    images
        One for each image.
    declared
        The names of the classes in the order in which a file lists them; empty where none does.
    warnings
        Warnings about what was left out, converted, guessed or is suspicious.
    """

    images: tuple[BoxedImage, ...]
    declared: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def class_counts(self) -> dict[str, int]:
        """How many boxes each class has."""
        return dict(Counter(box.name for image in self.images for box in image.boxes))


def check_boxes(
    source_folder: Path,
    target_folder: Path,
    *,
    axes: str,
    classes: Sequence[str] = (),
    class_folders: Iterable[Path] = (),
    min_images: int = 1,
    reading: Reading = AS_STORED,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> BoxReport:
    """Check images and the boxes drawn in them.

    Parameters
    ----------
    source_folder
        A folder with one image per stem.
    target_folder
        PASCAL VOC (``NAME.xml`` for each image), COCO (one ``.json`` file for all) or YOLO (``NAME.txt`` for each image
        and a file with the names of the classes). Images without boxes are background.
    axes
        Required axes of each image, e.g. ``YX`` or ``YXS``.
    classes
        The only classes that there may be; empty: those of the files.
    class_folders
        Further folders in which a file with the names of the classes may lie.
    min_images, reading, limits
        See `check_images`.

    Raises
    ------
    InvalidInputError
        Something is wrong: the message lists the first ten problems, `violations` holds all.
    """
    notes = Notes()
    sources = check_images(source_folder, axes=axes, min_images=min_images, reading=reading, limits=limits)
    shapes = {image.stem: plane_shape(image) for image in sources.images}
    annotations, declared, problems = _parse(target_folder, shapes, (target_folder, *class_folders), notes)
    annotated = {annotation.stem for annotation in annotations}
    free = {image.stem: image.path.name for image in sources.images if image.stem not in annotated}
    known = tuple(classes) or declared
    found: dict[str, tuple[Box, ...]] = {}
    for annotation in annotations:
        if annotation.stem not in shapes:
            problems.append(Violation(annotation.file, no_partner(annotation.stem, free, source_folder)))
            continue
        boxes, wrong = _fitting(annotation, shapes[annotation.stem], known, notes)
        problems += wrong
        found[annotation.stem] = boxes
    if problems:
        raise refusal(f"The boxes cannot be used: {count(len(problems), 'problem')}.", problems)
    for image in sources.images:
        if image.stem not in found:
            notes.add("Images without an annotation count as background", file_name(image.path))
        elif not found[image.stem]:
            notes.add("Images whose annotation has no box count as background", file_name(image.path))
    boxed = tuple(BoxedImage(image, found.get(image.stem, ())) for image in sources.images)
    report = BoxReport(boxed, declared, (*notes.texts(), *sources.warnings))
    if not report.class_counts:
        text = "no image has a box: draw some, or create a dataset of images alone (--kind sources)."
        raise refusal("The boxes cannot be used: 1 problem.", [Violation(target_folder.name, text)])
    return report


def class_names(reports: Mapping[str, BoxReport]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of a dataset in the order of their index, and what is suspicious about them.

    Parameters
    ----------
    reports
        Reports of the splits by name. The order of the classes is the declared one, otherwise alphabetical.
    """
    used = {split: report.class_counts for split, report in reports.items()}
    every = {name for counts in used.values() for name in counts}
    declared = next((report.declared for report in reports.values() if report.declared), ())
    names = tuple(name for name in declared if name in every)
    names += tuple(sorted(every - set(names), key=lambda name: (name.lower(), name)))
    warnings = []
    if unused := [name for name in declared if name not in every]:
        warnings.append(f"Classes without a box were left out: {len(unused)} ({some(unused)}).")
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"[\W_]", "", name).lower() or name, []).append(name)
    if doubtful := [" and ".join(group) for group in alike.values() if len(group) > 1]:
        warnings.append(f"Classes whose names are almost the same count as different ones: {some(doubtful)}.")
    if "train" in used and (missing := [name for name in names if name not in used["train"]]):
        warnings.append(
            f"No training image has a box of these classes, so that a model cannot find them: {some(missing)}."
        )
    return names, tuple(warnings)


def read_boxes(path: Path, classes: Sequence[str], shape: tuple[int, int]) -> Boxes:
    """Return the boxes of one image of a published dataset.

    Parameters
    ----------
    path
        PASCAL VOC file of the image.
    classes
        The names of the dataset's classes, `DatasetManifest.classes`.
    shape
        Size of the image in pixels (Y, X).

    Raises
    ------
    InvalidInputError
        The file is damaged, or has a box outside the image or of another class.
    """
    annotation, problems = parse_voc(path, file_name(path), Notes())
    boxes, wrong = _fitting(annotation, shape, tuple(classes), Notes())
    if problems or wrong:
        raise refusal(f"{file_name(path)} cannot be used.", [*problems, *wrong])
    return _arrays(boxes, classes)


def plane_shape(image: CheckedImage) -> tuple[int, int]:
    """Return (Y, X) of an image in pixels."""
    lengths = dict(zip(image.axes, image.shape, strict=True))
    return lengths["Y"], lengths["X"]


def _parse(
    folder: Path, shapes: Mapping[str, tuple[int, int]], class_folders: Iterable[Path], notes: Notes
) -> tuple[list[Annotation], tuple[str, ...], list[Violation]]:
    """Return what the files of a folder say, the classes that a file declares, and what is wrong."""
    files = annotation_files(folder)
    formats = sorted({path.suffix.lower() for path in files})
    if len(formats) != 1:
        if formats:
            text = f"it holds files of different formats ({', '.join(formats)}): keep those of one."
        elif folder.is_dir():
            text = "it holds no boxes: put .xml files (PASCAL VOC), one .json file (COCO) or .txt files (YOLO) there."
        else:
            text = f"there is no folder {folder}: check the name."
        return [], (), [Violation(folder.name, text)]
    annotations: list[Annotation] = []
    problems: list[Violation] = []
    class_file = find_class_file(class_folders)
    if formats == [".json"]:
        if len(files) > 1:
            text = f"it holds {len(files)} .json files such as {files[0].name}: merge them into one COCO file."
            return [], (), [Violation(folder.name, text)]
        return parse_coco(files[0], file_name(files[0]), notes)
    declared = read_class_names(class_file, file_name(class_file)) if class_file is not None else ()
    if formats == [".txt"] and not declared:
        text = f"the names of the classes are missing: write them into {folder.name}/classes.txt, one in each line."
        return [], (), [Violation(folder.name, text)]
    seen: dict[str, Path] = {}
    for path in files:
        name = file_name(path)
        try:
            if formats == [".xml"]:
                annotation, wrong = parse_voc(path, name, notes)
            else:
                # The problem of an annotation without an image is told by who knows the images.
                shape = shapes.get(stem_of(path.name), (1, 1))
                annotation, wrong = parse_yolo(path, name, declared, shape, notes)
        except InvalidInputError as error:
            problems += error.violations
            continue
        problems += wrong
        if (other := seen.setdefault(annotation.stem, path)) != path:
            problems.append(Violation(name, f"is for the same image as {other.name}: keep one of the two."))
            continue
        annotations.append(annotation)
    return annotations, declared, problems


def annotation_files(folder: Path) -> list[Path]:
    """Return the files of a folder that may hold boxes, sorted; files with the names of classes are none."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and path.suffix.lower() in SUFFIXES
        and path.name[0] != "."
        and path.name.lower() not in CLASS_FILES
    )


def _fitting(
    annotation: Annotation, shape: tuple[int, int], known: Sequence[str], notes: Notes
) -> tuple[tuple[Box, ...], list[Violation]]:
    """Return the boxes of an image that can be used, inside its borders, and what is wrong with others."""
    name = annotation.file
    if annotation.shape is not None and annotation.shape != shape:
        text = (
            f"its boxes were drawn in an image of {by(annotation.shape)} pixels (Y x X), and {annotation.stem} is "
            f"{by(shape)}: annotate the image itself, or put the right one into source."
        )
        return (), [Violation(name, text)]
    boxes: dict[tuple[object, ...], Box] = {}
    problems = []
    for box in annotation.boxes:
        x0, y0, x1, y1 = box.corners
        text = ""
        if known and box.name not in known:
            text = f"the class {box.name!r} is not among {some(list(known))}: rename it."
        elif x1 < x0 or y1 < y0:
            text = "its lower right corner lies left of or above its upper left one: exchange them."
        elif x1 <= 1 and y1 <= 1 and (x1 < 1 or y1 < 1):
            text = "its corners are fractions of the image: multiply them by its width and height in pixels."
        elif x0 == x1 or y0 == y1:
            notes.add("Boxes without area were left out", name)
            continue
        elif x1 <= 0 or y1 <= 0 or x0 >= shape[1] or y0 >= shape[0]:
            notes.add("Boxes outside the image were left out", name)
            continue
        if text:
            place = f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
            problems.append(Violation(name, f"{box.where} ({box.name}, {place}): {text}"))
            continue
        inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(shape[1])), min(y1, float(shape[0])))
        # A fraction that is not exactly representable is no reason to tell of a cut.
        if any(abs(one - other) > 1e-3 for one, other in zip(inside, box.corners, strict=True)):
            notes.add("Boxes were clipped at the border of the image", name)
        key = (box.name, *inside)
        if key in boxes:
            notes.add("Duplicate boxes were kept once", name)
        boxes.setdefault(key, replace(box, corners=inside))
    return tuple(boxes.values()), problems


def _arrays(boxes: Sequence[Box], classes: Sequence[str]) -> Boxes:
    index = {name: number for number, name in enumerate(classes)}
    corners = [(box.corners[1], box.corners[0], box.corners[3], box.corners[2]) for box in boxes]
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([index[box.name] for box in boxes], np.int64),
        np.array([box.difficult for box in boxes], np.bool_),
        np.array([box.truncated for box in boxes], np.bool_),
    )
