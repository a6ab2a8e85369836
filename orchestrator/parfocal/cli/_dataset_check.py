"""What `parfocal dataset check` does: look at a folder, at a stored dataset, or have quality control look at one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal.cli import _work
from parfocal.cli._app import App
from parfocal.cli._render import print_fields, print_json, print_table, print_text, say, warn
from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from parfocal.client import Client
    from parfocal.client.convert import Part
    from parfocal.runtime.datasets.report import FolderReport
    from parfocal.runtime.store.manifests import DatasetManifest


@dataclass(frozen=True)
class Quality:
    """How quality control is asked for on the command line."""

    output: Path | None
    parameters: tuple[str, ...]
    again: bool
    overwrite: bool


def is_folder(what: str) -> bool:
    """Return whether a word stands for a folder: there is one, or it cannot be the name of a dataset."""
    return Path(what).is_dir() or "/" in what or "\\" in what or what[:1] in {".", "~"}


def check_folder(
    app: App, folder: Path, axes: str, kind: str, pixel_size_nm: float | None, *, label_components: bool, part: Part
) -> None:
    """Check the images of a folder without storing anything; `part` is what is taken of files that are converted."""
    from parfocal.client.datasets import check_folder
    from parfocal.runtime.datasets.kinds import KINDS

    say(f"Checking the images in {folder} …")
    report = check_folder(
        folder, axes, kind=kind, pixel_size_nm=pixel_size_nm, label_components=label_components, part=part
    )
    for text in report.warnings:
        warn(text)
    train, test = len(report.train), len(report.test)
    if app.json:
        values = {"kind": report.kind, "train": train, "test": test, "classes": list(report.classes)}
        sizes = {split: found.model_dump() for split, found in report.object_sizes.items()}
        print_json(
            {
                **values,
                "counts": report.counts,
                "object_sizes": sizes,
                "fields": report.field_counts,
                "warnings": list(report.warnings),
            }
        )
        return
    what = "pairs" if report.kind in {"paired", "labels", "classes"} else "images"
    print_fields(
        {
            "Kind": f"{report.kind}: {KINDS[report.kind].title} ({report.told_by})",
            f"Training {what}": str(train),
            f"Test {what}": str(test),
            "Fields of view": field_words(report.field_counts),
            "With": count_words(report.counts),
            "Classes": class_words(report.classes, report.class_counts),
            **_forms(report),
        }
    )
    say("The images can be used.")


def count_words(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return what the splits have beside images, e.g. "93 boxes (train), 21 boxes (test)"; empty if nothing."""
    words = [
        f"{number} {what} ({split})"
        for split, found in counts.items()
        for what, number in found.items()
        if what != "images"
    ]
    return ", ".join(words)


def field_words(counts: Mapping[str, int]) -> str:
    """Return how many fields of view the images of each split show, e.g. "7 (train), 2 (test)"."""
    return ", ".join(f"{number} ({split})" for split, number in counts.items())


def class_words(classes: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the names of classes with how many boxes or pixels each has in all splits; empty without classes."""
    totals = {name: sum(found.get(name, 0) for found in counts.values()) for name in classes}
    return ", ".join(f"{name} ({number})" for name, number in totals.items())


def refuse_folder(folder: Path, axes: str, kind: str) -> InvalidInputError:
    """Return the error of asking quality control for a folder that is not stored."""
    options = "".join(f" --{name} {value}" for name, value in (("kind", kind), ("axes", axes)) if value)
    return InvalidInputError(
        f"Quality control looks at stored datasets, and {folder} is a folder. Store it and check it under its name:\n"
        f"  parfocal dataset create NAME {folder}{options}\n"
        "  parfocal dataset check NAME --qc"
    )


def check_stored(app: App, client: Client, name: str) -> None:
    """Check that a stored dataset is whole, and show what quality control has found in it before."""
    from parfocal.client.dataset_checks import earlier_check, sizing
    from parfocal.client.quality import published_summary
    from parfocal.client.results import result_uri

    manifest, uri = read(client, name)
    title = f"{manifest.dataset}:{manifest.version}"
    damaged = client.catalog.damaged_files(uri)
    if damaged:
        shown = ", ".join(damaged[:5]) + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else "")
        raise DamagedError(
            f"{len(damaged)} of {len(manifest.files)} files of {title} are missing or cut off in the store: "
            f"{shown}. Create the dataset again from the original images."
        )
    for text in manifest.warnings:
        warn(text)
    job = earlier_check(client, uri)
    summary = published_summary(client, result_uri(job)) if job is not None else None
    if app.json:
        values = {"dataset": title, "uri": uri, "files": len(manifest.files), "warnings": list(manifest.warnings)}
        print_json({**values, "qc": summary})
        return
    print_fields(
        {
            "Dataset": title,
            "Images": _images(manifest),
            "Fields of view": field_words(manifest.field_counts),
            "Files": f"{len(manifest.files)}, all there",
        }
    )
    for text in sizing(client, manifest):
        say(text)
    if job is None or summary is None:
        say(f"Have quality control look at the images: parfocal dataset check {title} --qc")
    else:
        _show(client, manifest, summary)
        print_fields({"Results": result_uri(job), "Report": f"parfocal jobs download {job.id} --output FOLDER"})


def check_quality(app: App, client: Client, name: str, quality: Quality) -> None:
    """Have quality control look at a stored dataset, and print what it found."""
    from parfocal import v1
    from parfocal.client.dataset_checks import check_method
    from parfocal.client.parameters import parse_parameters, schema_of
    from parfocal.client.quality import finished_job, published_summary
    from parfocal.client.requests import evaluation_request
    from parfocal.client.results import result_uri

    _work.check_evaluation_output(quality.output, overwrite=quality.overwrite)
    manifest, uri = read(client, name)
    method = check_method(client)
    values = parse_parameters(method.title, schema_of(method, v1.JOB_KIND_EVALUATION), quality.parameters)
    request = evaluation_request(method.name, "", uri, values, split="")
    job = None if quality.again else finished_job(client, request)
    if job is not None:
        say(f"Quality control has looked at this dataset before (job {job.id}); showing that (--again looks again).")
    else:
        job = _work.start_or_join(client, request, again=quality.again)
        job = _work.finish(app, client, job, "Quality control")
    place = result_uri(job)
    if quality.output is not None:
        _work.download_evaluation(client, job, quality.output, overwrite=quality.overwrite)
    summary = published_summary(client, place)
    if app.json:
        print_json({"job": _work.job_json(job), "uri": place, "summary": summary})
        return
    _show(client, manifest, summary)
    if quality.output is None:
        print_fields({"Results": place, "Report": f"parfocal jobs download {job.id} --output FOLDER"})
        return
    where = quality.output
    print_fields(
        {
            "Report": str(where / "report.pdf"),
            "Sheet": str(where / "thumbnails.png"),
            "Tables": f"{where / 'findings.csv'}, {where / 'images.csv'}",
        }
    )


def read(client: Client, name: str) -> tuple[DatasetManifest, str]:
    """Return a stored dataset and its address; an error also tells that there is no such folder."""
    from parfocal.client.datasets import read_dataset

    try:
        manifest = read_dataset(client, name)
    except NotFoundError as error:
        raise NotFoundError(f"{error.message} There is no folder {name} either.", error.violations) from error
    return manifest, client.dataset_uri(f"{manifest.dataset}:{manifest.version}")


def _show(client: Client, manifest: DatasetManifest, summary: Mapping[str, Any]) -> None:
    from parfocal.client.dataset_checks import finding_rows, headline, purpose_sentences

    title = f"{manifest.dataset}:{manifest.version}: {headline(summary)}"
    print_table(("Severity", "Check", "Finding"), [tuple(row.values()) for row in finding_rows(summary)], title=title)
    print_text("\n".join(["", *purpose_sentences(client, manifest, summary), ""]))


def _images(manifest: DatasetManifest) -> str:
    parts = Counter((image.split, image.role) for image in manifest.images)
    parts.update((each.split, each.role) for each in manifest.annotations)
    return ", ".join(f"{number} {split}/{role}" for (split, role), number in parts.items())


def _forms(report: FolderReport) -> dict[str, str]:
    images = [image for found in report.images.values() for image in found]
    shapes = sorted({" x ".join(map(str, image.shape)) for image in images})
    shown = ", ".join(shapes[:4]) + (f" and {len(shapes) - 4} more sizes" if len(shapes) > 4 else "")
    return {"Pixels": shown, "Types": ", ".join(sorted({image.dtype for image in images}))}
