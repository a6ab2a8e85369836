"""How the pages write numbers, times, states and names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from parfocal import v1
from parfocal.client.convert import part_of_options
from parfocal.client.watching import FINAL_STATES, seconds_at_work
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.store.manifests import DatasetManifest, ModelManifest
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.verdicts import Verdict

_STATES: Final[Mapping[int, tuple[str, str]]] = {
    v1.JOB_STATE_QUEUED: ("queued", "Queued"),
    v1.JOB_STATE_RUNNING: ("running", "Running"),
    v1.JOB_STATE_SUCCEEDED: ("passed", "Finished"),
    v1.JOB_STATE_FAILED: ("failed", "Failed"),
    v1.JOB_STATE_CANCELLED: ("cancelled", "Cancelled"),
    v1.JOB_STATE_CANCELLING: ("running", "Stopping"),
}
_VERDICTS: Final[Mapping[str, tuple[str, str]]] = {
    "passed": ("passed", "Passed"),
    "failed": ("failed", "Failed"),
    "unchecked": ("unknown", "Not judged"),
}
_WORK: Final = {
    "training": "Training",
    "prediction": "Prediction",
    "evaluation": "Quality control",
    "comparison": "Comparison",
    "derivation": "Tiles for the viewer",
}
_TASKS: Final[Mapping[int, str]] = {
    v1.TASK_RESTORATION: "Cleaner images",
    v1.TASK_INSTANCE_SEGMENTATION: "Objects, one by one",
    v1.TASK_SEMANTIC_SEGMENTATION: "Areas by class",
    v1.TASK_DETECTION: "Boxes around objects",
    v1.TASK_LOCALISATION: "Positions of molecules",
    v1.TASK_TRANSLATION: "Another kind of image",
}


def state(job: v1.Job) -> tuple[str, str]:
    """Return the look and the word of a job's state."""
    return _STATES.get(job.state, ("unknown", "Unknown"))


def verdict_state(name: str) -> tuple[str, str]:
    """Return the look and the word of a verdict."""
    return _VERDICTS.get(name, ("unknown", "Not judged"))


def verdict_short(verdict: Verdict) -> str:
    """Return a verdict with what decided most."""
    return replace(verdict, reasons=verdict.reasons[:1]).sentence


def work(job: v1.Job) -> str:
    """Return what kind of work a job is."""
    spec = job.WhichOneof("spec")
    if spec == "evaluation" and not job.evaluation.prediction_uri:
        return "Check of a dataset"
    return _WORK.get(str(spec), "Job")


def makes_prediction(job: v1.Job) -> bool:
    """Return whether a job makes a whole prediction: one that does a part of it makes nothing that people look at."""
    return job.WhichOneof("spec") == "prediction" and not job.prediction.HasField("part")


def subject(job: v1.Job) -> str:
    """Return what a job works on, e.g. "nuclei on beads:1"."""
    match job.WhichOneof("spec"):
        case "training":
            return f"{model_made(job)} on {versioned_name(job.training.dataset_uri, job.project)}"
        case "prediction":
            part = job.prediction.part
            share = f"part {part.number} of {part.count} " if part.count else ""
            return f"{share}with {versioned_name(job.prediction.model_uri, job.project)}"
        case "evaluation":
            judged = job.evaluation.model_uri or job.evaluation.dataset_uri
            return f"of {versioned_name(judged, job.project)}" if judged else ""
        case "comparison":
            return f"on {versioned_name(job.comparison.dataset_uri, job.project)}"
        case "derivation":
            return f"of {', '.join(map(_published, job.derivation.input_uris))}"
    return ""


def _published(uri: str) -> str:
    """Return "name:version" of a dataset's address, and the job of a result's."""
    name = versioned_name(uri)
    return name if name.rpartition(":")[2].isdigit() else name.partition(":")[2]


def duration(seconds: float) -> str:
    """Return a time in words, e.g. "1 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" if whole >= 600 else f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_range(seconds: Sequence[float]) -> str:
    """Return a least and a largest time as finely as an estimate can be, e.g. "18 to 26 min"; one if they are alike."""
    # Steps of a second, a minute or half an hour.
    step, each, unit = (1, 1, "s") if seconds[1] < 100 else (60, 1, "min") if seconds[1] < 5400 else (1800, 2, "h")
    if seconds[1] < 1.1 * seconds[0]:
        return f"{max(1, round(sum(seconds) / len(seconds) / step)) / each:g} {unit}"
    least, most = max(1, math.floor(seconds[0] / step)), math.ceil(seconds[1] / step)
    return f"{least / each:g} to {most / each:g} {unit}" if least < most else f"{most / each:g} {unit}"


def gib(value: float) -> str:
    """Return an amount of memory in GiB."""
    return f"{value:.1f} GiB"


def model_made(job: v1.Job) -> str:
    """Return the model that a training has made, e.g. "nuclei:2"."""
    made = next((output.uri for output in job.outputs if output.kind == "model"), "") or job.reserved_uri
    return versioned_name(made) if made else job.training.model


def person(name: str) -> str:
    """Return who has done something; "" where nobody signs in."""
    return "" if name == UNVERIFIED.name else name


def moment(value: Timestamp | datetime) -> datetime:
    """Return a time with its zone."""
    return value.ToDatetime(UTC) if isinstance(value, Timestamp) else value.astimezone(UTC)


def iso(value: Timestamp | datetime) -> str:
    """Return a time for programs."""
    return moment(value).isoformat(timespec="seconds")


def when(value: Timestamp | datetime) -> str:
    """Return a time in this computer's zone, with the date unless it is today."""
    local = moment(value).astimezone()
    today = datetime.now().astimezone().date() == local.date()
    return f"{local:%H:%M}" if today else f"{local:%d %b %Y, %H:%M}"


def size(number: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def plain(value: Any) -> str:
    """Return a value of a parameter as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value))
    return str(value)


def shape(lengths: Sequence[int]) -> str:
    """Return lengths in pixels, e.g. "16 × 512 × 512"."""
    return " × ".join(map(str, lengths))


def pixel_size(value: Sequence[float | None] | None) -> str:
    """Return a pixel size (x, y, z) in words."""
    if not value or value[0] is None:
        return "not recorded"
    x, y, z = (*value, None, None)[:3]
    text = f"{x:g} µm" if x == y or y is None else f"{x:g} × {y:g} µm"
    return f"{text}, planes {z:g} µm apart" if z else text


def sentence(text: str) -> str:
    """Return the first sentence of a text."""
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]


def marked(text: str) -> Markup:
    """Return a text with what stands between backticks set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    pieces = [
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    ]
    return Markup().join(pieces)


@pass_context
def versioned(context: Context, uri: str) -> str:
    """Return what people of the project of a page call the dataset or model at an address."""
    return versioned_name(uri, context["project"])


@pass_context
def paths(context: Context, uri: str) -> str:
    """Return where the page of a dataset or model is, below the lists of its kind, by its address."""
    return address(versioned(context, uri))


@pass_context
def titled(context: Context, manifest: DatasetManifest | ModelManifest) -> str:
    """Return what people of the project of a page call a dataset or model."""
    return title_in(context["project"], manifest)


def title_in(project: str, manifest: DatasetManifest | ModelManifest) -> str:
    """Return what people of a project call a dataset or model: PROJECT/name:version where another one shares it."""
    name = manifest.dataset if isinstance(manifest, DatasetManifest) else manifest.model
    title = f"{name}:{manifest.version}"
    return title if manifest.project == project else f"{manifest.project}/{title}"


def address(name: str) -> str:
    """Return where the page of a dataset or model is, below the lists of its kind: "name/1", or "project~name/1"."""
    return quote(name.replace("/", "~"), safe="~:").replace(":", "/")


def named(part: str) -> str:
    """Return the name that a part of an address stands for: "project~name" is what another project shares."""
    return part.replace("~", "/", 1)


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "state": state,
    "verdict_state": verdict_state,
    "verdict_short": verdict_short,
    "work": work,
    "subject": subject,
    "makes_prediction": makes_prediction,
    "duration": duration,
    "time_range": time_range,
    "gib": gib,
    "model_made": model_made,
    "person": person,
    "iso": iso,
    "when": when,
    "bytes": size,
    "plain": plain,
    "shape": shape,
    "pixel_size": pixel_size,
    "marked": marked,
    "capitalize_first": lambda text: text[:1].upper() + text[1:],
    "sentence": sentence,
    "versioned": versioned,
    "titled": titled,
    "address": address,
    "paths": paths,
    "count": count,
    "part_words": lambda manifest: part_of_options(manifest.part, manifest.part_channels).words,
}
GLOBALS: Final[Mapping[str, Any]] = {
    "FINAL_STATES": FINAL_STATES,
    "seconds_at_work": seconds_at_work,
    "tasks": _TASKS,
    "v1": v1,
}
