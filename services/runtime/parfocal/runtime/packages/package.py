"""A package of bioimage.io on this computer: its description, and the files that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.importing import Values
from parfocal.runtime.packages.description import Description, Tensor, parse_description

CONFIG: Final = "config.json"
"""The file in which csbdeep's family of programs describes a network."""
CONTENT: Final = "description.json"
"""The content of rdf.yaml, beside the folder of files."""
FILES: Final = "files"

# More than any example needs, and little enough for a network to take as a whole.
_MOST_PIXELS: Final = 2**24
_CHANNELS: Final = 1024


@dataclass(frozen=True)
class Package:
    """A package that was unpacked.

    Attributes
    ----------
    description
        What it says.
    folder
        The folder with the files that the description names, and nothing else.
    """

    description: Description
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Package:
        """Return the package that was unpacked to a folder: description.json, and the folder of files beside it."""
        content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
        return cls(parse_description(content), folder / FILES)

    def path(self, name: str) -> Path:
        """Return where a file of the package lies."""
        return self.folder / name

    def attachment(self, name: str) -> Path | None:
        """Return where the attachment of this name lies; None if there is none."""
        found = self.description.attached(name)
        return None if found is None else self.path(found)

    def config(self) -> Mapping[str, Any]:
        """Return the configuration of csbdeep, n2v or stardist; empty if the package has none.

        Raises
        ------
        InvalidInputError
            It is damaged.
        """
        stardist = self.description.config.get("stardist")
        if isinstance(stardist, Mapping) and isinstance(stardist.get("config"), Mapping):
            config: Mapping[str, Any] = stardist["config"]
            return config
        path = self.attachment(CONFIG)
        return {} if path is None else Values.read(path, "csbdeep").content

    @property
    def method(self) -> str:
        """Name of the method that made the model, as far as the package tells; empty if it does not."""
        if name := self.description.own.get("method"):
            return str(name)
        config, dimensions = self.config(), f"{len(self.description.spatial)}d"
        for key, family in (("n_rays", "stardist"), ("n2v_perc_pix", "n2v"), ("unet_residual", "care")):
            if key in config:
                return f"{family}-{dimensions}"
        return ""

    def example(self, tensor: Tensor) -> NDArray[Any]:
        """Return a test tensor without its batch axis, with the axes (Z,) Y, X and channels.

        Raises
        ------
        InvalidInputError
            The file is damaged, too large, or does not have the axes that the description gives it.
        """
        name = tensor.example
        try:
            array = np.load(self.path(name), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError, SyntaxError, TypeError, OverflowError) as error:
            raise InvalidInputError(f"The test tensor {name} is damaged: {error}.") from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "uifb":
            raise InvalidInputError(f"The test tensor {name} is not an array of numbers.")
        if array.ndim != len(tensor.axes):
            raise InvalidInputError(
                f"The test tensor {name} has {array.ndim} axes, and the description gives it {len(tensor.axes)} "
                f"({tensor.axes})."
            )
        axes = tensor.axes
        if "b" in axes:
            place = axes.index("b")
            if array.shape[place] < 1:
                raise InvalidInputError(f"The test tensor {name} is empty.")
            array, axes = array.take(0, axis=place), axes.replace("b", "")
        if "c" not in axes:
            array, axes = array[..., np.newaxis], f"{axes}c"
        wanted = "".join(axis for axis in "zyx" if axis in axes) + "c"
        array = np.transpose(array, [axes.index(axis) for axis in wanted])
        pixels = int(np.prod(array.shape[:-1]))
        if not 0 < pixels <= _MOST_PIXELS or not 0 < array.shape[-1] <= _CHANNELS:
            raise InvalidInputError(
                f"The test tensor {name} has {pixels} pixels and {array.shape[-1]} channels: it must have some, and "
                f"at most {_MOST_PIXELS} pixels and {_CHANNELS} channels."
            )
        return np.ascontiguousarray(array)
