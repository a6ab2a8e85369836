"""Inputs, outputs and measurements of a network: determined once in training, stored as JSON in the model.

A newer version may write fields that this one does not know. Whoever shows, copies or deletes a model keeps them;
whoever computes with it calls `Facts.require_known` before. So a field that is added here must be None where older
versions can do without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.errors import PreconditionError


class Port(BaseModel):
    """One input or output of a network: the role and the kind of the images that it takes or gives.

    Attributes
    ----------
    role
        The role of the images in the dataset, for example "source" or "target_DAPI".
    kind
        Kind of the images: grey values, labels of objects, classes, or annotated boxes or points.
    channels
        Number of channels of an image.
    channel_axis
        The axis of the images that holds them: "S" red, green and blue, "C" other channels, "" if there is none.
    classes
        Number of classes without the background; 0: none.
    offset, scale
        Means, over the training images, of the constants that the images were normalised with, one or one for each
        channel; empty where they were not normalised.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    role: str
    kind: Literal["image", "labels", "classes", "boxes", "points"] = "image"
    channels: int = 1
    channel_axis: Literal["", "C", "S"] = ""
    classes: int = 0
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()


class Facts(BaseModel):
    """Inputs and outputs of a network, and measurements on its training data.

    Attributes
    ----------
    inputs, targets
        The network's ports, in the order of its inputs and outputs; methods without targets have none.
    measured
        Further values by name, such as thresholds, anchors or a diameter, all of which JSON can represent.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    inputs: tuple[Port, ...] = (Port(role="source"),)
    targets: tuple[Port, ...] = (Port(role="target"),)
    measured: dict[str, Any] = Field(default_factory=dict)

    def require_known(self) -> None:
        """Raise PreconditionError where a newer version has written something that this one does not know.

        To pass it over could change what the model predicts.
        """
        ports = {"input": self.inputs, "target": self.targets}
        parts = {"": (self,), **{f"{name} ": each for name, each in ports.items()}}
        unknown = {
            f"{where}{name}"
            for where, models in parts.items()
            for model in models
            for name, value in (model.model_extra or {}).items()
            if value is not None
        }
        if unknown:
            raise made_by_newer("description", sorted(unknown))

    @property
    def input_channels(self) -> int:
        """Number of channels of an input image."""
        return self.inputs[0].channels

    @property
    def source(self) -> str:
        """Role of the images that the network takes."""
        return self.inputs[0].role

    @property
    def target_roles(self) -> tuple[str, ...]:
        """Roles of the images that the network is trained to give, in the order of its outputs."""
        return tuple(port.role for port in self.targets)

    @property
    def output_channels(self) -> int:
        """Number of channels of all targets together."""
        return sum(port.channels for port in self.targets)

    def target(self, role: str) -> Port:
        """Return the target of this role."""
        return next(port for port in self.targets if port.role == role)

    def directed(self, *, backwards: bool) -> Facts:
        """Return the facts of a prediction; with `backwards`, inputs and targets are exchanged."""
        return self.model_copy(update={"inputs": self.targets, "targets": self.inputs}) if backwards else self

    def with_measured(self, **values: Any) -> Facts:
        """Return the facts with further measured values."""
        return self.model_copy(update={"measured": self.measured | values})


def made_by_newer(what: str, unknown: Sequence[str]) -> PreconditionError:
    """Return the error of whoever is to compute with a model of which something is not known here."""
    return PreconditionError(
        f"A newer version of Parfocal made this model: its {what} has {', '.join(unknown)}, which this "
        "version does not know. Upgrade this service, or use a model that it made itself."
    )
