"""`parfocal dataset …`: image pairs to learn from and to be judged by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Group, current_app

if TYPE_CHECKING:
    from parfocal.client.datasets import FolderReport
    from parfocal.runtime.manifests import DatasetManifest

_AXES = click.option(
    "--axes",
    default="YX",
    show_default=True,
    metavar="LETTERS",
    help="What each image must have: YX, ZYX for volumes, YXS for colour images.",
)
_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@click.group(cls=Group, short_help="Make, check and list datasets of image pairs.")
def dataset() -> None:
    """Image pairs to learn from, and to be judged by.

    \b
    A dataset is made from a folder of this layout; partners have the same name:
      FOLDER/train/source/a.tif    noisy        FOLDER/test/source/x.tif
      FOLDER/train/target/a.tif    clean        FOLDER/test/target/x.tif
    The test images are never learnt from; quality control judges models by them.
    """  # noqa: D301 - click's mark for kept line ends


@dataset.command(short_help="Check the images of FOLDER and store them.")
@click.argument("name")
@_FOLDER
@_AXES
@click.option("--licence", default="", metavar="TEXT", help="Under which terms the images may be used.")
@click.option("--description", default="", metavar="TEXT", help="What the images show, for others and for later.")
def create(name: str, folder: Path, axes: str, licence: str, description: str) -> None:
    """Check the images of FOLDER and store them as a new version of the dataset NAME.

    Nothing is stored if there is a problem; all problems are shown at once. Images are converted to OME-TIFF
    without loss: grey values, 8 or 16 bit and pixel size stay as they are.
    """
    app = current_app()
    from parfocal.cli._progress import transfer
    from parfocal.cli._render import print_fields, print_json, say, warn
    from parfocal.client.datasets import create_dataset
    from parfocal.runtime.names import check_name

    check_name("dataset", name)
    with app.client() as client:
        say(f"Checking the images in {folder} …")
        with transfer("Uploading") as on_progress:
            manifest = create_dataset(
                client,
                name,
                folder,
                axes=axes.upper(),
                licence=licence,
                description=description,
                on_progress=on_progress,
            )
        for text in manifest.warnings:
            warn(text)
        if app.json:
            print_json(_json(manifest, client.dataset_uri(f"{name}:{manifest.version}")))
            return
        print_fields({"Dataset": f"{manifest.dataset}:{manifest.version}", **_counts(manifest)})
        say(f"Train with it: parfocal train METHOD --dataset {manifest.dataset} --model NAME")


@dataset.command(short_help="Check the images of FOLDER without storing them.")
@_FOLDER
@_AXES
def check(folder: Path, axes: str) -> None:
    """Check the images of FOLDER as `create` does, without storing anything."""
    app = current_app()
    from parfocal.cli._render import print_fields, print_json, say, warn
    from parfocal.client.datasets import check_folder

    say(f"Checking the images in {folder} …")
    report = check_folder(folder, axes.upper())
    for text in report.warnings:
        warn(text)
    if app.json:
        print_json({"train": len(report.train), "test": len(report.test), "warnings": list(report.warnings)})
        return
    print_fields({"Training pairs": str(len(report.train)), "Test pairs": str(len(report.test)), **_kinds(report)})
    say("The images can be used.")


@dataset.command("list", short_help="List the datasets of the project.")
def list_() -> None:
    """List the datasets of the project with all their versions."""
    app = current_app()
    from parfocal.cli._render import local_time, megabytes, print_json, print_table, say
    from parfocal.client.datasets import list_datasets

    with app.client() as client:
        manifests = list_datasets(client)
        if app.json:
            print_json([_json(item) for item in manifests])
            return
        if not manifests:
            say(f"There are no datasets in project {client.project!r}. Make one with `parfocal dataset create`.")
            return
    rows = [
        (
            f"{item.dataset}:{item.version}",
            str(len(item.select("train", "source"))),
            str(len(item.select("test", "source"))),
            megabytes(sum(entry.size for entry in item.files)),
            local_time(item.created_at),
            item.description,
        )
        for item in manifests
    ]
    columns = ("Dataset", "Training", "Test", "Size", "Created", "Description")
    print_table(columns, rows, numbers=("Training", "Test", "Size"))


@dataset.command(short_help="Show a dataset and its images.")
@click.argument("name")
def show(name: str) -> None:
    """Show the dataset NAME, or one of its versions as NAME:VERSION."""
    app = current_app()
    from parfocal.cli._render import local_time, megabytes, print_fields, print_json, print_table, warn
    from parfocal.client.datasets import read_dataset

    with app.client() as client:
        manifest = read_dataset(client, name)
        uri = client.dataset_uri(f"{manifest.dataset}:{manifest.version}")
    if app.json:
        print_json({**_json(manifest, uri), "images": [image.model_dump() for image in manifest.images]})
        return
    print_fields(
        {
            "Dataset": f"{manifest.dataset}:{manifest.version}",
            **_counts(manifest),
            "Size": megabytes(sum(entry.size for entry in manifest.files)),
            "Created": local_time(manifest.created_at),
            "Description": manifest.description,
            "Licence": manifest.licence,
            "Place": uri,
        }
    )
    rows = [
        (image.split, image.role, image.stem, " x ".join(map(str, image.shape)), image.dtype, _pixel_size(image))
        for image in manifest.images
    ]
    print_table(("Part", "Role", "Image", "Pixels", "Type", "Pixel size"), rows)
    for text in manifest.warnings:
        warn(text)


def _counts(manifest: DatasetManifest) -> dict[str, str]:
    sources = manifest.select("train", "source")
    return {
        "Training pairs": str(len(sources)),
        "Test pairs": str(len(manifest.select("test", "source"))),
        "Also with": ", ".join(sorted({image.role for image in manifest.images} - {"source", "target"})),
        "Axes": ", ".join(sorted({image.axes for image in manifest.images})),
        "Types": ", ".join(sorted({image.dtype for image in manifest.images})),
    }


def _kinds(report: FolderReport) -> dict[str, str]:
    shapes = sorted({" x ".join(map(str, pair.shape)) for pair in report.pairs})
    types = sorted({dtype for pair in report.pairs for dtype in pair.dtypes})
    shown = ", ".join(shapes[:4]) + (f" and {len(shapes) - 4} more sizes" if len(shapes) > 4 else "")
    return {"Pixels": shown, "Types": ", ".join(types)}


def _pixel_size(image: Any) -> str:
    size = image.pixel_size_um
    return " x ".join(f"{length:.4g}" for length in size if length is not None) + " µm" if size else "unknown"


def _json(manifest: DatasetManifest, uri: str = "") -> dict[str, Any]:
    values = manifest.model_dump(mode="json", exclude={"files", "images"})
    values["train"] = len(manifest.select("train", "source"))
    values["test"] = len(manifest.select("test", "source"))
    values["bytes"] = sum(entry.size for entry in manifest.files)
    return {**values, "uri": uri} if uri else values
