"""A model written for programs that read bioimage.io's format, in the environment of its method.

`python -m parfocal.runtime.prediction.bioimageio MODULE FOLDER WEIGHTS TARGET [IMAGE]` opens the model whose published
files and manifest lie in FOLDER, and writes to TARGET the network with these weights, an input with the output that
belongs to it, the model's own files with parfocal.json, from which Parfocal can import it again, and report.json: the
parts "inputs", "outputs" and "weights" of the description, or why there are none.
Who publishes the model adds the rest.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.runtime.errors import InvalidInputError, ParfocalError
from parfocal.runtime.images.drift import TrainingStatistics
from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.package_record import RECORD, Record
from parfocal.runtime.methods.portable import Portable, PortableFile, Step
from parfocal.runtime.methods.service import load_service
from parfocal.runtime.prediction.loaded_model import LoadedModel, load_model
from parfocal.runtime.prediction.unit import ArrayUnit, Normalised
from parfocal.runtime.store.facts import Port
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.publish import empty_folder

REPORT: Final = "report.json"
_INPUT, _OUTPUT = "test_input.npy", "test_output.npy"
# Of the example: what other programs test the package with, so it is small.
_EXAMPLE_PIXELS: Final = 2**18
_LEAST_LENGTH: Final = 64
_TOLERANCE: Final = 1e-4
# Of the description of a tensor.
_MOST_CHARACTERS: Final = 128


def export(model: LoadedModel, target: Path, image: Path | None = None, weights: str = "best") -> dict[str, Any]:
    """Write network, test input and test output of a model to a folder and return what the description says of them.

    Parameters
    ----------
    model
        The model, computed in float32 on the processor.
    target
        An empty folder.
    image
        An image whose middle becomes the test input; None: a pattern of blurred spots.
    weights
        Name of the weights that the model was loaded with.

    Returns
    -------
    dict
        "inputs", "outputs" and "weights" as the format 0.5 of bioimage.io has them, names of the "files" that these
        name and of the "attachments", "meaning" of the output in a sentence, and the "tile" that is recommended, in
        pixels per spatial axis.

    Raises
    ------
    InvalidInputError
        The method cannot be described in this format, the image is not one for this model, or what was written gives
        other values than the network.
    """
    learner: Any = model.learner
    portable = model.implementation.portable(learner, model.view)
    before = _preprocessing(model.view.normaliser)
    axes, port = model.view.axes, model.view.facts.inputs[0]
    shape = _example_shape(portable)
    raw = _pattern(shape, port) if image is None else _middle(image, model, portable)
    unit = ArrayUnit(raw if port.channels > 1 else raw[..., 0], axes, raw.size)
    normalised = Normalised(unit, model.view.normaliser).whole()[np.newaxis]
    written: PortableFile = learner.write_portable(target, normalised)
    output = learner.run_portable(target, normalised)
    _check(learner, target, normalised, portable)
    result = portable.finish(output)
    for name, array in ((_INPUT, raw[np.newaxis].astype(np.float32)), (_OUTPUT, result)):
        np.save(target / name, np.moveaxis(array, -1, 1) if written.channels_first else array)
    lengths = dict(zip(axes, zip(portable.divisor, portable.overlap, shape, strict=True), strict=True))
    return {
        "inputs": [_input(axes, lengths, _names(port), before, written)],
        "outputs": [_output(axes, lengths, portable, written)],
        "weights": {
            written.format: {"source": written.name, f"{_framework(written)}_version": written.version},
        },
        "files": [written.name, _INPUT, _OUTPUT],
        "attachments": _write_own(model, target, weights),
        "meaning": portable.meaning,
        "tile": [_tile(*each) for each in zip(portable.divisor, portable.overlap, strict=True)],
    }


def _write_own(model: LoadedModel, target: Path, weights: str) -> list[str]:
    """Write the model's own files and what its manifest says of it, for Parfocal; return the names of the files."""
    manifest, others = model.manifest, {path.name for path in target.iterdir()}
    model.implementation.save(target, model.view.parameters, model.view.facts, {weights: model.learner.weights()})
    files = sorted({path.name for path in target.iterdir()} - others)
    kept, statistics = manifest.weights.get(weights), manifest.training_statistics
    record = Record(
        method=manifest.method,
        parameters=manifest.parameters,
        facts=manifest.facts,
        normaliser=model.view.normaliser,
        weights={weights: kept.epoch if kept else 0},
        files=tuple(files),
        training_statistics=TrainingStatistics.model_validate(statistics) if statistics else None,
        pixel_size_um=manifest.pixel_size_um,
        warnings=manifest.warnings,
    )
    (target / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return [*files, RECORD]


def _framework(written: PortableFile) -> str:
    return "pytorch" if written.format == "torchscript" else "tensorflow"


def _preprocessing(normaliser: Normaliser) -> list[Step]:
    """Return the rule by which images are brought to one scale as steps of bioimage.io.

    Raises
    ------
    InvalidInputError
        The rule looks at whole stacks, which no step does.
    """
    axes = ["z", "y", "x"]
    steps: list[Step] = [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    if normaliser.rule == "percentile":
        kwargs = {"axes": axes, "min_percentile": normaliser.low, "max_percentile": normaliser.high}
        steps.append({"id": "scale_range", "kwargs": kwargs})
        if normaliser.clip:
            steps.append({"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}})
    elif normaliser.rule == "z-score":
        steps.append({"id": "zero_mean_unit_variance", "kwargs": {"axes": axes}})
    elif normaliser.constants is not None:
        pairs = list(zip(normaliser.constants.offset, normaliser.constants.scale, strict=True))
        gain, offset = [1 / scale for _, scale in pairs], [-offset / scale for offset, scale in pairs]
        several = {"axis": "channel", "gain": gain, "offset": offset}
        steps.append(
            {
                "id": "scale_linear",
                "kwargs": several if len(pairs) > 1 else {"gain": gain[0], "offset": offset[0]},
            }
        )
    elif normaliser.rule != "none":
        raise InvalidInputError(
            "Models of this method cannot be written for other programs: they normalise whole stacks of frames, and "
            "bioimage.io has no such step. The model's own files can be downloaded."
        )
    return steps


def _input(
    axes: str, lengths: dict[str, tuple[int, int, int]], channels: Sequence[str], steps: list[Step], file: PortableFile
) -> dict[str, Any]:
    """Return the description of the input; the axes of steps are those it has."""
    spatial = [
        {
            "type": "space",
            "id": axis.lower(),
            "size": {"min": _least(*lengths[axis][:2]), "step": lengths[axis][0]},
        }
        for axis in axes
    ]
    present = [axis.lower() for axis in axes]
    for step in steps:
        if "axes" in step["kwargs"]:
            step["kwargs"]["axes"] = present
    return {
        "id": "input",
        "description": "One image in its own grey values; the first steps bring it to the network's scale.",
        "axes": _arranged(spatial, channels, file),
        "data": {"type": "float32"},
        "preprocessing": steps,
        "test_tensor": {"source": _INPUT},
    }


def _output(
    axes: str, lengths: dict[str, tuple[int, int, int]], portable: Portable, file: PortableFile
) -> dict[str, Any]:
    """Return the description of the output, behind all steps."""
    spatial = [
        {
            "type": "space",
            "id": axis.lower(),
            "size": {"tensor_id": "input", "axis_id": axis.lower()},
            "halo": lengths[axis][1],
        }
        for axis in axes
    ]
    return {
        "id": "output",
        "description": f"{portable.meaning.split('. ')[0].rstrip('.')}."[:_MOST_CHARACTERS],
        "axes": _arranged(spatial, portable.channels, file),
        "data": {"type": "int32" if portable.labels else "float32"},
        "postprocessing": list(portable.steps),
        "test_tensor": {"source": _OUTPUT},
    }


def _arranged(spatial: list[dict[str, Any]], channels: Sequence[str], file: PortableFile) -> list[dict[str, Any]]:
    channel = {"type": "channel", "channel_names": list(channels)}
    inner = [channel, *spatial] if file.channels_first else [*spatial, channel]
    return [{"type": "batch"}, *inner]


def _names(port: Port) -> list[str]:
    """Return names for the channels of the input."""
    if port.channel_axis == "S" and port.channels == len("RGB"):
        return ["red", "green", "blue"]
    return ["source"] if port.channels == 1 else [f"channel_{number}" for number in range(1, port.channels + 1)]


def _least(divisor: int, overlap: int) -> int:
    """Return the smallest length of an input whose middle is right after the overlap is cut off on both sides."""
    return -(-max(2 * overlap + divisor, divisor) // divisor) * divisor


def _tile(divisor: int, overlap: int) -> int:
    """Return a length of tiles of which more than half is of use."""
    return -(-max(6 * overlap, 256) // divisor) * divisor


def _example_shape(portable: Portable) -> tuple[int, ...]:
    """Return lengths of a small image, no axis shorter than allowed."""
    least = [_least(*each) for each in zip(portable.divisor, portable.overlap, strict=True)]
    return tuple(
        length
        if length >= _LEAST_LENGTH or (len(least) > len("YX") and axis == 0)
        else -(-_LEAST_LENGTH // step) * step
        for axis, (length, step) in enumerate(zip(least, portable.divisor, strict=True))
    )


def _pattern(shape: tuple[int, ...], port: Port) -> NDArray[np.float32]:
    """Return blurred spots with noise, channels last, in the range of the grey values that the model was trained on."""
    rng = np.random.default_rng(0)
    points = rng.random((*shape, port.channels)) < 0.002
    spots = ndimage.gaussian_filter(points.astype(np.float32), (*(4,) * len(shape), 0))
    spots = spots / max(float(spots.max()), 1e-6) + 0.05 * rng.standard_normal(spots.shape)
    offset, scale = np.asarray(port.offset or (100.0,)), np.asarray(port.scale or (1000.0,))
    pattern: NDArray[np.float32] = np.maximum(spots * scale + offset, 0).round().astype(np.float32)
    return pattern


def _middle(path: Path, model: LoadedModel, portable: Portable) -> NDArray[np.float32]:
    """Return the middle of an image, channels last, of lengths that the network takes."""
    image = read_image(path)
    needs, channels = model.method.needs, model.view.facts.input_channels
    needs.check(image.axes, image.pixels.shape, channels)
    pixels, axes = image.pixels, needs.taken(image.axes)
    letter = needs.channel_axis(axes, channels)
    pixels = np.moveaxis(pixels, axes.index(letter), -1) if letter else pixels[..., np.newaxis]
    while pixels.ndim > len(model.view.axes) + 1:  # the first of a stack
        pixels = pixels[0]
    least = [_least(*each) for each in zip(portable.divisor, portable.overlap, strict=True)]
    lengths = [length // step * step for length, step in zip(pixels.shape, portable.divisor, strict=False)]
    if any(length < fewest for length, fewest in zip(lengths, least, strict=True)):
        shown = " x ".join(map(str, least))
        raise InvalidInputError(
            f"{path.name} is too small to be the example: it has {' x '.join(map(str, pixels.shape[:-1]))} pixels, "
            f"and the network takes {shown} or more. Choose a larger image, or leave --image out."
        )
    while math.prod(lengths) > _EXAMPLE_PIXELS:
        longest = max(range(len(lengths)), key=lambda axis: lengths[axis] / least[axis])
        half = max(least[longest], lengths[longest] // 2 // portable.divisor[longest] * portable.divisor[longest])
        if half >= lengths[longest]:
            break
        lengths[longest] = half
    starts = [(whole - length) // 2 for whole, length in zip(pixels.shape, lengths, strict=False)]
    window = tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
    return np.ascontiguousarray(pixels[window], np.float32)


def _check(learner: Any, target: Path, example: NDArray[np.float32], portable: Portable) -> None:
    """Raise InvalidInputError where the file gives other values for an image of another size than in a larger one.

    What is traced at one size must be right at others.
    """
    axis = len(portable.divisor)
    period = portable.divisor[-1]
    larger = np.concatenate([example, example.take(range(period), axis=axis)], axis=axis)
    found = learner.run_portable(target, larger)
    wanted = learner.portable_reference(larger)
    allowed = _TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=_TOLERANCE, atol=allowed):
        raise InvalidInputError(
            "The network as it was written gives other values than the model: it cannot be exported. Tell the authors "
            "of the method."
        )


def main(module: str, folder: str, weights: str, target: str, image: str = "") -> int:
    """Export a model; return 0, or 1 if it cannot be. See the module."""
    place = empty_folder(Path(target))
    try:
        manifest = ModelManifest.parse((Path(folder) / MODEL_MANIFEST).read_bytes(), MODEL_MANIFEST)
        method = load_service(module).method(manifest.method)
        named = manifest.weights_named(weights)
        model = load_model(method, manifest, Path(folder), weights=named)
        report = export(model, place, Path(image) if image else None, named)
    except ParfocalError as error:
        report = {"error": error.message}
    (place / REPORT).write_text(json.dumps(report), encoding="utf-8")
    return int("error" in report)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
