"""Weights of PyTorch and Darknet that are damaged in any way are refused in words: a short run of `python -m fuzz`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fuzz.elsewhere import parsers_here
from fuzz.inputs import attempt, corpus, run_inputs


@pytest.mark.parametrize("name", ["torch", "safetensors", "darknet"])
def test_damaged_weights_are_refused_in_words(name: str, tmp_path: Path) -> None:
    parsers = [parser for parser in parsers_here(tmp_path / "good") if parser.name == name]
    findings = run_inputs(4, 300, tmp_path, None, time.monotonic() + 20, parsers)
    assert not findings.defects
    assert findings.counts["refused"] > 5
    assert findings.counts["accepted"], "all inputs are absurd: nothing deep is tested"


def test_what_was_a_defect_once_is_refused_in_words(tmp_path: Path) -> None:
    parsers = {parser.name: parser for parser in parsers_here(tmp_path / "good")}
    kept = [(name, data) for name, data in corpus() if name in parsers]
    assert kept
    for name, data in kept:
        assert attempt(parsers[name], data, tmp_path), name
