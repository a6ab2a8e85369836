"""Publishing what a QC job made: maps, verdict, report and manifest, and the copy that its model keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.inputs import Inputs, fetch_files
from parfocal.qc.report import write_report
from parfocal.qc.report.evaluation import Evaluation, evaluation_report
from parfocal.qc.verdict import Verdict
from parfocal.runtime.images.files import Image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ModelManifest, ResultFile, ResultManifest
from parfocal.runtime.store.publish import folder_files
from parfocal.runtime.store.store import Location
from parfocal.runtime.store.verdicts import VERDICT_FILE


def published_before(context: JobContext) -> ResultManifest | None:
    """Return what the job published before its worker was lost; None if nothing."""
    if not context.complete_publication():
        return None
    return ResultManifest.read(context.store, context.reserved / RESULT_MANIFEST)


def evaluation_published_before(context: JobContext) -> bool:
    """Return whether the job published its evaluation before its worker was lost; the model gets its copy again."""
    published = published_before(context)
    if published is None:
        return False
    if context.job.evaluation.model_uri:
        kept = [entry for entry in published.files if "/" not in entry.public_name]
        files = fetch_files(context, str(context.reserved), kept)
        _add_to_model(context, ((path, name) for name, path in files.items()), published.summary["metrics"])
    return True


def write_maps(folder: Path, label: str, maps: Mapping[str, NDArray[np.float32]], image: Image) -> None:
    """Write `folder`/MAP/`label`.tif for each map (float32), with the axes and pixel size of the image it belongs to.

    So viewers show a map beside its image: a time-lapse as one, voxels as high as they are.
    """
    for name, values in maps.items():
        path = folder / name / f"{label}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, replace(image, pixels=values), compress=False)


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
    # The verdict last: it is what readers look for.
    for path, name in sorted(files, key=lambda file: file[1] == VERDICT_FILE):
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
    """Add the verdict and the report to the files in `folder`, and publish all as the job's evaluation.

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
    (folder / VERDICT_FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")
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
        files=context.send_all(folder_files(folder)),
        warnings=tuple(context.job.warnings),
        **fields,
    )
    context.publish(RESULT_MANIFEST, manifest, kind, dict(metrics))


def packages_of(context: JobContext) -> dict[str, str]:
    """Return the versions of what makes the numbers of a job."""
    return dict(context.service.environment(image=context.settings.image).packages)


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
