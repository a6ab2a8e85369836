"""Quality control of datasets, which needs no model: its method, earlier checks, and how what was found reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.quality import evaluation_method
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.datasets.kinds import suits
from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.store.manifests import DatasetManifest


def check_method(client: Client) -> v1.Method:
    """Return the evaluation method that judges datasets alone; raise UnavailableError if no service offers it."""
    method = evaluation_method(client, v1.TASK_DATASET, targets=False)
    if method is None:
        raise UnavailableError(
            "No service offers quality control of datasets. Check that the QC service runs (`parfocal status`)."
        )
    return method


def earlier_check(client: Client, uri: str) -> v1.Job | None:
    """Return the newest finished check of a dataset, whatever its parameters; None if there is none."""
    for job in client.jobs((v1.JOB_STATE_SUCCEEDED,)):
        found = job.evaluation
        if found.dataset_uri == uri and not found.prediction_uri and not found.model_uri and job.outputs:
            return job
    return None


def finding_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row for each finding, errors first."""
    return [
        {"Severity": finding["severity"], "Check": finding["check"], "Finding": finding["text"]}
        for finding in summary["findings"]
    ]


def headline(summary: Mapping[str, Any]) -> str:
    """Return how much was found, e.g. "1 error, 3 notes"."""
    counts = [f"{number} {name}{'' if number == 1 else 's'}" for name, number in summary["counts"].items() if number]
    return ", ".join(counts) or "nothing was found that is wrong"


def purpose_sentences(client: Client, manifest: DatasetManifest, summary: Mapping[str, Any]) -> list[str]:
    """Return what the data are good for, and the methods of the services for it."""
    purpose = summary["purpose"]
    if not purpose["tasks"]:
        return [purpose["text"]]
    methods = _methods(client, manifest, purpose["tasks"])
    return [purpose["text"], f"Methods of this stack for it: {', '.join(methods) or 'none'}."]


def sizing(client: Client, manifest: DatasetManifest) -> list[str]:
    """Return a sentence on how many training images there are, and how many each method that suits recommends."""
    train = [image for image in manifest.images if (image.split, image.role) == ("train", "source")]
    axes = {"".join(axis for axis in image.axes if axis in "ZYX") for image in train}
    suitable = {
        method.name: method.data_requirements.recommended_images
        for info in client.services()
        for method in info.methods
        if v1.JOB_KIND_TRAINING in method.job_kinds
        and method.data_requirements.axes in axes
        and suits(manifest.kind, method.data_requirements.target)
    }
    fields = manifest.field_counts.get("train", len(train))
    of_fields = f" of {count(fields, 'field')} of view" if fields < len(train) else ""
    there = f"{count(len(train), 'training image')}{of_fields}"
    lacking = [f"{name} ({number})" for name, number in sorted(suitable.items()) if fields < number]
    if not lacking:
        return [f"There are {there}, as many as recommended for {', '.join(sorted(suitable))}."] if suitable else []
    return [
        f"There {'is' if len(train) == 1 else 'are'} {there}. More different fields are recommended for "
        f"{', '.join(lacking)}; with few, augmentation matters (`parfocal dataset preview --augment`)."
    ]


def _methods(client: Client, manifest: DatasetManifest, tasks: Mapping[str, str]) -> list[str]:
    """Return the methods that train for one of the tasks on images of these axes and kind."""
    wanted = {v1.Task.Value(f"TASK_{task.upper().replace(' ', '_')}") for task in tasks.values()}
    axes = {
        "".join(axis for axis in image.axes if axis in "ZYX") for image in manifest.images if image.role == "source"
    }
    return [
        method.name
        for info in client.services()
        for method in info.methods
        if v1.JOB_KIND_TRAINING in method.job_kinds
        and method.task in wanted
        and method.data_requirements.axes in axes
        and suits(manifest.kind, method.data_requirements.target)
    ]
