"""`parfocal demo`: everything once, with simulated images or with your own."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parfocal.cli._app import App, Command, current_app
from parfocal.cli._demo_files import bring, check_place
from parfocal.cli._train import PARAMETERS, REQUIRE_PASS

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.client import Client
    from parfocal.stack.connection import StackConnection

_NAME = "demo"
# Not the seed of the images on which the values below were chosen.
_TRAIN, _TEST, _SIZE, _SEED = 12, 6, 256, 1
_IMAGES, _QC = "images", "qc"
_HELD_OUT = 5  # of the user's pairs without test images, every fifth is held out


@click.command(cls=Command, short_help="Try everything once, in about five minutes.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="FOLDER", help="Your own image pairs instead of example images."
)
@click.option(
    "--method",
    default="care-2d",
    show_default=True,
    metavar="NAME",
    help="Which method to try: `parfocal methods` lists them.",
)
@click.option(
    "--minutes", default=2.0, show_default=True, type=click.FloatRange(min=0.01), help="How long to train at most."
)
@click.option(
    "--output",
    default="parfocal-demo",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where report, tables and predicted images go. Those of an earlier demo are removed, your own files never.",
)
@click.option(
    "--preset", default="quick", show_default=True, metavar="NAME", help="Which preset of the method to train with."
)
@PARAMETERS
@REQUIRE_PASS
def demo(
    data: Path | None,
    method: str,
    minutes: float,
    output: Path,
    preset: str,
    parameters: tuple[str, ...],
    require_pass: bool,
) -> None:
    """Train a model, have it judged and apply it, in about five minutes.

    Starts Parfocal on this computer if it does not run, and leaves it running. FOLDER is laid out as for `parfocal
    dataset create`; without test images, every fifth pair is held out for quality control.
    """
    app = current_app()
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.cli._progress import transfer
    from parfocal.cli._render import say, warn
    from parfocal.cli._train import judge, show_model
    from parfocal.client.datasets import check_folder, create_dataset
    from parfocal.client.parameters import parse_parameters, preset_values, schema_of
    from parfocal.client.requests import training_request

    check_place(output, (_IMAGES, _QC))
    _ensure_running(app, method)
    with app.client() as client:
        description = client.method(method)
        say("1. The images")
        with _pairs(data, client, description) as (folder, axes):
            report = check_folder(folder, axes)
            schema = schema_of(description, v1.JOB_KIND_TRAINING)
            values = preset_values(description, preset)
            values |= parse_parameters(description.title, schema, parameters)
            with transfer("   Uploading") as on_progress:
                dataset = create_dataset(client, _NAME, folder, axes=axes, on_progress=on_progress)
        for text in report.warnings:
            warn(text)
        say(f"   {len(report.train)} pairs for training, {len(report.test)} for testing")
        dataset_uri = client.dataset_uri(f"{_NAME}:{dataset.version}")

        say(f"2. Training {description.title} for {minutes:g} minutes at most")
        request = training_request(method, dataset_uri, _NAME, values)
        job = _train_for(app, client, _work.start_or_join(client, request, again=True), 60 * minutes)
        model_uri = _work.output_uri(job, "model")
        if not app.json:
            show_model(client, model_uri)

        say("3. Quality control")
        doer = _work.CommandDoer(app, client, again=False, training=job)
        evaluation = judge(client, doer, description, model_uri, dataset_uri)

        say("4. Applying the model")
        applied = _apply(app, client, model_uri, dataset_uri, tested=bool(report.test))
        bring(client, output, {_IMAGES: applied} | ({_QC: evaluation} if evaluation is not None else {}))
        _conclude(app, client, job, model_uri, evaluation, output, require_pass=require_pass)


@contextmanager
def _pairs(data: Path | None, client: Client, description: v1.Method) -> Iterator[tuple[Path, str]]:
    """Give a folder of pairs with test images, and their axes: examples, the user's, or links to the user's."""
    axes = description.data_requirements.axes
    with tempfile.TemporaryDirectory(prefix="parfocal-demo-") as scratch:
        if data is None:
            _write_examples(client, description, Path(scratch))
            yield Path(scratch), axes
        elif (data / "source").is_dir() and not (data / "train").is_dir():
            yield _hold_out(data, Path(scratch)), axes
        else:
            yield data, axes


def _write_examples(client: Client, description: v1.Method, folder: Path) -> None:
    """Write the images that a service brings to be tried with; without them, simulated ones where they suit."""
    from parfocal import v1
    from parfocal.cli._modules import run_module, service_of
    from parfocal.cli._progress import waiting
    from parfocal.cli._render import say
    from parfocal.demo.simulate import write_dataset
    from parfocal.runtime.errors import InvalidInputError

    done = run_module(service_of(client, description.name), "example", str(folder), description.name)
    if done is not None and done.returncode:
        raise InvalidInputError(f"The example images of {description.title} cannot be written: {done.stderr[-500:]}")
    if any(folder.iterdir()):
        say(f"   Example images of {description.title}")
        return
    requirements = description.data_requirements
    # Pairs are good enough for methods that do not look at who belongs to whom, or that are only judged by targets.
    if requirements.axes != "YX" or requirements.target not in {
        v1.TARGET_KIND_PAIRED_IMAGE,
        v1.TARGET_KIND_UNPAIRED_IMAGE,
        v1.TARGET_KIND_NONE,
    }:
        raise InvalidInputError(f"{description.title} has no example images. Give your own with --data FOLDER.")
    with waiting("Simulating fluorescence images"):
        write_dataset(folder, _TRAIN, _TEST, _SIZE, _SEED)


def _hold_out(data: Path, folder: Path) -> Path:
    """Return a folder of links in which every fifth pair of `data` is a test image; `data` if there are too few."""
    from parfocal.runtime.datasets.pairs import find_images

    stems = list(find_images(data / "source"))
    if len(stems) < _HELD_OUT:
        return data
    test = set(stems[_HELD_OUT - 1 :: _HELD_OUT])
    for role in ("source", "target"):
        if not (data / role).is_dir():
            continue
        for stem, path in find_images(data / role).items():
            link = folder / ("test" if stem in test else "train") / role / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return folder


def _ensure_running(app: App, method: str) -> None:
    """Start what does not run: all of Parfocal, or services that were installed since, if one may offer `method`."""
    from parfocal.cli._stack import start_stack
    from parfocal.runtime.errors import NotFoundError

    if app.explicit or app.services:
        return
    if app.connection() is not None:
        with app.client() as client:
            try:
                client.method(method)
            except NotFoundError:
                pass
            else:
                return
    start_stack(app, ())


def _train_for(app: App, client: Client, job: v1.Job, seconds: float) -> v1.Job:
    """Follow a training; on a slow computer end it after so many seconds, keeping its best weights."""
    from parfocal.cli._render import warn
    from parfocal.cli._work import finish

    began: list[float] = []
    asked = False

    def fraction(job: v1.Job) -> tuple[float, float]:
        spent = time.monotonic() - began[0] if began else 0.0
        left = max(seconds - spent, 0.0)
        own = job.progress.fraction
        # Whichever comes first: the time is up, or all epochs are done.
        return max(min(spent / seconds, 1.0), own), min(left, job.progress.seconds_left or left) if began else 0.0

    def on_report(job: v1.Job) -> None:
        nonlocal asked
        if not began and job.progress.stage == "training":
            began.append(time.monotonic())
        if began and not asked and job.progress.epoch and time.monotonic() - began[0] > seconds:
            asked = True
            client.cancel(job.id, keep_best=True, why="the time of the demo was up")

    job = finish(app, client, job, "Training", on_report=on_report, fraction=fraction)
    if asked:
        warn(
            f"The time was up after {job.progress.epoch} of {job.progress.epochs} epochs, so the model may well fail "
            "quality control. A larger --minutes lets it finish."
        )
    return job


def _page_of(app: App, connection: StackConnection, model_uri: str) -> str:
    """Return the address of the demo's model in the portal; without a portal that of Prefect's pages."""
    if not connection.portal_url:
        return connection.prefect_url or ""
    name, version = model_uri.rstrip("/").split("/")[-2:]
    return f"{connection.portal_url}/p/{app.project or 'default'}/models/{name}/{version}"


def _apply(app: App, client: Client, model_uri: str, dataset_uri: str, *, tested: bool) -> v1.Job:
    """Predict the test images, or the training images if there are none; return the job."""
    from parfocal.cli import _work
    from parfocal.client.requests import prediction_request

    split = "test" if tested else "train"
    request = prediction_request(model_uri, dataset_uri, split=split)
    return _work.finish(app, client, _work.start_or_join(client, request, again=True), "Predicting")


def _conclude(
    app: App,
    client: Client,
    job: v1.Job,
    model_uri: str,
    evaluation: v1.Job | None,
    output: Path,
    *,
    require_pass: bool,
) -> None:
    from parfocal.cli import _work
    from parfocal.cli._render import print_fields, print_json, say
    from parfocal.runtime.store.verdicts import Verdict

    verdict = Verdict("unchecked")
    figure, qc, applied = "", output / _QC, str(output / _IMAGES)
    values = {"job": _work.job_json(job), "model": model_uri, "images": applied, "evaluation": None}
    if evaluation is not None:
        figure = str(qc / "figure.png")
        if app.json:
            verdict, judged = _work.evaluation_json(client, evaluation)
            values["evaluation"] = {**judged, "figure": figure}
        else:
            verdict = _work.show_evaluation(client, evaluation)
    connection = app.connection()
    if app.json:
        print_json(values)
    else:
        print_fields(
            {
                "Figure": figure,
                "Report": str(qc / "report.pdf") if figure else "",
                "Tables, maps": str(qc) if figure else "",
                "Images": applied,
                "Browser": _page_of(app, connection, model_uri) if connection else "",
            }
        )
        if connection is not None:
            command = "parfocal" if shutil.which("parfocal") else sys.argv[0]
            say(f"Parfocal goes on running. Stop it with `{command} down`.")
    _work.require_pass(verdict, require_pass)
