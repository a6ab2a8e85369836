"""Files of weights as Cellpose versions 1 to 3 write them: a dictionary of arrays, saved by PyTorch.

The files come from anywhere. They are opened with `weights_only`, which reads arrays and runs nothing, and only arrays
of the expected names and shapes are taken: Cellpose itself would leave a part of the network as it is, without a word,
where a file lacks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from parfocal.cellpose.operator_weights import check_file
from parfocal.runtime.datasets.findings import by
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.implementation import Arrays

DIAMETERS: Final = ("diam_mean", "diam_labels")
"""The diameter at which a network sees objects, and that in its training images; files before version 2 lack both."""
_MOST_BYTES: Final = 2**30
_COUNTER: Final = "num_batches_tracked"


def save_state(path: Path, arrays: Arrays) -> None:
    """Write arrays as Cellpose does."""
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, path)


def read_state(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name.

    Raises
    ------
    InvalidInputError
        It is missing, too large, damaged, holds more than arrays, or is of version 4 of Cellpose.
    """
    check_file(path, _MOST_BYTES)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # files of strangers make the reader raise anything
        raise InvalidInputError(
            f"{path.name} is damaged, or holds objects other than plain arrays, which Parfocal does not open. Name the "
            "file that Cellpose wrote when it trained the model."
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(each, torch.Tensor) for each in content.values()):
        raise InvalidInputError(f"{path.name} holds no weights of a network. Name the file that Cellpose wrote.")
    names = {str(name).removeprefix("module.") for name in content}
    if "W2" in names or any(name.startswith(("encoder.", "sam.")) for name in names):
        raise InvalidInputError(
            f"{path.name} is a model of Cellpose 4 or of a transformer, whose network differs from that of versions 1 "
            "to 3. Parfocal imports models of versions 1 to 3."
        )
    try:
        return {str(name).removeprefix("module."): _array(value) for name, value in content.items()}
    except (TypeError, RuntimeError) as error:
        raise InvalidInputError(
            f"{path.name} stores its numbers differently from Cellpose. Name the file that Cellpose wrote."
        ) from error


def _array(value: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array, of half precision as float32: NumPy does not know all kinds."""
    array: NDArray[Any] = (value.detach().float() if value.is_floating_point() else value.detach()).numpy()
    return array


def fit_state(name: str, state: Arrays, learner: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file that make up a network, which must have them all.

    Parameters
    ----------
    name
        Name of the file, for error messages.
    state
        Arrays of the file by name.
    learner
        Has the network.

    Raises
    ------
    InvalidInputError
        An array is missing, has another shape, or holds values that are not finite; or there is one more.
    """
    own = learner.weights()
    fitting = {key: np.asarray(state.get(key, own[key])) for key in own if key in state or key in DIAMETERS}
    fitting |= {key: own[key] for key in own if key.endswith(_COUNTER) and key not in fitting}
    missing = [key for key in own if key not in fitting]
    other = [key for key in fitting if fitting[key].shape != own[key].shape]
    more = [key for key in state if key not in own]
    if missing or other or more:
        first = (missing or other or more)[0]
        what = (
            "is missing"
            if missing
            else f"has the shape {by(fitting[first].shape)} instead of {by(own[first].shape)}"
            if other
            else "belongs to no part of it"
        )
        raise InvalidInputError(
            f"{name} holds another network than the Cellpose with these parameters: of {len(own)} arrays {first} "
            f"{what}."
        )
    if not all(np.isfinite(array).all() for array in fitting.values()):
        raise InvalidInputError(f"{name} is damaged: some of its numbers are not finite.")
    return {key: array.astype(own[key].dtype) for key, array in fitting.items()}
