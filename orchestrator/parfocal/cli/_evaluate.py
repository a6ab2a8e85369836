"""`parfocal evaluate`: judge a model, or images that something else predicted, by test images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from parfocal.cli._app import App, Command, current_app
from parfocal.cli._predict import check_inputs, say_passed_over
from parfocal.cli._train import PARAMETERS, REQUIRE_PASS

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.client import Client
    from parfocal.runtime.store.manifests import DatasetManifest


@click.command(cls=Command, short_help="Judge a model, or predicted images, by test images.")
@click.option("--model", metavar="NAME[:VERSION]", help="The model to judge.")
@click.option(
    "--prediction",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Instead of a model: images, or tables of boxes, that any other program predicted, named like the images they "
    "were made from.",
)
@click.option("--method", metavar="NAME", help="With --prediction: how to judge, e.g. restoration or instances.")
@click.option("--dataset", metavar="NAME[:VERSION]", help="Whose test images to judge by.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Instead of a dataset: an image or a folder of images without targets. Restored images are judged by what "
    "was taken away from them.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Download report, maps and tables.")
@PARAMETERS
@click.option(
    "--again",
    is_flag=True,
    help="With --model and --dataset: predict again even if there is a prediction. Scoring is always done anew.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")
@REQUIRE_PASS
def evaluate(
    model: str | None,
    prediction: Path | None,
    method: str | None,
    dataset: str | None,
    images: Path | None,
    output: Path | None,
    parameters: tuple[str, ...],
    again: bool,
    overwrite: bool,
    require_pass: bool,
) -> None:
    """Judge a model on images that it was not trained on, compared with its input or a baseline.

    With --prediction the images in FOLDER are judged, whatever program made them. With --images no targets are needed;
    that can refute a restoration but not prove it, and the model keeps the verdict it has.

    The parameters (-p) are the thresholds of the verdict: `parfocal methods restoration` (or instances, residuals, …)
    lists them.
    """
    app = current_app()
    from parfocal.cli import _work
    from parfocal.cli._render import print_fields, print_json
    from parfocal.client.results import result_uri

    if (model is None) == (prediction is None):
        raise click.UsageError("Name either a model (--model) or a folder of predicted images (--prediction).")
    if (dataset is None) == (images is None):
        raise click.UsageError("Name either a dataset (--dataset) or images without targets (--images).")
    if method is not None and prediction is None:
        raise click.UsageError("--method says how to judge the images of --prediction; a model brings its own.")
    if method is None and prediction is not None and dataset is not None:
        raise click.UsageError("Say with --method how to judge the images, e.g. --method restoration.")
    if again and (model is None or dataset is None):
        raise click.UsageError(
            "--again belongs to --model with --dataset, whose predictions are kept. Images of this computer are "
            "uploaded and judged anew each time: leave it out."
        )
    _work.check_evaluation_output(output, overwrite=overwrite)
    with app.client() as client:
        if images is not None:
            job = _judge_without_targets(app, client, images, model, prediction, method, parameters)
        else:
            job = _judge_by_dataset(app, client, str(dataset), model, prediction, method, parameters, again=again)
        uri = result_uri(job)
        if output is not None:
            _work.download_evaluation(client, job, output, overwrite=overwrite)
        if app.json:
            verdict, values = _work.evaluation_json(client, job)
            print_json({"job": _work.job_json(job), **values})
        else:
            verdict = _work.show_evaluation(client, job)
            if output is not None:
                print_fields({"Report": str(output / "report.pdf"), "Results": str(output)})
            else:
                print_fields({"Results": uri, "Report": f"parfocal jobs download {job.id} --output FOLDER"})
        _work.require_pass(verdict, require_pass)


def _judge_by_dataset(
    app: App,
    client: Client,
    dataset: str,
    model: str | None,
    prediction: Path | None,
    method: str | None,
    parameters: tuple[str, ...],
    *,
    again: bool,
) -> v1.Job:
    from parfocal.client.datasets import read_dataset
    from parfocal.runtime.errors import InvalidInputError

    manifest = read_dataset(client, dataset)
    if not manifest.can_be_judged_by("test"):
        raise InvalidInputError(
            f"The dataset {manifest.dataset!r} (version {manifest.version}) has no test images with targets to judge "
            "by. Create it again with pairs in test/source and test/target."
        )
    if model is not None:
        return _judge_model(app, client, model, manifest, parameters, again=again)
    assert prediction is not None
    return _judge_images(app, client, prediction, str(method), manifest, parameters)


def _judge_without_targets(
    app: App,
    client: Client,
    images: Path,
    model: str | None,
    prediction: Path | None,
    name: str | None,
    parameters: tuple[str, ...],
) -> v1.Job:
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.cli._progress import transfer
    from parfocal.client.models import read_model
    from parfocal.client.parameters import parse_parameters, schema_of
    from parfocal.client.predictions import publish_predicted_images
    from parfocal.client.quality import evaluation_method
    from parfocal.client.requests import evaluation_request
    from parfocal.client.results import find_inputs
    from parfocal.runtime.errors import InvalidInputError

    summary = None if model is None else read_model(client, model)
    task = v1.TASK_RESTORATION if summary is None else client.method(summary.manifest.method).task
    method = evaluation_method(client, task, targets=False)
    if method is None or name not in {None, method.name}:
        what = name or (summary.manifest.method if summary is not None else "restored images")
        raise InvalidInputError(
            f"There is no quality control without targets for {what}: make a dataset with test images and their "
            "targets, and judge by it (--dataset)."
        )
    values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_EVALUATION), parameters)
    if summary is not None:
        paths = find_inputs(images)
        say_passed_over(images)
        paths, _ = check_inputs(client.method(summary.manifest.method), summary.manifest, paths)
        predicting = _work.start_prediction(client, summary, paths)
        uri = _work.output_uri(_work.finish(app, client, predicting, "Predicting"), "result")
    else:
        assert prediction is not None
        with transfer("Uploading") as on_progress:
            uri = publish_predicted_images(client, prediction, images, on_progress=on_progress)
    job = client.start(evaluation_request(method.name, uri, "", values, split=""))
    return _work.finish(app, client, job, "Quality control")


def _judge_model(
    app: App, client: Client, model: str, dataset: DatasetManifest, parameters: tuple[str, ...], *, again: bool
) -> v1.Job:
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.client.models import read_model
    from parfocal.client.parameters import parse_parameters, schema_of
    from parfocal.client.quality import evaluation_method_by, judge_model
    from parfocal.runtime.errors import UnavailableError

    summary = read_model(client, model)
    method = evaluation_method_by(client, client.method(summary.manifest.method).task, dataset)
    if method is None:
        raise UnavailableError(
            f"No service offers quality control for models of {summary.manifest.method}. Check that the QC service "
            "runs (`parfocal status`)."
        )
    values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_EVALUATION), parameters)
    uri = client.dataset_uri(f"{dataset.dataset}:{dataset.version}")
    doer = _work.CommandDoer(app, client, again=again)
    return judge_model(client, doer, method, summary.uri, uri, parameters=values, again=again)


def _judge_images(
    app: App, client: Client, folder: Path, name: str, dataset: DatasetManifest, parameters: tuple[str, ...]
) -> v1.Job:
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.cli._progress import transfer
    from parfocal.client.parameters import parse_parameters, schema_of
    from parfocal.client.predictions import publish_prediction
    from parfocal.client.requests import evaluation_request
    from parfocal.runtime.errors import InvalidInputError

    method = client.method(name)
    if method.task == v1.TASK_DATASET:
        raise InvalidInputError(
            f"{name} judges a dataset by itself, not predictions: `parfocal dataset check {dataset.dataset} --qc`."
        )
    if method.data_requirements.target == v1.TARGET_KIND_NONE:
        raise InvalidInputError(f"{name} judges without targets: name the inputs with --images, not a dataset.")
    if v1.JOB_KIND_EVALUATION not in method.job_kinds:
        offered = (
            each.name
            for info in client.services()
            for each in info.methods
            if v1.JOB_KIND_EVALUATION in each.job_kinds and each.data_requirements.target != v1.TARGET_KIND_NONE
        )
        raise InvalidInputError(f"{name} does not judge images. Methods that do: {', '.join(sorted(offered))}.")
    values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_EVALUATION), parameters)
    with transfer("Uploading") as on_progress:
        prediction = publish_prediction(client, folder, dataset, on_progress=on_progress)
    uri = client.dataset_uri(f"{dataset.dataset}:{dataset.version}")
    job = client.start(evaluation_request(method.name, prediction, uri, values))
    return _work.finish(app, client, job, "Quality control")
