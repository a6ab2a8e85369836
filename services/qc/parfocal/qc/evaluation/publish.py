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

from parfocal.qc.evaluation.inputs import Inputs, ItemT, fetch_files
from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.report import write_report
from parfocal.qc.report.evaluation import Evaluation, MoreBlocks, evaluation_report
from parfocal.runtime.images.files import Image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.evaluations import EvaluationSummary
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultFile, ResultManifest, public_name
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
        named = ((path, public_name(name)) for name, path in files.items())
        _add_to_model(context, named, published.summary["metrics"])
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
    inputs: Inputs[ItemT],
    folder: Path,
    summary: EvaluationSummary,
    by_image: Mapping[str, Mapping[str, float]],
    *,
    tables: MoreBlocks,
    pictures: MoreBlocks,
) -> None:
    """Add verdict and report to the files in `folder`, publish all of them, and add them to the model if one is named.

    Parameters
    ----------
    by_image
        By label of a scored item: its metrics.
    tables, pictures
        Tables and pictures that only this kind of quality control has, see `Evaluation`.
    """
    judgement = Judgement(summary.verdict, summary.reasons, summary.remarks, summary.next_steps)
    content = _verdict_content(context, judgement)
    (folder / VERDICT_FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")
    prediction_uri = context.job.evaluation.prediction_uri
    report = evaluation_report(
        Evaluation(
            job=context.job.id,
            prediction=Location.parse(prediction_uri).name,
            title=context.method.title,
            citation=context.method.citation,
            images_of=inputs.images_of,
            model=inputs.model,
            verdict=judgement,
            thresholds=context.parameters,
            packages=packages_of(context),
            created_at=content["created_at"],
            folder=folder,
            tables=tables,
            pictures=pictures,
        )
    )
    write_report(report, folder)
    known = [item for item in inputs.items if item.label in by_image or item.label in summary.unscorable]
    targets = dict.fromkeys(item.role for item in known if item.label in by_image and item.role)
    publish_result(
        context,
        folder,
        "evaluation",
        summary.headline,
        model_uri=inputs.model_uri,
        input_uri=inputs.input_uri,
        split=inputs.split,
        targets=tuple(targets) or ("target",),
        verdict=content,
        summary={"images": len(by_image), "metrics": summary.headline},
        images=tuple(
            ResultFile(
                input=item.label,
                input_sha256=item.source_sha256,
                outputs={"prediction": prediction_uri},
                metrics=dict(by_image.get(item.label, {})),
                reason=summary.unscorable.get(item.label, ""),
            )
            for item in known
        ),
    )
    if inputs.model_uri and _owner(inputs.model_uri) != context.job.project:
        owner = _owner(inputs.model_uri)
        context.warn(f"The verdict stays with this evaluation, because the model belongs to the project {owner}.")
    elif inputs.model_uri:
        _add_to_model(context, folder_files(folder), summary.headline)


def _owner(uri: str) -> str:
    """Return the project that an address lies in."""
    return Location.parse(uri).key.partition("/")[0]


def _add_to_model(context: JobContext, files: Iterable[tuple[Path, str]], metrics: Mapping[str, float]) -> None:
    """Copy the files of an evaluation to the model that it judged, but for those in folders, which are large."""
    place = Location.parse(context.job.evaluation.model_uri) / "qc" / context.job.id
    # The verdict last: it is what readers look for.
    for path, name in sorted(files, key=lambda file: file[1] == VERDICT_FILE):
        if "/" not in name:
            context.store.upload(path, place / name)
    context.record_output("qc", str(place), metrics)


def publish_result(context: JobContext, folder: Path, kind: str, metrics: Mapping[str, float], **fields: Any) -> None:
    """Publish the files in `folder` as what the job was for.

    Parameters
    ----------
    kind
        "evaluation" or "comparison".
    metrics
        The numbers that lists show.
    fields
        Fields of `ResultManifest` that do not follow from the job.
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


def _verdict_content(context: JobContext, verdict: Judgement) -> dict[str, Any]:
    spec = context.job.evaluation
    return {
        "state": verdict.verdict,
        "reasons": list(verdict.reasons),
        "remarks": list(verdict.remarks),
        "next_steps": list(verdict.next_steps),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": context.job.id,
        "method": context.method.name,
        "dataset_uri": spec.dataset_uri,
        "prediction_uri": spec.prediction_uri,
    }
