"""Several models one after the other: what a command or a schedule is asked to do, looked up and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.models import ModelSummary, read_model
from parfocal.client.parameters import parse_parameters, schema_of
from parfocal.client.requests import to_struct
from parfocal.runtime.errors import InvalidParameterError, Violation
from parfocal.runtime.store.names import versioned_name

_OF_STEP = re.compile(r"(\d+)\.(.*)", re.DOTALL)


@dataclass(frozen=True)
class PlannedStep:
    """A model with the description of its method, and the parameters of its prediction.

    `name` is "name:version", or PROJECT/name:version where another project shares it.
    """

    name: str
    model: ModelSummary
    method: v1.Method
    parameters: dict[str, Any]

    @property
    def message(self) -> v1.BatchStep:
        """The same in the words of the contract."""
        return v1.BatchStep(model_uri=self.model.uri, parameters=to_struct(self.parameters))


def plan_steps(client: Client, models: Sequence[str], assignments: Sequence[str]) -> list[PlannedStep]:
    """Look up models that are applied one after the other, and read their parameters.

    Parameters
    ----------
    models
        "name" or "name:version" of each, in order.
    assignments
        "NAME=VALUE" for the first model, "2.NAME=VALUE" for the second one, and so on.

    Raises
    ------
    InvalidParameterError
        A parameter cannot be used, or is for a step that there is not.
    NotFoundError
        There is no such model, or no service offers its method.
    """
    of_step: list[list[str]] = [[] for _ in models]
    for text in assignments:
        match = _OF_STEP.fullmatch(text)
        number = int(match[1]) if match else 1
        if not 1 <= number <= len(models):
            steps = "is one step" if len(models) == 1 else f"are {len(models)} steps"
            problem = f"{text!r} is for step {number}, but there {steps}: each --then MODEL adds one."
            raise InvalidParameterError(problem, [Violation(text, problem)])
        of_step[number - 1].append(match[2] if match else text)
    planned = []
    for name, own in zip(models, of_step, strict=True):
        model = read_model(client, name)
        method = client.method(model.manifest.method)
        values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_PREDICTION), own)
        planned.append(PlannedStep(versioned_name(model.uri, client.project), model, method, values))
    return planned
