"""Layout of a folder that is to become a dataset, and the kind of dataset that its files indicate."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from parfocal.runtime.datasets.annotations.yolo import CLASS_FILES
from parfocal.runtime.datasets.boxes import annotation_files
from parfocal.runtime.datasets.coordinates import table_files
from parfocal.runtime.datasets.findings import some
from parfocal.runtime.datasets.kinds import KINDS
from parfocal.runtime.datasets.pairs import PASSED_OVER, is_hidden
from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation, refusal
from parfocal.runtime.images.files import printable

_FILES: Final = {"boxes": "annotation files", "tables": "tables of coordinates", "images": "images"}
# What programs for annotation call the folders of images and of boxes.
_BOXED: Final = {"source": ("images",), "target": ("annotations", "labels")}
_ABOUT: Final = ("readme", "licen", "copying", "citation")
_KIND_OF_FILES: Final = {"boxes": "boxes", "tables": "coordinates"}


def role_folder(parent: Path, role: str) -> Path:
    """Return the folder of a role: its own name, or "images" with "annotations" or "labels" where neither is there."""
    if any((parent / name).is_dir() for name in _BOXED) or not all(_boxed(parent, each) for each in _BOXED):
        return parent / role
    return _boxed(parent, role) or parent / role


def _boxed(parent: Path, role: str) -> Path | None:
    return next((parent / name for name in _BOXED.get(role, ()) if (parent / name).is_dir()), None)


def family_of(places: Mapping[str, Path], kind: str) -> tuple[str, str]:
    """Return how to check a folder, "paired" for all kinds of target images, and how that was told.

    Raises
    ------
    InvalidInputError
        The folder cannot be of the kind that somebody says it is.
    """
    split, parent = next(iter(places.items()))
    target = role_folder(parent, "target")
    where = f"{split}/target" if parent.name == split else "target"
    found = _found_in(target)
    if kind:
        _refuse_other_files(kind, target, found, where)
        return kind if kind in {"sources", "unpaired", "boxes", "coordinates"} else "paired", "as you said"
    if not target.is_dir() and not _misnamed(parent):
        return "sources", f"there is no folder {where}"
    if found in _KIND_OF_FILES:
        return _KIND_OF_FILES[found], f"{where} holds {_FILES[found]}"
    # What kind of images they are is told by their pixels.
    return "paired", ""


def _refuse_other_files(kind: str, target: Path, found: str, where: str) -> None:
    """Raise InvalidInputError if a folder of targets does not hold the files of a kind; others may lie beside them."""
    if kind == "sources":
        return
    wanted = next((files for files, each in _KIND_OF_FILES.items() if each == kind), "images")
    there = {"boxes": annotation_files, "tables": table_files}.get(wanted)
    if found == wanted or (there is not None and there(target)):
        return
    if not target.is_dir():
        why = "there is no such folder"
    elif found in _KIND_OF_FILES:
        why = f"it holds {_FILES[found]} and no {_FILES[wanted]}: add --kind {_KIND_OF_FILES[found]}"
    else:
        why = f"it holds no {_FILES[wanted]}"
    text = f"this is not a dataset of {KINDS[kind].title} (--kind {kind}): {why}. Required are {KINDS[kind].layout}."
    raise refusal("The folder does not hold the stated kind of dataset.", [Violation(where, text)])


def _misnamed(parent: Path) -> bool:
    """Return whether a folder has no sources, or one that may be the targets under another name, such as "targets"."""
    names = [path.name.lower() for path in parent.iterdir() if path.is_dir() and not path.name.startswith("target_")]
    return "source" not in names or bool(difflib.get_close_matches("target", names, n=1, cutoff=0.7))


def _found_in(target: Path) -> str:
    """Return what a folder of targets holds: images rule, because programs write all kinds of files beside them."""
    if not target.is_dir():
        return ""
    known = {*PASSED_OVER, *(path.name for path in (*annotation_files(target), *table_files(target)))}
    names = [path.name for path in target.iterdir() if path.name[0] != "." and path.name.lower() not in CLASS_FILES]
    # All else is taken for images: of proprietary formats too, some of which are folders.
    if any(name not in known for name in names):
        return "images"
    if annotation_files(target):
        return "boxes"
    return "tables" if table_files(target) else "images"


def passed_over(folder: Path, places: Mapping[str, Path]) -> list[str]:
    """Return the names of what lies beside the folders of a dataset and is not read, as seen from the dataset.

    Files that say something of the whole, such as a list of classes or a README, are no data.
    """
    found = []
    for place in dict.fromkeys([folder, *places.values()]):
        parts = set(places)
        if place != folder or place in places.values():
            parts = {role_folder(place, role).name for role in _BOXED}
        for path in sorted(place.iterdir()):
            name, told = path.name, path.name.lower()
            known = name in parts or (place in places.values() and name.startswith(("source_", "target_")))
            if is_hidden(path) or known or name in PASSED_OVER or told in CLASS_FILES or told.startswith(_ABOUT):
                continue
            found.append(printable(str(path.relative_to(folder))) + ("/" if path.is_dir() else ""))
    return found


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of the splits by name: "train" and perhaps "test"; raise an error if there are none."""
    if folder.is_file():
        text = f"{folder} is a file: name the folder that holds train and test, or source and target."
        raise InvalidInputError(text, [Violation("folder", text)])
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}. Check the name.")
    above = folder.resolve().parent
    if folder.resolve().name in {"train", "test"} and (above / "train").is_dir() and (above / "test").is_dir():
        raise InvalidInputError(
            f"{folder} is one part of a dataset: the folder above it has train and test, and quality control requires "
            f"both. Give {above}. To make a dataset of this part alone, move it or give it another name."
        )
    if (folder / "train").is_dir():
        return {split: folder / split for split in ("train", "test") if (folder / split).is_dir()}
    if any(role_folder(folder, role).is_dir() for role in _BOXED):
        return {"train": folder}
    inside = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name[0] != ".")
    found = some(inside) if inside else "nothing"
    raise InvalidInputError(
        f"{folder} is not laid out as a dataset (found: {found}). Put the noisy images into train/source, the clean "
        "ones under the same names into train/target, and pairs for quality control into test/source and test/target."
    )
