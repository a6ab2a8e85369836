"""Objects found in an image: what a method that segments instances hands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes
    ----------
    labels
        Integers, of the image's spatial shape: 0 is background, object number i has the value i + 1.
    probability
        float32, one per object: how sure the network is that it is one.
    outlines
        Per object its corners, float32 of shape (corners, 2) as y and x in pixels; empty where there are none (3D).
    class_probability
        float32 of shape (objects, 1 + classes): how probable each class is, in the first place that of none of them.
        None where classes are not told apart.
    splines
        float32 of shape (objects, M, 2): the control points of closed uniform cubic B-splines, in order, as y and x in
        pixels. None where outlines are no splines.
    """

    labels: NDArray[Any]
    probability: NDArray[np.float32]
    outlines: Sequence[NDArray[np.float32]] = ()
    class_probability: NDArray[np.float32] | None = None
    splines: NDArray[np.float32] | None = None

    @property
    def classes(self) -> NDArray[np.int64] | None:
        """Per object its most probable class, from 1, or 0 if it is most probably of none; None without classes."""
        return None if self.class_probability is None else np.argmax(self.class_probability, axis=-1)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the same as arrays by name, for a file."""
        arrays = {"labels": self.labels, "probability": self.probability}
        if len(self.outlines):
            arrays["corners"] = np.concatenate([np.asarray(outline) for outline in self.outlines])
            arrays["ends"] = np.cumsum([len(outline) for outline in self.outlines])
        for name in ("class_probability", "splines"):
            if (values := getattr(self, name)) is not None:
                arrays[name] = values
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return what `to_arrays` has made arrays of."""
        outlines = np.split(arrays["corners"], arrays["ends"][:-1]) if "corners" in arrays else ()
        return cls(
            arrays["labels"],
            arrays["probability"],
            outlines,
            arrays.get("class_probability"),
            arrays.get("splines"),
        )


def compact_labels(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Return a label image with its objects numbered from 1 in the order of their ids, and all negative ids as -1.

    Ids of any integer type and size come in: networks and libraries count in 32 bits, and some keep a list as long as
    the largest id.
    """
    if labels.dtype.kind == "i":
        labels = np.maximum(labels, -1)
    ids, places = np.unique(labels, return_inverse=True)
    numbers = np.cumsum(ids > 0)
    compact: NDArray[np.int32] = np.where(ids.astype(np.float64) < 0, -1, numbers).astype(np.int32)[places]
    return compact.reshape(labels.shape)
