"""What a file says of an acquisition besides pixels and their size: names of channels, time between frames, date."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from xml.etree import ElementTree

from parfocal.runtime.images.tiff_sizes import elements
from parfocal.runtime.numbers import whole_number

_SECONDS: Final = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("us", "µs", "μs", "microsecond", "microseconds"), 1e-06),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_FORM: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_LONGEST: Final = 100
_MOST_CHANNELS: Final = 1000


@dataclass(frozen=True)
class Acquired:
    """What is kept of an acquisition.

    Attributes
    ----------
    channels
        Names along the axis C; empty where they are unknown.
    seconds
        Time between two frames along T in seconds; None where it is unknown.
    date
        When the image was taken, in the form of ISO 8601; "" where it is unknown.
    """

    channels: tuple[str, ...] = ()
    seconds: float | None = None
    date: str = ""

    def fitting(self, axes: str, shape: Sequence[int]) -> Acquired:
        """Return what holds for an image of these axes: names for each of its channels, and times where it has some."""
        channels = dict(zip(axes, shape, strict=True)).get("C", 0)
        return replace(
            self,
            channels=self.channels if len(self.channels) == channels else (),
            seconds=self.seconds if "T" in axes else None,
        )

    def metadata(self) -> dict[str, Any]:
        """Return the same as tifffile takes it for OME-TIFF."""
        found: dict[str, Any] = {}
        if self.channels:
            found["Channel"] = {"Name": list(self.channels)}
        if self.seconds is not None:
            found |= {"TimeIncrement": self.seconds, "TimeIncrementUnit": "s"}
        if self.date:
            found["AcquisitionDate"] = self.date
        return found


UNKNOWN: Final = Acquired()
"""Nothing is known of the acquisition."""


def acquired(channels: Sequence[object] = (), seconds: object = None, unit: str = "s", date: object = "") -> Acquired:
    """Return what a file says, without what is damaged or means nothing.

    Parameters
    ----------
    channels
        Names of the channels.
    seconds, unit
        Time between two frames in its unit.
    date
        When the image was taken.
    """
    names = tuple(_printable(each) for each in channels) if len(channels) <= _MOST_CHANNELS else ()
    return Acquired(names if any(names) else (), in_seconds(seconds, unit), _date(date))


def in_seconds(value: object, unit: str) -> float | None:
    """Return a time in seconds; None where it is no time above 0 in a unit that is known."""
    try:
        found = float(str(value)) * _SECONDS[unit.strip().casefold()]
    except (KeyError, ValueError):
        return None
    return found if math.isfinite(found) and found > 0 else None


def ome_acquired(root: ElementTree.Element) -> Acquired:
    """Return what OME metadata say of their first image; times are those between its frames, or of its planes."""
    image = next(elements(root, "Image"), None)
    pixels = None if image is None else next(elements(image, "Pixels"), None)
    if image is None or pixels is None:
        return UNKNOWN
    step: object = pixels.get("TimeIncrement")
    unit = pixels.get("TimeIncrementUnit", "s")
    if step is None:
        step, unit = _between_planes(pixels), "s"
    date = next(elements(image, "AcquisitionDate"), None)
    names = [channel.get("Name", "") for channel in elements(pixels, "Channel")]
    return acquired(names, step, unit, "" if date is None else date.text or "")


def imagej_acquired(metadata: Mapping[str, Any]) -> Acquired:
    """Return what ImageJ's metadata say.

    Labels of slices are names of channels where there is one for each channel and nothing else.
    """
    labels = metadata.get("Labels") or ()
    names = labels if len(labels) == metadata.get("channels") == metadata.get("images") else ()
    return acquired(names, seconds=metadata.get("finterval"), unit=str(metadata.get("tunit", "s")))


def _between_planes(pixels: ElementTree.Element) -> float | None:
    """Return the mean time in seconds between the frames of the first plane of the first channel."""
    times: dict[int, float] = {}
    for plane in elements(pixels, "Plane"):
        seconds = in_seconds(plane.get("DeltaT"), plane.get("DeltaTUnit", "s"))
        if seconds is None and plane.get("DeltaT") in {"0", "0.0"}:
            seconds = 0.0
        number = whole_number(plane.get("TheT", ""), 9)
        if seconds is not None and number is not None and plane.get("TheC", "0") == plane.get("TheZ", "0") == "0":
            times[number] = seconds
    if len(times) < 2:
        return None
    first, last = min(times), max(times)
    return (times[last] - times[first]) / (last - first)


def _printable(text: object) -> str:
    return "".join(letter for letter in str(text) if letter.isprintable())[:_LONGEST].strip()


def _date(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value or "").strip()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return ""
    # OME-TIFF knows only one of the forms of ISO 8601.
    return text if _FORM.fullmatch(text) else found.isoformat()
