"""Contact sheets: thumbnails of all fields of view of a dataset, those with findings marked and first."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from parfocal.qc.dataset.findings import SEVERITIES, Severity
from parfocal.qc.evaluation.words import count
from parfocal.qc.figures.drawing import save_png
from parfocal.runtime.report.fonts import drawable

FIELDS: Final = 40
"""Fields of view on one sheet."""

MOST_ROLES: Final = 6
"""Images of one field that are drawn."""

# Of Okabe and Ito's palette, which can be told apart with any colour vision; the words stand beside them.
COLOURS: Final[dict[Severity, str]] = {"error": "#D55E00", "warning": "#E69F00", "note": "#0072B2"}
_GREY: Final = "0.35"
_SIDE: Final = 1.3  # inches
_GAP: Final = 0.06
_TEXT: Final = 0.52
_HEAD: Final = 0.58
_LINE: Final = 0.145
_MARGIN: Final = 0.25
_WIDTH: Final = 13.0
_DPI: Final = 110


@dataclass(frozen=True)
class Tile:
    """One field of view on a sheet.

    Attributes
    ----------
    stem
        Name of the field.
    checks
        Severity and name of the checks that found something, the worst first.
    load
        Returns the thumbnails, one for each role of the sheet: (Y, X) or (Y, X, RGB), uint8; None where the field has
        no image of the role.
    """

    stem: str
    checks: tuple[tuple[Severity, str], ...]
    load: Callable[[], Sequence[npt.NDArray[np.uint8] | None]]


def write_sheets(folder: Path, tiles: Mapping[str, Sequence[Tile]], roles: Sequence[str], most: int) -> list[str]:
    """Write ``thumbnails.png``, ``thumbnails_2.png`` and so on to `folder`; return their names.

    Each part of the dataset begins a new sheet; fields with findings come first, then by name. One sheet is in memory
    at a time.

    Parameters
    ----------
    folder
        Folder to write to.
    tiles
        By split ("train", "test"): its fields of view.
    roles
        Names of the images of a field, the first six of which are drawn.
    most
        Largest number of sheets for each part; what is left out is said on the last one.
    """
    names: list[str] = []
    for part, fields in tiles.items():
        ordered = sorted(fields, key=_order)
        pages = [ordered[start : start + FIELDS] for start in range(0, len(ordered), FIELDS)][:most]
        left = len(ordered) - sum(map(len, pages))
        for number, page in enumerate(pages, start=1):
            name = f"thumbnails_{len(names) + 1}.png" if names else "thumbnails.png"
            flagged = sum(bool(tile.checks) for tile in fields)
            what = f"{count(len(fields), 'field')} of view, {flagged} with findings"
            title = f"{part}: {what}; sheet {number} of {len(pages)}"
            if left and number == len(pages):
                title += f" ({left} more fields not drawn)"
            save_png(sheet(page, roles[:MOST_ROLES], title), folder / name)
            names.append(name)
    return names


def sheet(tiles: Sequence[Tile], roles: Sequence[str], title: str) -> Figure:
    """Return one sheet of thumbnails, the images of a field side by side, framed by the worst finding."""
    width = len(roles) * (_SIDE + _GAP)
    columns = max(1, min(int((_WIDTH - 2 * _MARGIN) / (width + 2 * _GAP)), max(len(tiles), 5 // len(roles))))
    rows = -(-len(tiles) // columns)
    pitch_x, pitch_y = width + 2 * _GAP, _SIDE + _TEXT
    total = 2 * _MARGIN + columns * pitch_x
    legend = textwrap.wrap(_legend(roles), int((total - 2 * _MARGIN) * 16))
    head = _HEAD + _LINE * len(legend)
    size = (total, head + rows * pitch_y + _MARGIN)
    figure = Figure(figsize=size, dpi=_DPI)
    FigureCanvasAgg(figure)
    page = figure.add_axes((0, 0, 1, 1))
    page.set_xlim(0, size[0])
    page.set_ylim(size[1], 0)
    page.set_axis_off()
    page.set_autoscale_on(False)
    wrapped = textwrap.fill(title, max(30, int(size[0] * 11)))
    page.text(_MARGIN, 0.3, drawable(wrapped), fontsize=11, fontweight="bold", va="center", parse_math=False)
    page.text(_MARGIN, 0.48, "\n".join(legend), fontsize=8, color=_GREY, va="top")
    for index, tile in enumerate(tiles):
        _draw(page, tile, _MARGIN + index % columns * pitch_x, head + index // columns * pitch_y)
    return figure


def _draw(page: Axes, tile: Tile, left: float, top: float) -> None:
    images = tile.load()
    width = len(images) * (_SIDE + _GAP) - _GAP
    for index, image in enumerate(images):
        if image is not None:
            _place(page, image, left + index * (_SIDE + _GAP), top)
    colour = COLOURS[tile.checks[0][0]] if tile.checks else "0.8"
    page.add_patch(
        Rectangle(
            (left - 0.03, top - 0.03),
            width + 0.06,
            _SIDE + 0.06,
            fill=False,
            edgecolor=colour,
            linewidth=3 if tile.checks else 0.6,
        )
    )
    letters = int(width * 14)
    name = drawable(_shortened(tile.stem, letters))
    page.text(left, top + _SIDE + 0.07, name, fontsize=7, va="top", color="black", parse_math=False)
    if tile.checks:
        words = ", ".join(check for _, check in tile.checks)
        text = f"{tile.checks[0][0]}: {words}"
        page.text(
            left,
            top + _SIDE + 0.2,
            "\n".join(textwrap.wrap(text, letters, max_lines=2, placeholder=" …")),
            fontsize=7,
            va="top",
            color=colour if tile.checks[0][0] != "warning" else "#8A5A00",
            fontweight="bold",
            linespacing=1.1,
        )


def _place(page: Axes, image: npt.NDArray[np.uint8], left: float, top: float) -> None:
    """Draw an image into its square, centred, in its own proportions."""
    height, width = (_SIDE * length / max(image.shape[:2]) for length in image.shape[:2])
    x, y = left + (_SIDE - width) / 2, top + (_SIDE - height) / 2
    style: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.ndim == 2 else {}
    page.imshow(image, extent=(x, x + width, y + height, y), interpolation="nearest", aspect="auto", **style)


def _legend(roles: Sequence[str]) -> str:
    return (
        f"From left to right: {', '.join(roles)}. Black and white are each image's own 0.1 and 99.9 percentiles; "
        "objects are outlined on their source, in orange those in several regions or with holes. Of volumes the middle "
        "plane is shown, colours as grey."
    )


def _order(tile: Tile) -> tuple[int, str]:
    return (SEVERITIES.index(tile.checks[0][0]) if tile.checks else len(SEVERITIES), tile.stem)


def _shortened(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"
