"""Parameter studies: a model or a prediction for each combination of values, all judged on the same test images."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from parfocal import v1
from parfocal.client.parameters import parse_parameters
from parfocal.client.quality import Doer
from parfocal.client.requests import evaluation_request, prediction_request
from parfocal.client.results import result_uri
from parfocal.runtime.errors import InvalidParameterError, Violation
from parfocal.runtime.store.evaluations import EvaluationSummary
from parfocal.runtime.store.names import check_name, is_name

MOST_COMBINATIONS: Final = 24
_LONGEST_WORDS = 40


@dataclass
class Outcome:
    """What became of one combination of values.

    Attributes
    ----------
    values
        The varied parameters.
    model
        "name:version"; empty while there is none.
    state
        How far it got: "passed", "failed" or "unchecked" by quality control; "training failed" or "training cancelled".
    seconds
        Duration of the training or prediction; None where nothing was made.
    summary
        What quality control says; None where nothing was judged.
    """

    values: Mapping[str, Any]
    model: str = ""
    state: str = "unchecked"
    seconds: float | None = None
    summary: EvaluationSummary | None = field(default=None, repr=False)

    @property
    def scores(self) -> dict[str, str]:
        """The means of the prediction as people read them, by the heading of the metric."""
        if self.summary is None:
            return {}
        return {
            f"{role}: {metric.heading}" if role else metric.heading: metric.number(means[metric.key].mean)
            for role, part in self.summary.parts.items()
            for means in (part.metrics["prediction"],)
            for metric in part.shown_metrics
            if metric.key in means
        }


def combinations(
    title: str, schema: Mapping[str, Any], varied: Sequence[str], fixed: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return all combinations of the values in "name=value,value,…" texts, the last name varying fastest.

    Parameters
    ----------
    title, schema
        Of the method, and of the parameters of the work, as it publishes them.
    varied
        Values have commas between them; those that contain commas are written as a JSON list.
    fixed
        Parameters that are the same in all combinations.

    Raises
    ------
    InvalidParameterError
        Nothing varies, a value cannot be used, or there are too many combinations.
    """
    values: dict[str, list[Any]] = {}
    problems: list[str] = []
    for text in varied:
        name, _, listed = text.partition("=")
        name = name.strip()
        found = [
            value for each in _split(listed) for value in parse_parameters(title, schema, [f"{name}={each}"]).values()
        ]
        if name in values or name in fixed:
            problems.append(f"{name!r} is given twice.")
        elif len({json.dumps(value) for value in found}) < max(len(found), 2):
            problems.append(f"{name!r} requires two different values or more, for example --vary {name}=1,2.")
        values[name] = found
    count = 1
    for found in values.values():
        count *= len(found)
    if not values:
        problems.append("Nothing varies: write --vary NAME=VALUE,VALUE.")
    elif count > MOST_COMBINATIONS and not problems:
        problems.append(f"These are {count} combinations, and {MOST_COMBINATIONS} are possible: vary fewer values.")
    if problems:
        text = f"{title}: {' '.join(problems)}"
        raise InvalidParameterError(text, [Violation("vary", text)])
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def model_name(model: str, values: Mapping[str, Any]) -> str:
    """Return the name of the model of a combination, e.g. "beads-epochs-50"; always the same for the same values."""
    words = "-".join(f"{name}-{value}" for name, value in values.items())
    name = f"{model}-{re.sub(r'[^A-Za-z0-9_.]+', '-', words).strip('-')}"
    return name if is_name(name) else check_name("model", f"{model}-{_digest(json.dumps(values, sort_keys=True))[:10]}")


def repeatable(request: v1.StartJobRequest, words: str) -> v1.StartJobRequest:
    """Return a request under an id that follows from what it asks for and has `words`: asked again, it is one job."""
    mine = v1.StartJobRequest()
    mine.CopyFrom(request)
    digest = _digest(getattr(mine, str(mine.WhichOneof("spec"))).SerializeToString(deterministic=True))
    mine.request_id = f"study-{re.sub(r'[^A-Za-z0-9_]+', '-', words)[:_LONGEST_WORDS].strip('-')}-{digest[:16]}"
    return mine


def judge_prediction(
    doer: Doer, method: v1.Method, model_uri: str, dataset_uri: str, parameters: Mapping[str, Any]
) -> tuple[v1.Job, v1.Job]:
    """Have a model predict the test images with some parameters, and have that scored; return both jobs.

    The verdict stays with the evaluation: that of the model is about its usual parameters.
    """
    what = ", ".join(f"{name} {value}" for name, value in parameters.items())
    # Comparisons name a prediction without a model by its job.
    request = repeatable(prediction_request(model_uri, dataset_uri, parameters, split="test"), what)
    predicted = doer.do(request, f"Predicting with {what}")
    request = evaluation_request(method.name, result_uri(predicted), dataset_uri, split="test")
    return predicted, doer.do(request, f"Quality control with {what}")


def table_of(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: values, model, scores, verdict, seconds."""
    names = list(outcomes[0].values)
    scores = list(dict.fromkeys(heading for each in outcomes for heading in each.scores))
    models = ["Model"] if any(each.model for each in outcomes) else []
    rows = [
        [
            *(str(each.values[name]) for name in names),
            *([each.model] if models else []),
            *(each.scores.get(heading, "") for heading in scores),
            each.state,
            "" if each.seconds is None else f"{each.seconds:.1f}",
        ]
        for each in outcomes
    ]
    return [*names, *models, *scores, "Verdict", "Seconds"], rows


def csv_of(outcomes: Sequence[Outcome]) -> str:
    """Return the same table as CSV."""
    file = io.StringIO()
    headings, rows = table_of(outcomes)
    csv.writer(file, lineterminator="\n").writerows([headings, *rows])
    return file.getvalue()


def _split(text: str) -> list[str]:
    """Return the values in "1,2,3" or in a JSON list."""
    if text.strip().startswith("["):
        try:
            return [each if isinstance(each, str) else json.dumps(each) for each in json.loads(text)]
        except ValueError as error:
            problem = f"{text!r} is no JSON list."
            raise InvalidParameterError(problem, [Violation("vary", problem)]) from error
    return [each.strip() for each in text.split(",")]


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
