"""A folder that is to become a dataset: which kind it is, and whether everything in it is fit for that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from parfocal.runtime.datasets.boxes import BoxReport, check_boxes, class_names
from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.datasets.coordinates import AXES as FRAME_AXES
from parfocal.runtime.datasets.coordinates import check_coordinates
from parfocal.runtime.datasets.fields import Fields
from parfocal.runtime.datasets.findings import AS_STORED, Reading, count, some
from parfocal.runtime.datasets.kinds import KINDS
from parfocal.runtime.datasets.labels import TargetLook
from parfocal.runtime.datasets.layout import family_of, passed_over, role_folder, split_folders
from parfocal.runtime.datasets.pairs import CheckedImage, ImagePair, check_images, check_pairs, find_images
from parfocal.runtime.datasets.report import FolderReport, TableFile
from parfocal.runtime.datasets.unpaired import check_unpaired, own_axes, same_names_and_sizes
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import inspect_image
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch
from parfocal.runtime.store.manifests import ObjectSizes

NO_TEST_IMAGES: Final = (
    "There are no test images: quality control requires images that were not used for training. Put a few images with "
    "their targets into test/source and test/target and create the dataset again."
)
"""The warning that nothing is held out for quality control."""
_IMAGE_KINDS: Final = ("paired", "labels", "classes")
_TOLD_BY_PIXELS: Final = {
    "labels": "the targets have whole numbers, the same in all pixels of an object",
    "classes": "the targets have few values, which many objects share",
}
Readable = Callable[[Path, str], Path]
"""Given a folder and "split/role" of it, returns a folder with the same images in formats that services read."""


@dataclass
class _Split:
    """One split while it is checked, and what was found in it."""

    name: str
    path: Path
    folder: Path
    kind: str
    axes: str
    pixel_size_nm: float | None
    readable: Readable
    source: Reading = AS_STORED
    target: Reading = AS_STORED
    look: TargetLook = field(default_factory=TargetLook)
    class_look: TargetLook = field(default_factory=TargetLook)
    images: dict[str, tuple[CheckedImage, ...]] = field(default_factory=dict)
    tables: dict[str, tuple[TableFile, ...]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    boxes: BoxReport | None = None
    unpaired: bool = False
    warnings: list[str] = field(default_factory=list)

    def images_of(self, role: str) -> Path:
        """Return a folder with the images of a role in formats that services read."""
        return self.readable(role_folder(self.path, role), f"{self.name}/{role}")

    def roles(self) -> list[str]:
        """Return the folders of further sources and targets."""
        return sorted(
            path.name for path in self.path.iterdir() if path.is_dir() and path.name.startswith(("source_", "target_"))
        )


def check_folder(
    folder: Path,
    *,
    kind: str = "",
    axes: str = "",
    pixel_size_nm: float | None = None,
    label_components: bool = False,
    readable: Readable = lambda path, _: path,
    scratch: Scratch = IN_MEMORY,
) -> FolderReport:
    """Check a folder ``{train,test}/{source,target}/NAME.tif``, or ``{source,target}/NAME.tif`` without test images.

    Further folders ``target_LABEL`` beside ``target`` hold other targets of the same fields, further folders
    ``source_LABEL`` other sources; these may have more planes or channels than their targets.

    Parameters
    ----------
    folder
        The folder.
    kind
        Kind of the dataset, a name of `KINDS`; empty: found from the files. Unpaired images look like pairs, so that
        this kind must be stated.
    axes
        Axes of each image, e.g. "YX" or "ZYX"; "YXS" for colour sources, whose targets are "YX" if they are pairs.
        Empty: "YX", or "TYX" for stacks with coordinates. Stated axes replace those that a file declares, if their
        number is the same. Targets may have colours or channels of their own if the kind is stated to be "paired" or
        "unpaired".
    pixel_size_nm
        Side length of a pixel in nm, for coordinates only; None: as the stacks say.
    label_components
        The targets are masks or label images of which each separate region is an object: the regions are numbered.
    readable
        Makes folders readable for services, for example by converting proprietary formats.
    scratch
        Where the pixels of large images lie; it must be there as long as the report is used.

    Raises
    ------
    InvalidInputError
        Something is wrong: the message lists the first ten problems, `violations` holds all.
    """
    if kind and kind not in KINDS:
        text = f"Unknown kind of dataset {kind!r}: choose one of {', '.join(KINDS)}."
        raise InvalidInputError(text, [Violation("kind", text)])
    if axes:
        check_axes(axes)
    if label_components:
        if kind not in {"", "labels"}:
            text = f"Components are numbered in label images, and the kind is stated as {kind}: leave one of both out."
            raise InvalidInputError(text, [Violation("label_components", text)])
        kind = "labels"
    places = split_folders(folder)
    family, told_by = family_of(places, kind)
    if pixel_size_nm is not None and family != "coordinates":
        text = "A pixel size is given for coordinates only; that of images is read from their files. Leave it out."
        raise InvalidInputError(text, [Violation("pixel_size", text)])
    if axes not in {"", FRAME_AXES} and family == "coordinates":
        text = f"Stacks with coordinates have the axes {FRAME_AXES}: leave the axes out."
        raise InvalidInputError(text, [Violation("axes", text)])
    # Nobody says yet that they are grey images: no label is changed while that is open.
    labels = kind in {"", "labels", "classes"}
    source = Reading(axes=axes if family != "coordinates" else "", scratch=scratch)
    target = Reading(labels, _without_channels(source.axes), label_components, scratch)

    def begin() -> list[_Split]:
        return [
            _Split(name, path, folder, kind, axes or "YX", pixel_size_nm, readable, source, target)
            for name, path in places.items()
        ]

    splits = begin()
    _check(splits, folder, kind, family)
    if not kind and family == "paired" and _look(splits).kind() == "paired":
        target = replace(target, labels=False)
        if any(target.inspect(image.path) != image.reading.inspect(image.path) for image in _targets(splits)) or any(
            _has_floats(image) for image in _targets(splits)
        ):
            splits = begin()
            _check(splits, folder, "paired", family)
    report = _report(splits, kind, family, told_by)
    if beside := passed_over(folder, places):
        text = f"Files and folders beside those of the dataset were ignored: {len(beside)} ({some(beside)})."
        report = replace(report, warnings=(text, *report.warnings))
    return report


def check_axes(axes: str) -> None:
    """Raise InvalidInputError unless letters are axes that an image can have."""
    if not re.fullmatch("T?C?Z?YXS?", axes):
        text = (
            f"{axes!r} are not axes of an image: write YX for planes, ZYX for volumes, YXS for colour images, CYX for "
            "images with channels."
        )
        raise InvalidInputError(text, [Violation("axes", text)])


def _check(splits: list[_Split], folder: Path, kind: str, family: str) -> None:
    """Check all splits; raise InvalidInputError with what is wrong in any of them."""
    problems: list[Violation] = []
    for split in splits:
        where = "" if split.path == folder else f"{split.name}/"
        try:
            _CHECKS[family](split)
            problems += [Violation(f"{where}{item.field}", item.description) for item in split.look.problems(kind)]
        except InvalidInputError as error:
            problems += [
                Violation(f"{where}{item.field}", item.description)
                for item in error.violations or (Violation(split.name, error.message),)
            ]
    if problems:
        raise _refusal(folder, problems, kind, family)


def _targets(splits: list[_Split]) -> list[CheckedImage]:
    return [image for split in splits for role, images in split.images.items() if role == "target" for image in images]


def _has_floats(image: CheckedImage) -> bool:
    """Return whether a target was read from decimal numbers, which grey images keep."""
    return image.reading.labels and image.reading.inspect(image.path).dtype.name != image.dtype


def _look(splits: list[_Split]) -> TargetLook:
    look = TargetLook()
    for split in splits:
        look = look.add(split.look)
    return look


def _report(splits: list[_Split], kind: str, family: str, told_by: str) -> FolderReport:
    """Return the report on splits without problems."""
    look = _look(splits)
    if family == "paired":
        found = look.kind()
        told_by = told_by or _TOLD_BY_PIXELS.get(found) or look.why_grey()
        family = kind or found
        if family == "paired" and not kind and look.few_grey:
            splits[0].warnings.append(
                f"Most targets look like label images, but {len(look.grey)} have grey values, so that all count as "
                f"grey images: {some([each.field for each in look.grey])}. Correct them if objects are to be found."
            )
        if family == "labels" and (
            wrong := [each for split in splits for each in split.class_look.problems("classes")]
        ):
            raise refusal(f"The images in {CLASS_ROLE} show no classes: {count(len(wrong), 'problem')}.", wrong)
    by_name = {split.name: split for split in splits}
    classes: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    class_counts: dict[str, dict[str, int]] = {}
    further: tuple[str, ...] = ()
    reports = {split.name: split.boxes for split in splits if split.boxes is not None}
    if reports:
        classes, further = class_names(reports)
        class_counts = {
            name: {each: report.class_counts.get(each, 0) for each in classes} for name, report in reports.items()
        }
    looks = {name: split.look if family == "classes" else split.class_look for name, split in by_name.items()}
    if family in {"classes", "labels"}:
        values = tuple(
            sorted({value for each in looks.values() for value in each.pixels if family == "classes" or value})
        )
        classes = tuple(str(value) for value in values)
        if family == "classes" and len(values) < 2:
            splits[0].warnings.append(
                f"All pixels of all class images are {some(classes)}: two classes or more are required."
            )
        class_counts = {
            name: {str(value): each.pixels[value] for value in values} for name, each in looks.items() if each.pixels
        }
    sizes: dict[str, ObjectSizes] = {}
    for split in splits:
        split.counts = {"images": len(split.images.get("source", ())), **split.counts}
        if family == "labels":
            split.counts["objects"] = split.look.objects
            split.warnings += [*split.look.piece_warnings(), *split.look.label_warnings()]
            if (measured := split.look.sizes()) is not None:
                sizes[split.name] = measured
    fields = Fields()
    for split in splits:
        for image in split.images.get("source", ()):
            fields.add(split.name, f"{split.name}/source/{image.path.name}", image.pattern)
    return FolderReport(
        kind=family,
        told_by=told_by,
        warnings=(*_warnings(splits, family, further), *fields.warnings()),
        images={(split.name, role): images for split in splits for role, images in split.images.items()},
        tables={(split.name, role): tables for split in splits for role, tables in split.tables.items()},
        classes=classes,
        class_values=values,
        counts={split.name: split.counts for split in splits},
        class_counts=class_counts if classes else {},
        unpaired=tuple(split.name for split in splits if split.unpaired),
        object_sizes=sizes,
        field_counts=fields.counts(),
    )


def _warnings(splits: list[_Split], kind: str, further: tuple[str, ...]) -> tuple[str, ...]:
    warnings = [*further]
    for split in splits:
        lead = f"{split.name}: " if len(splits) > 1 else ""
        warnings += [f"{lead}{text}" for text in split.warnings]
    roles = {frozenset([*split.images, *split.tables]) for split in splits}
    if len(roles) > 1 and kind != "sources":
        warnings.append(
            "train and test do not have the same folders: images that are missing in test cannot be judged."
        )
    images = {split.name: split.counts["images"] for split in splits}
    if images.get("train") == 1 and kind not in {"unpaired", "coordinates"}:
        what = "pair" if kind in _IMAGE_KINDS else "image"
        warnings.append(
            f"There is only one training {what}: a part of it is held out for validation, and the model may not work "
            f"on other images. Ten {what}s or more are better."
        )
    if not images.get("test"):
        warnings.append(NO_TEST_IMAGES)
    return tuple(warnings)


def _refusal(folder: Path, problems: list[Violation], kind: str, family: str) -> InvalidInputError:
    error = refusal(f"{folder} cannot become a dataset: {count(len(problems), 'problem')}.", problems)
    unmatched = sum(problem.description.startswith("no image named") for problem in problems)
    if not kind and family == "paired" and unmatched > 1 and len(problems) < 2 * unmatched:
        text = f"{error.message}\nIf the images are deliberately unpaired, add --kind unpaired."
        return InvalidInputError(text, problems)
    return error


def _check_image_targets(split: _Split) -> None:
    """Check images whose targets are images: grey values, labels or classes, perhaps of several roles."""
    axes = split.axes
    plain = _without_channels(axes)
    source, target = split.images_of("source"), split.images_of("target")
    # Colours in targets are a mistake more often than not, so they must be said to be images.
    target_axes = own_axes(target, plain) if split.kind == "paired" else plain
    # Where nobody says that targets are labels or classes, one without contrast is taken for a mistake, unless it is 0.
    said = split.kind in {"labels", "classes"}
    report = check_pairs(
        source,
        target,
        axes=plain,
        source_axes=axes,
        target_axes=target_axes,
        constant_targets=said,
        empty_targets=not said,
        look=split.look if target_axes == plain else None,
        readings=(split.source, split.target),
    )
    split.warnings += report.warnings
    split.images |= {
        "source": tuple(_source(pair, axes, split.source) for pair in report.pairs),
        "target": tuple(_target(pair, target_axes, split.target) for pair in report.pairs),
    }
    for role in split.roles():
        _check_role_name(role)
        if role.startswith("target_"):
            look = split.class_look if role == CLASS_ROLE else None
            reading = replace(split.target, labels=role == CLASS_ROLE, components=False)
            other = check_pairs(
                *(source, split.images_of(role)),
                axes=plain,
                source_axes=axes,
                empty_targets=True,
                look=look,
                readings=(split.source, reading),
                told="target",
            )
            images = tuple(_target(pair, plain, reading) for pair in other.pairs)
        else:
            folder = split.images_of(role)
            found = next(iter(find_images(folder).values()), None)
            own = inspect_image(found).axes if found is not None else axes
            own = own if set(own) >= set(plain) else axes
            other = check_pairs(
                *(folder, target),
                axes=plain,
                source_axes=own,
                target_axes=target_axes,
                empty_targets=True,
                readings=(replace(split.source, axes=""), split.target),
                told="source",
            )
            images = tuple(_source(pair, own, replace(split.source, axes="")) for pair in other.pairs)
        split.images[role] = images
        split.warnings += [text for text in other.warnings if text not in split.warnings]


def _check_sources(split: _Split) -> None:
    """Check images of a method without targets; images that have targets can be judged by them."""
    if (split.path / "target").is_dir():
        _check_image_targets(split)
        return
    report = check_images(split.images_of("source"), axes=split.axes, reading=split.source)
    split.warnings += report.warnings
    split.images["source"] = report.images
    _leave_out(split, split.roles())


def _check_unpaired(split: _Split) -> None:
    test = split.name == "test"
    if test and not (split.path / "target").is_dir():
        _check_sources(split)
        return
    report = check_unpaired(
        *(split.images_of("source"), split.images_of("target")),
        axes=split.axes,
        min_images=1 if test else 2,
        reading=split.source,
    )
    split.warnings += report.warnings
    split.images |= {"source": report.sources, "target": report.targets}
    split.unpaired = not (test and same_names_and_sizes(report))
    if not split.unpaired:
        split.warnings.append(
            f"All images of test/source have one of the same name and size in test/target: {len(report.sources)} "
            "images are taken for pairs, by which quality control can judge. Rename them if they are not pairs."
        )
    split.counts["targets"] = len(report.targets)
    _leave_out(split, split.roles())


def _check_boxes(split: _Split) -> None:
    folders = (split.path, split.folder)
    report = check_boxes(
        *(split.images_of("source"), role_folder(split.path, "target")),
        axes=split.axes,
        class_folders=folders,
        reading=split.source,
    )
    split.boxes = report
    split.warnings += report.warnings
    split.images["source"] = tuple(boxed.image for boxed in report.images)
    split.tables["target"] = tuple(
        TableFile(boxed.image.stem, ".xml", len(boxed.boxes), boxed.to_voc) for boxed in report.images
    )
    split.counts |= {
        "boxes": sum(len(boxed.boxes) for boxed in report.images),
        "images without a box": sum(not boxed.boxes for boxed in report.images),
    }
    _leave_out(split, split.roles())


def _check_coordinates(split: _Split) -> None:
    report = check_coordinates(
        split.images_of("source"), split.path / "target", pixel_size_nm=split.pixel_size_nm, reading=split.source
    )
    split.warnings += report.warnings
    split.images["source"] = tuple(stack.image for stack in report.stacks)
    split.tables["target"] = tuple(
        TableFile(stack.image.stem, ".csv", stack.objects, stack.to_csv) for stack in report.stacks
    )
    split.counts |= {
        "frames": sum(stack.image.shape[0] for stack in report.stacks),
        "localisations": sum(stack.objects for stack in report.stacks),
    }
    _leave_out(split, split.roles())


_CHECKS: Final[Mapping[str, Callable[[_Split], None]]] = {
    "paired": _check_image_targets,
    "sources": _check_sources,
    "unpaired": _check_unpaired,
    "boxes": _check_boxes,
    "coordinates": _check_coordinates,
}


def _leave_out(split: _Split, roles: list[str]) -> None:
    if roles:
        split.warnings.append(
            f"Folders that do not belong to such a dataset were ignored: {len(roles)} ({some(roles)})."
        )


def _check_role_name(role: str) -> None:
    if not re.fullmatch(r"(source|target)_[A-Za-z0-9-]+", role):
        text = f"the folder {role} must have a name of letters, digits and '-' after the first '_': rename it."
        raise InvalidInputError(text, [Violation(role, text)])


def _without_channels(axes: str) -> str:
    return axes.translate({ord("S"): None, ord("C"): None})


def _source(pair: ImagePair, axes: str, reading: Reading) -> CheckedImage:
    return CheckedImage(pair.stem, pair.source, pair.shape, axes, pair.dtypes[0], None, reading, pair.pattern)


def _target(pair: ImagePair, axes: str, reading: Reading) -> CheckedImage:
    return CheckedImage(pair.stem, pair.target, pair.shape, axes, pair.dtypes[1], None, reading)
