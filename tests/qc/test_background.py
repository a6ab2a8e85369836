"""Whether a gain is one in the structures or due to the background: real filters and forged models on real scores."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from qc_summaries import summary_of
from scipy.ndimage import gaussian_filter
from support import mentions

from parfocal.demo.simulate import simulate_pair
from parfocal.qc.evaluation.rows import write_metrics_csv
from parfocal.qc.evaluation.statistics import image_scores
from parfocal.qc.metrics.images.fit import scale_target
from parfocal.qc.metrics.images.foreground import find_foreground
from parfocal.qc.metrics.images.restoration import RestorationScore, score_scaled
from parfocal.qc.restoration.background import background_shift, shared_gain, shift_remark
from parfocal.qc.restoration.judge import judge, summarise
from parfocal.qc.restoration.metrics import METRICS, score_row
from parfocal.qc.restoration.parameters import RestorationThresholds, TranslationThresholds
from parfocal.qc.restoration.scoring import regions
from parfocal.runtime.store.evaluations import KINDS, EvaluationSummary

# Of the whole image, not of a part of it.
WHOLE = ("nrmse", "psnr", "ssim", "scale", "offset", "pearson", "nrmse_zerocost")


@cache
def pairs(density=1.0, photons=8.0, count=5):
    made = [simulate_pair((128, 128), seed, density=density, photons=photons) for seed in range(count)]
    return [(noisy.astype(np.float64), clean.astype(np.float64)) for noisy, clean in made]


def blackened(noisy, clean):
    """A model that leaves the structures as noisy as they are and makes the background even."""
    mask = find_foreground(clean).mask
    return np.where(mask, noisy, np.median(noisy[~mask]))


MODELS = {
    "denoised": lambda noisy, clean: clean + 0.2 * (noisy - clean),
    "filtered": lambda noisy, _: gaussian_filter(noisy, 1),
    "blurred": lambda noisy, _: gaussian_filter(noisy, 5),
    "blackened": blackened,
}


@cache
def rows_of(model, density=1.0, photons=8.0, count=5):
    rows = []
    for number, (noisy, clean) in enumerate(pairs(density, photons, count)):
        foreground, scaled = find_foreground(clean), scale_target(clean)
        images = {
            "input": noisy,
            "baseline": gaussian_filter(noisy, 0.4),  # so weak that the input decides
            "prediction": MODELS[model](noisy, clean),
        }
        for kind, image in images.items():
            score, maps = score_scaled(image, scaled)
            more = regions(maps, image, clean, foreground.mask, foreground)
            rows.append(score_row(f"image_{number}", kind, score, None, more))
    return rows


def carried(verdict):
    return [reason for reason in verdict.reasons if "comes from the background" in reason]


@pytest.mark.parametrize("density", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("model", ["denoised", "filtered"])
def test_noise_removed_everywhere_passes_at_any_foreground_fraction(model, density):
    verdict = judge(summarise(rows_of(model, density)))
    assert verdict.verdict == "passed", verdict.reasons


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("model", ["blurred", "blackened"])
def test_a_score_carried_by_background_cannot_pass(model, density):
    summary = summarise(rows_of(model, density))
    assert all(each.difference.low > 0 for each in summary.comparisons if each.other == "input")
    verdict = judge(summary)
    assert verdict.verdict == "failed"
    (reason, *_) = carried(verdict)
    assert mentions(reason, "its input", "PSNR", "whole image", "inside the foreground", "+", "5 images", "25 %")


def test_no_share_and_no_gain_asked_for_still_asks_for_a_gain_inside():
    limits = RestorationThresholds(min_inside_share=0)
    assert judge(summarise(rows_of("filtered")), limits).verdict == "passed"
    assert judge(summarise(rows_of("blackened")), limits).verdict == "failed"


def test_thresholds_are_used():
    assert carried(judge(summarise(rows_of("filtered")), RestorationThresholds(min_ssim_gain_inside=0.9)))
    summary = summarise(rows_of("filtered", 0.2))
    assert not carried(judge(summary, RestorationThresholds(min_inside_share=0.25)))
    assert carried(judge(summarise(rows_of("blackened", 0.2)), RestorationThresholds(min_inside_share=1)))


def test_one_image_is_judged_by_its_difference():
    assert carried(judge(summarise(rows_of("blackened", 1.0, 8.0, 1))))
    verdict = judge(summarise(rows_of("denoised", 1.0, 8.0, 1)))
    assert verdict.verdict == "passed"
    assert "interval" not in json.dumps(verdict.reasons)


def test_worse_than_the_filter_inside_alone_fails():
    swapped = {"prediction": "baseline", "baseline": "prediction"}
    better = rows_of("filtered", 0.2, 40.0)
    # The baseline is what was the prediction; the prediction has the SSIM of the whole image of another one.
    rows = [replace(row, kind=swapped.get(row.kind, row.kind)) for row in better]
    scores = {(row.image, row.kind): row.values for row in better}
    rows = [
        replace(row, values=row.values | {name: scores[row.image, "prediction"][name] for name in WHOLE})
        if row.kind == "prediction"
        else row
        for row in rows
    ]
    reasons = carried(judge(summarise(rows)))
    assert any(mentions(reason, "Gaussian filter", "SSIM") for reason in reasons)


def test_translations_are_judged_against_the_linear_predictor():
    rows = [
        replace(row, kind={"input": "baseline", "baseline": "input"}.get(row.kind, row.kind))
        for row in rows_of("blackened")
    ]
    (reason, *_) = carried(judge(summarise(rows), TranslationThresholds()))
    assert mentions(reason, "linear predictor", "PSNR")


def test_a_baseline_carried_by_background_is_told_but_wins():
    good = {(row.image, row.kind): row for row in rows_of("denoised", 0.2)}
    rows = []
    for row in rows_of("blurred", 0.2):
        if row.kind == "prediction":
            rows.append(replace(row, kind="baseline"))
        elif row.kind == "baseline":
            rows.append(good[row.image, "prediction"])
        else:
            rows.append(row)
    verdict = judge(summarise(rows))
    assert verdict.verdict == "failed"
    assert any(
        mentions(remark, "Inside the foreground", "better", "Gaussian filter", "+", "SSIM", "background")
        for remark in verdict.remarks
    )


def test_shift_is_told_in_both_directions():
    raised = background_shift(image_scores(rows_of("blurred", 0.2), KINDS)["prediction"])
    lowered = background_shift(image_scores(rows_of("filtered", 0.2), KINDS)["prediction"])
    assert raised.amount > 0.1
    assert lowered.amount < -0.1
    assert "raised" in shift_remark(raised, 0.1)
    assert f"{lowered.inside:.3f} inside the foreground" in shift_remark(lowered, 0.1)
    assert "lowered" in shift_remark(lowered, 0.1)
    assert shift_remark(raised, 0.9) is None


def test_shared_gain_counts_a_loss_as_none():
    scores = image_scores(rows_of("blackened"), KINDS)
    prediction, other = scores["prediction"], scores["input"]
    inside = [a.values["snr_inside"] - b.values["snr_inside"] for a, b in zip(other, prediction, strict=True)]
    assert shared_gain(other, prediction, 0.5).mean == pytest.approx(np.mean(inside))


def scores_without_inside():
    plain = RestorationScore(0.1, 20.0, 0.5, 1.0, 0.0, 0.9, 0.3)
    better = RestorationScore(0.05, 26.0, 0.7, 1.0, 0.0, 0.95, 0.2)
    return [
        score_row(f"i{n}", kind, better if kind == "prediction" else plain, None, {"ssim_inside": math.nan})
        for n in range(3)
        for kind in ("input", "baseline", "prediction")
    ]


def test_without_values_inside_the_whole_image_decides_and_a_remark_says_so():
    verdict = judge(summarise(scores_without_inside()))
    assert verdict.verdict == "passed"
    assert any(mentions(remark, "inside the foreground", "unknown") for remark in verdict.remarks)


@pytest.mark.parametrize("rows", [rows_of("filtered"), scores_without_inside()])
def test_summary_is_strict_json_and_shows_what_has_values(rows):
    content = json.loads(summary_of(rows).to_json())
    json.dumps(content, allow_nan=False)
    assert EvaluationSummary.model_validate(content) == summary_of(rows)
    assert content["shown"][:4] == ["psnr", "ssim", "nrmse", "pearson"]
    assert ("ssim_inside" in content["shown"]) is ("ssim_inside" in content["metrics"]["prediction"])
    columns = {column["key"] for column in content["columns"]}
    assert set(content["shown"]) <= columns == set().union(*content["metrics"].values())


def test_table_has_all_numbers_and_empty_cells(tmp_path):
    rows = [*rows_of("filtered"), *scores_without_inside()]
    write_metrics_csv(tmp_path / "metrics.csv", rows, METRICS)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, rows, strict=True):
        for metric in METRICS:
            value = row.value(metric.key)
            assert line[metric.key] == ("" if math.isnan(value) else repr(value))
    assert any(line["ssim_inside"] == "" for line in lines)
    assert any(line["ssim_inside"] != "" for line in lines)
