"""The table of which class was taken for which, in colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

_MOST_WRITTEN: Final = 14
_LONG_NAME: Final = 8


def draw_confusion(axes: Axes, rows: Sequence[str], columns: Sequence[str], table: npt.NDArray[Any]) -> None:
    """Draw how many objects of each class of the target were given each class, coloured by the part of their row.

    Parameters
    ----------
    rows, columns
        Names of the classes; the last row is what was found of no object, the last column what was not found.
    table
        Number of objects, of that shape. The last cell has no meaning.
    """
    # Rows of classes add up to 1; what belongs to no target is part of no class.
    totals = np.maximum(table.sum(axis=1, keepdims=True), 1)
    parts = np.array(table / totals)
    parts[-1] = np.nan
    axes.imshow(parts, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    size = float(np.clip(110 / len(columns), 4, 9))
    axes.set_xticks(range(len(columns)), columns, fontsize=size)
    if max(map(len, columns)) > _LONG_NAME:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("class of the prediction", fontsize=9)
    axes.set_ylabel("class of the target", fontsize=9)
    axes.spines[:].set_visible(False)
    if len(columns) > _MOST_WRITTEN:
        return
    for (row, column), number in np.ndenumerate(table):
        if (row, column) == (len(rows) - 1, len(columns) - 1):
            continue
        part = parts[row, column]
        text = f"{number}" if np.isnan(part) else f"{number}\n{100 * part:.0f} %"
        colour = "white" if part < 0.5 else "black"
        axes.text(column, row, text, color=colour, fontsize=size, ha="center", va="center")
