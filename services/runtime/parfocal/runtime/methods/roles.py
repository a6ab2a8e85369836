"""Roles of the images of a dataset that a training uses."""

from __future__ import annotations

from dataclasses import dataclass

from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest

TARGET_STATISTICS = "target_statistics"
"""Name among the measured facts of what the target images of unpaired data look like, as `TrainingStatistics`."""


@dataclass(frozen=True)
class Roles:
    """The roles of a dataset's images in a training: input and targets of the network."""

    source: str = "source"
    targets: tuple[str, ...] = ("target",)


class TrainingBase(Parameters):
    """Base of the mixins in `parameters` and `augmenting`: each has the fields of one thing that a training does.

    A method's parameters inherit those that act on it, so that forms show nothing that does not. Every training needs
    `Epochs`, one of the rates, and `Arithmetic`. The fields of the base that is named last come first in forms.
    """

    def roles(self, dataset: DatasetManifest) -> Roles:  # noqa: ARG002
        """Return which images of a dataset are the network's inputs and targets."""
        return Roles()
