"""`parfocal compare`: which of several models is better on the same test images, and whether that is chance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from parfocal.cli._app import Command, current_app
from parfocal.cli._train import PARAMETERS


@click.command(cls=Command, short_help="Tell which of several models is better.")
@click.argument("models", nargs=-1, metavar="MODEL[:VERSION]…")
@click.option("--dataset", default="", metavar="NAME[:VERSION]", help="On whose images to compare the models.")
@click.option(
    "--split",
    type=click.Choice(("test", "train")),
    default="test",
    show_default=True,
    help="Which part of the dataset; models know the training images, which shows nothing.",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    metavar="JOB",
    help="Also compare what this job of `parfocal evaluate` has scored; repeat for more.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Download figures and tables.")
@PARAMETERS
@click.option(
    "--again", is_flag=True, help="Have the models predict and be scored again even if there are results of them."
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")
def compare(
    models: tuple[str, ...],
    dataset: str,
    split: str,
    evaluations: tuple[str, ...],
    output: Path | None,
    parameters: tuple[str, ...],
    again: bool,
    overwrite: bool,
) -> None:
    """Compare two models or more on the same images, and say which difference is more than chance.

    \b
      parfocal compare beads:1 beads:2 --dataset beads

    Each model predicts the test images and is scored, unless that has been done before. The scores are compared
    image by image, beside those of the plain input and a simple filter. A difference counts as real if Wilcoxon's
    test says so after correction for the number of comparisons; with few images nothing can be shown, and the
    answer says how many it takes.

    The parameters (-p) are those of the comparison: `parfocal methods restoration` lists them.
    """  # noqa: D301 - click's mark for kept line ends
    app = current_app()
    from parfocal import v1
    from parfocal.cli import _work
    from parfocal.cli._render import print_fields, print_json
    from parfocal.client.comparisons import check_candidates, plan_comparison
    from parfocal.client.comparisons import compare as compare_all
    from parfocal.client.parameters import parse_parameters, schema_of
    from parfocal.client.quality import published_summary
    from parfocal.client.results import read_result, result_uri
    from parfocal.runtime.errors import InvalidInputError

    try:
        check_candidates(models, evaluations, dataset)
    except InvalidInputError as error:
        raise click.UsageError(
            f"{error.message} For example: parfocal compare MODEL MODEL --dataset NAME, or with --evaluation JOB for "
            "what has been scored already."
        ) from error
    if again and not models:
        raise click.UsageError("--again has models predict anew, and only evaluations are named: leave it out.")
    _work.check_evaluation_output(output, overwrite=overwrite)
    with app.client() as client:
        plan = plan_comparison(client, models, evaluations, dataset, split)
        values = parse_parameters(plan.method.title, schema_of(plan.method, v1.JOB_KIND_COMPARISON), parameters)
        job = compare_all(client, _work.CommandDoer(app, client, again=again), plan, values, again=again)
        uri = result_uri(job)
        if output is not None:
            _work.download_evaluation(client, job, output, overwrite=overwrite)
        result = read_result(client, job)
        summary = published_summary(client, uri)
        if app.json:
            print_json({"job": _work.job_json(job), "uri": uri, "summary": summary})
            return
        show_comparison(summary)
        if output is None:
            print_fields({"Results": uri, "Report": f"parfocal jobs download {job.id} --output FOLDER"})
            return
        pictures = sorted(entry.public_name for entry in result.files if entry.public_name.startswith("images"))
        print_fields(
            {
                "Report": str(output / "report.pdf"),
                "Figure": str(output / "figure.png"),
                "Best, worst": ", ".join(str(output / name) for name in pictures),
                "Tables": f"{output / 'comparison.csv'}, {output / 'tests.csv'}",
            }
        )


def show_comparison(summary: Mapping[str, Any]) -> None:
    """Print what a comparison says."""
    from parfocal.cli._render import print_table, print_text, say
    from parfocal.client.comparisons import difference_rows, mean_rows, ranking_sentence

    several = len(summary["metrics"]) > 1
    for target in summary["metrics"]:
        begin = f"{target}: " if several else ""
        count = summary["images"]
        means = mean_rows(summary, target)
        headings = list(means[0])
        title = f"{begin}mean and interval over {count} image{'' if count == 1 else 's'}"
        print_table(headings, [tuple(row.values()) for row in means], title=title, numbers=headings[1:])
        differences = difference_rows(summary, target)
        print_table(
            list(differences[0]),
            [tuple(row.values()) for row in differences],
            title=f"{begin}differences, image by image",
            numbers=("Difference", "Interval", "Wilcoxon", "corrected"),
        )
        say(ranking_sentence(summary, target))
    for sentence in summary["sentences"]:
        print_text(f"  - {sentence}")
