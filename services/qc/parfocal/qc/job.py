"""What all evaluation jobs share: finding prediction and target of each test image, scoring them, publishing.

A prediction that cannot be scored (values that are not a number, another shape, no labels) is a failure of what made
it: it is named with the reason, counts as a failed image and leaves the others alone. Test data that cannot be used
ends the job, because scores against it would say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.qc.report import write_report
from parfocal.qc.report.evaluation import Evaluation, evaluation_report
from parfocal.qc.verdict import Verdict
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.images import IMAGE_SUFFIXES, Image, image_stem, read_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    ModelManifest,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.publish import folder_files, upload_files
from parfocal.runtime.store import Location


class PredictionError(InvalidInputError):
    """A prediction that cannot be scored, though its test image can."""


class Labelled(Protocol):
    """What can be scored: anything with a name for tables."""

    @property
    def label(self) -> str:
        """The name."""
        ...


Scorable = TypeVar("Scorable", bound=Labelled)
Scored = TypeVar("Scored")


@dataclass(frozen=True)
class Item:
    """One test image and one of its targets: where its three versions lie, and the digest of its source.

    `label` names it in tables: the stem, or role and stem where there are several targets. `shape` is that of the
    target, `pixel_size` its pixel size in X and `voxel_um` that along all its axes, both in micrometres, None where
    they are unknown. `uncertainty` is what the model said of itself, where it did. `target_classes` and
    `predicted_classes` are images of the classes of objects, where both are there and asked for.
    """

    label: str
    role: str
    source: Path
    target: Path
    prediction: Path
    source_sha256: str
    pixel_size: float | None
    shape: tuple[int, ...]
    voxel_um: tuple[float, ...] | None
    uncertainty: Path | None = None
    target_classes: Path | None = None
    predicted_classes: Path | None = None


@dataclass(frozen=True)
class Inputs:
    """What an evaluation is about: the dataset, the model if one is named, and the test images to score.

    `missing` are the labels of test images without a prediction, `classes_predicted` says whether objects have classes
    in the prediction.
    """

    dataset: DatasetManifest
    model: ModelManifest | None
    source_role: str
    items: list[Item]
    missing: tuple[str, ...] = ()
    classes_predicted: bool = False

    @property
    def roles(self) -> list[str]:
        """The targets that are judged."""
        return list(dict.fromkeys(item.role for item in self.items))

    @property
    def validation_regions(self) -> list[Any]:
        """What of which training images the model's training was judged by; empty where no model says so."""
        return list(self.model.split.get("validation", ())) if self.model is not None else []


def open_evaluation(context: JobContext, *, first_target_only: bool = False) -> Inputs | None:
    """Return what a job is to score; None where it was published before its worker was lost.

    Parameters
    ----------
    context
        The job.
    first_target_only
        Leave out what a prediction has besides the first target, such as the classes of objects.

    Raises
    ------
    InvalidInputError
        No prediction has the name of a target.
    """
    spec = context.job.evaluation
    published = published_before(context, "evaluation")
    if published is not None:
        if spec.model_uri:
            files = [entry for entry in published.files if "/" not in entry.name]
            _add_to_model(
                context,
                [(context.cache.fetch(context.store, context.reserved, entry), entry.name) for entry in files],
                published.summary["metrics"],
            )
        return None
    context.report_progress(v1.Progress(stage="preparing"), message="fetching images", at_once=True)
    context.describe(precision="float32")
    dataset = DatasetManifest.read(context.store, Location.parse(spec.dataset_uri) / DATASET_MANIFEST)
    model = None
    if spec.model_uri:
        model = ModelManifest.read(context.store, Location.parse(spec.model_uri) / MODEL_MANIFEST)
    prediction = ResultManifest.read(context.store, Location.parse(spec.prediction_uri) / RESULT_MANIFEST)
    source_role = model.source if model else "source"
    if first_target_only:
        prediction = prediction.model_copy(update={"targets": prediction.targets[:1]})
    items, missing = _items(context, dataset, prediction, source_role)
    return Inputs(dataset, model, source_role, items, missing)


def published_before(context: JobContext, kind: str) -> ResultManifest | None:
    """Return what the job published before its worker was lost, and record it as its output; None if nothing."""
    if not context.store.exists(context.reserved / RESULT_MANIFEST):
        return None
    manifest = ResultManifest.read(context.store, context.reserved / RESULT_MANIFEST)
    context.record_output(kind, str(context.reserved), manifest.summary["metrics"])
    return manifest


def _items(
    context: JobContext, dataset: DatasetManifest, prediction: ResultManifest, source_role: str
) -> tuple[list[Item], tuple[str, ...]]:
    """Return the images to score, and the labels of those without a prediction."""
    spec = context.job.evaluation
    place = Location.parse(spec.dataset_uri)
    split = spec.split or "test"
    prediction_place = Location.parse(spec.prediction_uri)
    sources = {image.stem: image for image in dataset.select(split, source_role)}
    entries = {entry.name: entry for entry in dataset.files}
    missing, items = [], []
    for role in prediction.targets:
        predictions = predicted_files(prediction, role)
        widths = files_below(prediction, "uncertainty/") if role == prediction.targets[0] else {}
        for target in dataset.select(split, role):
            label = f"{role}/{target.stem}" if len(prediction.targets) > 1 else target.stem
            if target.stem not in predictions or target.stem not in sources:
                missing.append(label)
                continue
            source_entry = entries[sources[target.stem].file]
            items.append(
                Item(
                    label=label,
                    role=role,
                    source=context.cache.fetch(context.store, place, source_entry),
                    target=context.cache.fetch(context.store, place, entries[target.file]),
                    prediction=context.cache.fetch(context.store, prediction_place, predictions[target.stem]),
                    source_sha256=source_entry.sha256,
                    pixel_size=target.pixel_size_um[0] if target.pixel_size_um else None,
                    shape=target.shape,
                    voxel_um=_voxel(target),
                    uncertainty=(
                        context.cache.fetch(context.store, prediction_place, widths[target.stem])
                        if target.stem in widths
                        else None
                    ),
                )
            )
    if not items:
        raise InvalidInputError(
            f"No prediction of {spec.prediction_uri} has the name of a target of {spec.dataset_uri} ({split}). "
            "Predict this split of the dataset first."
        )
    for role in prediction.targets:
        if not any(item.role == role for item in items):
            context.warn(f"The dataset has no {split} images of {role}: this target was not judged.")
    return items, tuple(missing)


def predicted_files(prediction: ResultManifest, role: str) -> dict[str, FileEntry]:
    """Return the files that a prediction published for one of its targets, by stem."""
    return files_below(prediction, "" if role == prediction.targets[0] else f"{role}/")


def files_below(prediction: ResultManifest, folder: str) -> dict[str, FileEntry]:
    """Return the images that a prediction published in a folder, by stem; `folder` is empty or ends in a slash."""
    return {
        image_stem(Path(entry.name)): entry
        for entry in prediction.files
        if entry.name.startswith(folder)
        and "/" not in entry.name.removeprefix(folder)
        and entry.name.lower().endswith(IMAGE_SUFFIXES)
    }


def _voxel(image: ImageEntry) -> tuple[float, ...] | None:
    """Distances of pixels along the spatial axes, in their order; None unless all are known."""
    letters = [letter for letter in image.axes if letter in "ZYX"]
    sizes = dict(zip("XYZ", image.pixel_size_um or (None, None, None), strict=True))
    known = [size for letter in letters if (size := sizes[letter]) is not None]
    return tuple(known) if known and len(known) == len(letters) else None


@contextmanager
def of_prediction(label: str, kind: str = "prediction") -> Iterator[None]:
    """Raise what is wrong with a prediction as PredictionError, which `score_each` takes as its failure.

    Whatever is wrong with the test image must have been found before, by scoring its input or baseline. Errors while
    another kind is scored are left as they are.
    """
    try:
        yield
    except InvalidInputError as error:
        if kind != "prediction":
            raise
        # Of a file that cannot be read the error names the copy in the cache.
        message = error.message if label in error.message else f"{label} (prediction): {error.message}"
        raise PredictionError(message, error.violations) from error


def score_each(
    context: JobContext,
    items: Sequence[Scorable],
    score: Callable[[Scorable], Scored],
    *,
    shown: Callable[[Scored], Mapping[str, float]],
    unscorable: dict[str, str],
    workers: int | None = None,
) -> Iterator[Scored]:
    """Score items on all processors, report each of them, and yield the scores in their order.

    Parameters
    ----------
    score
        Called in a thread for each item; see `of_prediction`.
    shown
        Returns the numbers that are reported for an item.
    unscorable
        Is given the items whose prediction cannot be scored: by label, why, in sentences that name it.
    workers
        Number of threads; by default one for each processor.

    Raises
    ------
    InvalidInputError
        No prediction can be scored.
    """

    def attempt(item: Scorable) -> Scored | PredictionError:
        try:
            return score(item)
        except PredictionError as error:
            return error

    for number, each in enumerate(map_bounded(attempt, items, workers), start=1):
        context.check_cancelled()
        label = items[number - 1].label
        progress = v1.Progress(stage="scoring", step=number, steps=len(items), fraction=number / len(items))
        if isinstance(each, PredictionError):
            unscorable[label] = each.message
            context.warn(f"The prediction of {label} was not scored. {each.message}")
            context.report_progress(progress)
        else:
            context.report_image(v1.ImageCompleted(name=label, metrics=shown(each)), progress)
            yield each
    if len(unscorable) == len(items):
        why = next(iter(unscorable.values()))
        raise InvalidInputError(f"None of the {len(items)} predictions can be scored. {why}")


def write_maps(folder: Path, label: str, maps: Mapping[str, NDArray[np.float32]], image: Image) -> None:
    """Write `folder`/MAP/`label`.tif for each map (float32), with the axes and pixel size of the image it belongs to.

    So viewers show a map beside its image: a time-lapse as one, voxels as high as they are.
    """
    for name, values in maps.items():
        path = folder / name / f"{label}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, replace(image, pixels=values), compress=False)


def training_pairs(
    context: JobContext, inputs: Inputs, role: str, *, validation: bool
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the pairs a baseline may be chosen on, never test images: the model's validation or all its images."""
    uri = context.job.evaluation.dataset_uri
    dataset, model, source_role = inputs.dataset, inputs.model, inputs.source_role
    # An imported model has no dataset of its own.
    if model is not None and model.dataset_uri not in ("", uri):
        uri = model.dataset_uri
        dataset = DatasetManifest.read(context.store, Location.parse(uri) / DATASET_MANIFEST)
    if validation and inputs.validation_regions:
        regions = [(region["stem"], region["start"], region["stop"]) for region in inputs.validation_regions]
    else:
        regions = [(image.stem, None, None) for image in dataset.select("train", source_role)]
    place = Location.parse(uri)
    entries = {entry.name: entry for entry in dataset.files}
    files = {(image.role, image.stem): entries[image.file] for image in dataset.images if image.split == "train"}
    for stem, start, stop in regions:
        pair = []
        for each in (source_role, role):
            if (each, stem) not in files:
                raise NotFoundError(f"The training image {stem!r} is missing in {place} as {each}.")
            pixels = read_image(context.cache.fetch(context.store, place, files[each, stem])).pixels
            window: tuple[Any, ...] = (...,)
            if start is not None:  # the last axes: channels of a source come first
                window = ..., *(slice(*bounds) for bounds in zip(start, stop, strict=True))
            pair.append(pixels[window])
        yield pair[0], pair[1]


def publish_evaluation(
    context: JobContext,
    inputs: Inputs,
    folder: Path,
    verdict: Verdict,
    metrics: Mapping[str, float],
    by_image: Mapping[str, Mapping[str, float]],
    unscorable: Mapping[str, str],
) -> None:
    """Publish the files in `folder` with a verdict, and add them to the model if one is named.

    Parameters
    ----------
    metrics
        The numbers that lists show.
    by_image
        By label of an item: its numbers.
    unscorable
        By label of the items without numbers: why their prediction could not be scored.
    """
    spec = context.job.evaluation
    scored = [item for item in inputs.items if item.label not in unscorable]
    split, dataset = spec.split or "test", inputs.dataset
    publish_verdict(
        context,
        folder,
        verdict,
        metrics,
        model=inputs.model,
        images_of=f"{split} images of the dataset {dataset.dataset}, version {dataset.version}",
        model_uri=spec.model_uri,
        input_uri=spec.dataset_uri,
        split=split,
        targets=tuple(dict.fromkeys(item.role for item in scored)),
        images=tuple(
            ResultFile(
                input=item.label,
                input_sha256=item.source_sha256,
                outputs={"prediction": spec.prediction_uri},
                metrics=dict(by_image.get(item.label, {})),
                reason=unscorable.get(item.label, ""),
            )
            for item in inputs.items
        ),
    )
    if spec.model_uri:
        _add_to_model(context, folder_files(folder), metrics)


def _add_to_model(context: JobContext, files: Iterable[tuple[Path, str]], metrics: Mapping[str, float]) -> None:
    """Copy the files of an evaluation to the model that it judged, but for those in folders, which are large."""
    place = Location.parse(context.job.evaluation.model_uri) / "qc" / context.job.id
    # verdict.json last: it is what readers look for.
    for path, name in sorted(files, key=lambda file: file[1] == "verdict.json"):
        if "/" not in name:
            context.store.upload(path, place / name)
    context.record_output("qc", str(place), metrics)


def publish_verdict(
    context: JobContext,
    folder: Path,
    verdict: Verdict,
    metrics: Mapping[str, float],
    *,
    model: ModelManifest | None,
    images_of: str,
    images: tuple[ResultFile, ...],
    **fields: Any,
) -> None:
    """Add verdict.json and the report to the files in `folder`, and publish all as the job's evaluation.

    Parameters
    ----------
    metrics
        The numbers that lists show.
    model
        That made the predictions; None where it is not known.
    images_of
        What the images are, for the report, e.g. "test images of the dataset cells, version 1".
    images
        What was judged.
    fields
        Further fields of `ResultManifest`.
    """
    content = _verdict_content(context, verdict)
    (folder / "verdict.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    report = evaluation_report(
        Evaluation(
            job=context.job.id,
            prediction=Location.parse(context.job.evaluation.prediction_uri).name,
            title=context.method.title,
            citation=context.method.citation,
            images_of=images_of,
            model=model,
            verdict=verdict,
            thresholds=context.parameters,
            packages=packages_of(context),
            created_at=content["created_at"],
            folder=folder,
        )
    )
    write_report(report, folder)
    publish_result(
        context,
        folder,
        "evaluation",
        metrics,
        verdict=content,
        summary={"images": len({image.input for image in images if not image.reason}), "metrics": dict(metrics)},
        images=images,
        **fields,
    )


def publish_result(context: JobContext, folder: Path, kind: str, metrics: Mapping[str, float], **fields: Any) -> None:
    """Publish the files in `folder` as what the job was for.

    Parameters
    ----------
    kind
        "evaluation" or "comparison".
    metrics
        The numbers that lists show.
    fields
        Those of `ResultManifest` that the job itself does not tell.
    """
    manifest = ResultManifest(
        project=context.job.project,
        job=context.job.id,
        service=context.service.name,
        method=context.method.name,
        kind=kind,
        parameters=context.parameters.model_dump(mode="json"),
        environment={"packages": packages_of(context)},
        files=upload_files(context.store, context.reserved, folder_files(folder)),
        warnings=tuple(context.job.warnings),
        **fields,
    )
    context.publish(RESULT_MANIFEST, manifest, kind, dict(metrics))


def packages_of(context: JobContext) -> dict[str, str]:
    """Return the versions of what makes the numbers of a job."""
    return dict(context.service.environment(image=context.settings.image).packages)


def with_test(verdict: Verdict, inputs: Inputs) -> Verdict:
    """Add what the test itself says: fail a model that had learnt from its images, and name what was not scored."""
    remarks = [*verdict.remarks]
    if inputs.missing:
        count, total = len(inputs.missing), len(inputs.missing) + len(inputs.items)
        remarks.append(
            f"{count} of {total} test images have no prediction and were not scored: {', '.join(inputs.missing[:5])}"
            f"{' …' if count > 5 else ''}."
        )
    known = set(inputs.model.dataset_sha256.values()) if inputs.model is not None else set()
    if not known:
        what = "No model is named" if inputs.model is None else "The model was made elsewhere"
        remarks.append(f"{what}, so whether these images were learnt from is not known.")
    labels = [item.label for item in inputs.items if item.source_sha256 in known]
    if not labels:
        return Verdict(verdict.verdict, verdict.reasons, tuple(remarks))
    sentence = (
        f"{len(labels)} of {len(inputs.items)} test images were among the training images "
        f"({', '.join(labels[:5])}): such a test shows nothing. Use images the model has not seen."
    )
    failures = verdict.reasons if verdict.verdict == "failed" else ()
    return Verdict("failed", (sentence, *failures), tuple(remarks))


def _verdict_content(context: JobContext, verdict: Verdict) -> dict[str, Any]:
    spec = context.job.evaluation
    return {
        "state": verdict.verdict,
        "reasons": list(verdict.reasons),
        "remarks": list(verdict.remarks),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": context.job.id,
        "method": context.method.name,
        "dataset_uri": spec.dataset_uri,
        "prediction_uri": spec.prediction_uri,
    }
