"""Weights of Cellpose that the operator of an installation provides: where they are, and under which licence.

Parfocal brings no weights and downloads none. PARFOCAL_CELLPOSE_MODELS names a file or a folder of files as Cellpose
versions 1 to 3 write them. Servers look only at names; the files are opened by workers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation

SETTING: Final = "PARFOCAL_CELLPOSE_MODELS"
LICENCE_SUFFIX: Final = ".licence.txt"
_OTHER: Final = (".npy", ".txt", ".md", ".json")
_MOST_CHARACTERS: Final = 2000
# The names under which Cellpose publishes weights, and those of the files that it makes of them.
_PUBLISHED: Final = (
    *("cyto3", "nuclei", "cyto2_cp3", "tissuenet_cp3", "livecell_cp3", "yeast_PhC_cp3", "yeast_BF_cp3"),
    *("bact_phase_cp3", "bact_fluor_cp3", "deepbacs_cp3", "cyto2", "cyto", "CP", "CPx", "neurips_grayscale_cyto2"),
    *("TN1", "TN2", "TN3", "LC1", "LC2", "LC3", "LC4"),
)
_VERSIONS: Final = ("torch_0", "torch_1", "torch_2", "torch_3")


def find_weights(name: str) -> Path:
    """Return the operator's file of weights with this name.

    Raises
    ------
    NotFoundError
        There is no such file; the message names those there are.
    """
    files = _files()
    if name in files:
        return files[name]
    known = (
        f"There are {some(list(files))}."
        if files
        else f"None are provided: the operator sets {SETTING} to their folder."
    )
    raise NotFoundError(
        f"This installation has no Cellpose weights named {name!r}. {known} Ask its operator for others, or leave "
        "initial_weights empty."
    )


def licence_of(path: Path) -> str:
    """Return a sentence on the licence of a file of weights: what lies beside it, or what is known of its name."""
    beside = path.with_name(path.name + LICENCE_SUFFIX)
    if beside.is_file():
        text = beside.read_text(encoding="utf-8", errors="replace")[:_MOST_CHARACTERS]
        return f"Their licence, as this installation's operator states it: {' '.join(text.split())}"
    if path.name in {name + version for name in _PUBLISHED for version in ("", *_VERSIONS)}:
        return (
            "They are published by Cellpose and were trained on images under CC BY-NC 4.0 and similar licences: "
            "neither they nor models that start from them may be used commercially."
        )
    return f"Their licence is not known. Ask who made them; a file {beside.name} beside them would be shown here."


def is_weights(path: Path) -> bool:
    """Return whether a file may hold weights: no size model, no text, and nothing hidden."""
    return path.is_file() and path.suffix not in _OTHER and not path.name.startswith(".")


def check_file(path: Path, most_bytes: int) -> None:
    """Raise InvalidInputError unless a file exists, is no pickle of a size model, and is not too large."""
    if not path.is_file():
        raise InvalidInputError(f"There is no file {path.name}. Name the file with the weights of the Cellpose model.")
    if path.suffix == ".npy":
        raise InvalidInputError(
            f"{path.name} is not a network but Cellpose's model that estimates diameters, stored as a pickle, which "
            "Parfocal does not open. Name the file of the network, which has the same name without _size.npy.",
            [Violation(path.name, "is not a file of weights")],
        )
    if path.stat().st_size > most_bytes:
        raise InvalidInputError(f"{path.name} has more than {most_bytes // 2**20} MiB: a Cellpose model is smaller.")


def _files() -> dict[str, Path]:
    """Return the operator's files of weights by name."""
    named = os.environ.get(SETTING, "")
    if not named:
        return {}
    place = Path(named).expanduser()
    if place.is_file():
        return {place.name: place}
    if not place.is_dir():
        return {}
    return {each.name: each for each in sorted(place.iterdir()) if is_weights(each)}
