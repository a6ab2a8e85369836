"""Results as people read them: lines, tables and pages of markdown. Pure functions, no Prefect."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from parfocal import v1
from parfocal.client.watching import seconds_at_work
from parfocal.flows._scores import Evaluated, Row, summary_rows
from parfocal.flows._work import Finished
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.store.manifests import public_name
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import Location

_METRIC_NAMES = {"loss": "loss", "val_loss": "validation loss", "learning_rate": "learning rate"}
_STATES = {
    v1.JOB_STATE_QUEUED: "The job is queued",
    v1.JOB_STATE_RUNNING: "The job runs",
    v1.JOB_STATE_SUCCEEDED: "The job has succeeded",
    v1.JOB_STATE_FAILED: "The job has failed",
    v1.JOB_STATE_CANCELLED: "The job has ended on request",
    v1.JOB_STATE_CANCELLING: "The job is being ended",
}


def epoch_line(job: v1.Job, epoch: v1.EpochCompleted) -> str:
    """Return an epoch in one line, e.g. "Epoch 3 of 10: loss 0.012, validation loss 0.015, best so far (1.2 s)"."""
    epochs = job.progress.epochs
    of = f" of {epochs}" if epochs else ""
    parts = [f"{_METRIC_NAMES.get(name, name)} {number(value)}" for name, value in _ordered(epoch.metrics)]
    parts += ["best so far"] if epoch.best else []
    return f"Epoch {epoch.epoch}{of}: {', '.join(parts)} ({epoch.seconds:.1f} s)"


def event_line(job: v1.Job, event: v1.JobEvent) -> str:
    """Return an event of a job in one line; empty for those that need none."""
    kind = event.WhichOneof("event")
    if kind == "epoch_completed":
        return epoch_line(job, event.epoch_completed)
    if kind == "warning":
        return event.warning.text
    if kind == "output":
        return f"Published: {event.output.kind} {event.output.uri}"
    if kind == "image_completed":
        seconds = event.image_completed.seconds  # 0 where nobody took the time, as in quality control
        return f"{event.image_completed.name} done{f' ({seconds:.1f} s)' if seconds else ''}"
    if kind == "state_change":
        message = event.state_change.message
        return _STATES.get(event.state_change.state, "The job") + (f": {message}" if message else "")
    return ""


def progress_line(job: v1.Job) -> str:
    """Return in one line how far a job is."""
    progress = job.progress
    if job.state == v1.JOB_STATE_QUEUED:
        return job.message or "Waiting for its turn"
    parts = [progress.stage.capitalize() or "Running"]
    if progress.epochs:
        parts.append(f"epoch {progress.epoch} of {progress.epochs}")
    elif progress.steps:
        parts.append(f"{progress.step} of {progress.steps}")
    parts += [
        f"{_METRIC_NAMES[name]} {number(job.metrics[name])}" for name in ("loss", "val_loss") if name in job.metrics
    ]
    if progress.seconds_left >= 1:
        parts.append(f"about {duration(progress.seconds_left)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration, e.g. "45 s", "3 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def number(value: float) -> str:
    """Return a number with four digits that count."""
    return f"{value:.4g}" if math.isfinite(value) else "not a number"


def artifact_key(*words: str) -> str:
    """Return a key that Prefect accepts: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def verdict_headline(verdict: Mapping[str, Any]) -> str:
    """Return the verdict in one line."""
    state = verdict.get("state")
    return f"Quality control: {state}" if state else "Quality control: no verdict"


def training_report(
    *,
    method: v1.Method,
    model_uri: str,
    dataset_uri: str,
    training: v1.Job,
    evaluation: Finished | None,
    evaluated: Evaluated | None,
    figure: bytes | None,
    notes: Sequence[str],
) -> str:
    """Return the page about a new model: verdict with reasons, figure, where everything is, what to know."""
    name = versioned_name(model_uri)
    verdict = evaluation.manifest.verdict if evaluation else {}
    lines = [f"# {verdict_headline(verdict)}", "", f"Model **{name}**, made by {method.title}.", ""]
    lines += [f"- {reason}" for reason in verdict.get("reasons", ())]
    if not evaluation:
        lines.append("Quality control has not judged this model: look at predictions yourself before you rely on it.")
    lines.append("")
    if steps := verdict.get("next_steps", ()):
        lines += ["## What to try next", "", *(f"- {step}" for step in steps), ""]
    if figure is not None:
        lines += [embedded_png("Input, prediction and target of a test image", figure), ""]
        if evaluated:
            summary = evaluated.summary
            worst = summary.worst_image.image
            lines += [f"Shown is the worst of the test images by {summary.primary.title}, {worst}.", ""]
    if evaluated:
        count = len(evaluated.scores["prediction"])
        lines += ["## Scores", "", markdown_table(summary_rows(evaluated)), ""]
        means = f"Means over {count} test image{'s' if count > 1 else ''}, in brackets their 95 % intervals."
        lines += [f"{means} {evaluated.summary.note}".strip(), ""]
    lines += notes_section([*notes, *verdict.get("remarks", ()), *training.warnings])
    lines += ["## Where everything is", ""]
    facts = [("Model", name), ("Model files", f"`{model_uri}`"), ("Dataset", f"`{dataset_uri}`")]
    facts.append(("Training job", f"`{training.id}`"))
    if evaluation:
        prediction = evaluation.job.evaluation.prediction_uri
        facts += [("Predicted test images", f"`{prediction}`")]
        facts += [("Prediction job", f"`{Location.parse(prediction).name}`")]
        facts += [("Quality control files", f"`{evaluation.uri}`"), ("Quality control job", f"`{evaluation.job.id}`")]
    facts.append(("Training time", duration(seconds_at_work(training))))
    lines += [markdown_table([{"What": what, "": value} for what, value in facts]), ""]
    lines += ["## Cite", "", method.citation, ""]
    return "\n".join(lines)


def prediction_report(*, method: v1.Method, model_uri: str, finished: Finished, notes: Sequence[str]) -> str:
    """Return the page about a prediction: how many images, where they are, what went wrong."""
    images = finished.manifest.images
    failed = [image for image in images if image.reason]
    done = len(images) - len(failed)
    lines = [f"# {done} of {count(len(images), 'image')} predicted", ""]
    lines += [f"Model **{versioned_name(model_uri)}** ({method.title}).", ""]
    if finished.manifest.verdict:
        verdict = finished.manifest.verdict
        lines += [f"{verdict_headline(verdict)} (the model's verdict).", ""]
        lines += [f"- {reason}" for reason in verdict.get("reasons", ())] + [""]
    if failed:
        lines += ["## Not predicted", ""] + [f"- `{image.input}`: {image.reason}" for image in failed] + [""]
    lines += notes_section([*notes, *finished.job.warnings])
    facts = [
        ("Predicted images", f"`{finished.uri}`"),
        ("Prediction job", f"`{finished.job.id}`"),
        ("Model files", f"`{model_uri}`"),
    ]
    lines += ["## Where everything is", "", markdown_table([{"What": what, "": value} for what, value in facts]), ""]
    lines += [f"Download with `parfocal jobs download {finished.job.id} --output FOLDER`.", ""]
    return "\n".join(lines)


def prediction_rows(finished: Finished) -> list[Row]:
    """Return one row for each predicted image."""
    return [
        {
            "Image": image.input.rsplit("/", 1)[-1],
            "Output": ", ".join(map(public_name, image.outputs.values())) or "none",
            "Seconds": round(image.seconds, 2),
            "Remark": image.reason or (f"{image.clipped_fraction:.2%} clipped" if image.clipped_fraction else ""),
        }
        for image in finished.manifest.images
    ]


def markdown_table(rows: Sequence[Mapping[str, str | float]]) -> str:
    """Return rows with the same keys as a markdown table."""
    if not rows:
        return ""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [number(value) if isinstance(value, float) else str(value) for value in row.values()]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def embedded_png(title: str, png: bytes) -> str:
    """Return a picture that needs no reachable server: it is part of the page."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def notes_section(notes: Sequence[str]) -> list[str]:
    """Return the lines of what the user should know; none where there is nothing."""
    return ["## What you should know", "", *(f"- {note}" for note in dict.fromkeys(notes)), ""] if notes else []


def _ordered(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    known = [name for name in _METRIC_NAMES if name in metrics]
    return [(name, metrics[name]) for name in known + sorted(set(metrics) - set(known))]
