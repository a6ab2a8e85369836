"""The table of scores that every evaluation publishes, as all its readers get it."""

from __future__ import annotations

import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.scores import read_scores

PSNR = ["psnr"]


def test_scores_are_found_by_key_and_slices_averaged() -> None:
    text = "new,kind,slice,image,psnr\r\nx,prediction,0,stack,20\r\nx,prediction,1,stack,30\r\nx,input,0,stack,10\r\n"
    assert read_scores(text, PSNR) == {"prediction": {"stack": {"psnr": 25.0}}, "input": {"stack": {"psnr": 10.0}}}


def test_an_image_without_a_number_is_there_without_it() -> None:
    text = "image,kind,psnr\na,prediction,\nb,prediction,20\n"
    assert read_scores(text, PSNR) == {"prediction": {"a": {}, "b": {"psnr": 20.0}}}


def test_slices_without_a_number_do_not_count_in_the_mean() -> None:
    text = "image,kind,psnr\na,prediction,\na,prediction,20\n"
    assert read_scores(text, PSNR) == {"prediction": {"a": {"psnr": 20.0}}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,kind\na,prediction\n", "metrics of x .*'psnr'"),
        ("", "metrics of x .*'image'"),
        ("image,kind,psnr\na,prediction,poor\n", "line 2: 'poor'"),
        ("image,kind,psnr\na,prediction\n", "line 2: ''"),
    ],
    ids=["no column", "empty", "text", "cut off"],
)
def test_a_table_that_cannot_be_read_says_where(text: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        read_scores(text, PSNR, "metrics of x")
