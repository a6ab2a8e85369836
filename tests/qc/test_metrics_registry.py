"""The metrics of all kinds of quality control: one definition for each key, whichever kind has it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from support import ROOT

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.evaluations import EvaluationSummary, Metric, direction_note

QC = ROOT / "services" / "qc" / "parfocal" / "qc"
KINDS = sorted(path.parent.name for path in QC.glob("*/metrics.py"))


def metrics_of(kind: str) -> dict[str, Metric]:
    module = import_module(f"parfocal.qc.{kind}.metrics")
    return {metric.key: metric for metric in (*module.METRICS, *getattr(module, "CLASS_METRICS", ()))}


def test_kinds_are_found_in_the_folders() -> None:
    assert {"instances", "residuals", "restoration", "semantic"} <= set(KINDS)
    assert all((Path(QC) / kind / "job.py").exists() for kind in KINDS)


def test_a_key_means_the_same_in_every_kind() -> None:
    known: dict[str, Metric] = {}
    for kind in KINDS:
        for key, metric in metrics_of(kind).items():
            assert known.setdefault(key, metric) == metric


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_in_lower_case_with_the_unit_of_a_length_at_the_end(kind: str) -> None:
    module = import_module(f"parfocal.qc.{kind}.metrics")
    metrics = metrics_of(kind)
    assert set(module.SHOWN) <= metrics.keys()
    assert metrics[module.SHOWN[0]].used_by_verdict
    for key, metric in metrics.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", key)
        assert key.endswith({"px": "_px", "µm": "_um"}.get(metric.unit, ""))
        assert not key.endswith(("_px", "_um")) or metric.unit in {"px", "µm"}


def test_numbers_are_written_by_their_metric() -> None:
    psnr = Metric(key="psnr", title="PSNR", unit="dB", digits=2)
    assert (psnr.heading, psnr.text(31.234), psnr.text(1.0, signed=True)) == ("PSNR [dB]", "31.23 dB", "+1.00 dB")
    assert Metric(key="mean_accuracy", title="mean accuracy").heading == "Mean accuracy"


def test_which_way_is_better_is_said_of_those_that_differ() -> None:
    up, down, other = (Metric(key=way, title=way, better=way) for way in ("higher", "lower", "none"))  # type: ignore[arg-type]
    assert direction_note([up, other]).startswith("Higher is better")
    assert "except" not in direction_note([up, other])
    assert direction_note([down]).startswith("Lower is better")
    assert direction_note([up, down]).endswith(", except for lower.")
    assert direction_note([up, down, down, down]).endswith(", except for lower, lower and lower.")


def test_a_summary_of_another_version_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidInputError, match=r"summary\.json of s3://r/a .*version.*Evaluate again"):
        EvaluationSummary.parse('{"task": "restoration", "units": {}}', "s3://r/a")
