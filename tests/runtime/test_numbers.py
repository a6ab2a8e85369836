"""Numbers that people and files write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.runtime.numbers import whole_number


@given(st.integers(0, 10**18 - 1))
def test_a_number_is_read_as_it_is_written(number: int) -> None:
    assert whole_number(str(number)) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1_0", " 1", "²", "٣", "1" * 19, "9" * 5000])
def test_what_is_no_number_is_none(text: str) -> None:
    assert whole_number(text) is None


def test_the_number_of_digits_can_be_limited() -> None:
    assert whole_number("0" * 9, 9) == 0
    assert whole_number("0" * 10, 9) is None
