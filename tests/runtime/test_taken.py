"""What is taken of images with several channels, planes or frames."""

from __future__ import annotations

import numpy as np
import pytest
from support import mentions

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.acquired import Acquired
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.taken import Taken, parse_range

PIXELS = np.arange(3 * 4 * 6 * 5).reshape(3, 4, 6, 5)
STACK = Image(PIXELS, "CZYX", acquired=Acquired(("DAPI", "GFP", "RFP"), date="2026-01-02"))


@pytest.mark.parametrize(
    ("taken", "axes", "pixels", "channels", "words"),
    [
        (Taken(("GFP",)), "ZYX", PIXELS[1], (), "channel GFP"),
        (Taken(("2",)), "ZYX", PIXELS[1], (), "channel GFP"),
        (Taken(("3", "DAPI")), "CZYX", PIXELS[[2, 0]], ("RFP", "DAPI"), "channels RFP, DAPI"),
        (Taken(("1", "3")), "CZYX", PIXELS[::2], ("DAPI", "RFP"), "channels DAPI, RFP"),
        (Taken(("2", "1", "3")), "CZYX", PIXELS[[1, 0, 2]], ("GFP", "DAPI", "RFP"), "channels GFP, DAPI, RFP"),
        (Taken(planes=(2, 3)), "CZYX", PIXELS[:, 1:3], ("DAPI", "GFP", "RFP"), "planes 2 to 3"),
        (Taken(("RFP",), (4, 4), (2, 9)), "YX", PIXELS[2, 3], (), "channel RFP; planes 4 to 4"),
    ],
)
def test_what_is_chosen_is_taken_by_name_or_number(
    taken: Taken, axes: str, pixels: np.ndarray, channels: tuple[str, ...], words: str
) -> None:
    found = taken.of(STACK, "a.tif")
    assert (found.axes, found.acquired) == (axes, Acquired(channels, date="2026-01-02"))
    np.testing.assert_array_equal(found.pixels, pixels)
    assert [(note.code, note.detail) for note in found.notes] == [("converted", words)]


def test_two_channels_of_a_large_image_are_not_copied() -> None:
    assert np.shares_memory(Taken(("3", "1")).of(STACK, "a.tif").pixels, PIXELS)


def test_images_that_have_nothing_of_the_choice_are_taken_whole() -> None:
    plane = Image(PIXELS[0, 0], "YX")
    assert Taken(("GFP",), frames=(2, 3)).of(plane, "a.tif") is plane


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (Taken(("CFP",)), ("plate/a.tif", "'CFP'", "DAPI, GFP, RFP")),
        (Taken(("4",)), ("plate/a.tif", "'4'", "DAPI, GFP, RFP")),
        (Taken(planes=(3, 6)), ("plate/a.tif", "4 planes", "3 to 6")),
        # As many copies as a request names would not fit into any memory.
        (Taken(("2", "1", "DAPI")), ("plate/a.tif", "1", "twice")),
    ],
)
def test_what_an_image_lacks_is_named_with_what_it_has(taken: Taken, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        taken.of(STACK, "plate/a.tif")
    assert mentions(caught.value.message, *words)


def test_people_are_told_numbers_with_names() -> None:
    assert Taken(("2", "DAPI", "3"), names=("GFP", "DAPI")).titled.words == "channels 2 (GFP), DAPI, 3"
    assert Taken(("2",), names=("",)).titled.words == Taken(("2",)).titled.words == "channel 2"


def test_channels_are_taken_by_what_they_were_called_before_by_their_numbers() -> None:
    taken = Taken(("2",), names=("RFP",))
    np.testing.assert_array_equal(taken.of(STACK, "a.tif").pixels, PIXELS[2])
    unnamed = Image(PIXELS, "CZYX")
    np.testing.assert_array_equal(taken.of(unnamed, "a.tif").pixels, PIXELS[1])
    np.testing.assert_array_equal(Taken(("2",), names=("CFP",)).of(STACK, "a.tif").pixels, PIXELS[1])
    alike = Image(PIXELS, "CZYX", acquired=Acquired(("DAPI", "DAPI", "RFP")))
    np.testing.assert_array_equal(Taken(("1", "2"), names=("DAPI", "DAPI")).of(alike, "a.tif").pixels, PIXELS[:2])


def test_requests_say_the_same() -> None:
    for taken in (Taken(), Taken(("DAPI", "2"), (2, 3), (1, 1), ("DAPI", "GFP"))):
        assert Taken.of_message(taken.message, "taken") == taken


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (v1.Taken(channels=["DAPI", " "]), "taken.channels"),
        (v1.Taken(planes=v1.Span(first=0, last=2)), "taken.planes"),
        (v1.Taken(frames=v1.Span(first=3, last=2)), "taken.frames"),
        (v1.Taken(frames=v1.Span()), "taken.frames"),
    ],
)
def test_requests_that_choose_nothing_possible_are_refused(message: v1.Taken, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Taken.of_message(message, "taken")
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize("text", ["0", "3-2", "a", "1-2-3", "-2"])
def test_ranges_are_numbers_from_one(text: str) -> None:
    assert parse_range("2-9", "--z") == (2, 9)
    assert parse_range("4", "--z") == (4, 4)
    assert parse_range("", "--z") is None
    with pytest.raises(InvalidInputError, match="--z"):
        parse_range(text, "--z")
