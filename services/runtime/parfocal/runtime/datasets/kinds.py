"""The kinds of dataset: what stands beside the source images, and which methods can be trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.store.manifests import DatasetManifest

_IMAGES: Final = frozenset({v1.TARGET_KIND_PAIRED_IMAGE, v1.TARGET_KIND_UNPAIRED_IMAGE, v1.TARGET_KIND_NONE})
IMAGE_TARGETS: Final = frozenset(
    {
        v1.TARGET_KIND_PAIRED_IMAGE,
        v1.TARGET_KIND_UNPAIRED_IMAGE,
        v1.TARGET_KIND_LABELS,
        v1.TARGET_KIND_CLASSES,
    }
)
"""Targets of methods that are images of their own."""
_UNRECORDED: Final = _IMAGES | {v1.TARGET_KIND_LABELS, v1.TARGET_KIND_CLASSES}
"""Targets of datasets that were published before kinds were recorded: their targets are images, of objects perhaps."""


@dataclass(frozen=True)
class Kind:
    """One kind of dataset.

    Attributes
    ----------
    name
        Name of the kind in manifests and at the command line.
    title
        Name for people, after "the dataset has" or "the method requires".
    target
        Target that a method made for this kind requires.
    suits
        All that methods may ask for and find in such a dataset.
    layout
        Description of what belongs into the folders of a dataset.
    """

    name: str
    title: str
    target: v1.TargetKind.ValueType
    suits: frozenset[v1.TargetKind.ValueType]
    layout: str


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                "paired",
                "pairs of images",
                v1.TARGET_KIND_PAIRED_IMAGE,
                _IMAGES,
                "images in train/source, and their targets under the same names in train/target",
            ),
            Kind(
                "labels",
                "label images",
                v1.TARGET_KIND_LABELS,
                _IMAGES | {v1.TARGET_KIND_LABELS, v1.TARGET_KIND_CLASSES},
                "images in train/source, and under the same names in train/target label images: 0 for background, one "
                "number for each object",
            ),
            Kind(
                "classes",
                "class images",
                v1.TARGET_KIND_CLASSES,
                _IMAGES | {v1.TARGET_KIND_CLASSES},
                "images in train/source, and under the same names in train/target class images: the number of a class "
                "in each pixel",
            ),
            Kind(
                "unpaired",
                "unpaired images",
                v1.TARGET_KIND_UNPAIRED_IMAGE,
                frozenset({v1.TARGET_KIND_UNPAIRED_IMAGE, v1.TARGET_KIND_NONE}),
                "images of one kind in train/source, and of the other in train/target; names and numbers may differ",
            ),
            Kind(
                "sources",
                "images without targets",
                v1.TARGET_KIND_NONE,
                frozenset({v1.TARGET_KIND_NONE}),
                "images in train/source",
            ),
            Kind(
                "boxes",
                "images with boxes",
                v1.TARGET_KIND_BOXES,
                frozenset({v1.TARGET_KIND_BOXES, v1.TARGET_KIND_NONE}),
                "images in train/source, and boxes in train/target: PASCAL VOC (an .xml file for each image), COCO "
                "(one .json file) or YOLO (a .txt file for each image, and classes.txt)",
            ),
            Kind(
                "coordinates",
                "image stacks with coordinates",
                v1.TARGET_KIND_COORDINATES,
                frozenset({v1.TARGET_KIND_COORDINATES, v1.TARGET_KIND_NONE}),
                "stacks of frames in train/source, and under the same names in train/target tables of localisations "
                "(ThunderSTORM .csv)",
            ),
        )
    }
)


def suits(kind: str, target: v1.TargetKind.ValueType) -> bool:
    """Return whether a dataset of a kind has what a method asks for; "" is a dataset without a recorded kind."""
    if target == v1.TARGET_KIND_UNSPECIFIED:
        return True
    return target in (_UNRECORDED if not kind else KINDS[kind].suits if kind in KINDS else ())


def kinds_for(target: v1.TargetKind.ValueType) -> tuple[str, ...]:
    """Return the names of all kinds that suit what a method asks for, the one made for it first."""
    found = [kind for kind in KINDS.values() if target in kind.suits]
    return tuple(kind.name for kind in sorted(found, key=lambda kind: kind.target != target))


def require_suitable(dataset: DatasetManifest, target: v1.TargetKind.ValueType, method: str) -> None:
    """Raise InvalidInputError if a dataset is of a kind that a method cannot be trained on.

    Parameters
    ----------
    dataset
        The dataset's manifest.
    target
        Target that the method requires.
    method
        The method's title.
    """
    if suits(dataset.kind, target):
        return
    text = (
        f"The dataset {dataset.dataset!r} (version {dataset.version}) has {title_of(dataset)}, and {method} needs "
        f"{needed_title(target)}. Choose such a dataset, or create one from {KINDS[kinds_for(target)[0]].layout}."
    )
    if dataset.kind == "classes" and target == v1.TARGET_KIND_LABELS:
        text += (
            " If these are masks of which each separate region is an object, create the dataset again with "
            "--label-components, which numbers the regions."
        )
    raise InvalidInputError(text, [Violation("training.dataset_uri", text)])


def title_of(dataset: DatasetManifest) -> str:
    """Return what a dataset has, for people."""
    if not dataset.kind:
        return "images with targets" if dataset.roles("target") else "images without targets"
    return KINDS[dataset.kind].title if dataset.kind in KINDS else f"data of the unknown kind {dataset.kind!r}"


def has_comparable(dataset: DatasetManifest, split: str, target: v1.TargetKind.ValueType) -> bool:
    """Return whether an evaluation that asks for a target finds one for each image of a split, or both kinds as sets.

    Images are images here, whatever they show: an evaluation looks itself whether they are labels.
    """
    if target == v1.TARGET_KIND_UNPAIRED_IMAGE:
        return bool(dataset.select(split, "source") and dataset.select(split, "target"))
    if split in dataset.unpaired:
        return False
    if target in IMAGE_TARGETS:
        return bool(dataset.select(split, "target"))
    return suits(dataset.kind, target) and bool(dataset.select_annotations(split))


def needed_title(target: v1.TargetKind.ValueType) -> str:
    """Return what a method asks for, for people."""
    return next((kind.title for kind in KINDS.values() if kind.target == target), "images")
