"""From rows to statistics, comparisons, a verdict, a CSV file and JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qc_summaries import summary_of
from support import mentions

from parfocal.qc.evaluation.rows import write_metrics_csv
from parfocal.qc.evaluation.statistics import statistics
from parfocal.qc.metrics.baselines.gaussian import BaselineChoice
from parfocal.qc.metrics.images.fit import CONSTANT_PREDICTION, CONTRAST_INVERTED
from parfocal.qc.metrics.images.restoration import RestorationScore
from parfocal.qc.restoration.judge import judge, summarise
from parfocal.qc.restoration.metrics import METRICS, PRIMARY, SHOWN, score_row
from parfocal.qc.restoration.parameters import ImageComparisonParameters, RestorationThresholds
from parfocal.runtime.errors import InvalidInputError


def score(psnr=30.0, ssim=0.9, failed=None):
    return RestorationScore(10 ** (-psnr / 20), psnr, ssim, 0.01, -0.2, 0.95, 0.1, failed)


def rows(gains_over_baseline, *, ssim_gain=0.02, gain_over_input=8.0, failed=()):
    """Rows of as many images as there are PSNR gains; images differ, gains are paired."""
    result = []
    for i, gain in enumerate(gains_over_baseline):
        base = 28.0 + i
        name = f"image_{i}"
        result += [
            score_row(name, "input", score(base - 5, 0.4)),
            score_row(name, "baseline", score(base, 0.8)),
            score_row(
                name,
                "prediction",
                score(
                    base + gain if gain_over_input == 8.0 else base - 5 + gain_over_input,
                    0.8 + ssim_gain,
                    CONTRAST_INVERTED if i in failed else None,
                ),
            ),
        ]
    return result


GOOD = (1.0, 1.2, 0.8, 1.1)
MIXED = (1.0, -1.2, 0.8, -0.7)
BAD = (-1.0, -1.2, -0.8, -1.1)


def verdict_of(*args, thresholds=None, **kwargs):
    return judge(summarise(rows(*args, **kwargs)), thresholds)


def test_statistics_of_known_values():
    values = statistics([1.0, 2.0, 3.0, 10.0])
    assert values.mean == 4
    assert values.median == 2.5
    assert values.sd == pytest.approx(np.std([1, 2, 3, 10], ddof=1))
    assert values.low is not None
    assert 1 <= values.low < 4 < values.high <= 10


def test_interval_of_many_values_agrees_with_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, 400)
    result = statistics(values)
    error = values.std(ddof=1) / 20
    assert (result.low, result.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error
    )


def test_same_values_give_the_same_interval():
    assert statistics([1.0, 5.0, 9.0]) == statistics([1.0, 5.0, 9.0])


@pytest.mark.parametrize(("values", "sd"), [([2.0], None), ([2.0, 4.0], np.sqrt(2))])
def test_few_values_have_no_interval(values, sd):
    result = statistics(values)
    assert (result.low, result.high) == (None, None)
    assert result.sd == (None if sd is None else pytest.approx(sd))


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=12))
@settings(max_examples=15, deadline=None)
def test_interval_encloses_the_mean(values):
    result = statistics(values)
    assert min(values) - 1e-9 <= result.low <= result.mean + 1e-9
    assert result.mean - 1e-9 <= result.high <= max(values) + 1e-9


def test_better_than_input_and_filter_passes():
    verdict = verdict_of(GOOD)
    assert verdict.verdict == "passed"
    assert any(mentions(reason, "better than its input", "PSNR: +6.0") for reason in verdict.reasons)
    assert any(mentions(reason, "better than", "Gaussian filter", "SSIM: +0.020") for reason in verdict.reasons)
    assert all("4 of 4 images" in reason for reason in verdict.reasons)


def test_worse_than_the_filter_fails():
    verdict = verdict_of(BAD)
    assert verdict.verdict == "failed"
    (reason,) = verdict.reasons
    assert mentions(reason, "worse than", "Gaussian filter", "PSNR: -")


def test_worse_in_ssim_alone_fails():
    verdict = verdict_of(GOOD, ssim_gain=-0.05)
    assert verdict.verdict == "failed"
    assert mentions(verdict.reasons[0], "worse than", "Gaussian filter", "SSIM: -0.050")


def test_overlapping_interval_is_not_distinguishable_and_passes():
    verdict = verdict_of(MIXED)
    assert verdict.verdict == "passed"
    assert any(mentions(reason, "not distinguishable", "Gaussian filter", "PSNR") for reason in verdict.reasons)


def test_no_better_than_the_input_fails():
    verdict = verdict_of(GOOD, gain_over_input=0.0)
    assert verdict.verdict == "failed"
    assert mentions(verdict.reasons[0], "not shown", "its input", "PSNR: +0.00 dB")


def test_worse_than_the_input_fails():
    assert mentions(verdict_of(GOOD, gain_over_input=-2.0).reasons[0], "worse than its input", "PSNR: -2.00 dB")


def test_one_inverted_image_fails_however_good_the_rest():
    verdict = verdict_of(GOOD, failed={2})
    assert verdict.verdict == "failed"
    (reason,) = verdict.reasons
    assert mentions(reason, "1 of 4 predictions", "image_2 (contrast inverted)")


def test_where_all_images_are_inverted_nothing_else_is_said_to_be_the_reason():
    (reason,) = verdict_of(BAD, failed=(0, 1, 2, 3)).reasons
    assert reason.startswith("4 of 4 predictions failed outright")


def test_inverted_inputs_do_not_count_against_the_model():
    table = [
        dataclasses.replace(row, failed=CONTRAST_INVERTED) if row.kind != "prediction" else row for row in rows(GOOD)
    ]
    assert judge(summarise(table)).verdict == "passed"


def test_many_failures_are_named_in_part():
    verdict = verdict_of([1.0] * 8, failed=set(range(8)))
    assert "8 of 8" in verdict.reasons[0]
    assert verdict.reasons[0].endswith("image_4 (contrast inverted) and 3 more.")


@pytest.mark.parametrize(("gains", "expected"), [((1.0, 1.2), "passed"), ((-1.0,), "failed")])
def test_few_images_are_judged_by_the_mean_and_said_so(gains, expected):
    verdict = verdict_of(gains)
    assert verdict.verdict == expected
    assert verdict.remarks[0].startswith(f"Only {len(gains)} test image")
    assert not any("interval" in reason for reason in verdict.reasons)


def test_thresholds_move_the_verdict():
    assert verdict_of(BAD, thresholds=RestorationThresholds(max_psnr_loss_to_baseline=1.5)).verdict == "passed"
    assert verdict_of(GOOD, thresholds=RestorationThresholds(min_psnr_gain_over_input=7)).verdict == "failed"
    assert verdict_of(GOOD, thresholds=RestorationThresholds(min_ssim_gain_over_input=0.5)).verdict == "failed"
    lenient = verdict_of(GOOD, failed={2}, thresholds=RestorationThresholds(max_failed_images=1))
    assert lenient.verdict == "passed"
    assert any(mentions(remark, "image_2: contrast inverted", "thresholds") for remark in lenient.remarks)


def test_unknown_or_negative_thresholds_are_refused():
    with pytest.raises(pydantic.ValidationError, match="min_pnsr"):
        RestorationThresholds.model_validate({"min_pnsr": 1})
    with pytest.raises(pydantic.ValidationError, match="max_psnr_loss_to_baseline"):
        RestorationThresholds(max_psnr_loss_to_baseline=-1)


def stack_rows(failed_slices, slices=20):
    result = []
    for image in ("a", "b", "c"):
        for z in range(slices):
            failed = CONSTANT_PREDICTION if image == "b" and z < failed_slices else None
            result += [
                score_row(image, "input", score(20, 0.3), z),
                score_row(image, "baseline", score(25 + z, 0.6), z),
                score_row(image, "prediction", score(27 + z, 0.7, failed), z),
            ]
    return result


def test_a_stack_is_one_image_with_the_mean_of_its_slices():
    summary = summarise(stack_rows(0))
    assert summary.images == 3
    assert summary.metrics["prediction"]["psnr"].mean == pytest.approx(27 + 9.5)
    assert summary.metrics["prediction"]["psnr"].sd == pytest.approx(0)


def test_a_few_failed_slices_are_a_remark():
    verdict = judge(summarise(stack_rows(2)))
    assert verdict.verdict == "passed"
    assert any(mentions(each, "b: prediction is constant", "2 of 20", "thresholds") for each in verdict.remarks)


def test_many_failed_slices_fail_the_stack():
    verdict = judge(summarise(stack_rows(3)))
    assert verdict.verdict == "failed"
    assert "b (prediction is constant)" in verdict.reasons[0]


def test_worst_image_has_the_lowest_psnr_whatever_its_ssim():
    table = rows(GOOD)
    table[5] = score_row(table[5].image, "prediction", score(21.25, 0.99))
    summary = summarise(table)
    assert summary.worst.image == "image_1"
    assert any(mentions(remark, "worst", "image_1", "PSNR 21.25 dB") for remark in judge(summary).remarks)


def test_images_are_ranked_by_the_metric_that_tables_begin_with_and_comparisons_rank_by():
    assert next(iter(SHOWN)) == PRIMARY
    assert ImageComparisonParameters().metrics[0] == PRIMARY


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "no scored images"),
        (rows(GOOD)[:-1], "image_3 .*no row.* prediction"),
        (rows(GOOD) + rows(GOOD)[:1], "image_0 .*two rows.* input"),
        (stack_rows(0)[:-1], "c, slice 19, .*no row.* prediction"),
    ],
)
def test_rows_must_pair_up(table, words):
    with pytest.raises(InvalidInputError, match=words):
        summarise(table)


def test_every_field_of_a_score_has_a_column():
    fields = {field.name for field in dataclasses.fields(RestorationScore)} - {"failed"}
    assert fields <= {metric.key for metric in METRICS}
    assert set(score_row("a", "input", score()).values) == fields


finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(
    st.lists(
        st.builds(
            score_row,
            image=names,
            kind=st.sampled_from(["input", "baseline", "prediction"]),
            score=st.builds(
                RestorationScore,
                *[finite] * 7,
                failed=st.sampled_from([None, CONTRAST_INVERTED, CONSTANT_PREDICTION]),
            ),
            plane=st.none() | st.integers(0, 500),
        ),
        max_size=5,
    )
)
@settings(max_examples=40, deadline=None)
def test_csv_has_every_row_exactly(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("csv") / "metrics.csv"
    write_metrics_csv(path, table, METRICS)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table)
    for line, row in zip(lines, table, strict=True):
        assert (line["image"], line["kind"]) == (row.image, row.kind)
        assert line["slice"] == ("" if row.slice is None else str(row.slice))
        assert line["failed"] == (row.failed or "")
        for metric in METRICS:
            value = row.value(metric.key)
            assert line[metric.key] == "" if np.isnan(value) else float(line[metric.key]) == value


def test_csv_columns_are_the_keys_of_the_metrics(tmp_path):
    write_metrics_csv(tmp_path / "metrics.csv", rows(GOOD), METRICS)
    heading, *lines = (tmp_path / "metrics.csv").read_text("utf-8").splitlines()
    assert heading.startswith("image,slice,kind,failed,nrmse,psnr,ssim,")
    assert re.fullmatch(r"[a-z0-9_,]+", heading)
    assert len(lines) == 12


@pytest.mark.parametrize("gains", [GOOD, (1.0,)])
def test_json_is_strict_and_complete(gains):
    choice = BaselineChoice(2.1, ((2.0, 33.0), (2.5, 32.0)), 4)
    document = json.loads(summary_of(rows(gains, failed={0}), choice.describe()).to_json())
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["verdict"] == "failed"
    assert document["worst_image"]["image"] == "image_0"
    assert document["baseline"]["sigma_pixels"] == 2.1
    assert set(document["metrics"]) == {"input", "baseline", "prediction"}
