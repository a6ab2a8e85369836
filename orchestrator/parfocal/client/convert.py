"""What services do not read, and parts of what they read, turned into OME-TIFF once, on the way into the store.

OME-Zarr is read by `parfocal.client.formats.zarr_reader`, proprietary formats of microscopes by what is installed of
bioio. Both are imported only when such a file is met.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from parfocal.client.formats.plates import ZARR, field_stem, fields_of, is_plate, is_zarr, plate_of
from parfocal.client.formats.source import Chosen, Source, choose, copied, refusal
from parfocal.runtime.errors import InvalidInputError, OutOfMemoryError
from parfocal.runtime.images.acquired import Acquired, acquired
from parfocal.runtime.images.files import IMAGE_SUFFIXES, Image, image_stem, inspect_image, write_image
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.images.taken import Taken, parse_range

MAKERS_SUFFIXES = (
    *(".czi", ".nd2", ".lif", ".lsm", ".stk", ".dv", ".r3d", ".oib", ".oif", ".ims", ".sldy"),
    *(".vsi", ".flex", ".mrc", ZARR),
)


@dataclass(frozen=True)
class Part:
    """What is taken of files that hold several images, channels, planes or frames.

    Attributes
    ----------
    scene
        Name of the image, or its number from 1; "": the only one.
    channels
        Names of channels, or their numbers from 1, in the order in which they are taken; empty: all.
    planes, frames
        First and last along Z and T, counted from 1; None: all.
    wells
        Patterns of the wells and fields of plates; empty: all.
    test_wells
        The same for test images. Where a plate itself becomes a dataset, they are no training images.
    labels
        Name of the labels of OME-Zarr images that are the targets; "": targets lie in a folder of their own.
    if_there
        It was chosen for other images; see `part_of_image`.
    names
        What the channels were called there, see `Taken`.
    """

    scene: str = ""
    channels: tuple[str, ...] = ()
    planes: tuple[int, int] | None = None
    frames: tuple[int, int] | None = None
    wells: tuple[str, ...] = ()
    test_wells: tuple[str, ...] = ()
    labels: str = ""
    if_there: bool = False
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is chosen."""
        return self != Part(names=self.names)

    @property
    def of_images(self) -> bool:
        """Whether something is chosen that an image of any format may have: not all of it is taken."""
        return bool(self.scene or self.channels or self.planes or self.frames)

    def axes_left(self, axes: str) -> str:
        """Return the axes of an image that is taken of a file with these: without those of which one place is taken."""
        one_plane, one_frame = (span is not None and span[0] == span[1] for span in (self.planes, self.frames))
        single = {"C": len(self.channels) == 1, "Z": one_plane, "T": one_frame}
        return "".join(letter for letter in axes if not single.get(letter))

    @property
    def taken(self) -> Taken:
        """What is taken of each image, whatever file it comes from."""
        return Taken(self.channels, self.planes, self.frames, self.names)

    @property
    def options(self) -> str:
        """The choice as options of the command line."""
        before = [("scene", self.scene)]
        after = [
            *(("well", each) for each in self.wells),
            *(("test-well", each) for each in self.test_wells),
            ("labels", self.labels),
        ]
        return " ".join(filter(None, (_as_options(before), self.taken.options, _as_options(after))))

    @property
    def words(self) -> str:
        """The choice as people say it: "channel 2 (DAPI); planes 3 to 9"."""
        found = {
            "image": (self.scene,),
            "": (self.taken.titled.words,),
            "wells": self.wells,
            "test wells": self.test_wells,
            "labels": (self.labels,),
        }
        return "; ".join(f"{title} {', '.join(each)}".strip() for title, each in found.items() if any(each))


WHOLE = Part()


def _as_options(values: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"--{name} {shlex.quote(value)}" for name, value in values if value)


def part_of_options(options: str, names: tuple[str, ...] = ()) -> Part:
    """Return the choice that `Part.options` says, of channels that are called `names`."""
    part = replace(WHOLE, names=names)
    words = shlex.split(options)
    for option, value in zip(words[::2], words[1::2], strict=True):
        match option:
            case "--scene":
                part = replace(part, scene=value)
            case "--channel":
                part = replace(part, channels=(*part.channels, value))
            case "--z":
                part = replace(part, planes=parse_range(value, option))
            case "--t":
                part = replace(part, frames=parse_range(value, option))
            case "--well":
                part = replace(part, wells=(*part.wells, value))
            case "--test-well":
                part = replace(part, test_wells=(*part.test_wells, value))
            case "--labels":
                part = replace(part, labels=value)
    return part


def taken_again(options: str, paths: Sequence[Path], axes: str = "", names: tuple[str, ...] = ()) -> tuple[Part, str]:
    """Return what was taken of the images of a dataset, for images that are predicted, and what that is in words.

    Parameters
    ----------
    options
        The choice as `Part.options` says it.
    paths
        The images. Where none of them has what was chosen, they are taken whole and there are no words.
    axes
        As for `convert`.
    names
        What the channels were called that were taken.
    """
    # Wells and labels are those of plates that became the dataset.
    part = replace(part_of_options(options, names), wells=(), test_wells=(), labels="", if_there=True)
    for path in paths if part.of_images else ():
        try:
            own = part_of_image(path, part, axes)
            if own.of_images:
                with _opened(path, own, axes) as (_, chosen):
                    return part, chosen.notes[0].detail
        except InvalidInputError:  # is told when all are looked at
            continue
    return WHOLE, ""


def part_of_image(path: Path, part: Part, axes: str = "") -> Part:
    """Return what is taken of one of several images for which a part was chosen.

    A choice that was made for other images (`if_there`) holds for all files that are converted. Of images that services
    read themselves it takes channels alone, where they have any: their planes and frames may have been cut already.

    Raises
    ------
    InvalidInputError
        The image cannot be read.
    """
    if not part.if_there or is_makers_format(path):
        return part
    return part_there(path, replace(part, planes=None, frames=None), axes)


def part_there(path: Path, part: Part, axes: str = "") -> Part:
    """Return what is taken of an image without what needs channels, planes or frames that it does not have.

    Raises
    ------
    InvalidInputError
        The image, which services read themselves, cannot be read.
    """
    own = part.taken.where_there(inspect_image(path, axes=axes).axes)
    return replace(part, scene="", channels=own.channels, planes=own.planes, frames=own.frames)


def is_makers_format(path: Path) -> bool:
    """Return whether services cannot read this kind of file, but a conversion may help; fields of plates are such."""
    name = path.name.lower()
    if name.endswith(IMAGE_SUFFIXES) or name[:1] in {"", "."}:
        return False
    return name.endswith(MAKERS_SUFFIXES) or plate_of(path) is not None


def is_converted(path: Path, part: Part = WHOLE) -> bool:
    """Return whether an image is written anew: because of its format, or because only a part of it is taken."""
    return is_makers_format(path) or part.of_images


def images_in(path: Path, wells: Sequence[str] = (), without: Sequence[str] = ()) -> list[Path]:
    """Return the images that a file of a foreign format stands for: itself, or the chosen fields of a plate.

    Raises
    ------
    InvalidInputError
        As for `fields_of`.
    """
    return fields_of(path, wells, without) if is_plate(path) else [path]


def converted_stem(path: Path) -> str:
    """Return the name that the converted image has, without suffix."""
    return field_stem(path) if plate_of(path) else image_stem(path)


def shown_name(path: Path) -> str:
    """Return what messages call a file: its name with its folder, or that of a field with its plate."""
    plate = plate_of(path)
    return path.relative_to(plate.parent).as_posix() if plate else f"{path.parent.name}/{path.name}"


def convert(path: Path, folder: Path, part: Part = WHOLE, axes: str = "") -> tuple[Path, tuple[Note, ...]]:
    """Write the image in `path` to `folder` as OME-TIFF, values and pixel size kept.

    It is read block by block, and need not fit into memory; `folder` must have room for its pixels twice.

    Parameters
    ----------
    path
        A file of a foreign format, or an image of which a part is taken.
    folder
        Where the new file goes.
    part
        What is taken of it.
    axes
        What somebody says that the axes of the result are, see `read_image`; "" if the file says it. Of a file that
        services read themselves they are those of the file.

    Returns
    -------
    tuple
        The new file, and what was chosen, left out or guessed: where channels have names or something was chosen, the
        note "converted" says which.

    Raises
    ------
    InvalidInputError
        No installed reader can read it, it holds several images of which none is chosen, or lacks what is chosen.
    DiskFullError
        There is no room.
    """
    target = folder / f"{converted_stem(path)}.tif"
    try:
        with _opened(path, part, axes) as (source, chosen):
            pixels = copied(source, chosen, Scratch(folder))
        image = Image(pixels, chosen.axes, source.pixel_size, acquired=_acquired(source, chosen))
        write_image(target, image, labels=bool(part.labels))
    except MemoryError as error:
        name = shown_name(path)
        raise OutOfMemoryError(
            f"{name} does not fit into memory: take a part of it, or use a larger machine."
        ) from error
    return target, (*chosen.notes, *source.faults())


def channel_names(path: Path, part: Part, axes: str = "") -> tuple[str, ...]:
    """Return the names of the channels that are taken of a file, in their order; empty where it has none.

    Raises
    ------
    InvalidInputError
        As for `convert`.
    """
    with _opened(path, part, axes) as (source, chosen):
        return _acquired(source, chosen).channels


def inspect_part(path: Path, part: Part = WHOLE, axes: str = "") -> tuple[str, tuple[int, ...]]:
    """Return axes and shape that the converted image will have, from the headers alone; raises as `convert` does."""
    with _opened(path, part, axes) as (_, chosen):
        return chosen.axes, chosen.shape


@contextmanager
def _opened(path: Path, part: Part, axes: str) -> Iterator[tuple[Source, Chosen]]:
    """Give the image of a file and what is taken of it."""
    name = shown_name(path)
    if not is_makers_format(path) and not part.scene:
        from parfocal.client.formats.image_reader import opened_image

        opened, axes = opened_image(path, name, axes), ""
    elif is_zarr(path) or plate_of(path):
        from parfocal.client.formats.zarr_reader import opened_zarr

        opened = opened_zarr(path, name, part.scene, part.labels)
    else:
        from parfocal.client.formats.bioio_reader import opened_by_bioio

        opened = opened_by_bioio(path, name, part.scene)
    with opened as source:
        yield source, _chosen(source, part, axes)


def _chosen(source: Source, part: Part, axes: str) -> Chosen:
    """Return which channels, planes and frames are taken."""
    length = dict(zip(source.axes, source.shape, strict=True)).get("C", 1)
    names = source.channels
    # Labels are those of all channels.
    taken = replace(part.taken, channels=()) if part.labels else part.taken
    try:
        numbers = taken.numbers(source.axes, source.shape, names)
    except ValueError as error:
        raise refusal(source.name, str(error)) from error
    said = taken.named(numbers, names)
    if not taken.channels and len(names) > 1 and length > 1:
        said = replace(taken, channels=tuple(names))
    words = [f"image {source.scene}"] if part.scene else []
    words += [f"labels {part.labels}"] if part.labels else []
    return choose(source, numbers, axes, "; ".join([*words, *filter(None, [said.words])]))


def _acquired(source: Source, chosen: Chosen) -> Acquired:
    """Return what the file says of the acquisition, with the names of the channels that are taken."""
    numbers = chosen.numbers[source.axes.index("C")] if "C" in source.axes else None
    taken = range(len(source.channels)) if numbers is None else numbers
    names = [source.channels[each] if each < len(source.channels) else "" for each in taken]
    if source.channels == tuple(map(str, range(1, len(source.channels) + 1))):
        # Numbers stand for names where a file has none.
        names = []
    return acquired(names, source.seconds, date=source.date)
