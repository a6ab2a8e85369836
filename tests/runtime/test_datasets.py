"""Kinds of dataset: told from the files or said by the user, checked, published and read again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import COUNTS, PIXEL_NM, SHAPE, STACK, save, write_kind
from numpy.typing import NDArray
from support import mentions, nuclei_pair, publish_kind

from parfocal import v1
from parfocal.runtime.datasets.boxes import check_boxes, read_boxes
from parfocal.runtime.datasets.classes import UNANNOTATED, class_indices
from parfocal.runtime.datasets.coordinates import check_coordinates
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.kinds import KINDS, has_comparable, kinds_for, require_suitable, suits
from parfocal.runtime.datasets.labels import TargetLook
from parfocal.runtime.datasets.report import FolderReport
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, read_image
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.store.store import Location


def refused(folder: Path, **options: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        check_folder(folder, **options)
    return caught.value


def fields(error: InvalidInputError) -> list[str]:
    return [violation.field for violation in error.violations]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unpaired"])
def test_the_files_tell_the_kind_of_a_dataset(kind: str, tmp_path: Path) -> None:
    report = check_folder(write_kind(tmp_path, kind))
    assert report.kind == kind
    assert report.told_by
    assert {"train": len(report.train), "test": len(report.test)} == COUNTS
    assert report.warnings == ()


def test_unpaired_images_must_be_said_to_be_unpaired(tmp_path: Path) -> None:
    write_kind(tmp_path, "unpaired")
    assert "--kind unpaired" in refused(tmp_path).message
    report = check_folder(tmp_path, kind="unpaired")
    assert report.kind == "unpaired"
    assert report.unpaired == ("train", "test")
    assert report.counts == {"train": {"images": 5, "targets": 6}, "test": {"images": 3, "targets": 3}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_dataset_says_what_it_holds(kind: str, tmp_path: Path, s3: Any) -> None:
    store = s3.store()
    uri = publish_kind(store, f"of-{kind}", write_kind(tmp_path, kind), kind)
    manifest = DatasetManifest.read(store, Location.parse(uri) / DATASET_MANIFEST)
    assert manifest.kind == kind
    assert {image.file for image in manifest.images} | {entry.file for entry in manifest.annotations} == {
        entry.name for entry in manifest.files
    }
    for split, count in COUNTS.items():
        assert len(manifest.select(split, "source")) == count
        assert manifest.has_targets(split) == (kind not in {"sources", "unpaired"})
        annotated = {entry.stem for entry in manifest.select_annotations(split)}
        expected = (
            {image.stem for image in manifest.select(split, "source")} if kind in {"boxes", "coordinates"} else set()
        )
        assert annotated == expected


def fetched(store: Any, uri: str, scratch: Path) -> tuple[DatasetManifest, Path]:
    """The manifest of a dataset and a folder with its training images, as a worker has them."""
    place = Location.parse(uri)
    manifest = DatasetManifest.read(store, place / DATASET_MANIFEST)
    cache = Cache(scratch / "state", scratch / "held")
    return manifest, cache.mirror(store, place, manifest.files, scratch / "dataset") / "train"


def test_published_boxes_are_those_that_were_drawn(tmp_path: Path, s3: Any) -> None:
    drawn = check_folder(write_kind(tmp_path / "mine", "boxes"))
    manifest, folder = fetched(s3.store(), publish_kind(s3.store(), "drawn", tmp_path / "mine"), tmp_path)
    assert manifest.classes == ("large", "small")
    assert manifest.class_counts == drawn.class_counts
    assert sum(manifest.class_counts["train"].values()) == manifest.counts["train"]["boxes"]
    report = check_boxes(folder / "source", folder / "target", axes="YX", classes=manifest.classes)
    for boxed, entry in zip(report.images, manifest.select_annotations("train"), strict=True):
        assert (boxed.image.stem, len(boxed.boxes)) == (entry.stem, entry.objects)
        read = read_boxes(folder.parent / entry.file, manifest.classes, SHAPE)
        assert np.array_equal(read.corners, boxed.arrays(manifest.classes).corners)
        labels = read_image(folder / "source" / f"{entry.stem}.tif").pixels
        for (y0, x0, y1, x1), number in zip(read.corners.astype(int), read.classes, strict=True):
            # Nuclei are brighter than what is around them.
            assert labels[y0:y1, x0:x1].mean() > labels.mean()
            assert number in {0, 1}


def test_published_localisations_are_where_the_emitters_are(tmp_path: Path, s3: Any) -> None:
    uri = publish_kind(s3.store(), "located", write_kind(tmp_path / "mine", "coordinates"))
    manifest, folder = fetched(s3.store(), uri, tmp_path)
    assert manifest.counts["train"] == {"images": 5, "frames": 5 * STACK[0], "localisations": 5 * STACK[0] * 4}
    stacks = check_coordinates(folder / "source", folder / "target").stacks
    for stack, entry in zip(stacks, manifest.select("train", "source"), strict=True):
        assert (stack.image.axes, entry.axes, entry.shape) == ("TYX", "TYX", STACK)
        assert entry.pixel_size_um is not None
        assert entry.pixel_size_um[:2] == pytest.approx((PIXEL_NM / 1e3, PIXEL_NM / 1e3))
        found = stack.localisations()
        pixels = read_image(stack.image.path).pixels
        for frame in range(STACK[0]):
            here = found.of_frame(frame)
            assert here.frame.tolist() == [frame] * 4
            assert here.intensity.tolist() == [2000.0] * 4
            assert (pixels[frame, here.y.astype(int), here.x.astype(int)] > 2 * np.median(pixels)).all()


def test_the_classes_of_class_images_are_their_values(tmp_path: Path) -> None:
    write_kind(tmp_path, "classes")
    for path in tmp_path.glob("*/target/*.tif"):
        save(path, np.where(read_image(path).pixels > 0, 255, 0).astype(np.uint8))
    report = check_folder(tmp_path)
    assert (report.kind, report.class_values, report.classes) == ("classes", (0, 255), ("0", "255"))
    pixels = read_image(report.images["train", "target"][0].path).pixels
    assert np.array_equal(class_indices(pixels, report.class_values), pixels // 255)
    total = COUNTS["train"] * SHAPE[0] * SHAPE[1]
    assert sum(report.class_counts["train"].values()) == total


def test_classes_of_class_images_have_the_names_that_they_are_given(tmp_path: Path) -> None:
    report = check_folder(write_kind(tmp_path / "areas", "classes"), kind="classes")
    named = report.named({1: "nucleus", 7: "nowhere"})
    assert (named.classes, named.class_values) == (("0", "nucleus", "2"), (0, 1, 2))
    assert named.class_counts["train"]["nucleus"] == report.class_counts["train"]["1"]
    manifest = named.manifest((), (), project="p", dataset="d", version=1)
    assert manifest.class_names == {1: "nucleus"}
    for names, field in (({1: "2"}, "classes.1"), ({1: ""}, "classes.1"), ({1: "a", 2: "a"}, "classes")):
        with pytest.raises(InvalidInputError) as caught:
            report.named(names)
        assert field in fields(caught.value)
    pairs = check_folder(write_kind(tmp_path / "boxes", "boxes"))
    with pytest.raises(InvalidInputError, match="no class images"):
        pairs.named({1: "nucleus"})


def test_a_value_that_is_no_class_is_named() -> None:
    image = np.array([[0, 3], [7, 3]], np.uint16)
    assert class_indices(image, (3, 0, 7)).tolist() == [[1, 0], [2, 0]]
    assert class_indices(image, ()).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(InvalidInputError, match="7"):
        class_indices(image, (0, 3))


def test_what_is_not_annotated_has_no_class() -> None:
    image = np.array([[0, 3], [255, 3]], np.uint16)
    assert class_indices(image, (3, 0), 255).tolist() == [[1, 0], [UNANNOTATED, 0]]
    with pytest.raises(InvalidInputError, match="255"):
        class_indices(image, (3, 0))
    assert class_indices(np.array([-3, 0, 9]), ()).tolist() == [UNANNOTATED, 0, 1]


def test_class_images_beside_labels_give_the_classes_of_objects(tmp_path: Path) -> None:
    write_kind(tmp_path, "labels")
    for path in tmp_path.glob("*/target/*.tif"):
        labels = read_image(path).pixels
        save(path.parent.parent / "target_class" / path.name, np.where(labels > 0, 1 + labels % 2, 0).astype(np.uint8))
    report = check_folder(tmp_path)
    assert (report.kind, report.classes, report.class_values) == ("labels", ("1", "2"), (1, 2))
    noise = np.random.default_rng(0).integers(1, 90, SHAPE).astype(np.uint8)
    save(tmp_path / "train" / "target_class" / "field0.tif", noise)
    assert fields(refused(tmp_path)) == ["target_class/field0.tif"]


def test_sources_may_have_targets_for_quality_control(tmp_path: Path) -> None:
    write_kind(tmp_path, "paired")
    report = check_folder(tmp_path, kind="sources")
    assert (report.kind, set(report.images)) == (
        "sources",
        {(split, role) for split in COUNTS for role in ("source", "target")},
    )
    shutil.rmtree(tmp_path / "train" / "target")
    report = check_folder(tmp_path)
    assert (report.kind, ("test", "target") in report.images) == ("sources", True)


@pytest.mark.parametrize("name", ["targets", "Target", "_target"])
def test_a_misnamed_folder_of_targets_is_not_taken_for_none(name: str, tmp_path: Path) -> None:
    write_kind(tmp_path, "paired")
    (tmp_path / "train" / "target").rename(tmp_path / "train" / name)
    assert "train/target" in fields(refused(tmp_path))


# --- a kind that somebody says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("labels", "boxes"),
        ("paired", "coordinates"),
        ("boxes", "paired"),
        ("boxes", "labels"),
        ("boxes", "unpaired"),
        ("coordinates", "boxes"),
        ("coordinates", "classes"),
        ("sources", "paired"),
        ("sources", "boxes"),
    ],
)
def test_a_wrong_kind_is_refused_for_its_files(written: str, said: str, tmp_path: Path) -> None:
    error = refused(write_kind(tmp_path, written), kind=said)
    assert fields(error) == ["train/target"]
    assert f"--kind {said}" in error.message


def test_grey_targets_are_neither_labels_nor_classes(tmp_path: Path) -> None:
    write_kind(tmp_path, "labels")
    noise = np.random.default_rng(0).integers(1, 60_000, SHAPE).astype(np.uint16)
    save(tmp_path / "train" / "target" / "field1.tif", noise)
    report = check_folder(tmp_path)
    assert report.kind == "paired"
    assert "target/field1.tif" in report.told_by
    assert any(mentions(text, "label images", "target/field1.tif") for text in report.warnings)
    for kind in ("labels", "classes"):
        assert fields(refused(tmp_path, kind=kind)) == ["train/target/field1.tif"]


def test_label_images_with_many_objects_are_no_class_images(tmp_path: Path) -> None:
    write_kind(tmp_path, "labels")
    for path in tmp_path.glob("train/target/*.tif"):
        pixels = read_image(path).pixels
        save(path, np.where(pixels > 0, pixels + 40 * int(path.stem[-1]), 0).astype(np.uint16))
        stripes = np.repeat(np.arange(1, 33, dtype=np.uint16), 2)[:, np.newaxis] + 200
        save(path, np.broadcast_to(stripes + 40 * int(path.stem[-1]), SHAPE).copy())
    assert "--kind labels" in refused(tmp_path, kind="classes").message
    assert check_folder(tmp_path, kind="labels").kind == "labels"


def test_an_image_all_of_one_class_is_taken_where_classes_are_said(tmp_path: Path) -> None:
    write_kind(tmp_path, "classes")
    save(tmp_path / "train" / "target" / "field0.tif", np.full(SHAPE, 2, np.uint8))
    assert fields(refused(tmp_path)) == ["train/target/field0.tif"]
    report = check_folder(tmp_path, kind="classes")
    assert (report.kind, report.class_values, report.warnings) == ("classes", (0, 1, 2), ())


def test_an_unknown_kind_is_refused_with_those_there_are(tmp_path: Path) -> None:
    error = refused(write_kind(tmp_path, "paired"), kind="pairs")
    assert fields(error) == ["kind"]
    assert all(kind in error.message for kind in KINDS)


def test_a_pixel_size_is_for_coordinates_alone(tmp_path: Path) -> None:
    assert fields(refused(write_kind(tmp_path, "paired"), pixel_size_nm=100)) == ["pixel_size"]


# --- how targets look ------------------------------------------------------------------------------------------------


def kind_of(*targets: NDArray[Any]) -> str:
    look = TargetLook()
    for pixels in targets:
        look(Path("target/a.tif"), Image(pixels, "ZYX"[-pixels.ndim :]))
    return look.kind()


def test_objects_classes_and_grey_values_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    labels = [nuclei_pair(rng, (128, 128))[1] for _ in range(3)]
    assert kind_of(*labels) == "labels"
    assert kind_of(np.stack(labels)) == "labels"
    assert kind_of(*(each > 0 for each in labels)) == "paired"  # Booleans come from files as 0 and 1.
    assert kind_of(*((each > 0).astype(np.uint8) for each in labels)) == "classes"
    assert kind_of(*(np.where(each > 0, 1 + each % 3, 0).astype(np.uint8) for each in labels)) == "classes"
    assert kind_of(*(each.astype(np.float32) / 2 for each in labels)) == "paired"
    assert kind_of(rng.integers(0, 60_000, (128, 128)).astype(np.uint16)) == "paired"
    assert kind_of(*labels, rng.poisson(20, (128, 128)).astype(np.uint16)) == "paired"
    # One object in each image, and volumes without any background.
    alone = np.zeros((64, 64), np.uint8)
    alone[20:50, 10:60] = 255
    assert kind_of(alone) == "labels"
    assert kind_of(np.kron(np.arange(1, 17).reshape(4, 4), np.ones((16, 16), int)).astype(np.uint16)) == "labels"


def test_a_smooth_image_on_an_even_background_is_grey() -> None:
    y, x = np.mgrid[:128, :128]
    spot = 1000 * np.exp(-((y - 60.0) ** 2 + (x - 70.0) ** 2) / 300)
    assert kind_of((100 + spot).astype(np.uint16)) == "paired"
    assert kind_of(spot.astype(np.uint16)) == "paired"


def test_empty_targets_alone_do_not_make_labels() -> None:
    assert kind_of(np.zeros((32, 32), np.uint8)) == "paired"


# --- what a method needs ---------------------------------------------------------------------------------------------


def test_every_need_of_a_method_has_a_kind_made_for_it() -> None:
    wanted = set(v1.TargetKind.values()) - {v1.TARGET_KIND_UNSPECIFIED}
    assert {KINDS[kinds_for(target)[0]].target for target in wanted} == wanted
    for kind in KINDS.values():
        assert suits(kind.name, kind.target)


@pytest.mark.parametrize("target", [v1.TARGET_KIND_PAIRED_IMAGE, v1.TARGET_KIND_LABELS, v1.TARGET_KIND_CLASSES])
def test_a_dataset_without_a_recorded_kind_suits_what_learns_images(target: Any) -> None:
    assert suits("", target)


@pytest.mark.parametrize("kind", ["", "paired", "labels", "sources", "boxes", "a kind of tomorrow"])
def test_a_dataset_that_does_not_suit_is_refused_with_both_kinds(kind: str) -> None:
    dataset = DatasetManifest(project="p", dataset="cells", version=3, images=(), kind=kind)
    with pytest.raises(InvalidInputError) as caught:
        require_suitable(dataset, v1.TARGET_KIND_COORDINATES, "Deep-STORM")
    assert fields(caught.value) == ["training.dataset_uri"]
    assert "cells" in caught.value.message
    assert KINDS["coordinates"].title in caught.value.message
    if kind in KINDS:
        assert KINDS[kind].title in caught.value.message


def test_unpaired_images_are_compared_with_nothing() -> None:
    dataset = DatasetManifest(
        project="p", dataset="d", version=1, images=(), kind="unpaired", unpaired=("train", "test")
    )
    assert not has_comparable(dataset, "test", v1.TARGET_KIND_PAIRED_IMAGE)
    assert not has_comparable(dataset, "test", v1.TARGET_KIND_UNPAIRED_IMAGE)


def test_a_manifest_of_before_is_read_as_it_was() -> None:
    text = '{"project": "p", "dataset": "d", "version": 1, "images": [], "schema_version": 1}'
    manifest = DatasetManifest.model_validate_json(text)
    assert (manifest.kind, manifest.annotations, manifest.classes, manifest.unpaired) == ("", (), (), ())


# --- unpaired --------------------------------------------------------------------------------------------------------


def test_unpaired_images_need_two_of_each_kind(tmp_path: Path) -> None:
    write_kind(tmp_path, "unpaired")
    for path in sorted((tmp_path / "train" / "target").iterdir())[1:]:
        path.unlink()
    assert fields(refused(tmp_path, kind="unpaired")) == ["train/target"]


def test_unpaired_images_are_compared_as_sets(tmp_path: Path) -> None:
    report = check_folder(write_kind(tmp_path, "unpaired"), kind="unpaired")
    entries = [item.write(tmp_path / item.file) for item in report.items() if (tmp_path / item.file).exists()]
    manifest = report.manifest((), entries, project="p", dataset="d", version=1)
    assert manifest.has_unpaired("test")
    assert not manifest.has_targets("test")
    assert has_comparable(manifest, "test", v1.TARGET_KIND_UNPAIRED_IMAGE)
    alone = manifest.model_copy(update={"images": manifest.select("test", "source")})
    assert not alone.has_unpaired("test")
    assert not has_comparable(alone, "test", v1.TARGET_KIND_UNPAIRED_IMAGE)


def test_unpaired_targets_may_be_in_colour(tmp_path: Path) -> None:
    write_kind(tmp_path, "unpaired")
    rng = np.random.default_rng(0)
    for path in tmp_path.glob("*/target/*.tif"):
        save(path, rng.integers(0, 255, (40, 50, 3)).astype(np.uint8), "YXS")
    report = check_folder(tmp_path, kind="unpaired")
    assert {image.axes for image in report.images["train", "target"]} == {"YXS"}
    save(path, rng.integers(0, 255, (40, 50)).astype(np.uint8))
    assert fields(refused(tmp_path, kind="unpaired")) == [f"{path.parent.parent.name}/target/{path.name}"]


def test_test_images_of_the_same_names_and_sizes_are_pairs_which_is_said(tmp_path: Path) -> None:
    write_kind(tmp_path, "unpaired")
    for path in (tmp_path / "test" / "target").iterdir():
        path.rename(path.with_name(f"field{int(path.stem[5:]) - 7}.tif"))
    report = check_folder(tmp_path, kind="unpaired")
    assert report.unpaired == ("train",)
    assert any("taken for pairs" in text for text in report.warnings)


def test_files_of_the_report_are_those_of_the_folder(tmp_path: Path) -> None:
    report: FolderReport = check_folder(write_kind(tmp_path, "boxes"))
    assert [item.file for item in report.items()][:2] == ["test/source/field0.tif", "test/source/field1.tif"]
    assert "train/target/field4.xml" in {item.file for item in report.items()}
