"""`parfocal train`: make a model from a dataset, and have it judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import App, Command, current_app

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.cli._work import CommandDoer
    from parfocal.client import Client

PARAMETERS = click.option(
    "-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Set a parameter; repeat for more."
)
PRESET = click.option(
    "--preset",
    metavar="NAME",
    help="Begin with parameters that go well together: `parfocal methods METHOD` lists them.",
)
REQUIRE_PASS = click.option(
    "--require-pass", is_flag=True, help="End with exit code 5 unless the model has passed quality control."
)


@click.command(cls=Command, short_help="Make a model from a dataset.")
@click.argument("method")
@click.option("--dataset", required=True, metavar="NAME[:VERSION]", help="The dataset to train on.")
@click.option("--model", required=True, metavar="NAME", help="Name of the model; it gets the next version number.")
@click.option("--from", "initial", default="", metavar="MODEL[:VERSION]", help="Go on from an existing model.")
@click.option(
    "--from-weights",
    "initial_weights",
    default="",
    metavar="NAME",
    help="Which of its weights, as `parfocal models show` lists them.  [default: the usual ones]",
)
@PRESET
@PARAMETERS
@click.option("--qc/--no-qc", default=True, show_default=True, help="Judge the model by the test images afterwards.")
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@click.option("--again", is_flag=True, help="Start a training even if the same one is under way.")
@REQUIRE_PASS
def train(
    method: str,
    dataset: str,
    model: str,
    initial: str,
    initial_weights: str,
    preset: str | None,
    parameters: tuple[str, ...],
    qc: bool,
    detach: bool,
    again: bool,
    require_pass: bool,
) -> None:
    """Train a model with METHOD, for example care-2d, and have quality control judge it.

    `parfocal methods METHOD` lists the parameters. Ctrl-C stops watching, not the training, nor quality control where
    Parfocal runs with Prefect. The same command again continues watching.
    """
    app = current_app()
    from parfocal import v1
    from parfocal.cli import _capacity, _work
    from parfocal.cli._render import print_json, say
    from parfocal.client.parameters import parse_parameters, preset_values, schema_of
    from parfocal.client.published import read_manifest
    from parfocal.client.quality import JUDGE_LABEL
    from parfocal.client.requests import training_request
    from parfocal.runtime.store.manifests import DatasetManifest
    from parfocal.runtime.store.names import check_name

    check_name("model", model)
    with app.client() as client:
        description = client.method(method)
        values = preset_values(description, preset) if preset else {}
        values |= parse_parameters(description.title, schema_of(description, v1.JOB_KIND_TRAINING), parameters)
        dataset_uri = client.dataset_uri(dataset)
        initial_uri = client.model_uri(initial) if initial else ""
        judged = qc and read_manifest(client, dataset_uri, DatasetManifest).can_be_judged_by("test")
        request = training_request(
            method,
            dataset_uri,
            model,
            values,
            initial_model_uri=initial_uri,
            initial_weights=initial_weights,
            labels={JUDGE_LABEL: "test"} if judged else {},
        )
        if (need := _capacity.expected(app, description, values)) is not None and not app.json:
            gpu = f", {need.device_memory_gib:.1f} GiB of the GPU" if need.device_memory_gib else ""
            seconds = f"{need.seconds_per_step:.2g} s per step"
            say(f"By what was measured on this computer: about {need.memory_gib:.1f} GiB{gpu}, {seconds}.")
        job = _work.start_or_join(client, request, again=again)
        afterwards = (
            "Quality control follows without this command where a flow runner is at work (`parfocal status`), "
            f"elsewhere by the same command again. Its verdict then: parfocal models show {model}"
        )
        if detach:
            if app.json:
                print_json({"job": _work.job_json(job)})
            else:
                say(f"Watch it: parfocal jobs watch {job.id}")
            if judged:
                say(afterwards)
            return
        job = _work.finish(app, client, job, f"Training {model}", afterwards=afterwards if judged else "")
        model_uri = _work.output_uri(job, "model")
        if not app.json:
            show_model(client, model_uri)
        doer = _work.CommandDoer(app, client, again=False, training=job, afterwards=afterwards)
        evaluation = judge(client, doer, description, model_uri, dataset_uri) if qc else None
        conclude(app, client, job, model_uri, evaluation, require_pass=require_pass)


def judge(
    client: Client, doer: CommandDoer, method: v1.Method, model_uri: str, dataset_uri: str, *, again: bool = True
) -> v1.Job | None:
    """Return the evaluation of a model by the test images of a dataset; None, with a warning, if impossible.

    Of a new model there is nothing yet, unless somebody else has begun, whose jobs have the same ids: `again` does not
    look for more.
    """
    from parfocal.cli import _work
    from parfocal.cli._render import warn
    from parfocal.client.published import read_manifest
    from parfocal.client.quality import evaluation_method_by, judge_model
    from parfocal.runtime.store.manifests import DatasetManifest

    dataset = read_manifest(client, dataset_uri, DatasetManifest)
    if not _work.check_test_images(dataset):
        return None
    evaluation = evaluation_method_by(client, method.task, dataset)
    if evaluation is None:
        warn("No service for quality control answers, so the model was not judged; `parfocal evaluate` does it later.")
        return None
    return judge_model(client, doer, evaluation, model_uri, dataset_uri, again=again, reuse=True)


def show_model(client: Client, model_uri: str) -> None:
    """Print what came out of a training."""
    from parfocal.cli._render import duration, number, print_fields
    from parfocal.client.models import read_model

    manifest = read_model(client, model_uri).manifest
    print_fields(
        {
            "Model": f"{manifest.model}:{manifest.version}",
            "Training": f"{manifest.epochs} epochs in {duration(manifest.training_seconds)}, best epoch "
            f"{manifest.best_epoch}",
            "Losses": ", ".join(f"{name} {number(value)}" for name, value in manifest.metrics.items()),
            "Place": model_uri,
        }
    )


def conclude(
    app: App,
    client: Client,
    job: v1.Job,
    model_uri: str,
    evaluation: v1.Job | None,
    *,
    require_pass: bool,
) -> None:
    """Print verdict and places, as text or as JSON."""
    from parfocal.cli import _work
    from parfocal.cli._render import print_fields, print_json
    from parfocal.client.results import result_uri
    from parfocal.runtime.store.store import Location
    from parfocal.runtime.store.verdicts import Verdict

    place = Location.parse(model_uri)
    verdict = Verdict("unchecked")
    values: dict[str, Any] = {
        "job": _work.job_json(job),
        "model": {"name": place.parent.name, "version": int(place.name), "uri": model_uri},
    }
    if evaluation is not None:
        uri = result_uri(evaluation)
        if app.json:
            verdict, values["evaluation"] = _work.evaluation_json(client, evaluation)
        else:
            verdict = _work.show_evaluation(client, evaluation)
            name = f"{place.parent.name}:{place.name}"
            use = f"parfocal predict --model {name} IMAGES --output FOLDER"
            print_fields(
                {
                    "Results": uri,
                    "Report": f"parfocal jobs download {evaluation.id} --output FOLDER",
                    "Use it": use if verdict.state == "passed" else "",
                }
            )
    if app.json:
        print_json(values)
    _work.require_pass(verdict, require_pass)
