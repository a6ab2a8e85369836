"""Several classes: confusion, splits and merges, the pixel classifier, and what counts as which class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import write_kind
from scipy import ndimage
from skimage.metrics import variation_of_information
from support import mentions, publish_images, publish_kind, publish_model, read_published

from parfocal import v1
from parfocal.qc.evaluation.inputs import Inputs
from parfocal.qc.metrics.baselines.pixels import fit_pixel_classifier
from parfocal.qc.metrics.objects.confusion import class_areas, confusion_matrix, mean_over_classes, pixel_accuracy
from parfocal.qc.metrics.objects.topology import compare_regions
from parfocal.qc.semantic.baselines import choose_baselines
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.qc.semantic.scheme import Scheme, choose_scheme
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import RESULT_MANIFEST, DatasetManifest, ModelManifest, ResultManifest
from parfocal.runtime.store.store import Location


def test_pixels_are_counted_by_class_and_those_not_annotated_are_not() -> None:
    target = np.array([[0, 1, 2, -1], [2, 2, 1, 0]])
    found = np.array([[0, 1, 1, 2], [2, 2, 0, 0]])
    matrix = confusion_matrix(target, found, 4)
    assert matrix.tolist() == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    background, first, second, third = class_areas(matrix)
    assert (first.iou, second.iou, background.iou) == (1 / 3, 2 / 3, 2 / 3)
    assert (third.tp, third.fp, third.fn) == (0, 0, 0)
    # Neither the background nor a class that is nowhere.
    assert mean_over_classes(matrix, lambda areas: areas.iou) == pytest.approx(0.5)
    assert pixel_accuracy(matrix) == 5 / 7
    nothing = confusion_matrix(np.zeros((3, 3), int), np.zeros((3, 3), int), 2)
    assert mean_over_classes(nothing, lambda areas: areas.dice) == 1


def membranes(*columns: int, gap: bool = False) -> Any:
    """Return cells (1) with membranes (0) in columns, perhaps with a gap in the last one."""
    cells = np.ones((20, 40), np.int8)
    cells[:, list(columns)] = 0
    if gap:
        cells[9:11, columns[-1]] = 1
    return cells


def test_an_open_membrane_merges_and_a_further_one_splits() -> None:
    target = membranes(20)
    same = compare_regions(target, membranes(20), of_background=False)
    assert (same.split, same.merge, same.target, same.prediction) == (0, 0, 2, 2)
    merged = compare_regions(target, membranes(20, gap=True), of_background=False)
    assert merged.split == 0
    assert merged.merge == pytest.approx(1, abs=0.01)  # one bit: which of two equal halves
    assert merged.prediction == 1
    split = compare_regions(target, membranes(10, 20), of_background=False)
    assert split.merge == 0
    assert split.split > 0.4
    # How thick a membrane is makes no difference.
    thick = compare_regions(target, membranes(19, 20, 21), of_background=False)
    assert (thick.split, thick.merge) == (0, 0)


def test_the_variation_of_information_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    target, found = ((ndimage.gaussian_filter(rng.normal(size=(60, 70)), 2) > -0.02).astype(np.int8) for _ in range(2))
    measured = compare_regions(target, found, of_background=False)
    both = (target > 0) & (found > 0)
    expected = variation_of_information(*(ndimage.label(each)[0][both] for each in (target, found)))
    assert (measured.split, measured.merge) == pytest.approx(tuple(expected))
    inverted = compare_regions(1 - target, 1 - found, of_background=True)
    assert (inverted.split, inverted.merge) == pytest.approx(tuple(expected))


def textures(rng: np.random.Generator) -> tuple[Any, Any]:
    """Return an image of dark background, and of noise and even grey of the same mean, and its classes."""
    classes = np.repeat(np.repeat(rng.integers(0, 3, (4, 4)), 16, axis=0), 16, axis=1)
    image = np.select([classes == 0, classes == 1], [20, 100 + 60 * rng.normal(size=classes.shape)], 100)
    return image + rng.normal(size=classes.shape), classes


def test_the_pixel_classifier_tells_textures_apart() -> None:
    rng = np.random.default_rng(0)
    fitted = fit_pixel_classifier((textures(rng) for _ in range(4)), 3)
    image, classes = textures(rng)
    right = np.mean(fitted.apply(image, 2) == classes)
    assert right > 0.8
    assert fitted.images == 4
    # Channels in front, the first of which says nothing.
    pairs = [(np.stack([rng.normal(size=classes.shape), image]), classes)]
    two = fit_pixel_classifier(pairs, 3)
    assert np.mean(two.apply(pairs[0][0], 2) == classes) > 0.8


def test_a_class_without_training_pixels_is_never_chosen() -> None:
    image, classes = textures(np.random.default_rng(0))
    fitted = fit_pixel_classifier([(image, np.where(classes == 2, -1, classes))], 3)
    assert set(np.unique(fitted.apply(image, 2))) == {0, 1}
    with pytest.raises(InvalidInputError):
        fit_pixel_classifier([(image, np.full(classes.shape, -1))], 3)


def inputs(values: tuple[int, ...], *, kind: str = "classes", trained: tuple[int, ...] = (), **measured: Any) -> Any:
    dataset = DatasetManifest(project="p", dataset="d", version=1, images=(), kind=kind, class_values=values)
    known: dict[str, Any] = {
        "service": "s",
        "method": "m",
        "job": "j",
        "parameters": {},
        "axes": "YX",
        "normaliser": {},
    }
    facts = Facts(measured={"class_values": list(trained), **measured})
    model = ModelManifest.model_validate(
        known | {"project": "p", "model": "m", "version": 1, "dataset_uri": "", "facts": facts, "weights": {}}
    )
    return Inputs(dataset, model, None, "source", ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "trained", "asked", "expected"),
    [
        ((0, 255), (), {}, Scheme((0, 255))),
        ((0, 255), (255, 0), {}, Scheme((255, 0))),
        ((0, 255), (255, 0), {"foreground_value": 255}, Scheme((0, 255))),
        ((0, 255), (0, 1), {"foreground_value": 0}, Scheme((255, 0))),
        ((0, 1, 2), (0, 1, 2), {}, Scheme((0, 1, 2))),
        ((0, 1, 2), (), {"ignore_value": 0}, Scheme((1, 2), 0)),
    ],
)
def test_the_foreground_is_what_the_model_was_trained_to_find(
    values: Any, trained: Any, asked: Any, expected: Scheme
) -> None:
    assert choose_scheme(inputs(values, trained=trained), SemanticParameters(**asked)) == expected


def test_what_training_ignored_is_ignored_and_label_images_have_foreground() -> None:
    assert choose_scheme(inputs((0, 1, 9), ignore_value=9), SemanticParameters()) == Scheme((0, 1), 9)
    assert choose_scheme(inputs((1, 2, 3), kind="labels"), SemanticParameters()) == Scheme()
    for values, asked in (((0, 1, 2), {"foreground_value": 1}), ((0, 1), {"ignore_value": 1})):
        with pytest.raises(InvalidInputError):
            choose_scheme(inputs(values), SemanticParameters(**asked))
    for name in ("foreground_value", "ignore_value"):
        with pytest.raises(InvalidInputError) as caught:
            choose_scheme(inputs((), kind="labels"), SemanticParameters(**{name: 1}))
        assert [violation.field for violation in caught.value.violations] == [name]


def test_values_become_classes() -> None:
    pixels = np.array([[0, 255, 7]])
    assert Scheme((255, 0), 7).target(pixels, name="a").tolist() == [[1, 0, -1]]
    assert Scheme((255, 0), 7).prediction(np.array([[0, 255, 255]]), name="a").tolist() == [[1, 0, 0]]
    assert Scheme((0, 255)).prediction(np.array([[0, 1, 255]]), name="a").tolist() == [[0, 1, 1]]
    assert Scheme().target(np.array([[-1, 0, 5]]), name="a").tolist() == [[-1, 0, 1]]
    with pytest.raises(InvalidInputError, match="a has the value 9"):
        Scheme((0, 1, 2)).prediction(np.array([[0, 9]]), name="a")


def test_baselines_are_ordered_by_the_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = [(image, (classes == 1) * 255) for image, classes in (textures(rng) for _ in range(3))]
    monkeypatch.setattr("parfocal.qc.semantic.baselines.training_pairs", lambda *_, **__: iter(pairs))
    monkeypatch.setattr("parfocal.qc.semantic.baselines.training_dataset", lambda *_: (None, inputs((0, 255)).dataset))
    given: Any = type("Given", (), {"roles": ["target"]})
    chosen = choose_baselines(None, given, Scheme((0, 255)))  # type: ignore[arg-type]
    assert list(chosen.by_name) == ["pixel classifier", "Otsu threshold"]
    described = chosen.describe()
    assert described["name"] == chosen.best == "pixel classifier"
    scores = described["iou_on_training_images"]
    assert scores["pixel classifier"] > scores["Otsu threshold"]


@pytest.fixture(scope="module")
def classes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("classes"), "classes")


def evaluate(
    run_job: Callable[..., v1.Job], s3: Any, folder: Path, predicted: Path, change: Callable[[Any], Any], **asked: Any
) -> v1.Job:
    store = s3.store()
    dataset = publish_kind(store, f"classes-{predicted.name[-12:]}".replace("_", "-"), folder, "classes")
    model = publish_model(store, "semantic-classes", dataset, facts=Facts(measured={"class_values": [0, 1, 2]}))
    for path in sorted((folder / "test" / "target").iterdir()):
        write_image(predicted / path.name, Image(change(read_image(path).pixels), "YX", None))
    spec = v1.EvaluationSpec(
        method="semantic",
        dataset_uri=dataset,
        prediction_uri=publish_images(store, predicted),
        model_uri=model,
        split="test",
        parameters=values_struct(asked),
    )
    return run_job(v1.StartJobRequest(evaluation=spec))


def test_several_classes_are_judged_one_by_one(
    run_job: Callable[..., v1.Job], s3: Any, classes_folder: Path, tmp_path: Path
) -> None:
    def exchanged(classes: Any) -> Any:
        """Return the classes with the upper half of class 2 taken for class 1."""
        found = classes.copy()
        found[:32][classes[:32] == 2] = 1
        return found

    job = evaluate(run_job, s3, classes_folder, tmp_path, exchanged)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    summary = json.loads(read_published(store, str(place), "summary.json"))
    rows = {row["class"]: row for row in summary["details"]["classes"]}
    assert rows["0"]["iou"] == 1
    assert rows["1"]["recall"] == rows["2"]["precision"] == 1
    expected = np.mean([rows["1"]["iou"], rows["2"]["iou"]])
    assert summary["details"]["pooled"]["prediction"]["iou"] == pytest.approx(expected)
    confusion = np.array(summary["details"]["confusion"]["pixels"])
    assert confusion[2, 1] > 0
    assert confusion[0, 1] == confusion[0, 2] == confusion[1, 2] == 0
    assert list(summary["details"]["baselines"]) == ["pixel classifier"]
    assert mentions(summary["definition"], "0 (background), 1, 2")
    assert summary["details"]["agreement"]["bias"] == 0
    names = {entry.public_name for entry in result.files}
    assert {"classes.csv", "confusion.csv", "figure.png", "report.pdf", "maps/field0.tif"} <= names
    assert "curve.csv" not in names
    assert any(mentions(text, "class with the lowest IoU", " 2") for text in result.verdict["remarks"])
    header, first, *_ = read_published(store, str(place), "confusion.csv").decode().splitlines()
    assert header == "target_class,predicted_0,predicted_1,predicted_2"
    assert first.split(",")[2:] == ["0", "0"]


def test_a_value_that_is_no_class_is_a_failed_image(
    run_job: Callable[..., v1.Job], s3: Any, classes_folder: Path, tmp_path: Path
) -> None:
    counter = iter(range(9))
    job = evaluate(
        run_job, s3, classes_folder, tmp_path, lambda classes: np.where(classes == 2, 2 + (next(counter) == 0), classes)
    )
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    summary = json.loads(read_published(s3.store(), job.outputs[0].uri, "summary.json"))
    assert list(summary["unscorable"]) == ["field0"]
