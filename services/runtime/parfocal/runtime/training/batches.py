"""Batches of patches as networks are given them: of images with or without targets, and of two sets of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.methods.implementation import Batch, Batches
from parfocal.runtime.training.sampler import FixedPatches, PatchSampler, Targets


@dataclass(frozen=True)
class PatchBatches:
    """Batches of patches of paired images, or of images without targets.

    Attributes
    ----------
    role
        Role of the inputs.
    sampler
        Cuts the patches of the training set.
    validation
        The patches of the part that is held out.
    """

    role: str
    sampler: PatchSampler
    validation: FixedPatches

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""
        return self.sampler.steps_per_epoch

    @property
    def validation_steps(self) -> int:
        """Validation batches."""
        return len(self.validation)

    def batch(self, epoch: int, step: int) -> Batch:
        """Return a training batch; its targets have the method's axes and a trailing axis for roles and channels."""
        return self._batch(*self.sampler.batch(epoch, step))

    def validation_batch(self, step: int) -> Batch:
        """Return a validation batch."""
        return self._batch(*self.validation.batch(step))

    def _batch(self, inputs: NDArray[np.float32], targets: Targets | None) -> Batch:
        inputs = np.ascontiguousarray(channels_last(inputs, "B" + self.sampler.axes))
        if targets is not None:
            axes = "B" + (self.sampler.target_axes or "".join(axis for axis in self.sampler.axes if axis not in "CS"))
            targets = targets_last(targets if isinstance(targets, tuple) else (targets,), axes)
        return Batch({self.role: inputs}, targets, len(inputs))


@dataclass(frozen=True)
class UnpairedBatches:
    """Batches of two sets of images that have nothing to do with each other; an epoch goes through the larger one."""

    first: Batches
    second: Batches

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""
        return max(self.first.steps_per_epoch, self.second.steps_per_epoch)

    @property
    def validation_steps(self) -> int:
        """Validation batches, as many as there are of both."""
        return min(self.first.validation_steps, self.second.validation_steps)

    def batch(self, epoch: int, step: int) -> Batch:
        """Return a batch whose inputs are of both sets; where one is used up, it is drawn from anew."""
        return _together(self._draw(self.first, epoch, step), self._draw(self.second, epoch, step))

    def validation_batch(self, step: int) -> Batch:
        """Return a validation batch whose inputs are of both sets."""
        return _together(self.first.validation_batch(step), self.second.validation_batch(step))

    def _draw(self, batches: Batches, epoch: int, step: int) -> Batch:
        rounds = math.ceil(self.steps_per_epoch / batches.steps_per_epoch)
        return batches.batch(epoch * rounds + step // batches.steps_per_epoch, step % batches.steps_per_epoch)


def _together(first: Batch, second: Batch) -> Batch:
    size = min(first.size, second.size)
    return Batch({role: pixels[:size] for each in (first, second) for role, pixels in each.inputs.items()}, None, size)


def targets_last(targets: Sequence[NDArray[Any]], axes: str) -> NDArray[Any]:
    """Return several arrays of the same axes as one, whose last axis has the channels of one after the other."""
    return np.concatenate([channels_last(each, axes) for each in targets], axis=-1)


def channels_last(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return an array with its channel axis, C or S of `axes`, at the end; one of length 1 where there is none."""
    channel = next((number for number, axis in enumerate(axes) if axis in "CS"), None)
    return pixels[..., np.newaxis] if channel is None else np.moveaxis(pixels, channel, -1)
