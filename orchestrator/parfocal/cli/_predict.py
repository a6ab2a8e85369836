"""`parfocal predict`: apply a model to images."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import App, Command, current_app
from parfocal.cli._formats import FORMATS, formats_of
from parfocal.cli._parts import PARTS, part_of, with_options
from parfocal.cli._train import PARAMETERS

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.client import Client
    from parfocal.client.convert import Part
    from parfocal.client.exports import Formats
    from parfocal.client.models import ModelSummary
    from parfocal.client.steps import PlannedStep
    from parfocal.runtime.errors import Violation
    from parfocal.runtime.images.taken import Taken
    from parfocal.runtime.store.manifests import ModelManifest
    from parfocal.runtime.store.verdicts import Verdict

_PAUSE_SECONDS = 1.0
AXES = click.option(
    "--axes",
    default="",
    metavar="LETTERS",
    help="What the axes of the images are, e.g. ZYX for volumes or TYX for time-lapses, where files declare others.",
)
THEN = click.option(
    "--then",
    multiple=True,
    metavar="NAME[:VERSION]",
    help="A further model, applied to what the one before has made; its parameters are -p 2.NAME=VALUE. Repeat for "
    "more.",
)
KEEP_STEPS = click.option(
    "--keep-steps", is_flag=True, help="With --then: keep what the models before the last one make too, below steps/."
)
DIVIDED = click.option(
    "--parts",
    type=click.IntRange(0, 64),
    default=0,
    metavar="N",
    help="Divide each image into N parts, which as many jobs predict at the same time and a last one merges; 1: never. "
    "By default one part for each GPU of the service, for images of more than 268 million pixels alone.",
)
UNLIKE = click.option(
    "--unlike",
    type=click.Choice(["warn", "stop", "ignore"]),
    default="warn",
    show_default=True,
    help="For a folder in the store: what to do about images that differ from the training data. `stop` predicts a "
    "sample first, and nothing else if most of it differs.",
)


@click.command(cls=Command, short_help="Apply a model to images.")
@click.argument("input")
@click.option("--model", required=True, metavar="NAME[:VERSION]", help="The model to apply.")
@click.option("--output", required=True, metavar="FOLDER", help="Where the results go.")
@THEN
@PARAMETERS
@AXES
@with_options(*PARTS)
@KEEP_STEPS
@UNLIKE
@DIVIDED
@with_options(*FORMATS)
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")
@click.option("--detach", is_flag=True, help="Do not wait for the end; download later with `parfocal jobs download`.")
@click.option(
    "--require-pass", is_flag=True, help="Do nothing (exit code 5) unless the model has passed quality control."
)
def predict(
    input: str,
    model: str,
    output: str,
    then: tuple[str, ...],
    parameters: tuple[str, ...],
    axes: str,
    scene: str,
    channels: tuple[str, ...],
    planes: str,
    frames: str,
    wells: tuple[str, ...],
    keep_steps: bool,
    unlike: str,
    parts: int,
    images: str,
    tables: str,
    overwrite: bool,
    detach: bool,
    require_pass: bool,
) -> None:
    """Apply a model to INPUT, an image, a folder of images, or a plate (OME-Zarr).

    Results have the names of the inputs and end in .tif, or in .ome.zarr if you ask for that (--images); existing files
    are never replaced unless you say so. Images that do not suit the model are named before anything is uploaded.

    Where INPUT is a folder in the store (s3://…), FOLDER is one too. Its images, those of its sub-folders too, are
    predicted in jobs of some minutes, four at a time; repeated, the command does what is new, missing or failed.

    A very large image is predicted by several jobs (--parts), if there are several GPUs. Repeated after an
    interruption, the command goes on with what they have done.

    With --then a second model is applied to what the first one has made, for example CARE --then StarDist.

    The parameters (-p) are those of prediction: `parfocal methods METHOD` lists them for the model's method.
    """
    from parfocal.runtime.errors import InvalidInputError

    part = part_of(scene, channels, planes, frames, wells)
    formats = formats_of(images, tables)
    if input.startswith("s3://"):
        if axes or overwrite or scene or wells or (images, tables) != ("tiff", "csv"):
            raise InvalidInputError(
                "--axes, --scene, --well, --images, --tables and --overwrite are for images of this computer. Images "
                "in the store have the axes that their files declare, each of them is predicted once, and "
                "`parfocal jobs download` chooses the formats of results."
            )
        if parts > 1:
            raise InvalidInputError(
                "--parts is for images of this computer. A folder in the store is predicted in several jobs anyway, "
                "each of them some of its images."
            )
        _predict_stored(
            input,
            (model, *then),
            output,
            parameters,
            part.taken,
            {"keep_steps": keep_steps, "unlike": unlike},
            detach=detach,
            require_pass=require_pass,
        )
        return
    if unlike == "stop":
        raise InvalidInputError(
            "--unlike stop is for a folder in the store. Images of this computer are compared with the training data "
            "while they are predicted."
        )
    if parts > 1 and detach:
        raise InvalidInputError(
            "--detach cannot go with --parts: the command has the parts merged when all of them are done."
        )
    if then and detach:
        raise InvalidInputError(
            "--detach cannot go with --then: the command starts each step when the one before ends."
        )
    _predict_files(
        Path(input),
        (model, *then),
        Path(output),
        parameters,
        axes=axes,
        part=part,
        formats=formats,
        keep_steps=keep_steps,
        parts=1 if detach else parts,
        overwrite=overwrite,
        detach=detach,
        require_pass=require_pass,
    )


def _predict_stored(
    source: str,
    models: Sequence[str],
    output: str,
    parameters: tuple[str, ...],
    taken: Taken,
    options: Mapping[str, Any],
    *,
    detach: bool,
    require_pass: bool,
) -> None:
    """Have a workflow predict what is new in a folder of the store."""
    app = current_app()
    from parfocal.cli import _work
    from parfocal.cli._errors import DETACHED
    from parfocal.cli._render import print_json, say
    from parfocal.client.steps import plan_steps
    from parfocal.flows.schedules import ENDED, Schedules, start_once
    from parfocal.runtime.errors import PreconditionError
    from parfocal.runtime.store.confinement import check_folders
    from parfocal.runtime.store.store import Location

    check_folders(Location.parse(source), Location.parse(output))
    schedules = Schedules(app.prefect())
    with app.client() as client:
        steps = plan_steps(client, models, parameters)
        for step in steps:
            say_verdict(step.model)
            _work.require_pass(step.model.verdict, require_pass)
        say_taken(client, steps, taken)
        run = start_once(client, schedules, steps, source, output, taken=taken, options=options)
    say(f"Flow run {run}")
    state = message = ""
    try:
        while not detach and state not in ENDED:
            time.sleep(_PAUSE_SECONDS)
            before = state
            state, message = schedules.state(run)
            if state != before:
                say(f"The workflow is {state.lower()}.")
    except KeyboardInterrupt:
        say("The workflow continues without this command; Prefect's pages show and cancel it.")
        raise click.exceptions.Exit(DETACHED) from None
    if app.json:
        print_json({"flow_run": run, "state": state.lower(), "message": message, "output": output})
    if state in {"FAILED", "CANCELLED"}:
        raise PreconditionError(message or f"The flow run {run} was {state.lower()}.")
    if not app.json:
        say(f"{message} Results: {output}".strip())


def _predict_files(
    input: Path,
    models: Sequence[str],
    output: Path,
    parameters: tuple[str, ...],
    *,
    axes: str,
    part: Part,
    formats: Formats,
    keep_steps: bool,
    parts: int,
    overwrite: bool,
    detach: bool,
    require_pass: bool,
) -> None:
    """Upload images of this computer, predict them, and download the results."""
    app = current_app()
    from parfocal.cli import _work
    from parfocal.cli._predict_parts import predict_in_parts
    from parfocal.cli._render import print_json, say
    from parfocal.client.parts import choose_parts
    from parfocal.client.requests import prediction_request
    from parfocal.client.results import find_inputs, most_pixels, result_uri, taken_in_training
    from parfocal.client.steps import plan_steps

    axes = check_axes(axes)
    paths = find_inputs(input, part.wells)
    say_passed_over(input)
    _refuse_to_replace(paths, output, formats.image_suffix, overwrite=overwrite)
    with app.client() as client:
        first, *further = steps = plan_steps(client, models, parameters)
        for step in steps:
            say_verdict(step.model)
            _work.require_pass(step.model.verdict, require_pass)
            if "weights" in step.parameters:
                step.model.manifest.weights_named(step.parameters["weights"])
        if not part.of_images:
            taken, words = taken_in_training(client, first.model.manifest, paths, axes)
            if taken:
                say(f"Taken of each file that has it, as for the training: {words} ({taken.options}).")
                part = replace(taken, wells=part.wells)
        paths, left_out = check_inputs(first.method, first.model.manifest, paths, axes, part)
        parts = parts or choose_parts(most_pixels(paths, axes, part), lambda: client.devices(first.method.name))
        if parts > 1:
            job = predict_in_parts(app, client, first, paths, parts, axes=axes, part=part)
        else:
            job = _work.start_prediction(client, first.model, paths, first.parameters, axes=axes, part=part)
        if detach:
            if app.json:
                print_json({"job": _work.job_json(job)})
            else:
                say(f"Get the results later: parfocal jobs download {job.id} --output {output}")
            return
        job = _finish(app, client, job, output)
        for number, step in enumerate(further, 2):
            left_out += _not_made(client, job)
            if keep_steps:
                kept = output / "steps" / f"{number - 1}-{steps[number - 2].name.replace(':', '-')}"
                _keep_step(client, job, formats, kept)
            say(f"Step {number}: {step.name}")
            request = prediction_request(step.model.uri, result_uri(job), step.parameters)
            job = _finish(app, client, _work.start_or_join(client, request, again=True), output)
        collect(app, client, job, output, steps[-1].model.verdict, formats, overwrite=overwrite, left_out=left_out)


def _not_made(client: Client, job: v1.Job) -> list[Violation]:
    """Return the images that a step has made nothing of, with the reasons."""
    from parfocal.client.results import read_result
    from parfocal.runtime.errors import Violation

    return [Violation(image.input, image.reason) for image in read_result(client, job).images if image.reason]


def _keep_step(client: Client, job: v1.Job, formats: Formats, folder: Path) -> None:
    """Download what a step has made; what an earlier command kept there is replaced."""
    from parfocal.cli._progress import transfer
    from parfocal.client.results import download_result

    with transfer("Downloading") as on_progress:
        download_result(client, job, folder, overwrite=True, formats=formats, on_progress=on_progress)


def collect(
    app: App,
    client: Client,
    job: v1.Job,
    output: Path,
    verdict: Verdict,
    formats: Formats,
    *,
    overwrite: bool,
    left_out: Sequence[Violation] = (),
) -> None:
    """Download the results of a prediction and say what became of each input; `left_out` were not uploaded."""
    from parfocal.cli._progress import transfer
    from parfocal.cli._render import print_fields, print_json, warn
    from parfocal.cli._work import job_json
    from parfocal.client.results import download_result, read_result
    from parfocal.runtime.store.manifests import ResultFile

    with transfer("Downloading") as on_progress:
        files = download_result(client, job, output, overwrite=overwrite, formats=formats, on_progress=on_progress)
    result = read_result(client, job)
    unread = [ResultFile(input=each.field, input_sha256="", reason=each.description) for each in left_out]
    images = [*result.images, *unread]
    done = [image for image in images if not image.reason]
    for image in images:
        if image.clipped_fraction:
            warn(
                f"{image.input}: {100 * image.clipped_fraction:.2g} % of the pixels were clipped to the input's range."
            )
    if app.json:
        print_json(
            {
                "job": job_json(job),
                "verdict": {"state": verdict.state, "reasons": list(verdict.reasons)},
                "images": [image.model_dump() for image in images],
                "files": [str(path) for path in files],
            }
        )
        return
    found = {
        name: sum(image.metrics.get(name, 0) for image in done)
        for name in ("objects", "detections", "localisations")
        if any(name in image.metrics for image in done)
    }
    print_fields(
        {
            "Images": f"{len(done)} of {len(images)} predicted",
            **{name.capitalize(): f"{count:.0f} found" for name, count in found.items()},
            "Results": str(output),
            "Left out": "; ".join(f"{image.input}: {image.reason}" for image in images if image.reason),
        }
    )


def check_axes(axes: str) -> str:
    """Return the axes that somebody gives in capitals; raise InvalidInputError unless they are some of an image."""
    from parfocal.runtime.datasets.folder import check_axes

    if axes:
        check_axes(axes.upper())
    return axes.upper()


def say_passed_over(folder: Path) -> None:
    """Name the files of a folder that are no images of a known kind."""
    from parfocal.cli._render import warn
    from parfocal.client.results import passed_over
    from parfocal.runtime.datasets.findings import some

    if names := passed_over(folder):
        warn(f"Files and folders that are no images of a known kind were passed over: {len(names)} ({some(names)}).")


def check_inputs(
    method: v1.Method, model: ModelManifest, paths: Sequence[Path], axes: str = "", part: Part | None = None
) -> tuple[list[Path], list[Violation]]:
    """Return the images that a model can be applied to, and what is wrong with the others, which are named.

    If there are only others they are refused.
    """
    from parfocal.cli._render import warn
    from parfocal.client.convert import WHOLE
    from parfocal.client.results import unsuitable_inputs
    from parfocal.runtime.errors import refusal

    unfit = unsuitable_inputs(method, model, paths, axes, part or WHOLE)
    problems = list(unfit.values())
    name = f"{model.model}:{model.version}"
    if len(problems) == len(paths):
        raise refusal(f"The model {name} cannot be applied to these images; nothing was uploaded:", problems)
    if problems:
        left = f"{len(problems)} of {len(paths)} images will be left out: the model {name} cannot be applied to them."
        warn(refusal(left, problems).message)
    return [path for path in paths if path not in unfit], problems


def _finish(app: App, client: Client, job: v1.Job, output: Path) -> v1.Job:
    from parfocal.cli._errors import DETACHED
    from parfocal.cli._render import say
    from parfocal.cli._work import finish

    try:
        return finish(app, client, job, "Predicting")
    except click.exceptions.Exit as end:
        if end.exit_code == DETACHED:
            say(f"  results:    parfocal jobs download {job.id} --output {output}")
        raise


def say_taken(client: Client, steps: Sequence[PlannedStep], taken: Taken) -> None:
    """Say what is taken of the images of a folder in the store, where it is not all of them."""
    from parfocal.cli._render import say
    from parfocal.flows.schedules import taken_words

    if words := taken_words(client, steps[0].model.uri, taken):
        say(f"Taken of each image that has it: {words}.")


def say_verdict(model: ModelSummary) -> None:
    """Say what quality control found of a model that is applied, reason by reason."""
    from parfocal.cli._render import say, say_points, warn
    from parfocal.cli._work import say_unchecked

    verdict = model.verdict
    tell = say if verdict.state == "passed" else warn
    tell(f"{verdict.sentence.partition(':')[0].removesuffix('.')}{':' if verdict.reasons else '.'}")
    say_points(verdict.reasons)
    if verdict.state != "passed":
        say_unchecked(model)


def _refuse_to_replace(paths: Sequence[Path], output: Path, suffix: str, *, overwrite: bool) -> None:
    from parfocal.client.results import input_stem
    from parfocal.client.transfer import check_output
    from parfocal.runtime.errors import InvalidInputError

    targets = [output / f"{input_stem(path)}{suffix}" for path in paths]
    # Accented letters may be stored in two ways, which some file systems take for the same name.
    inputs = {unicodedata.normalize("NFC", str(path.resolve())) for path in paths}
    if any(unicodedata.normalize("NFC", str(target.resolve())) in inputs for target in targets):
        raise InvalidInputError(
            f"The results would replace the images in {output}, because they get the same names. Choose another folder."
        )
    check_output(output, [target.name for target in targets], overwrite=overwrite)
