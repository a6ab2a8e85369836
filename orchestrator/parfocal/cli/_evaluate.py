"""`parfocal evaluate`: judge a model by test images."""

from __future__ import annotations

from pathlib import Path

import click

from parfocal.cli._app import Command, current_app
from parfocal.cli._train import PARAMETERS, REQUIRE_PASS


@click.command(cls=Command, short_help="Judge a model by test images.")
@click.option("--model", required=True, metavar="NAME[:VERSION]", help="The model to judge.")
@click.option("--dataset", required=True, metavar="NAME[:VERSION]", help="Whose test images to judge it by.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Download figure, maps and tables.")
@PARAMETERS
@click.option("--again", is_flag=True, help="Predict and score again even if there is a result.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")
@REQUIRE_PASS
def evaluate(
    model: str,
    dataset: str,
    output: Path | None,
    parameters: tuple[str, ...],
    again: bool,
    overwrite: bool,
    require_pass: bool,
) -> None:
    """Judge a model by images it has not learnt from, beside the plain input and a Gaussian filter.

    The parameters (-p) are the thresholds of the verdict: `parfocal methods restoration` lists them.
    """
    app = current_app()
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.cli._parameters import parse_parameters, schema_of
    from parfocal.cli._render import print_fields, print_json, say
    from parfocal.client.datasets import read_dataset
    from parfocal.client.models import read_model, verdict_of
    from parfocal.client.results import read_result, result_uri
    from parfocal.runtime.errors import InvalidInputError, UnavailableError

    with app.client() as client:
        summary = read_model(client, model)
        manifest = read_dataset(client, dataset)
        dataset_uri = client.dataset_uri(f"{manifest.dataset}:{manifest.version}")
        if not manifest.select("test", "target"):
            raise InvalidInputError(
                f"The dataset {manifest.dataset!r} (version {manifest.version}) has no test images to judge by. Create "
                "it again with pairs in test/source and test/target."
            )
        method = _work.evaluation_method(client, client.method(summary.manifest.method).task)
        if method is None:
            raise UnavailableError(
                f"No service offers quality control for models of {summary.manifest.method}. Check that the QC service "
                "runs (`parfocal status`)."
            )
        values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_EVALUATION), parameters)
        job = _work.run_evaluation(app, client, method, summary.uri, dataset_uri, parameters=values, again=again)
        uri = result_uri(job)
        if output is not None:
            _work.download_evaluation(client, job, output, overwrite=overwrite)
        if app.json:
            result = read_result(client, job)
            verdict = verdict_of(result.verdict, job.id, uri)
            print_json(
                {
                    "job": _work.job_json(job),
                    "uri": uri,
                    "verdict": result.verdict,
                    "summary": _work.evaluation_summary(client, result, uri),
                }
            )
        else:
            verdict = _work.show_evaluation(client, job)
            if output is not None:
                print_fields({"Figure": str(output / "figure.png"), "Results": str(output)})
            else:
                print_fields({"Figure": f"{uri}/figure.png", "Results": uri})
                say(f"Download them: parfocal jobs download {job.id} --output FOLDER")
        _work.require_pass(verdict, require_pass)
