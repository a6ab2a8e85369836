"""A folder of links that is laid out as a dataset, where an OME-Zarr holds more than the source images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parfocal.client.formats.plates import check_name_of_zarr, is_zarr
from parfocal.runtime.datasets.layout import role_folder, split_folders
from parfocal.runtime.errors import Violation, refusal
from parfocal.runtime.images.files import printable

if TYPE_CHECKING:
    from parfocal.client.convert import Part


def laid_out(folder: Path, place: Path, part: Part) -> Path:
    """Return a folder with ``{train,test}/{source,target}``: `folder`, or one at `place` that holds links.

    Parameters
    ----------
    folder
        The folder of a dataset; or one OME-Zarr, whose test images are the chosen wells.
    place
        Where links may be made.
    part
        What is taken: where the targets are labels of the OME-Zarr, each split gets a folder of targets with the same
        files.

    Raises
    ------
    InvalidInputError
        It is a Zarr whose name does not say so; or targets are to be labels, but there are other targets, or images
        that are no OME-Zarr.
    """
    if is_zarr(folder) and folder.is_dir():
        target = place / folder.name
        for split in ("train", "test") if part.test_wells else ("train",):
            for role in ("source", "target") if part.labels else ("source",):
                _link(folder, target / split / role / folder.name)
        return target
    check_name_of_zarr(folder)
    if not part.labels:
        return folder
    splits = split_folders(folder)
    target = place / folder.resolve().name
    problems: list[Violation] = []
    for split, path in splits.items():
        laid = target if path == folder else target / split
        source = role_folder(path, "source")
        if (path / "target").exists():
            text = "there are targets beside labels that were chosen as targets. Take one of both away."
            problems.append(Violation(f"{split}/target", text))
        for item in sorted(path.iterdir()):
            if item not in (source, path / "target"):
                _link(item, laid / item.name)
        for item in sorted(source.iterdir()) if source.is_dir() else []:
            for role in ("source", "target"):
                _link(item, laid / role / item.name)
            if item.name[0] != "." and not is_zarr(item):
                text = "labels were chosen as targets, which only OME-Zarr images have. Put it into another folder."
                problems.append(Violation(printable(f"{split}/source/{item.name}"), text))
    for item in sorted(folder.iterdir()) if splits != {"train": folder} else []:
        if item.name not in splits:
            _link(item, target / item.name)
    if problems:
        raise refusal(f"{folder} cannot become a dataset.", problems)
    return target


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.resolve())
