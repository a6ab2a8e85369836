"""Parameters read from text by a published schema."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from support import mentions

from parfocal import v1
from parfocal.client.parameters import parse_parameters, preset_values, table_rows
from parfocal.runtime.errors import InvalidParameterError


class Inner(BaseModel):
    depth: int = 1


class Everything(BaseModel):
    count: int = Field(default=3, ge=1, le=10, description="How many.")
    rate: float = Field(default=0.5, gt=0, lt=1)
    size: int = Field(default=64, multiple_of=8)
    flag: bool = True
    mode: Literal["auto", "float32"] = "auto"
    level: Literal[1, 2] = 1
    limit: float | None = None
    name: str = Field(default="", max_length=4)
    note: str | None = None
    edges: list[int] = Field(default=[1, 2], min_length=2, max_length=3)
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = Inner()


SCHEMA = Everything.model_json_schema()


def parse(*assignments: str) -> dict[str, Any]:
    return parse_parameters("Method", SCHEMA, assignments)


def problem(*assignments: str) -> str:
    with pytest.raises(InvalidParameterError) as caught:
        parse(*assignments)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("count=4", 4),
        ("count=4.0", 4),
        ("rate=1e-3", 0.001),
        ("size=16", 16),
        ("flag=no", False),
        ("flag=True", True),
        ("mode=float32", "float32"),
        ("level=2", 2),
        ("limit=none", None),
        ("limit=2.5", 2.5),
        ("name=a=b", "a=b"),
        ("note=null", None),
        ("note=hello", "hello"),
        ("edges=1, 2,3", [1, 2, 3]),
        ("edges=[4,5]", [4, 5]),
        ("pair=0.1,0.9", [0.1, 0.9]),
        ('inner={"depth": 2}', {"depth": 2}),
    ],
)
def test_text_becomes_the_value_the_schema_asks_for(text: str, value: Any) -> None:
    parsed = parse(text)[text.partition("=")[0]]
    assert parsed == value
    assert type(parsed) is type(value)
    Everything.model_validate(parse(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("count=0", "at least 1"),
        ("count=11", "at most 10"),
        ("count=1.5", "whole number"),
        ("count=many", "whole number"),
        ("rate=0", "greater than 0"),
        ("rate=1", "less than 1"),
        ("rate=0,5", "a point, not a comma"),
        ("rate=nan", "must be a number"),
        ("rate=inf", "must be a number"),
        ("size=20", "multiple of 8"),
        ("flag=perhaps", "true or false"),
        ("mode=float23", "'float32'"),
        ("level=3", "one of 1, 2"),
        ("limit=x", "must be a number"),
        ("name=toolong", "at most 4"),
        ("edges=1", "2 to 3 values"),
        ("edges=1,x", "whole number"),
        ("pair=1,2,3", "2 values"),
        ("inner=3", "JSON object"),
        ("coutn=3", "'count'"),
        ("zzz=3", "Known: count, rate"),
        ("count", "write name=value"),
    ],
)
def test_a_wrong_value_is_explained(text: str, words: str) -> None:
    assert words in problem(text)


def test_all_problems_are_told_at_once() -> None:
    text = problem("count=0", "rate=2", "nope=1")
    assert "'count'" in text
    assert "'rate'" in text
    assert "'nope'" in text


def test_a_parameter_given_twice_is_refused() -> None:
    assert "twice" in problem("count=1", "count=2")


def test_the_table_has_type_default_range_and_help_of_every_parameter() -> None:
    rows = {row[0]: row[1:] for row in table_rows(SCHEMA)}
    assert list(rows) == list(Everything.model_fields)
    assert rows["count"] == ("whole number", "3", "1 to 10", "How many.")
    assert rows["mode"][:3] == ("choice", "auto", "auto, float32")
    assert rows["limit"][:2] == ("number", "none")
    assert mentions(rows["edges"][0], "list", "whole number")
    assert rows["edges"][1] == "1,2"
    assert rows["rate"][2] == "> 0, < 1"


def test_a_preset_gives_its_values_and_an_unknown_one_names_those_there_are() -> None:
    preset = v1.Preset(name="quick")
    preset.parameters.update({"epochs": 3, "rate": 0.5, "flag": False})
    method = v1.Method(title="Method", presets=[preset])
    assert preset_values(method, "quick") == {"epochs": 3, "rate": 0.5, "flag": False}
    with pytest.raises(InvalidParameterError, match="quick") as caught:
        preset_values(method, "slow")
    assert [violation.field for violation in caught.value.violations] == ["preset"]
