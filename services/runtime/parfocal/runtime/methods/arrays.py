"""Named arrays in files, without pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import DAMAGED_ARCHIVE, InvalidInputError


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays to an uncompressed .npz file without pickle."""
    np.savez(path, **{name.replace("/", "\\"): array for name, array in arrays.items()})  # type: ignore[arg-type]


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays from an .npz file; raise InvalidInputError if it is damaged or holds pickled content."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name.replace("\\", "/"): content[name] for name in content.files}
    except DAMAGED_ARCHIVE as error:
        raise InvalidInputError(f"{path.name} is damaged, or not a file of arrays: {error}.") from error


class StoredArrays(Mapping[str, Mapping[str, NDArray[Any]]]):
    """Several sets of arrays by name, each in a file that is read when it is asked for: weights can be large.

    Parameters
    ----------
    paths
        Files that `save_arrays` wrote, by name.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def store(self, name: str, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add a set of arrays."""
        save_arrays(path, arrays)
        self._paths[name] = path

    def __getitem__(self, name: str) -> Mapping[str, NDArray[Any]]:
        return load_arrays(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
