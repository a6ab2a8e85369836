"""`parfocal dataset …`: images to train and to judge models on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Group, current_app
from parfocal.cli._parts import PARTS, PLATE_PARTS, part_of, with_options
from parfocal.cli._share import add_share_commands
from parfocal.cli._train import PARAMETERS
from parfocal.cli._trash import add_trash_commands, show_deleted

if TYPE_CHECKING:
    from parfocal.client import Client
    from parfocal.runtime.store.manifests import DatasetManifest

_AXES = click.option(
    "--axes",
    default="",
    metavar="LETTERS",
    help="Axes that each source image must have: YX for planes (the default), ZYX for volumes, YXS for colour. Axes "
    "that you give replace those that a file declares for its planes, for example C where they are along Z.",
)
_KIND = click.option(
    "--kind",
    default="",
    metavar="KIND",
    help="Kind of the targets, where the files do not show it: paired, labels (of objects), classes (of "
    "pixels), unpaired, sources (no targets), boxes or coordinates.",
)
_PIXEL_SIZE = click.option(
    "--pixel-size",
    type=click.FloatRange(min=0, min_open=True),
    metavar="NM",
    help="Side length of a pixel in nm, where stacks with coordinates do not say it.",
)
_COMPONENTS = click.option(
    "--label-components",
    is_flag=True,
    help="Targets are masks: number each connected region as an object. Objects that touch become one.",
)
_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@click.group(cls=Group, short_help="Make, check, list and delete datasets of images.")
def dataset() -> None:
    """Images to train and to judge models on.

    \b
    A dataset is made from a folder of this layout; a pair has one file name:
      FOLDER/train/source/a.tif    noisy        FOLDER/test/source/x.tif
      FOLDER/train/target/a.tif    clean        FOLDER/test/target/x.tif
    Models are judged by the test images, and never trained on them.

    \b
    Other methods require other targets:
      labels        label images in target: one number for each object
      classes       class images in target: one number for each class
      boxes         PASCAL VOC a.xml, a COCO .json, or YOLO a.txt and classes.txt
      coordinates   ThunderSTORM tables a.csv beside stacks of frames
      sources       no folder target
      unpaired      unrelated images in target: add --kind unpaired
    """  # noqa: D301 - click's mark for kept line ends


@dataset.command(short_help="Check the images of FOLDER and store them.")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--from-inbox",
    default="",
    metavar="INBOX[/FOLDER]",
    help="Take the images of an inbox of the project instead. Without a folder train in it all are training images.",
)
@_KIND
@_AXES
@_PIXEL_SIZE
@_COMPONENTS
@with_options(*PARTS, *PLATE_PARTS)
@click.option(
    "--class-name",
    "class_names",
    multiple=True,
    metavar="VALUE=NAME",
    help="Name of a class of class images by its grey value, e.g. 1=nucleus; repeat for more.",
)
@click.option("--licence", default="", metavar="TEXT", help="Under which terms the images may be used.")
@click.option("--description", default="", metavar="TEXT", help="What the images show, for others and for later.")
def create(
    name: str,
    folder: Path | None,
    from_inbox: str,
    kind: str,
    axes: str,
    pixel_size: float | None,
    label_components: bool,
    scene: str,
    channels: tuple[str, ...],
    planes: str,
    frames: str,
    wells: tuple[str, ...],
    test_wells: tuple[str, ...],
    labels: str,
    class_names: tuple[str, ...],
    licence: str,
    description: str,
) -> None:
    """Check the images of FOLDER and store them as a new version of the dataset NAME.

    Nothing is stored if there is a problem; all problems are shown at once. Images are converted to OME-TIFF
    without loss: grey values, 8 or 16 bit and pixel size stay as they are.

    FOLDER may also be one OME-Zarr, for example a plate: --test-well says which of its wells are test images, and
    --labels which of its labels are the targets.
    """
    app = current_app()
    from parfocal.cli._progress import transfer
    from parfocal.cli._render import print_fields, print_json, say, warn
    from parfocal.client.dataset_checks import sizing
    from parfocal.client.datasets import create_dataset
    from parfocal.runtime.store.names import check_name

    if (folder is None) == (not from_inbox):
        raise click.UsageError("Name a FOLDER, or an inbox with --from-inbox.")
    check_name("dataset", name)
    part = part_of(scene, channels, planes, frames, wells, test_wells, labels)
    with app.client() as client, _images_of(client, folder, from_inbox) as images:
        say(f"Checking the images in {folder or from_inbox} …")
        with transfer("Uploading") as on_progress:
            manifest = create_dataset(
                client,
                name,
                images,
                axes=axes.upper(),
                kind=kind.lower(),
                pixel_size_nm=pixel_size,
                label_components=label_components,
                part=part,
                licence=licence,
                description=description,
                class_names=_named(class_names),
                on_progress=on_progress,
            )
        for text in manifest.warnings:
            warn(text)
        if app.json:
            print_json(_json(manifest, client.dataset_uri(f"{name}:{manifest.version}")))
            return
        print_fields({"Dataset": f"{manifest.dataset}:{manifest.version}", **_counts(manifest)})
        for text in sizing(client, manifest):
            say(text)
        say(f"Train with it: parfocal train METHOD --dataset {manifest.dataset} --model NAME")


def _named(pairs: Sequence[str]) -> dict[int, str]:
    """Return the names of classes by grey value."""
    from parfocal.runtime.numbers import whole_number

    names: dict[int, str] = {}
    for pair in pairs:
        text, sign, name = pair.partition("=")
        value = whole_number(text.strip())
        if not sign or value is None:
            raise click.BadParameter(
                f"{pair!r} is not of the form VALUE=NAME, e.g. 1=nucleus", param_hint="--class-name"
            )
        names[value] = name.strip()
    return names


@contextmanager
def _images_of(client: Client, folder: Path | None, from_inbox: str) -> Iterator[Path]:
    """Give a folder, or a copy of what lies in an inbox, for as long as the context; errors name the inbox."""
    if folder is not None:
        yield folder
        return
    from parfocal.cli._progress import transfer
    from parfocal.client.inboxes import arrange, fetch_files, files_to_fetch, inbox_folder
    from parfocal.runtime.errors import InvalidInputError, Violation

    place = inbox_folder(client, from_inbox)
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        copy = Path(scratch) / "inbox"
        copy.mkdir()
        with transfer("Fetching") as on_progress:
            fetch_files(client, place, files_to_fetch(client, place), copy, on_progress)
        arrange(copy)
        try:
            yield copy
        except InvalidInputError as error:

            def named(text: str) -> str:
                return text.replace(str(copy), place.title)

            violations = [Violation(named(each.field), named(each.description)) for each in error.violations]
            raise InvalidInputError(named(error.message), violations) from error


@dataset.command(short_help="Check a folder of images, or a stored dataset.")
@click.argument("what", metavar="NAME_OR_FOLDER")
@_KIND
@_AXES
@_PIXEL_SIZE
@_COMPONENTS
@with_options(*PARTS, *PLATE_PARTS)
@click.option("--qc", is_flag=True, help="Have quality control check every image of the stored dataset NAME.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FOLDER", help="Download sheets and tables (--qc).")
@PARAMETERS
@click.option("--again", is_flag=True, help="Check again even if quality control has done so before (--qc).")
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER (--qc).")
def check(
    what: str,
    kind: str,
    axes: str,
    pixel_size: float | None,
    label_components: bool,
    scene: str,
    channels: tuple[str, ...],
    planes: str,
    frames: str,
    wells: tuple[str, ...],
    test_wells: tuple[str, ...],
    labels: str,
    qc: bool,
    output: Path | None,
    parameters: tuple[str, ...],
    again: bool,
    overwrite: bool,
) -> None:
    """Check the images of a folder as `create` does, or a dataset that is stored already.

    \b
      parfocal dataset check FOLDER     can the images become a dataset?
      parfocal dataset check NAME       are all files there? show findings
      parfocal dataset check NAME --qc  check every image

    Quality control finds images that are shifted, empty, blurred, saturated or duplicate, the same field in training
    and test, and faults of labels; it draws thumbnails of all images and says what they are good for.

    The parameters (-p) are the thresholds of quality control: `parfocal methods dataset` lists them.
    """  # noqa: D301 - click's mark for kept line ends
    app = current_app()
    from parfocal.cli import _dataset_check
    from parfocal.runtime.errors import InvalidInputError

    if not qc and (output is not None or parameters or again or overwrite):
        raise InvalidInputError("--output, -p, --again and --overwrite belong to quality control: add --qc.")
    part = part_of(scene, channels, planes, frames, wells, test_wells, labels)
    if _dataset_check.is_folder(what):
        if qc:
            raise _dataset_check.refuse_folder(Path(what), axes.upper(), kind.lower())
        _dataset_check.check_folder(
            app, Path(what), axes.upper(), kind.lower(), pixel_size, label_components=label_components, part=part
        )
        return
    if kind or axes or pixel_size is not None or label_components or part:
        text = (
            "--kind, --axes, --pixel-size, --label-components, --scene, --channel, --z, --t, --well, --test-well and "
            "--labels belong to folders; a stored dataset keeps those that it was created with."
        )
        raise InvalidInputError(text)
    with app.client() as client:
        if qc:
            quality = _dataset_check.Quality(output, parameters, again, overwrite)
            _dataset_check.check_quality(app, client, what, quality)
        else:
            _dataset_check.check_stored(app, client, what)


@dataset.command(short_help="Draw examples of a dataset or folder.")
@click.argument("what", metavar="NAME_OR_FOLDER")
@_KIND
@_AXES
@click.option("--augment", is_flag=True, help="Show patches too, before and after augmentation.")
@click.option("--method", default="", metavar="METHOD", help="Cut and change patches as this method does by default.")
@PARAMETERS
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("preview.png"),
    show_default=True,
    metavar="FILE",
    help="The picture to write (PNG).",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def preview(
    what: str,
    kind: str,
    axes: str,
    augment: bool,
    method: str,
    parameters: tuple[str, ...],
    output: Path,
    overwrite: bool,
) -> None:
    """Draw training images with their targets, labels, boxes or points, of a folder or a stored dataset.

    \b
      parfocal dataset preview FOLDER
      parfocal dataset preview NAME --augment -p augment_angle=45

    With --augment the picture also shows patches, each beside what augmentation makes of it in the first epoch of a
    training with these parameters (-p) and seed.
    """  # noqa: D301 - click's mark for kept line ends
    app = current_app()
    from parfocal.cli import _dataset_preview

    _dataset_preview.preview(
        app,
        what,
        kind=kind.lower(),
        axes=axes.upper(),
        augment=augment,
        method=method,
        parameters=parameters,
        output=output,
        overwrite=overwrite,
    )


@dataset.command("list", short_help="List the datasets of the project.")
@click.option("--deleted", is_flag=True, help="List those in the trash instead.")
def list_(deleted: bool) -> None:
    """List the datasets of the project with all their versions."""
    if deleted:
        show_deleted("dataset")
        return
    app = current_app()
    from parfocal.cli._render import local_time, megabytes, print_json, print_table, say, warn
    from parfocal.client.datasets import list_datasets

    with app.client() as client:
        manifests = list_datasets(client, lambda error: warn(error.message), shared=True)
        if app.json:
            print_json([_json(item) for item in manifests])
            return
        if not manifests:
            say(f"There are no datasets in project {client.project!r}. Make one with `parfocal dataset create`.")
            return
    rows = [
        (
            client.catalog.title(item.project, item.dataset, item.version),
            item.kind or "images",
            str(len(item.select("train", "source"))),
            str(len(item.select("test", "source"))),
            megabytes(sum(entry.size for entry in item.files)),
            local_time(item.created_at),
            item.description,
        )
        for item in manifests
    ]
    columns = ("Dataset", "Kind", "Training", "Test", "Size", "Created", "Description")
    print_table(columns, rows, numbers=("Training", "Test", "Size"))


@dataset.command(short_help="Show a dataset and its images.")
@click.argument("name")
def show(name: str) -> None:
    """Show the dataset NAME, or one of its versions as NAME:VERSION."""
    app = current_app()
    from parfocal.cli._render import local_time, megabytes, print_fields, print_json, print_table, warn
    from parfocal.client.convert import part_of_options
    from parfocal.client.datasets import read_dataset

    with app.client() as client:
        manifest = read_dataset(client, name)
        uri = client.dataset_uri(f"{manifest.dataset}:{manifest.version}")
    if app.json:
        files = {"images": manifest.images, "annotations": manifest.annotations}
        listed = {key: [each.model_dump() for each in found] for key, found in files.items()}
        print_json({**_json(manifest, uri), **listed})
        return
    print_fields(
        {
            "Dataset": f"{manifest.dataset}:{manifest.version}",
            **_counts(manifest),
            "Size": megabytes(sum(entry.size for entry in manifest.files)),
            "Created": local_time(manifest.created_at),
            "Description": manifest.description,
            "Taken of each file": part_of_options(manifest.part, manifest.part_channels).words,
            "Licence": manifest.licence,
            "Place": uri,
        }
    )
    rows = [
        (image.split, image.role, image.stem, " x ".join(map(str, image.shape)), image.dtype, _pixel_size(image), "")
        for image in manifest.images
    ]
    rows += [(each.split, each.role, each.stem, "", "", "", str(each.objects)) for each in manifest.annotations]
    columns = ("Part", "Role", "Image", "Pixels", "Type", "Pixel size", "Objects")
    shown = len(columns) if manifest.annotations else len(columns) - 1
    print_table(columns[:shown], [row[:shown] for row in rows])
    for text in manifest.warnings:
        warn(text)


add_trash_commands(dataset, "dataset", "NAME:VERSION")


def _counts(manifest: DatasetManifest) -> dict[str, str]:
    from parfocal.cli._dataset_check import class_words, count_words
    from parfocal.runtime.datasets.kinds import KINDS, title_of

    what = "pairs" if not manifest.kind or manifest.kind in {"paired", "labels", "classes"} else "images"
    title = title_of(manifest)
    return {
        "Kind": f"{manifest.kind}: {title}" if manifest.kind in KINDS else title,
        f"Training {what}": str(len(manifest.select("train", "source"))),
        f"Test {what}": str(len(manifest.select("test", "source"))),
        "With": count_words(manifest.counts),
        "Classes": class_words(manifest.classes, manifest.class_counts),
        "Also with": ", ".join(sorted({image.role for image in manifest.images} - {"source", "target"})),
        "Axes": ", ".join(sorted({image.axes for image in manifest.images})),
        "Types": ", ".join(sorted({image.dtype for image in manifest.images})),
    }


def _pixel_size(image: Any) -> str:
    size = image.pixel_size_um
    return " x ".join(f"{length:.4g}" for length in size if length is not None) + " µm" if size else "unknown"


def _json(manifest: DatasetManifest, uri: str = "") -> dict[str, Any]:
    values = manifest.model_dump(mode="json", exclude={"files", "images", "annotations"})
    values["train"] = len(manifest.select("train", "source"))
    values["test"] = len(manifest.select("test", "source"))
    values["bytes"] = sum(entry.size for entry in manifest.files)
    return {**values, "uri": uri} if uri else values


add_share_commands(dataset, "dataset")
