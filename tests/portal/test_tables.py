"""Tables of results: what is odd about a file becomes a sentence, whoever wrote it."""

from __future__ import annotations

import pytest

from parfocal.portal.tables import place_of, read_table
from parfocal.runtime.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "columns", "first", "remark"),
    [
        ("label,x_px\n1,2\n", ("label", "x_px"), {"label": "1", "x_px": "2"}, ""),
        ("\ufefflabel;area\n1;2\n", ("label;area",), {"label;area": "1;2"}, ""),
        ("a,b\n1\n2,3\n", ("a", "b"), {"a": "1", "b": ""}, "1 of 2 rows"),
        ("a,b\n1,2,3\n", ("a", "b"), {"a": "1", "b": "2"}, "1 of 1 rows"),
        ("a,,a\n1,2,3\n", ("a", "column 2", "a (3)"), {"a": "1", "column 2": "2", "a (3)": "3"}, ""),
        ("\n\na\n\n1\n", ("a",), {"a": "1"}, ""),
    ],
)
def test_odd_tables_are_shown_as_far_as_they_can_be(
    text: str, columns: tuple[str, ...], first: dict[str, str], remark: str
) -> None:
    table = read_table("objects.csv", text.encode(), 10)
    assert table.columns == columns
    assert table.rows[0] == first
    assert remark in table.remark
    assert bool(remark) == bool(table.remark)


@pytest.mark.parametrize("data", [b"a\0b,c\n1,2\n", b"a\n" + b"x" * 200_000 + b"\n"])
def test_what_is_no_table_is_said_by_name(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"objects\.csv"):
        read_table("objects.csv", data, 10)


def test_nothing_is_a_table_without_rows() -> None:
    assert read_table("objects.csv", b"", 10).total == 0


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"label": "3", "x_px": "1.5", "y_px": "2"}, {"object": "3", "x": "1.5", "y": "2"}),
        ({"x_min_px": "1", "x_max_px": "2", "y_min_px": "", "y_max_px": "4"}, {"x": "1.5"}),
        ({"x_min_px": "left", "x_max_px": "right", "label": "nucleus", "y_px": "nan"}, {}),
    ],
)
def test_a_row_leads_to_its_place_if_it_has_one(row: dict[str, str], place: dict[str, str]) -> None:
    assert place_of(row) == place
