"""YOLOv2: the networks of the publication, the loss, and what they owe to the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from example_data import save, voc, voc_object
from learner_suite import LearnerSuite, batch_of, view_of
from support import check_folder

from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.implementation import Batch, ModelView, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.prediction.unit import ArrayUnit
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry
from parfocal.yolo.boxes import GridTargets, assign
from parfocal.yolo.parameters import TinyYoloParameters, YoloParameters, YoloPredictionParameters, check_dataset

TINY: dict[str, Any] = {"first_filters": 4, "patch_size": 64, "learning_rate": 0.003, "precision": "float32"}
MEASURED = {
    "anchors_px": [[16.0, 16.0], [24.0, 12.0]],
    "largest_box_px": 24.0,
    "class_names": ["small", "large"],
}


def facts_of(channels: int = 1) -> Facts:
    return Facts(
        inputs=(Port(role="source", channels=channels),),
        targets=(Port(role="target", kind="boxes", classes=2),),
        measured=MEASURED,
    )


class _YoloSuite(LearnerSuite):
    facts = facts_of(3)
    patch = (64, 64)
    weights_suffix = ".safetensors"

    def target_of(self, inputs: Any) -> Any:
        """Return a box of another place and class for each patch."""
        return [
            Boxes(
                np.array([[8 + 12 * number, 20, 24 + 12 * number, 40]], np.float32),
                np.array([number % 2]),
                np.zeros(1, bool),
                np.zeros(1, bool),
            )
            for number in range(len(inputs))
        ]


class TestYoloV2(_YoloSuite):
    path = "parfocal.yolo.network:YoloV2"
    parameters = YoloParameters(**TINY)
    other = YoloParameters(**TINY, seed=9)
    larger = YoloParameters(**TINY | {"first_filters": 8})


class TestTinyYoloV2(_YoloSuite):
    path = "parfocal.yolo.network:TinyYoloV2"
    parameters = TinyYoloParameters(**TINY)
    other = TinyYoloParameters(**TINY, seed=9)
    larger = TinyYoloParameters(**TINY | {"first_filters": 8})


@pytest.mark.parametrize(
    ("name", "filters", "total", "trainable"),
    [("FullYolo", 32, 50_547_936, 50_527_264), ("TinyYolo", 16, 15_739_760, None)],
)
def test_the_networks_have_as_many_weights_as_the_original(
    name: str, filters: int, total: int, trainable: int | None
) -> None:
    import torch

    from parfocal.yolo import modules

    with torch.device("meta"):
        network = getattr(modules, name)(3, 5 * (5 + 20), filters)
    head = sum(weight.numel() for weight in network.head.parameters())
    assert head == 1024 * 125 + 125
    trained = sum(weight.numel() for weight in network.parameters()) - head
    # The original counts the running means and variances of batch normalisation as well.
    running = sum(each.numel() for key, each in network.named_buffers() if "running" in key)
    assert trained + running == total
    if trainable is not None:
        assert trained == trainable


@pytest.mark.parametrize("name", ["FullYolo", "TinyYolo"])
def test_a_cell_has_32_pixels_and_images_may_be_rectangular(name: str) -> None:
    import torch

    from parfocal.yolo import modules

    network = getattr(modules, name)(2, 14, 4).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 2, 64, 160)).shape == (1, 14, 2, 5)


def loss_by_hand(raw: Any, targets: GridTargets, anchors: Any, warm_up: bool) -> dict[str, float]:
    """Return the loss of outputs (B, A * (5 + C), G, G), cell by cell, from its definition."""
    batch, _, rows, columns = raw.shape
    sums = dict.fromkeys(("xy", "wh", "confidence", "class"), 0.0)
    counts = dict.fromkeys(("place", "confidence", "class"), 0)
    for image, y, x, anchor in np.ndindex(batch, rows, columns, len(anchors)):
        values = raw[image].reshape(len(anchors), -1, rows, columns)[anchor, :, y, x].astype(np.float64)
        box = [1 / (1 + math.exp(-values[0])) + x, 1 / (1 + math.exp(-values[1])) + y]
        box += [anchors[anchor][0] * math.exp(values[2]), anchors[anchor][1] * math.exp(values[3])]
        confidence = 1 / (1 + math.exp(-values[4]))
        wanted = [float(value) for value in targets.boxes[image, y, x, anchor]]
        if targets.responsible[image, y, x, anchor]:
            sums["xy"] += (box[0] - wanted[0]) ** 2 + (box[1] - wanted[1]) ** 2
            sums["wh"] += (box[2] - wanted[2]) ** 2 + (box[3] - wanted[3]) ** 2
            sums["confidence"] += 5 * (confidence - iou(box, wanted)) ** 2
            powers = np.exp(values[5:])
            sums["class"] -= math.log(powers[targets.classes[image, y, x, anchor]] / powers.sum())
            counts = {name: number + 1 for name, number in counts.items()}
            continue
        if warm_up:
            sums["xy"] += (box[0] - x - 0.5) ** 2 + (box[1] - y - 0.5) ** 2
            sums["wh"] += (box[2] - anchors[anchor][0]) ** 2 + (box[3] - anchors[anchor][1]) ** 2
            counts["place"] += 1
        if max(iou(box, [float(value) for value in other]) for other in targets.truth[image]) < 0.6:
            sums["confidence"] += confidence**2
            counts["confidence"] += 1
    return {
        "loss_xy": sums["xy"] / (counts["place"] + 1e-6) / 2,
        "loss_wh": sums["wh"] / (counts["place"] + 1e-6) / 2,
        "loss_confidence": sums["confidence"] / (counts["confidence"] + 1e-6) / 2,
        "loss_class": sums["class"] / (counts["class"] + 1e-6),
    }


def iou(one: Any, other: Any) -> float:
    common = 1.0
    for axis in (0, 1):
        low = max(one[axis] - one[axis + 2] / 2, other[axis] - other[axis + 2] / 2)
        common *= max(0.0, min(one[axis] + one[axis + 2] / 2, other[axis] + other[axis + 2] / 2) - low)
    union = one[2] * one[3] + other[2] * other[3] - common
    return common / union if union else 0.0


def loss_case() -> tuple[Any, GridTargets, Any]:
    """Return outputs, targets and anchors of two images, of which the second has no object."""
    rng = np.random.default_rng(5)
    anchors = np.array([[0.8, 0.9], [2.0, 1.2]])
    corners = np.array([[4, 6, 34, 40], [30, 60, 70, 100], [31, 61, 69, 99], [70, 10, 90, 34]], np.float32)
    objects = Boxes(corners, np.array([0, 2, 1, 1]), np.zeros(4, bool), np.zeros(4, bool))
    nothing = Boxes(corners[:0], objects.classes[:0], objects.difficult[:0], objects.truncated[:0])
    targets = assign([objects, nothing], anchors, (3, 4))
    raw = rng.normal(0, 0.7, (2, 2 * 8, 3, 4)).astype(np.float32)
    # One prediction lies so well on an object of another cell's anchor that it is shielded.
    values = raw[0].reshape(2, 8, 3, 4)
    values[0, :4, 1, 2] = [0, 0.25, np.log(1.25 / 0.8), np.log(1.25 / 0.9)]
    return raw, targets, anchors


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_loss_is_that_of_its_definition(warm_up: bool) -> None:
    import torch

    from parfocal.yolo.loss import TensorTargets, yolo_loss

    raw, targets, anchors = loss_case()
    tensors = TensorTargets(**{name: torch.from_numpy(value) for name, value in vars(targets).items()})
    found = yolo_loss(torch.from_numpy(raw), tensors, torch.tensor(anchors, dtype=torch.float32), warm_up=warm_up)
    expected = loss_by_hand(raw, targets, anchors, warm_up)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"loss": sum(expected.values()), **expected}, rel=1e-5
    )


def test_predictions_on_an_object_are_not_told_that_there_is_none() -> None:
    raw, targets, anchors = loss_case()
    with_shield = loss_by_hand(raw, targets, anchors, False)["loss_confidence"]
    unshielded = GridTargets(targets.boxes, targets.responsible, targets.classes, np.zeros_like(targets.truth))
    assert loss_by_hand(raw, unshielded, anchors, False)["loss_confidence"] != pytest.approx(with_shield, rel=1e-3)


def test_the_overlap_that_confidence_is_compared_with_is_a_constant() -> None:
    import torch

    from parfocal.yolo.loss import TensorTargets, yolo_loss

    raw, targets, anchors = loss_case()
    tensors = TensorTargets(**{name: torch.from_numpy(value) for name, value in vars(targets).items()})
    outputs = torch.from_numpy(raw).requires_grad_()
    loss = yolo_loss(outputs, tensors, torch.tensor(anchors, dtype=torch.float32), warm_up=False)
    loss["loss_confidence"].backward()
    assert outputs.grad is not None
    gradient = outputs.grad.reshape(2, 2, 8, 3, 4)
    assert float(gradient[:, :, :4].abs().max()) == 0
    assert float(gradient[:, :, 4].abs().max()) > 0


def test_the_warm_up_ends_after_its_epochs_and_never_counts_in_validation() -> None:
    from parfocal.yolo.network import YoloV2

    implementation = YoloV2()
    suite = TestYoloV2()
    learner = implementation.build(YoloParameters(**TINY, warmup_epochs=2), suite.facts)
    batch = suite.batches(implementation, 1)[0]
    states = []
    for epoch in range(4):
        learner.begin_epoch(epoch, 0.0)
        states.append((learner.warm_up, learner.validate_batch(batch)["loss_wh"]))
        if epoch == 0:
            warm = learner._losses(learner.infer(learner.modules["network"], batch.input), batch.targets, warm_up=True)
            assert float(warm["loss_wh"]) != pytest.approx(states[0][1], rel=1e-3)
    assert [state for state, _ in states] == [True, True, False, False]
    assert len({loss for _, loss in states}) == 1


def test_a_pickled_file_is_not_opened(tmp_path: Path) -> None:
    import torch

    from parfocal.yolo.network import YoloV2

    torch.save({"a": torch.zeros(1)}, tmp_path / "weights_best.safetensors")
    with pytest.raises(InvalidInputError, match="damaged"):
        YoloV2().load(tmp_path, view_of(YoloParameters(**TINY), facts_of()), "best")


def test_classes_are_chosen_in_the_order_of_the_dataset() -> None:
    known = ("red cell", "white cell", "platelet")
    assert YoloParameters().chosen_classes(known) == known
    assert YoloParameters(classes=" platelet,red  cell ").chosen_classes(known) == ("red cell", "platelet")
    with pytest.raises(InvalidInputError) as caught:
        YoloParameters(classes="platelet,plate").chosen_classes(known)
    assert [violation.field for violation in caught.value.violations] == ["classes"]


@pytest.mark.parametrize(("shape", "axes"), [((400, 500, 3), "YXS"), ((3, 500, 400), "CYX"), ((400, 500), "YX")])
def test_images_smaller_than_a_patch_are_refused_whatever_their_channels(shape: Any, axes: str) -> None:
    image = ImageEntry(split="train", role="source", stem="a", file="a.tif", shape=shape, dtype="u1", axes=axes)
    dataset = DatasetManifest(project="p", dataset="d", version=1, images=(image,), classes=("a",))
    check_dataset(YoloParameters(patch_size=384), dataset)
    with pytest.raises(InvalidInputError):
        check_dataset(YoloParameters(patch_size=416), dataset)


def simulated(rng: np.random.Generator, shape: tuple[int, int], count: int) -> tuple[Any, list[tuple[str, Any]]]:
    """Return a 16-bit image of bright squares and wide bars on a noisy ground, and their classes and corners."""
    image, found = rng.normal(2000, 60, shape), []
    for number in range(count):
        name, size = (("square", (18, 18)), ("bar", (12, 30)))[number % 2]
        y, x = (int(rng.integers(0, length - side)) for length, side in zip(shape, size, strict=True))
        image[y : y + size[0], x : x + size[1]] += 3000
        found.append((name, (x, y, x + size[1], y + size[0])))
    return image.clip(0, 65535).astype(np.uint16), found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six 16-bit images of one channel with boxes, some of which cannot be trained on."""
    folder, rng = tmp_path_factory.mktemp("boxes"), np.random.default_rng(2)
    for number in range(6):
        image, found = simulated(rng, (96, 128), 6)
        save(folder / "train" / "source" / f"field{number}.tif", image)
        objects = [voc_object(name, *corners) for name, corners in found]
        if number == 0:
            objects += [
                voc_object("square", 20, 20, 20, 40),
                voc_object("square", 500, 20, 540, 40),
                voc_object("square", 50, 50, 51, 51),
                objects[0],
                voc_object("dirt", 60, 60, 80, 80),
            ]
        place = folder / "train" / "target" / f"field{number}.xml"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(voc(*objects, shape=(96, 128)))
    return folder


class Opener:
    """A folder as a training opens it, with what it was warned of."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.warnings: list[str] = []
        report = check_folder(folder)
        items = list(report.items())
        entries = []
        for item in items:
            place = scratch / item.file
            place.parent.mkdir(parents=True, exist_ok=True)
            entries.append(item.write(place))
        manifest = report.manifest([], entries, project="p", dataset="d", version=1)
        self.report = report
        self.view = FolderView(
            manifest=manifest,
            axes="YX",
            minimum_images=2,
            scratch=scratch,
            warn=self.warnings.append,
            folder=scratch,
        )


@pytest.fixture
def opener(folder: Path, tmp_path: Path) -> Opener:
    return Opener(folder, tmp_path)


SMALL = YoloParameters(**TINY, patches_per_image=4, batch_size=4, augment_zoom=0.0, map_every=1)


def test_odd_boxes_are_counted_named_and_left_out(folder: Path, opener: Opener) -> None:
    from parfocal.yolo.network import YoloV2

    said = " ".join(opener.report.warnings)
    for words in ("without area", "outside the image", "Duplicate boxes"):
        assert words in said
    assert "field0.xml" in said
    opened = YoloV2().open(opener.view, SMALL)
    (small,) = [text for text in opener.warnings if "side of less than 2 pixels" in text]
    assert "1" in small
    assert "field0.tif" in small
    assert opened.facts.measured["class_names"] == ["bar", "dirt", "square"]
    assert sum(len(boxes.corners) for boxes in opened.batches.annotations) == 37  # type: ignore[attr-defined]


def test_chosen_classes_alone_are_trained_on(opener: Opener) -> None:
    from parfocal.yolo.network import YoloV2

    parameters = SMALL.model_copy(update={"classes": "square"})
    opened = YoloV2().open(opener.view, parameters)
    assert opened.facts.measured["class_names"] == ["square"]
    assert opened.facts.targets[0].classes == 1
    annotations = opened.batches.annotations  # type: ignore[attr-defined]
    assert sum(len(boxes.corners) for boxes in annotations) == 18
    assert {int(number) for boxes in annotations for number in boxes.classes} == {0}
    # All squares have one size, so one anchor is enough.
    assert opened.facts.measured["anchors_px"] == [[18, 18]]


def test_a_class_without_boxes_that_count_is_refused(opener: Opener) -> None:
    from parfocal.yolo.network import YoloV2

    with pytest.raises(InvalidInputError):
        YoloV2().open(opener.view, SMALL.model_copy(update={"smallest_box": 500.0}))


def test_no_box_in_validation_is_refused(opener: Opener) -> None:
    from parfocal.yolo.network import YoloV2

    # The only box of dirt is in one of six images, which trains with this seed.
    with pytest.raises(InvalidInputError) as caught:
        YoloV2().open(opener.view, SMALL.model_copy(update={"classes": "dirt"}))
    assert [violation.field for violation in caught.value.violations] == ["validation_fraction"]


def test_two_epochs_on_grey_images_of_16_bits_lower_the_loss_and_the_model_predicts(opener: Opener) -> None:
    from parfocal.yolo.network import YoloV2

    implementation = YoloV2()
    parameters = SMALL.model_copy(update={"patches_per_image": 8, "warmup_epochs": 0})
    opened = implementation.open(opener.view, parameters)
    learner = implementation.build(parameters, opened.facts)
    means = []
    for epoch in range(2):
        learner.begin_epoch(epoch, parameters.learning_rate)
        losses = [
            learner.train_batch(prepared(implementation, opened.batches.batch(epoch, step), parameters, opened.facts))
            for step in range(opened.batches.steps_per_epoch)
        ]
        assert all(
            each["loss"] == pytest.approx(sum(value for name, value in each.items() if name != "loss"), rel=1e-5)
            for each in losses
        )
        means.append(float(np.mean([each["loss"] for each in losses])))
    assert means[1] < means[0]
    scores = implementation.assess(learner, opened.validation_images(), parameters, opened.facts)
    assert 0 <= scores["mAP"] <= 1
    image, _ = simulated(np.random.default_rng(9), (70, 110), 4)
    model = ModelView(parameters, opened.facts, implementation.normaliser, "YX")
    outputs = SimpleNamespace(found=[])
    outputs.detections = lambda found, names: outputs.found.append((found, names))
    prediction = YoloPredictionParameters(confidence_threshold=0.01)
    implementation.predict(learner, ArrayUnit(image, "YX", 2**20), model, prediction, outputs)  # type: ignore[arg-type]
    ((found, names),) = outputs.found
    assert names == ["bar", "dirt", "square"]
    assert len(found.corners)
    assert np.all((found.corners >= 0) & (found.corners <= [70, 110, 70, 110]))
    assert np.all(np.diff(found.confidence) <= 0)


@pytest.mark.parametrize("name", ["YoloV2", "TinyYoloV2"])
def test_a_network_trained_on_few_images_finds_their_objects(name: str) -> None:
    from parfocal.yolo import network

    implementation = getattr(network, name)()
    parameters = YoloParameters(**TINY | {"learning_rate": 0.002}, warmup_epochs=0)
    rng = np.random.default_rng(4)
    images, boxes = [], []
    for _ in range(3):
        pixels, found = simulated(rng, (64, 96), 2)
        images.append(Normaliser().apply(pixels, Normaliser().fit(pixels, "YX"))[..., np.newaxis])
        corners = np.array([[y0, x0, y1, x1] for _, (x0, y0, x1, y1) in found], np.float32)
        boxes.append(Boxes(corners, np.array([0, 1]), np.zeros(2, bool), np.zeros(2, bool)))
    learner = implementation.build(parameters, facts_of())
    learner.begin_epoch(0, parameters.learning_rate)
    batch = prepared(implementation, Batch({"source": np.stack(images)}, boxes, 3), parameters, facts_of())
    for _ in range(90):
        learner.train_batch(batch)
    known = (ValidationImage("a", {"source": image}, truth) for image, truth in zip(images, boxes, strict=True))
    assert implementation.assess(learner, known, parameters, facts_of())["mAP"] > 0.9


def prepared(implementation: Any, batch: Any, parameters: Any, facts: Facts) -> Any:
    return implementation.prepare(batch, parameters, facts, np.random.default_rng(0))


def test_the_mean_average_precision_is_one_for_perfect_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    from parfocal.runtime.methods.outputs import Detections
    from parfocal.yolo.network import YoloV2

    corners = np.array([[4, 4, 20, 20], [30, 40, 50, 60]], np.float32)
    truth = Boxes(corners, np.array([0, 1]), np.zeros(2, bool), np.zeros(2, bool))

    def images() -> Iterator[ValidationImage]:
        yield ValidationImage("a", {"source": np.zeros((64, 64, 1), np.float32)}, truth)

    implementation, parameters = YoloV2(), YoloParameters(**TINY)
    learner = implementation.build(parameters, facts_of())
    answers = {
        1.0: Detections(corners, truth.classes, np.array([0.9, 0.8], np.float32)),
        0.5: Detections(corners[:1], truth.classes[:1], np.array([0.9], np.float32)),
        0.0: Detections(corners, 1 - truth.classes, np.array([0.9, 0.8], np.float32)),
    }
    for expected, answer in answers.items():
        monkeypatch.setattr(learner, "detect", lambda *_, answer=answer, **__: answer)
        assert implementation.assess(learner, images(), parameters, facts_of()) == {"mAP": expected}


def test_targets_are_those_of_the_patches(opener: Opener) -> None:
    from parfocal.yolo.network import YoloV2

    implementation = YoloV2()
    opened = implementation.open(opener.view, SMALL)
    batch = prepared(implementation, opened.batches.batch(0, 0), SMALL, opened.facts)
    assert batch.targets.boxes.shape == (4, 2, 2, len(opened.facts.measured["anchors_px"]), 4)
    assert batch_of(batch.input).input.shape == (4, 64, 64, 1)
    assert batch.targets.responsible.any()


@pytest.mark.parametrize(
    ("name", "parameters"), [("YoloV2", YoloParameters), ("TinyYoloV2", TinyYoloParameters)], ids=["full", "tiny"]
)
def test_training_overfits_four_images(name: str, parameters: type[YoloParameters]) -> None:
    from parfocal.yolo import network
    from parfocal.yolo.boxes import measure_anchors
    from parfocal.yolo.example import simulate_cells

    rng, names, rule = np.random.default_rng(0), ["elongated", "round"], Normaliser()
    images, truth = [], []
    for _ in range(4):
        pixels, boxes = simulate_cells(rng, (128, 128))
        images.append(rule.apply(pixels, rule.fit(pixels, "YX"))[..., np.newaxis])
        x0, y0, x1, y1 = np.array([box.corners for box in boxes], np.float32).T
        still = np.zeros(len(boxes), bool)
        kinds = np.array([names.index(box.name) for box in boxes])
        truth.append(Boxes(np.stack([y0, x0, y1, x1], axis=1), kinds, still, still))
    corners = np.concatenate([each.corners for each in truth])
    sizes = (corners[:, 2:] - corners[:, :2])[:, ::-1]
    measured = {"anchors_px": measure_anchors(sizes, 3, 0).tolist(), "largest_box_px": float(sizes.max())}
    facts = Facts(
        inputs=(Port(role="source"),),
        targets=(Port(role="target", kind="boxes", classes=2),),
        measured=measured | {"class_names": names},
    )
    asked = parameters(**TINY | {"patch_size": 128, "warmup_epochs": 1})
    implementation = getattr(network, name)()
    learner = implementation.build(asked, facts)
    batch = implementation.prepare(Batch({"source": np.stack(images)}, truth, 4), asked, facts, rng)
    losses = []
    for step in range(50):
        learner.begin_epoch(step // 10, asked.learning_rate)
        losses.append(learner.train_batch(batch)["loss"])
    assert losses[-1] < 0.05 * losses[10]
    seen = [
        ValidationImage(str(number), {"source": image}, boxes)
        for number, (image, boxes) in enumerate(zip(images, truth, strict=True))
    ]
    assert implementation.assess(learner, iter(seen), asked, facts)["mAP"] > 0.8
