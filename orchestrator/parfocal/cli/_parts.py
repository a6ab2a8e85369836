"""Options that choose a part of each image, and how the command line passes them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from parfocal.client.convert import Part

TAKEN = (
    click.option(
        "--channel",
        "channels",
        multiple=True,
        metavar="NAME",
        help="The channel to take of each image, by name or number from 1; may be repeated.",
    ),
    click.option("--z", "planes", default="", metavar="FIRST-LAST", help="The planes to take of each image."),
    click.option("--t", "frames", default="", metavar="FIRST-LAST", help="The frames to take of each image."),
)
"""What can be taken of images of any format, also where they lie in the store."""
PARTS = (
    click.option(
        "--scene",
        default="",
        metavar="NAME",
        help="Of files that hold several images (OME-Zarr, CZI, LIF, ND2) the one to take: name, or number from 1.",
    ),
    *TAKEN,
    click.option(
        "--well",
        "wells",
        multiple=True,
        metavar="PATTERN",
        help="Of plates (OME-Zarr) the wells or fields to take: B03, B03_f2, 'B*' or '*_f0'; may be repeated.",
    ),
)
"""What can be taken of files."""
PLATE_PARTS = (
    click.option(
        "--test-well",
        "test_wells",
        multiple=True,
        metavar="PATTERN",
        help="Of plates the wells or fields whose images are test images; may be repeated.",
    ),
    click.option(
        "--labels",
        default="",
        metavar="NAME",
        help="Take these labels of the OME-Zarr images as targets; there is no folder target then.",
    ),
)
"""What is asked besides where images become a dataset."""


def with_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decorator that adds options to a command, in their order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def part_of(
    scene: str,
    channels: tuple[str, ...],
    planes: str,
    frames: str,
    wells: tuple[str, ...],
    test_wells: tuple[str, ...] = (),
    labels: str = "",
) -> Part:
    """Return what these options choose."""
    from parfocal.client.convert import Part
    from parfocal.runtime.images.taken import parse_range

    return Part(scene, channels, parse_range(planes, "--z"), parse_range(frames, "--t"), wells, test_wells, labels)
