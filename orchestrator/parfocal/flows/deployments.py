"""The deployments in Prefect: one for each workflow and method, kept as the catalogue says."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from parfocal import v1
from parfocal.flows import schedules
from parfocal.flows.catalogue import Catalogue
from parfocal.flows.forms import (
    Schema,
    check_form,
    compare_form,
    judge_form,
    predict_form,
    predict_new_form,
    train_form,
)

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

_log = logging.getLogger("prefect.parfocal.flows")
TAG = "parfocal"
# Flow and name of the deployment that judges the models of trainings.
JUDGE = ("judge", "training")
_PAGE = 200


@dataclass(frozen=True)
class Offer:
    """One deployment as it should be: `flow`/`name` with its fixed parameters, the form and the words around it."""

    flow: str
    name: str
    parameters: Mapping[str, Any]
    form: Schema
    description: str
    tags: Sequence[str]

    @property
    def schema(self) -> Schema:
        """What a run may be given: the fields of the form, and what the deployment sets itself; nothing else."""
        return {**self.form, "propertyNames": {"enum": [*self.form["properties"], *self.parameters]}}


def offers(catalogue: Catalogue, project: str) -> list[Offer]:
    """Return the deployments that a catalogue calls for."""
    found = []
    for method in catalogue.methods:
        tags = (TAG, v1.Task.Name(method.task).removeprefix("TASK_").lower().replace("_", "-"))
        common = {"project": project}
        if v1.JOB_KIND_TRAINING in method.job_kinds:
            form = train_form(method, catalogue.datasets_for(method), catalogue.models.get(method.name, ()))
            text = _description(method, "Trains a model, predicts the test images and has quality control judge it.")
            found.append(Offer("train", method.name, {"method": method.name, **common}, form, text, tags))
        if v1.JOB_KIND_PREDICTION in method.job_kinds:
            form = predict_form(method, catalogue.models.get(method.name, ()), catalogue.datasets_to_predict(method))
            text = _description(method, "Applies a model to images of a dataset or of a folder in the store.")
            found.append(Offer("predict", method.name, common, form, text, tags))
            form = predict_new_form(method, catalogue.models.get(method.name, ()))
            text = _description(method, "Applies a model to new images of a folder; `parfocal schedule` repeats it.")
            found.append(Offer("predict-new", method.name, common, form, text, tags))
        if v1.JOB_KIND_COMPARISON in method.job_kinds:
            evaluations = catalogue.evaluations.get(method.name, ())
            form = compare_form(
                method, catalogue.models_for(method.task), evaluations, catalogue.datasets_to_compare(method)
            )
            text = _description(method, "Says which of several models is better, and which difference is only chance.")
            found.append(Offer("compare", method.name, {"method": method.name, **common}, form, text, tags))
        if v1.JOB_KIND_EVALUATION in method.job_kinds and method.task == v1.TASK_DATASET:
            form = check_form(method, catalogue.datasets)
            text = _description(method, "Looks for what is wrong with images before a model is trained on them.")
            found.append(Offer("check-dataset", method.name, common, form, text, tags))
    text = "Has quality control judge the model of a training that was started outside of Prefect."
    found.append(Offer(*JUDGE, {"project": project}, judge_form(), text, (TAG,)))
    return found


async def scheduled(catalogue: Catalogue) -> list[Offer]:
    """Return what people have scheduled, as Prefect keeps it, with the form as it is now."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    methods = {method.name: method for method in catalogue.methods}
    chosen = DeploymentFilter(tags=DeploymentFilterTags(all_=[schedules.TAG]))
    found: list[Offer] = []
    async with get_client() as client:
        while page := await client.read_deployments(deployment_filter=chosen, limit=_PAGE, offset=len(found)):
            for each in page:
                method = methods.get(schedules.method_of(each.tags))
                form = predict_new_form(method, None) if method is not None else each.parameter_openapi_schema or {}
                found.append(
                    Offer(schedules.FLOW, each.name, each.parameters, form, each.description or "", tuple(each.tags))
                )
    return found


class Deployments:
    """The deployments of one runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._known: dict[tuple[str, str], tuple[UUID, Offer]] = {}

    @property
    def ids(self) -> list[UUID]:
        """The deployments registered so far."""
        return [identifier for identifier, _ in self._known.values()]

    def id(self, flow: str, name: str) -> UUID:
        """Return the deployment `flow`/`name`, which has been registered."""
        return self._known[flow, name][0]

    async def update(self, wanted: Sequence[Offer]) -> None:
        """Register what is new and patch what has changed; what is no longer wanted stays until the runner ends."""
        gone = [
            key
            for key, (_, offer) in self._known.items()
            if schedules.TAG in offer.tags and offer.name not in {each.name for each in wanted}
        ]
        for key in gone:  # somebody deleted the schedule, and may make another one of its name
            del self._known[key]
        for offer in wanted:
            key = (offer.flow, offer.name)
            if key not in self._known:
                identifier = await self._runner.aadd_deployment(await to_deployment(offer))
                self._known[key] = (identifier, offer)
                _log.info("serving %s/%s", offer.flow, offer.name)
            elif self._known[key][1] != offer:
                identifier = self._known[key][0]
                await _patch(identifier, offer)
                self._known[key] = (identifier, offer)
                _log.info("refreshed the form of %s/%s", offer.flow, offer.name)


async def to_deployment(offer: Offer) -> RunnerDeployment:
    """Return an offer as Prefect registers it."""
    from prefect.types.entrypoint import EntrypointType
    from prefect.utilities.callables import ParameterSchema

    deployment = await _flow(offer.flow).ato_deployment(
        name=offer.name,
        parameters=dict(offer.parameters),
        description=offer.description,
        tags=list(offer.tags),
        entrypoint_type=EntrypointType.MODULE_PATH,
        enforce_parameter_schema=True,
    )
    # Prefect has no public way to give a deployment another form than the signature of its flow.
    deployment._parameter_openapi_schema = ParameterSchema(**offer.schema)
    return deployment


async def _patch(identifier: UUID, offer: Offer) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    update = DeploymentUpdate(
        parameter_openapi_schema=offer.schema, description=offer.description, tags=list(offer.tags)
    )
    async with get_client() as client:
        await client.update_deployment(identifier, update)


def _flow(name: str) -> Flow[..., Any]:
    from parfocal.flows.check_dataset import check_dataset
    from parfocal.flows.compare import compare
    from parfocal.flows.judge import judge
    from parfocal.flows.predict import predict
    from parfocal.flows.predict_new import predict_new
    from parfocal.flows.train import train

    flows: tuple[Flow[..., Any], ...] = (train, judge, predict, predict_new, compare, check_dataset)
    return next(flow for flow in flows if flow.name == name)


def _description(method: v1.Method, what: str) -> str:
    return inspect.cleandoc(
        f"""
        ## {method.title}

        {what}

        {" ".join(method.summary.split())}

        **Images:** {" ".join(method.data_requirements.description.split())}

        **Please cite:** {method.citation}
        """
    )
