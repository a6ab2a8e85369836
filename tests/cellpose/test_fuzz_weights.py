"""Weights of Cellpose that are damaged in any way are refused in words: a short run of `python -m fuzz`."""

from __future__ import annotations

import time
from pathlib import Path

from fuzz.elsewhere import parsers_here
from fuzz.inputs import run_inputs


def test_damaged_weights_are_refused_in_words(tmp_path: Path) -> None:
    parsers = [parser for parser in parsers_here(tmp_path / "good") if parser.name == "cellpose"]
    findings = run_inputs(4, 300, tmp_path, None, time.monotonic() + 20, parsers)
    assert not findings.defects
    assert findings.counts["refused"] > 5
    assert findings.counts["accepted"], "all inputs are absurd: nothing deep is tested"
