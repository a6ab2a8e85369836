"""What a comparison says, reads and refuses, on scores made up so that the answer is known."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from support import mentions

from parfocal import v1
from parfocal.qc.comparison.candidates import (
    Candidate,
    Evaluation,
    TargetScores,
    check_same_test,
    choose_candidates,
    lay_side_by_side,
)
from parfocal.qc.comparison.figure import Shown, images_figure, scores_figure
from parfocal.qc.comparison.summary import (
    conclusion,
    interval_remark,
    power_remark,
    rank_images,
    run_tests,
    sentences,
    write_comparison_csv,
    write_tests_csv,
)
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.instances.metrics import BY_KEY as INSTANCES
from parfocal.qc.instances.parameters import InstanceComparisonParameters
from parfocal.qc.restoration.metrics import BY_KEY as RESTORATION
from parfocal.qc.restoration.parameters import ImageComparisonParameters
from parfocal.qc.semantic.metrics import BY_KEY as SEMANTIC
from parfocal.qc.semantic.parameters import SemanticComparisonParameters
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.evaluations import EvaluationSummary
from parfocal.runtime.store.manifests import ResultFile, ResultManifest

BASE = np.linspace(20.0, 32.0, 12)
SPEC = v1.ComparisonSpec(method="restoration", dataset_uri="s3://d/a/1")


def evaluation(name="a:1", *, images=None, **facts):
    digests = images or {f"field{number}": f"sha{number}" for number in range(3)}
    manifest = ResultManifest(
        project="p",
        job=f"job-{name}",
        service="qc",
        method="restoration",
        kind="evaluation",
        input_uri="s3://d/a/1",
        split="test",
        images=tuple(
            ResultFile(input=stem, input_sha256=sha, outputs={"prediction": "s3://r/p/1"})
            for stem, sha in digests.items()
        ),
        parameters={"iou": 0.5},
    )
    scores = {kind: {stem: {"psnr": 20.0} for stem in digests} for kind in ("prediction", "input", "baseline")}
    summary = EvaluationSummary.model_construct(
        definition="as ever", baseline={"name": "Gaussian filter"}, columns=tuple(RESTORATION.values())
    )
    known = {name: facts.pop(name) for name in ("summary", "scores") if name in facts}
    made = Evaluation(f"s3://r/{name}", name, manifest.model_copy(update=facts), summary, scores)
    return replace(made, **known)


def candidates(*names, references=()):
    models = [Candidate(name, "model", evaluation(name)) for name in names]
    return models + [Candidate(name, kind, evaluation(name)) for kind, name in references]


def table(metric="psnr", target="target", **columns):
    names = {name.replace("_", ":"): np.asarray(values, float) for name, values in columns.items()}
    count = len(next(iter(names.values())))
    return TargetScores(target, tuple(f"field{number:02}" for number in range(count)), {metric: names}, RESTORATION)


def test_one_sentence_names_the_better_model_with_interval_and_p():
    scores = table(a_1=BASE, b_1=BASE + np.linspace(1.0, 1.4, 12))
    tests = run_tests(candidates("a:1", "b:1"), [scores], 0.05)
    (sentence,) = sentences(tests, 0.05)
    low, high = tests[0].difference.low, tests[0].difference.high
    assert sentence == (
        f"On 12 test images, b:1 is better than a:1 by 1.20 dB in PSNR (95 % interval {-high:.2f} to {-low:.2f}; "
        "Wilcoxon p = 0.00049)."
    )
    assert power_remark(tests, 0.05) == ""


def test_less_is_better_where_the_metric_is_an_error():
    scores = table("nrmse", a_1=np.linspace(0.1, 0.2, 12), b_1=np.linspace(0.1, 0.2, 12) + np.linspace(0.01, 0.02, 12))
    (test,) = run_tests(candidates("a:1", "b:1"), [scores], 0.05)
    assert test.outcome == "first is better"
    assert test.difference.mean < 0
    assert rank_images(candidates("a:1", "b:1"), scores, "nrmse")[0][0] == "field00"


def test_with_several_models_shown_differences_come_first():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.5, 12)
    scores = table(a_1=BASE, b_1=BASE + noise - noise.mean(), c_1=BASE + np.linspace(3, 4, 12))
    tests = run_tests(candidates("a:1", "b:1", "c:1"), [scores], 0.05)
    (sentence,) = sentences(tests, 0.05)
    assert sentence.index("c:1 is better than a:1") < sentence.index("between a:1 and b:1")
    assert sentence.count("no difference") == sentence.count("3 comparisons") == 1


def test_references_are_compared_with_models_and_not_with_each_other():
    scores = table(a_1=BASE, b_1=BASE + np.linspace(1, 1.4, 12), input=BASE - np.linspace(4, 5, 12), filter=BASE + 0.0)
    rivals = candidates("a:1", "b:1", references=(("input", "input"), ("baseline", "filter")))
    tests = run_tests(rivals, [scores], 0.05)
    assert [(test.first.name, test.second.name) for test in tests] == [
        *(("a:1", other) for other in ("b:1", "input", "filter")),
        *(("b:1", other) for other in ("input", "filter")),
    ]
    _, beside = sentences(tests, 0.05)
    assert mentions(beside, "better than", "the input (+4.50 dB", "the filter (+0.00 dB, p = 1)")


def test_a_difference_of_few_images_is_not_called_real_however_large():
    tests = run_tests(candidates("a:1", "b:1"), [table(a_1=[20, 21, 22], b_1=[40, 42, 44])], 0.05)
    assert tests[0].outcome == "not shown"
    assert mentions(sentences(tests, 0.05)[0], "no difference", "3 images")
    assert mentions(power_remark(tests, 0.05), "3 images", "Wilcoxon", "0.25", "6 images for 1 comparison")


def test_an_interval_without_zero_that_is_not_shown_is_explained():
    five = np.linspace(20, 24, 5)
    scores = table(a_1=five, b_1=five + np.linspace(1.0, 1.4, 5), c_1=five + np.array([0.3, -0.2, 0.1, -0.3, 0.2]))
    tests = run_tests(candidates("a:1", "b:1", "c:1"), [scores], 0.05)
    assert {test.outcome for test in tests} == {"not shown"}
    remark = interval_remark(tests, 0.05)
    assert mentions(remark, "95 %", "a:1 and b:1 in PSNR; b:1 and c:1 in PSNR.", "3 differences", "verdict")
    # Why, and what to do.
    assert mentions(remark, "5 images", "at least 7 images", "6 if a single difference")
    assert {conclusion(test, len(tests), 0.05) for test in tests} == {"too few images: 7 or more are needed"}
    assert mentions(sentences(tests, 0.05)[0], "5 images", "at least 7")


def test_a_hint_of_enough_images_is_called_one():
    """Seven of twelve images agree and the others hardly differ: the interval excludes zero, the test does not."""
    difference = np.array([2.0, 1.8, 1.9, 2.1, 1.7, 2.2, 1.6, -0.5, -0.6, -0.4, -0.3, -0.55])
    scores = [
        table(target=target, a_1=BASE + each, b_1=BASE)
        for target, each in (("target", difference), *((f"t{number}", difference * 0) for number in range(4)))
    ]
    tests = run_tests(candidates("a:1", "b:1"), scores, 0.05)
    assert (tests[0].difference.low or 0) > 0
    assert tests[0].wilcoxon_holm > 0.05
    assert conclusion(tests[0], len(tests), 0.05) == "only a hint: more images must confirm it"
    assert conclusion(tests[1], len(tests), 0.05) == "not shown"
    remark = interval_remark(tests, 0.05)
    assert mentions(remark, "12 images", "compare more images")
    assert "at least" not in remark


def test_what_is_shown_or_has_zero_in_its_interval_needs_no_explanation():
    shown = run_tests(candidates("a:1", "b:1"), [table(a_1=BASE, b_1=BASE + np.linspace(1.0, 1.4, 12))], 0.05)
    equal = run_tests(candidates("a:1", "b:1"), [table(a_1=BASE, b_1=BASE + np.resize([0.3, -0.3], 12))], 0.05)
    one = run_tests(candidates("a:1", "b:1"), [table(a_1=[20], b_1=[40])], 0.05)
    assert shown[0].outcome == "second is better"
    assert [interval_remark(tests, 0.05) for tests in (shown, equal, one)] == ["", "", ""]
    few = run_tests(candidates("a:1", "b:1"), [table(a_1=[20, 21, 22], b_1=[21, 22.1, 23.2])], 0.05)
    assert mentions(interval_remark(few, 0.05), "Wilcoxon", "3 images", "at least 6 images")
    assert "corrected" not in interval_remark(few, 0.05)


def test_one_image_is_compared_without_interval():
    tests = run_tests(candidates("a:1", "b:1"), [table(a_1=[20], b_1=[40])], 0.05)
    assert (tests[0].difference.low, tests[0].outcome, tests[0].paired.wilcoxon) == (None, "not shown", 1.0)
    assert mentions(sentences(tests, 0.05)[0], "1 test image,", "no difference")


def test_rank_and_mean_must_agree():
    """One image far off carries the mean, all others say the contrary: nothing is called real."""
    other = BASE + np.linspace(0.1, 0.2, 12)
    other[0] -= 30
    (test,) = run_tests(candidates("a:1", "b:1"), [table(a_1=BASE, b_1=other)], 0.05)
    assert test.difference.mean > 0 > test.paired.rank_biserial
    assert test.outcome == "not shown"


def test_equal_models_are_seldom_called_different():
    """Three equal models in two metrics: six tests, and anything called real by chance in one run of twenty at most."""
    rng, runs, wrong = np.random.default_rng(2), 120, 0
    for _ in range(runs):
        base = rng.normal(28, 3, 10)
        columns = {metric: {name: base + rng.normal(0, 0.5, 10) for name in "abc"} for metric in ("psnr", "ssim")}
        scores = TargetScores("target", tuple(map(str, range(10))), columns, RESTORATION)
        wrong += any(test.outcome != "not shown" for test in run_tests(candidates(*"abc"), [scores], 0.05))
    # Three standard deviations above the promise.
    assert wrong <= runs * 0.05 + 3 * np.sqrt(runs * 0.05 * 0.95)


def test_every_metric_that_may_be_chosen_is_described():
    for parameters, metrics in (
        (ImageComparisonParameters, RESTORATION),
        (InstanceComparisonParameters, INSTANCES),
        (SemanticComparisonParameters, SEMANTIC),
    ):
        schema = parameters.model_json_schema()["properties"]["metrics"]
        assert set(schema["items"]["enum"]) <= metrics.keys()
        assert set(parameters().metrics) <= set(schema["items"]["enum"])


def test_tables_hold_every_score_and_test(tmp_path):
    scores = [table(target=target, a_1=BASE, b_1=BASE + 1) for target in ("target", "target_B")]
    write_comparison_csv(tmp_path / "comparison.csv", scores)
    write_tests_csv(tmp_path / "tests.csv", run_tests(candidates("a:1", "b:1"), scores, 0.05))
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines()))
    assert len(rows) == 48
    assert (rows[25]["target"], rows[25]["candidate"], float(rows[25]["psnr"])) == ("target_B", "b:1", 21.0)
    tests = csv.DictReader((tmp_path / "tests.csv").read_text().splitlines())
    assert [row["target"] for row in tests] == ["target", "target_B"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"input_uri": "s3://d/a/2"}, "a:1 has the dataset s3://d/a/1, b:1 the dataset s3://d/a/2"),
        ({"split": "train"}, "the split test, b:1 the split train"),
        ({"method": "instances"}, "'instances'"),
        ({"parameters": {"iou": 0.8}}, "the iou 0.5, b:1 the iou 0.8"),
        ({"summary": EvaluationSummary.model_construct(definition="another")}, "different definitions"),
        ({"targets": ("target_B",)}, "target_B"),
        ({"images": {"field0": "sha0", "field1": "sha1"}}, "field2 was scored for a:1, not for b:1"),
        (
            {"images": {"field0": "sha0", "field1": "sha1", "field2": "other"}},
            "different source images",
        ),
    ],
)
def test_what_differs_is_named(facts, words):
    with pytest.raises(InvalidInputError, match="cannot be compared") as caught:
        check_same_test([evaluation(), evaluation("b:1", **facts)], SPEC, InstanceComparisonParameters.scoring)
    assert words in str(caught.value)


def test_the_same_evaluation_twice_is_no_comparison():
    check_same_test([evaluation(), evaluation("b:1")], SPEC, InstanceComparisonParameters.scoring)
    with pytest.raises(InvalidInputError, match="at least two evaluations"):
        check_same_test([evaluation(), evaluation()], SPEC, InstanceComparisonParameters.scoring)


def test_a_target_that_only_some_have_is_left_out():
    """Of several targets the names of images begin with the target, of one they do not."""
    labels = {f"{target}/field{number}": f"sha{number}" for target in ("target", "target_B") for number in (1, 0)}
    scores = {"prediction": {label: {"psnr": float(number)} for number, label in enumerate(labels)}}
    both = evaluation(images=labels, targets=("target", "target_B"), scores=scores)
    second = {"prediction": {f"field{number}": {"psnr": 7.0 + number} for number in (0, 1)}}
    one = evaluation("b:1", images={f"field{number}": f"sha{number}" for number in (0, 1)}, scores=second)
    one = replace(one, manifest=one.manifest.model_copy(update={"targets": ("target_B",)}))
    check_same_test([both, one], SPEC, InstanceComparisonParameters.scoring)
    rivals, _ = choose_candidates([both, one], ())
    (side,) = lay_side_by_side(rivals, ["psnr"])
    assert (side.target, side.images) == ("target_B", ("field0", "field1"))
    assert {name: list(values) for name, values in side.scores["psnr"].items()} == {
        "a:1": [3.0, 2.0],
        "b:1": [7.0, 8.0],
    }


def test_a_metric_that_an_image_lacks_is_not_compared():
    scores = {"prediction": {f"field{number}": {"psnr": 20.0} if number else {} for number in range(3)}}
    rivals, _ = choose_candidates([evaluation(), evaluation("b:1", scores=scores)], ())
    with pytest.raises(InvalidInputError, match=r"field0 .*psnr.*prediction.*s3://r/b:1"):
        lay_side_by_side(rivals, ["psnr"])


def test_references_must_agree_and_equal_names_are_told_apart():
    first, second = evaluation(), replace(evaluation(job="other"), uri="s3://r/elsewhere")
    chosen, remarks = choose_candidates([first, second], ("input", "baseline"))
    assert [each.name for each in chosen] == ["a:1 (job-a:1)", "a:1 (other)", "input", "Gaussian filter"]
    assert not remarks
    scores = {**second.scores, "baseline": {stem: {"psnr": 20.1} for stem in second.scores["baseline"]}}
    chosen, (remark,) = choose_candidates([first, replace(second, scores=scores)], ("input", "baseline"))
    assert [each.kind for each in chosen] == ["model", "model", "input"]
    assert "Gaussian filter" in remark
    scores = {**second.scores, "input": {stem: {} for stem in second.scores["input"]}}
    chosen, (remark,) = choose_candidates([first, replace(second, scores=scores)], ("input", "baseline"))
    assert [each.kind for each in chosen] == ["model", "model", "baseline"]


@pytest.mark.parametrize("images", [1, 12, 200])
def test_the_scores_are_drawn_for_few_and_many_images(images, tmp_path):
    rng = np.random.default_rng(0)
    names = ["a:1", "a-model-with-a-very-long-name-indeed-that-no-axis-has-room-for:12"]
    columns = {name: rng.normal(30, 2, images) for name in names}
    scores = [TargetScores("target", tuple(map(str, range(images))), {"psnr": columns, "nrmse": columns}, RESTORATION)]
    figure = scores_figure(scores, candidates(*names))
    save_png(figure, tmp_path / "figure.png")
    drawn = [axes.collections for axes in figure.axes]
    for collections in drawn:
        points = [len(each.get_offsets()) for each in collections]
        assert points.count(images) >= len(names)


def test_volumes_show_the_plane_with_most_in_it(tmp_path):
    target = np.zeros((5, 24, 32), np.float32)
    target[3, 4:20, 4:20] = 100
    prediction = np.arange(5, dtype=np.float32)[:, np.newaxis, np.newaxis] * 100 + target
    source = np.stack([target, target + 1])
    shown = Shown("name_ü_漢", "worst image", source, target, {"a:1": prediction}, {"a:1": "PSNR 20 dB"}, 0.1)
    figure = images_figure([shown], {}, title="Best and worst")
    save_png(figure, tmp_path / "images.png")
    assert "plane 3" in figure.axes[0].get_ylabel()
    assert figure.axes[2].images[0].get_array().min() == 300
