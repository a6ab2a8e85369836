"""Tables of detections, written by a prediction or by another program, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.prediction.detections import read_detections
from parfocal.runtime.prediction.outputs import ResultOutputs
from parfocal.runtime.prediction.unit import Stack

HEADER = "class,confidence,x_min_px,y_min_px,x_max_px,y_max_px"


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "a.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_what_a_prediction_writes_is_read_back(tmp_path: Path) -> None:
    found = Detections(
        np.array([[1, 2, 30.5, 40.25], [0, 0, 5, 6]], np.float32),
        np.array([1, 0]),
        np.array([0.9375, 0.25], np.float32),
    )
    outputs = ResultOutputs(tmp_path, "a", "YX", Stack("", ()), None)
    outputs.unit(0, (50, 60)).detections(found, ["round, flat", "long"])
    outputs.finish()
    table = read_detections(tmp_path / "detections" / "a.csv")
    assert table.names == ("long", "round, flat")
    assert table.corners.tolist() == found.corners.tolist()
    assert table.confidence.tolist() == found.confidence.tolist()


def test_a_table_without_boxes_has_none(tmp_path: Path) -> None:
    table = read_detections(write(tmp_path))
    assert (table.names, table.corners.shape, table.confidence.shape) == ((), (0, 4), (0,))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("cell,0.5,0,0,ten,5", "x_max_px"),
        ("cell,nan,0,0,10,5", "confidence"),
        ("cell,80,0,0,10,5", "confidence"),
        ("cell,0.5,10,0,5,5", "corner"),
        (",0.5,0,0,10,5", "class"),
        ("cell,0.5,0,0,10", "y_max_px"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, line: str, named: str) -> None:
    path = write(tmp_path, "cell,0.5,0,0,10,5", line)
    with pytest.raises(InvalidInputError, match=f"a.csv, line 3: .*{named}"):
        read_detections(path)


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no column confidence, x_min_px"):
        read_detections(write(tmp_path, header="class,x,y_min_px,x_max_px,y_max_px"))


def test_boxes_in_other_planes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "0,cell,0.5,0,0,10,5", "1,cell,0.5,0,0,10,5", header=f"plane,{HEADER}")
    with pytest.raises(InvalidInputError, match="line 3: the box lies in plane 1"):
        read_detections(path)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match=r"a\.csv cannot be read"):
        read_detections(path)
