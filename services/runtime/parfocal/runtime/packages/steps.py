"""The steps before and behind a network of bioimage.io, as far as Parfocal does the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import LARGEST_VALUE
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.methods.portable import Step
from parfocal.runtime.packages.description import Tensor

# How far numbers may differ that should be the same: they went through text and, in places, through float32.
_SAME: Final = 1e-5
_LETTERS: Final = {"batch": "b", "channel": "c", "time": "t", "index": "i"}


def normaliser_of(tensor: Tensor, channels: int) -> Normaliser:
    """Return the rule by which images are normalised that the steps before a network stand for.

    Parameters
    ----------
    tensor
        The input.
    channels
        Number of channels of an image.

    Raises
    ------
    InvalidInputError
        Parfocal cannot do one of the steps.
    """
    rule: Normaliser | None = None
    for step in tensor.steps:
        name, kwargs = step["id"], step["kwargs"]
        if name == "ensure_dtype":
            if kwargs.get("dtype") not in ("float32", "float64"):
                raise _refused(step, f"to convert images to {kwargs.get('dtype')!r} would round them")
        elif name == "clip" and rule is not None and rule.rule == "percentile" and not rule.clip:
            if (kwargs.get("min"), kwargs.get("max")) != (0, 1):
                raise _refused(step, "normalised images can be clipped to 0 and 1 alone")
            rule = rule.model_copy(update={"clip": True})
        elif (read := _RULES.get(name)) is None:
            raise _refused(step, "Parfocal has no such step before a network")
        elif rule is not None:
            raise _refused(step, "Parfocal normalises images once, and a step before has done so")
        else:
            try:
                rule = read(step, tensor, channels)
            except ValidationError as error:
                raise _refused(step, error.errors()[0]["msg"]) from error
    return rule or Normaliser(rule="none")


def finished(tensor: Tensor, output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the steps behind a network make of its output, channels last.

    Raises
    ------
    InvalidInputError
        Parfocal cannot do one of the steps.
    """
    for step in tensor.steps:
        if step["id"] == "scale_linear":
            gain, offset = (_numbers(step, key, default) for key, default in (("gain", 1.0), ("offset", 0.0)))
            if {len(gain), len(offset)} - {1, output.shape[-1]}:
                raise _refused(step, f"it has {len(gain)} numbers for {output.shape[-1]} channels")
            output = output * np.asarray(gain, np.float32) + np.asarray(offset, np.float32)
        elif step["id"] != "ensure_dtype":
            raise _refused(step, "Parfocal has no such step behind a network")
    return output


def check_undone(tensor: Tensor, normaliser: Normaliser) -> None:
    """Check the steps behind a network that restores images: Parfocal gives them the grey values of the input back.

    Raises
    ------
    InvalidInputError
        They do something else: neither nothing, nor undo a normalisation by fixed constants.
    """
    steps = [step for step in tensor.steps if step["id"] != "ensure_dtype"]
    if not steps:
        return
    constants = normaliser.constants
    if len(steps) == 1 and steps[0]["id"] == "scale_linear" and constants is not None:
        found = _numbers(steps[0], "gain", 1.0), _numbers(steps[0], "offset", 0.0)
        wanted = constants.scale, constants.offset
        if all(
            len(one) == len(other) and all(map(_alike, one, other)) for one, other in zip(found, wanted, strict=True)
        ):
            return
    raise _refused(steps[0], "Parfocal brings the network's output back to the grey values of the input, nothing else")


def check_none(tensor: Tensor) -> None:
    """Raise InvalidInputError if there is any step behind a network."""
    for step in tensor.steps:
        if step["id"] != "ensure_dtype":
            raise _refused(step, "Parfocal has no such step behind this network")


def _percentiles(step: Step, tensor: Tensor, channels: int) -> Normaliser:
    kwargs = step["kwargs"]
    _check_scope(step, tensor, channels)
    if kwargs.get("reference_tensor") not in (None, "", "input"):
        raise _refused(step, "it looks at another tensor")
    low, high = (_number(step, name, default) for name, default in (("min_percentile", 0.0), ("max_percentile", 100.0)))
    return Normaliser(rule="percentile", low=low, high=high)


def _moments(step: Step, tensor: Tensor, channels: int) -> Normaliser:
    if step["kwargs"].get("mode") == "fixed" or step["id"].startswith("fixed_"):
        mean, std = _numbers(step, "mean", None), _numbers(step, "std", None)
        return _fixed(step, mean, std, channels)
    _check_scope(step, tensor, channels)
    return Normaliser(rule="z-score")


def _linear(step: Step, _: Tensor, channels: int) -> Normaliser:
    gain, offset = _numbers(step, "gain", 1.0), _numbers(step, "offset", 0.0)
    if not all(gain):
        raise _refused(step, "a gain of 0 makes all images alike")
    length = max(len(gain), len(offset))
    gain, offset = (list(each) * length if len(each) == 1 else each for each in (gain, offset))
    if len(gain) != len(offset):
        raise _refused(step, "it has not as many gains as offsets")
    return _fixed(step, [-b / a for a, b in zip(gain, offset, strict=True)], [1 / a for a in gain], channels)


def _fixed(step: Step, offset: Sequence[float], scale: Sequence[float], channels: int) -> Normaliser:
    if not {len(offset), len(scale)} <= {1, channels}:
        raise _refused(step, f"it has {max(len(offset), len(scale))} numbers for {channels} channels")
    # Scales below 0 would turn bright and dark around.
    if not all(value > 0 for value in scale):
        raise _refused(step, "what images are divided by must be above 0")
    whole = [tuple(each) * channels if len(each) == 1 else tuple(each) for each in (offset, scale)]
    return Normaliser(rule="fixed", constants=NormaliserConstants(offset=whole[0], scale=whole[1]))


_RULES: Final[Mapping[str, Callable[[Step, Tensor, int], Normaliser]]] = {
    "scale_range": _percentiles,
    "zero_mean_unit_variance": _moments,
    "fixed_zero_mean_unit_variance": _moments,
    "scale_linear": _linear,
}


def _check_scope(step: Step, tensor: Tensor, channels: int) -> None:
    """Check that constants are those of one whole image, and of each channel by itself."""
    kwargs = step["kwargs"]
    if kwargs.get("mode", "per_sample") != "per_sample":
        raise _refused(step, f"its mode is {kwargs['mode']!r}, and Parfocal normalises each image by itself")
    given = kwargs.get("axes")
    if given is None:
        # All axes: of an image with one channel that is the image.
        if channels > 1:
            raise _refused(step, "it normalises all channels together, and Parfocal each by itself")
        return
    named = [_LETTERS.get(axis, axis) for axis in given] if isinstance(given, list | str) else ["?"]
    axes = {axis for axis in named if isinstance(axis, str)}
    spatial = {axis for axis in tensor.axes if axis in "zyx"}
    if "b" in axes:
        raise _refused(step, "it looks at several images together, and Parfocal normalises each by itself")
    if "c" in axes and channels > 1:
        raise _refused(step, "it normalises all channels together, and Parfocal each by itself")
    if axes - {"c"} != spatial:
        raise _refused(step, f"its axes are {given!r}, and Parfocal normalises whole images along {sorted(spatial)}")


def _number(step: Step, key: str, default: float) -> float:
    (value,) = _numbers(step, key, default)[:1]
    return value


def _numbers(step: Step, key: str, default: float | None) -> list[float]:
    """Return a number, or several, as a list."""
    value = step["kwargs"].get(key, default)
    values = value if isinstance(value, list) else [value]
    found: list[float] = []
    for each in values:
        if type(each) not in (int, float) or not abs(each) <= LARGEST_VALUE:
            raise _refused(step, f"{key} is {str(value)[:60]} and must be a number, or one for each channel")
        found.append(float(each))
    if not found:
        raise _refused(step, f"{key} is empty")
    return found


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_SAME, abs_tol=_SAME)


def _refused(step: Step, reason: str) -> InvalidInputError:
    return InvalidInputError(f"The package's step {step['id']} cannot be reproduced: {reason}.")
