"""Evaluation without targets: look at what was taken away from each input, publish maps, tables, report and verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.figures import save_png
from parfocal.qc.inputs import predicted_files
from parfocal.qc.metrics.blind import BlindGaussian, choose_blind_gaussian
from parfocal.qc.metrics.parallel import workers_for
from parfocal.qc.metrics.residuals import NoNoiseError, ResidualScore, score_residual
from parfocal.qc.parameters import ResidualParameters, ResidualThresholds
from parfocal.qc.publish import publish_verdict, published_before, write_maps
from parfocal.qc.residual_figures import residual_figure
from parfocal.qc.score_each import of_prediction, score_each
from parfocal.qc.statistics import INTERVAL, statistics
from parfocal.qc.values import Table, Values, summarise_values, write_values_csv
from parfocal.qc.verdict import Verdict, few_images, listed, with_reasons, with_unscorable
from parfocal.qc.words import count
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, image_stem, inspect_image, read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.prediction.inputs import InputFile, fetch_input, list_inputs
from parfocal.runtime.store.manifests import (
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    FileEntry,
    ModelManifest,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.store.publish import empty_folder
from parfocal.runtime.store.store import Location

DEFINITION: Final = (
    "The prediction is fitted to its input by least squares (a x + b); the residual is the input less the fitted "
    "prediction. The local strength of noise is that of the residual's finest scale (second differences along Y and X, "
    "averaged with a Gaussian of 8 pixels). The deviation is the residual smoothed with a Gaussian of 2 pixels, in "
    "standard deviations of white noise of that strength smoothed alike. Agreement: part of the pixels whose deviation "
    "is at most 4. Structure: root mean square of the deviation in that third of the blocks of 16x16 pixels in which "
    "the prediction varies most; 1 for noise alone. Sharpness: root mean square, in the same blocks, of the fitted "
    "prediction between Gaussians of 1 and 4 pixels, by that of the input without what noise has there. Noise left: "
    "noise of the fitted prediction by that of the input. Autocorrelation: of the residual at the next pixel; 0 for "
    "noise that pixels do not share. Stacks are scored plane by plane and averaged."
)
"""How the numbers were made, to be printed beside them."""

COLUMNS: Final[dict[str, str]] = {
    "agreement": "agreement with the input [0..1]",
    "structure": "structure in the residual [standard deviations of noise]",
    "sharpness": "sharpness [fraction of the input's]",
    "noise_left": "noise left [fraction of the input's]",
    "neighbours": "autocorrelation of the residual at the next pixel [-1..1]",
    "scale": "scale a",
    "clipped": "input at its smallest or largest grey value [0..1]",
}
"""Name of each column of metrics.csv and its heading."""

_SHOWN: Final = {
    "agreement": "Agreement",
    "structure": "Structure",
    "sharpness": "Sharpness",
    "noise_left": "Noise left",
    "neighbours": "Autocorrelation",
}
_KINDS: Final = ("baseline", "prediction")
_BASELINE_IMAGES: Final = 50
# From which difference to the ideal on the sentence about lost structure names a cause.
_CLEAR: Final = 0.1
# Measured with perfect predictions: 2 % of saturated pixels are enough for a structure above the limit.
_CLIPPED: Final = 0.02


@dataclass(frozen=True)
class _Pair:
    """One predicted image and the input it was made from."""

    label: str
    source: InputFile
    prediction: FileEntry


@dataclass(frozen=True)
class _Scored:
    pair: _Pair
    scores: Mapping[str, ResidualScore]


def evaluate(context: JobContext) -> None:
    """Judge the job's prediction by its own inputs and publish the evaluation; it is not added to a model."""
    parameters = context.parameters
    assert isinstance(parameters, ResidualParameters)
    if published_before(context) is not None:
        return
    context.report_progress(v1.Progress(stage="preparing"), message="fetching images", at_once=True)
    context.describe(precision="float32")
    place = Location.parse(context.job.evaluation.prediction_uri)
    prediction = ResultManifest.read(context.store, place / RESULT_MANIFEST)
    model = None
    if prediction.model_uri:
        model = ModelManifest.read(context.store, Location.parse(prediction.model_uri) / MODEL_MANIFEST)
    pairs, without = _pairs(context, prediction, model.source if model is not None else "source")
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    sources = (read_image(fetch_input(context, pair.source)).pixels for pair in pairs)
    baseline = choose_blind_gaussian(islice(sources, _BASELINE_IMAGES))
    folder = empty_folder(context.scratch / "evaluation")
    scored, unscorable, left_out = _score(context, place, pairs, baseline, folder, maps=parameters.maps)
    failed = (image_stem(Path(image.input)) for image in prediction.images if image.reason)
    left_out |= dict.fromkeys([*without, *failed], "not predicted")
    _publish(context, place, prediction, model, scored, unscorable, left_out, baseline, parameters.thresholds(), folder)


def _pairs(context: JobContext, prediction: ResultManifest, role: str) -> tuple[list[_Pair], list[str]]:
    """Return the predicted images with their inputs, by name, and the names of inputs without a prediction."""
    if not prediction.input_uri:
        raise InvalidInputError(
            "This prediction does not say what it was made from, so there are no inputs to judge it by. Give the "
            "inputs together with the predicted images."
        )
    inputs = {
        image_stem(Path(item.name)): item
        for item in list_inputs(context.store, prediction.input_uri, prediction.split, role)
    }
    pairs = [
        _Pair(stem, inputs[stem], entry)
        for stem, entry in sorted(predicted_files(prediction, prediction.targets[0]).items())
        if stem in inputs
    ]
    if not pairs:
        raise InvalidInputError(f"No predicted image has the name of an image of {prediction.input_uri}.")
    return pairs, sorted(set(inputs) - {pair.label for pair in pairs})


def _score(
    context: JobContext, place: Location, pairs: Sequence[_Pair], baseline: BlindGaussian, folder: Path, *, maps: bool
) -> tuple[list[_Scored], dict[str, str], dict[str, str]]:
    """Return the scores, and by label why the predictions of others cannot be scored, and why others were left out."""

    def score(pair: _Pair) -> _Scored | NoNoiseError:
        source = _read_source(context, pair)
        try:
            # The baseline first: what is wrong with the input shows there.
            theirs = score_residual(source.pixels, baseline.apply(source.pixels), name=pair.label)[0]
        except NoNoiseError as error:
            return error
        with of_prediction(pair.label):
            prediction = _read_prediction(context, place, pair)
            ours, found = score_residual(source.pixels, prediction, name=pair.label)
        if maps:
            write_maps(folder / "maps", pair.label, {"residual": found.residual, "deviation": found.deviation}, source)
        return _Scored(pair, {"baseline": theirs, "prediction": ours})

    def shown(each: _Scored | NoNoiseError) -> dict[str, float]:
        return {} if isinstance(each, NoNoiseError) else _shown(_values(each.scores["prediction"]))

    workers = workers_for(inspect_image(fetch_input(context, pair.source)).shape for pair in pairs)
    unscorable: dict[str, str] = {}
    scored: list[_Scored] = []
    without_noise: list[NoNoiseError] = []
    for each in score_each(context, pairs, score, shown=shown, unscorable=unscorable, workers=workers):
        if isinstance(each, NoNoiseError):
            context.warn(each.message)
            without_noise.append(each)
        else:
            scored.append(each)
    if not scored:
        raise without_noise[0]
    known = {each.pair.label for each in scored} | set(unscorable)
    others = [pair.label for pair in pairs if pair.label not in known]
    return scored, unscorable, dict(zip(others, (error.why for error in without_noise), strict=True))


def _read_prediction(context: JobContext, place: Location, pair: _Pair) -> NDArray[Any]:
    return read_image(context.cache.fetch(context.store, place, pair.prediction)).pixels


def _read_source(context: JobContext, pair: _Pair) -> Image:
    source = read_image(fetch_input(context, pair.source))
    if "S" in source.axes or "C" in source.axes:
        raise InvalidInputError(
            f"{pair.label} has channels (axes {source.axes}): residuals are looked at in grey images and their stacks."
        )
    return source


def _publish(
    context: JobContext,
    place: Location,
    prediction: ResultManifest,
    model: ModelManifest | None,
    scored: Sequence[_Scored],
    unscorable: Mapping[str, str],
    left_out: Mapping[str, str],
    baseline: BlindGaussian,
    thresholds: ResidualThresholds,
    folder: Path,
) -> None:
    table = {kind: {each.pair.label: _values(each.scores[kind]) for each in scored} for kind in _KINDS}
    failed = {each.pair.label: why for each in scored if (why := each.scores["prediction"].failed)}
    strange = [image_stem(Path(image.input)) for image in prediction.images if image.drift]
    verdict = judge(table, failed, thresholds, strange, left_out, unscorable)
    worst = _worst(table["prediction"])
    found = summarise_values(table, COLUMNS)
    summary = {
        "task": "residuals",
        "definition": DEFINITION,
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "remarks": list(verdict.remarks),
        "images": len(scored),
        "metrics": found,
        "worst_image": {"image": worst, **table["prediction"][worst]},
        "failed_images": sorted(failed),
        "unscorable": dict(unscorable),
        "units": COLUMNS,
        "shown": {name: title for name, title in _SHOWN.items() if all(name in found[kind] for kind in _KINDS)},
        "note": (
            "Agreement: more is better. Structure: 1 is what noise alone gives. Sharpness: 1 keeps what the input has. "
            "Noise left and autocorrelation: near 0 "
            f"is better. The Gaussian filter has the sigma that foretells each pixel best from its neighbours, "
            f"{baseline.sigma:.2f} px."
        ),
        "interval": INTERVAL,
        "thresholds": thresholds.model_dump(),
        "baseline": baseline.describe(),
    }
    write_values_csv(folder / "metrics.csv", table, COLUMNS)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    _draw(context, place, next(each for each in scored if each.pair.label == worst), len(scored), folder)
    digests = {image_stem(Path(image.input)): image.input_sha256 for image in prediction.images}
    uri = context.job.evaluation.prediction_uri
    publish_verdict(
        context,
        folder,
        verdict,
        {
            f"{kind}_{name}": statistics(known).mean
            for kind in _KINDS
            for name in ("agreement", "structure", "sharpness", "noise_left")
            if (known := [row[name] for row in table[kind].values() if name in row])
        },
        model=model,
        images_of="images without targets",
        input_uri=prediction.input_uri,
        split=prediction.split,
        images=tuple(
            ResultFile(
                input=label,
                input_sha256=digests.get(label, ""),
                outputs={"prediction": uri},
                metrics=_shown(table["prediction"].get(label, {})),
                reason=unscorable.get(label, ""),
            )
            for label in (*table["prediction"], *unscorable)
        ),
    )


def _draw(context: JobContext, place: Location, worst: _Scored, images: int, folder: Path) -> None:
    source, prediction = _read_source(context, worst.pair), _read_prediction(context, place, worst.pair)
    score, maps = score_residual(source.pixels, prediction, name=worst.pair.label)
    size = source.pixel_size.x if source.pixel_size is not None else None
    figure = residual_figure(
        source.pixels, prediction, maps, score, name=worst.pair.label, images=images, pixel_size=size
    )
    save_png(figure, folder / "figure.png")


def judge(
    table: Table,
    failed: Mapping[str, str],
    thresholds: ResidualThresholds,
    strange: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    unscorable: Mapping[str, str] | None = None,
) -> Verdict:
    """Say whether anything speaks against the predictions; see `ResidualThresholds`.

    Parameters
    ----------
    table
        By kind and image: the columns.
    failed
        By image: why its prediction failed outright.
    strange
        Images that are unlike those the model was trained on.
    left_out
        By image that is not in the table: why it was not judged.
    unscorable
        By image that is not in the table either: why its prediction cannot be scored, which is a failure.
    """
    images, lost = table["prediction"], unscorable or {}
    failures: list[str] = []
    merits: list[str] = []
    total = len(images) + len(lost)
    if failed and len(failed) + len(lost) > thresholds.max_failed_images:
        failures.append(f"{len(failed)} of {count(total, 'prediction')} failed outright: {with_reasons(failed)}.")
    means = {name: _mean(images, name) for name in COLUMNS}
    agreement, structure, left = means["agreement"], means["structure"], means["noise_left"]
    sentence = f"Prediction and input agree within the noise in {_percent(agreement)} of the pixels"
    if agreement < thresholds.min_agreement:
        failures.append(f"{sentence}; {_percent(thresholds.min_agreement)} is asked for.")
    else:
        merits.append(f"{sentence}.")
    sentence = f"In structures, what was taken away varies {structure:.2f} times as much as noise would"
    if structure > thresholds.max_structure:
        failures.append(f"{sentence}; {thresholds.max_structure:g} times is allowed. {_cause(means)}")
    else:
        merits.append(f"{sentence}.")
    sentence = f"{_percent(left)} of the noise is left"
    if left > thresholds.max_noise_left:
        failures.append(f"{sentence}; {_percent(thresholds.max_noise_left)} is allowed.")
    else:
        merits.append(f"{sentence}.")
    remarks = [
        "Without targets only part can be seen: what is invented within the noise leaves no trace. Judge the model by "
        "test images with targets besides.",
        *few_images(len(images)),
    ]
    if left_out:
        all_of_them = count(len(left_out) + total, "image")
        remarks.append(f"{len(left_out)} of {all_of_them} could not be judged: {with_reasons(left_out)}.")
    if strange:
        are = "is" if len(strange) == 1 else "are"
        what = f"{count(len(strange), 'image')} {are} unlike those the model was trained on"
        remarks.append(f"{what}: {listed(strange)}.")
    worst = _worst(images)
    remarks.append(f"The worst image is {worst}, with agreement {images[worst]['agreement']:.3f}.")
    verdict = Verdict("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(verdict, lost, total, thresholds.max_failed_images)


def _cause(means: Values) -> str:
    """Say what may have happened to structures."""
    sharpness = means["sharpness"]
    if sharpness < 1 - _CLEAR:
        what = f"Structures were blurred or weakened (sharpness {sharpness:.2f} of the input's)."
    elif sharpness > 1 + _CLEAR:
        what = f"Structures were sharpened or invented (sharpness {sharpness:.2f} of the input's)."
    else:
        what = "Structures were changed, or lie elsewhere than in the input."
    if means["neighbours"] > _CLEAR:
        what += (
            f" Or the noise of neighbouring pixels is shared (autocorrelation {means['neighbours']:.2f}), as in "
            "interpolated or compressed images: then this says nothing."
        )
    if means["clipped"] > _CLIPPED:
        what += (
            f" Or the input is clipped ({_percent(means['clipped'])} of its pixels have the smallest or largest grey "
            "value), which a prediction need not be: then this says nothing either."
        )
    return what


def _values(score: ResidualScore) -> dict[str, float]:
    return {name: value for name, value in asdict(score).items() if name in COLUMNS and not math.isnan(value)}


def _shown(values: Values) -> dict[str, float]:
    return {name: values[name] for name in _SHOWN if name in values}


def _mean(images: Mapping[str, Values], name: str) -> float:
    known = [row[name] for row in images.values() if name in row]
    return statistics(known).mean if known else math.nan


def _worst(images: Mapping[str, Values]) -> str:
    """Return the image with the lowest agreement, of several that with the most structure in its residual."""
    return min(images, key=lambda name: (images[name]["agreement"], -images[name]["structure"]))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
