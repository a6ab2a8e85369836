"""Admission: what a manifest alone tells about a dataset and a method that do not suit each other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from example_data import write_kind
from fake import SERVICE
from support import publish_kind, publish_model

from parfocal import v1
from parfocal.runtime.datasets.kinds import needed_title, title_of
from parfocal.runtime.errors import AlreadyExistsError, InvalidInputError
from parfocal.runtime.jobs.admission import admit, check_dataset, require_outputs
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Parameters, Work
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import (
    RESULT_MANIFEST,
    UNCERTAINTY_FACTOR,
    AnnotationEntry,
    DatasetManifest,
    ImageEntry,
    KeptWeights,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.names import result_location
from parfocal.runtime.store.publish import publish
from parfocal.runtime.store.store import Store

FAKE = SERVICE.method("fake-2d")
CHANNELS = replace(FAKE, channel_axes="CZ", target=v1.TARGET_KIND_PAIRED_IMAGE)


def image(role: str, stem: str, shape: tuple[int, ...] = (64, 80), axes: str = "YX") -> ImageEntry:
    return ImageEntry(
        split="train", role=role, stem=stem, file=f"train/{role}/{stem}.tif", shape=shape, dtype="uint16", axes=axes
    )


def dataset(*images: ImageEntry) -> DatasetManifest:
    return DatasetManifest(project="p", dataset="cells", version=2, images=images)


def refusal(method: Any, images: list[ImageEntry], roles: Roles | None = None) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        check_dataset(method, dataset(*images), roles or Roles())
    return caught.value


class UncertaintyParameters(PredictionParameters):
    """Of a prediction that can say how far it may be off."""

    uncertainty: bool = False


def test_an_uncertainty_that_the_model_cannot_make_is_refused_before_anything_is_computed() -> None:
    model = ModelManifest(
        project="p", model="m", version=1, service="s", method="m", job="j", parameters={}, axes="YX", normaliser={},
        dataset_uri="", weights={"best": KeptWeights(epoch=1)},
    )  # fmt: skip
    with pytest.raises(InvalidInputError, match=r"m:1 .*no uncertainty") as caught:
        require_outputs(UncertaintyParameters(uncertainty=True), model)
    assert [violation.field for violation in caught.value.violations] == ["uncertainty"]
    require_outputs(UncertaintyParameters(), model)
    calibrated = Facts(measured={UNCERTAINTY_FACTOR: 1.2})
    require_outputs(UncertaintyParameters(uncertainty=True), model.model_copy(update={"facts": calibrated}))


PAIRS = [image(role, stem) for stem in "ab" for role in ("source", "target")]
STACKS = [image("source_zstack", stem, (3, 64, 80), "ZYX") for stem in "ab"]


def test_pairs_suit_a_method_for_pairs() -> None:
    check_dataset(FAKE, dataset(*PAIRS), Roles())


def test_channels_suit_a_method_that_takes_them() -> None:
    check_dataset(CHANNELS, dataset(*PAIRS, *STACKS), Roles("source_zstack"))


def test_channels_are_refused_by_a_method_that_does_not() -> None:
    error = refusal(FAKE, [*PAIRS, *STACKS], Roles("source_zstack"))
    assert "train/source_zstack/a.tif" in error.message
    assert "ZYX" in error.message


def test_images_with_different_numbers_of_channels_are_named() -> None:
    stacks = [STACKS[0], image("source_zstack", "b", (4, 64, 80), "ZYX")]
    assert refusal(CHANNELS, [*PAIRS, *stacks], Roles("source_zstack")).violations[0].field.endswith("b.tif")


def test_movies_suit_a_method_that_takes_them_frame_by_frame() -> None:
    movies = replace(FAKE, target=v1.TARGET_KIND_NONE, frames=True)
    alone = Roles(targets=())
    # Of any number of frames.
    check_dataset(movies, dataset(*(image("source", f"{n}", (n, 64, 80), "TYX") for n in (3, 5, 7))), alone)
    both = [image("source", "a", (5, 64, 80), "TYX"), image("source", "b")]
    assert [each.field for each in refusal(movies, both, alone).violations] == ["train/source/b.tif"]
    volumes = [image("source", stem, (5, 64, 80), "ZYX") for stem in "ab"]
    assert len(refusal(movies, volumes, alone).violations) == 2
    frames = [image("source", stem, (5, 64, 80), "TYX") for stem in "ab"]
    assert len(refusal(replace(movies, frames=False), frames, alone).violations) == 2


@pytest.mark.parametrize(
    ("roles", "field"), [(Roles("source_zstack"), "source"), (Roles("source", ("target_DAPI",)), "targets")]
)
def test_a_role_that_is_not_there_is_refused_with_those_that_are(roles: Roles, field: str) -> None:
    error = refusal(CHANNELS, PAIRS, roles)
    assert error.violations[0].field == field
    assert "source, target" in error.message


def test_a_source_without_one_of_its_targets_is_named() -> None:
    images = [*PAIRS, image("target_DAPI", "a")]
    error = refusal(FAKE, images, Roles("source", ("target", "target_DAPI")))
    assert [violation.field for violation in error.violations] == ["train/source/b.tif"]


def test_a_target_of_another_size_is_named_with_both_sizes() -> None:
    error = refusal(FAKE, [image("source", "a"), image("target", "a", (32, 80)), *PAIRS[2:]])
    assert "(64, 80)" in error.message
    assert "(32, 80)" in error.message


def test_too_few_images_are_counted() -> None:
    assert "has 1 training image;" in refusal(FAKE, PAIRS[:2]).message


def kind_of(kind: str, *images: ImageEntry, annotated: str = "ab") -> DatasetManifest:
    entries = [
        AnnotationEntry(split="train", role="target", stem=stem, file=f"train/target/{stem}.xml", objects=1)
        for stem in annotated
    ]
    return dataset(*images).model_copy(update={"kind": kind, "annotations": tuple(entries)})


def needing(target: Any, **fields: Any) -> Any:
    return replace(FAKE, target=target, **fields)


SOURCES = [image("source", stem) for stem in "ab"]
MICROMETRE = (0.1, 0.1, None)
FRAMES = [image("source", stem, (6, 64, 80), "TYX").model_copy(update={"pixel_size_um": MICROMETRE}) for stem in "ab"]
UNPAIRED = [*SOURCES, *(image("target", stem, (32, 32)) for stem in "xyz")]


@pytest.mark.parametrize(
    ("manifest", "target"),
    [
        (kind_of("paired", *PAIRS), v1.TARGET_KIND_PAIRED_IMAGE),
        (kind_of("labels", *PAIRS), v1.TARGET_KIND_LABELS),
        (kind_of("labels", *PAIRS), v1.TARGET_KIND_PAIRED_IMAGE),
        (kind_of("classes", *PAIRS), v1.TARGET_KIND_CLASSES),
        (kind_of("unpaired", *UNPAIRED), v1.TARGET_KIND_UNPAIRED_IMAGE),
        (kind_of("paired", *PAIRS), v1.TARGET_KIND_UNPAIRED_IMAGE),
        (kind_of("sources", *SOURCES), v1.TARGET_KIND_NONE),
        (kind_of("boxes", *SOURCES), v1.TARGET_KIND_NONE),
        (kind_of("boxes", *SOURCES), v1.TARGET_KIND_BOXES),
        (kind_of("coordinates", *FRAMES), v1.TARGET_KIND_COORDINATES),
        (kind_of("", *PAIRS), v1.TARGET_KIND_LABELS),
    ],
)
def test_a_dataset_suits_what_finds_its_needs_in_it(manifest: DatasetManifest, target: Any) -> None:
    check_dataset(needing(target), manifest, Roles())


@pytest.mark.parametrize(
    ("manifest", "target"),
    [
        (kind_of("paired", *PAIRS), v1.TARGET_KIND_LABELS),
        (kind_of("classes", *PAIRS), v1.TARGET_KIND_LABELS),
        (kind_of("unpaired", *UNPAIRED), v1.TARGET_KIND_PAIRED_IMAGE),
        (kind_of("sources", *SOURCES), v1.TARGET_KIND_PAIRED_IMAGE),
        (kind_of("coordinates", *FRAMES), v1.TARGET_KIND_BOXES),
        (kind_of("", *PAIRS), v1.TARGET_KIND_BOXES),
    ],
)
def test_a_dataset_of_another_kind_is_refused_with_the_kind_that_is_needed(
    manifest: DatasetManifest, target: Any
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_dataset(needing(target), manifest, Roles())
    assert [violation.field for violation in caught.value.violations] == ["training.dataset_uri"]
    assert needed_title(target) in caught.value.message
    assert title_of(manifest) in caught.value.message


@pytest.mark.parametrize(
    ("manifest", "target", "field"),
    [
        (kind_of("boxes", *SOURCES, annotated="a"), v1.TARGET_KIND_BOXES, "train/source/b.tif"),
        (kind_of("coordinates", *FRAMES, annotated="b"), v1.TARGET_KIND_COORDINATES, "train/source/a.tif"),
        (kind_of("coordinates", FRAMES[0], SOURCES[1]), v1.TARGET_KIND_COORDINATES, "train/source/b.tif"),
        (
            kind_of("coordinates", FRAMES[0], FRAMES[1].model_copy(update={"pixel_size_um": None})),
            v1.TARGET_KIND_COORDINATES,
            "train/source/b.tif",
        ),
        (kind_of("unpaired", *UNPAIRED[:3]), v1.TARGET_KIND_UNPAIRED_IMAGE, "train/target"),
    ],
)
def test_what_is_missing_in_a_dataset_of_the_right_kind_is_named(
    manifest: DatasetManifest, target: Any, field: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_dataset(needing(target), manifest, Roles())
    assert [violation.field for violation in caught.value.violations] == [field]


def judged(store: Store, uri: str, target: Any) -> v1.Job:
    """The admitted job of an evaluation that compares with targets."""
    work: Mapping[Any, Work] = {v1.JOB_KIND_EVALUATION: Work(Parameters, "none:none")}
    service = replace(SERVICE, methods=(needing(target, work=work, presets={}),))
    place = result_location(store, "default", f"none-{uuid.uuid4().hex}")
    empty = ResultManifest(project="default", job="none", service="s", method="m", kind="prediction")
    spec = v1.EvaluationSpec(
        method="fake-2d", dataset_uri=uri, prediction_uri=publish(store, place, RESULT_MANIFEST, empty)
    )
    request = v1.StartJobRequest(request_id=uuid.uuid4().hex, project="default", evaluation=spec)
    return admit(service, store, JobStore(store), request)


@pytest.mark.parametrize("kind", ["unpaired", "sources", "boxes"])
def test_a_dataset_without_target_images_is_compared_with_no_image(kind: str, s3: Any, tmp_path: Path) -> None:
    store = s3.store()
    uri = publish_kind(store, "compared", write_kind(tmp_path, kind), kind)
    with pytest.raises(InvalidInputError) as caught:
        judged(store, uri, v1.TARGET_KIND_PAIRED_IMAGE)
    assert [violation.field for violation in caught.value.violations] == ["evaluation.dataset_uri"]
    if kind == "boxes":
        assert judged(store, uri, v1.TARGET_KIND_BOXES).state == v1.JOB_STATE_QUEUED


def alone(store: Store, dataset_uri: str, **values: str) -> InvalidInputError | None:
    """The refusal of an evaluation without a prediction; None if it is admitted."""
    work: Mapping[Any, Work] = {v1.JOB_KIND_EVALUATION: Work(Parameters, "none:none", needs_prediction=False)}
    service = replace(SERVICE, methods=(replace(FAKE, work=work, presets={}),))
    spec = v1.EvaluationSpec(method="fake-2d", dataset_uri=dataset_uri, **values)  # type: ignore[arg-type]
    request = v1.StartJobRequest(request_id=uuid.uuid4().hex, project="default", evaluation=spec)
    try:
        assert admit(service, store, JobStore(store), request).evaluation == spec
    except InvalidInputError as error:
        return error
    return None


def test_work_without_a_prediction_needs_a_dataset_alone(store: Any, dataset_uri: str) -> None:
    assert alone(store, dataset_uri) is None
    assert alone(store, dataset_uri, split="train") is None
    for values, field in (
        ({"split": "validation"}, "evaluation.split"),
        ({"prediction_uri": "s3://parfocal-results/default/c"}, "evaluation.prediction_uri"),
        ({"model_uri": "s3://parfocal-models/default/m/1"}, "evaluation.model_uri"),
    ):
        error = alone(store, dataset_uri, **values)
        assert error is not None
        assert [violation.field for violation in error.violations] == [field]


def model_of(store: Store, channels: int) -> str:
    """The address of a published model, of which admission reads only the manifest."""
    facts = Facts(inputs=(Port(role="source", channels=channels),))
    return publish_model(store, f"takes-{channels}", "", method="fake-2d", facts=facts)


def test_a_prediction_is_refused_where_no_image_of_the_split_suits_the_model(store: Any, dataset_uri: str) -> None:
    service = replace(SERVICE, methods=(CHANNELS,))

    def start(channels: int, taken: v1.Taken | None = None) -> v1.Job:
        uri = model_of(store, channels)
        spec = v1.PredictionSpec(model_uri=uri, input_uri=dataset_uri, split="test", taken=taken)
        request = v1.StartJobRequest(request_id=uuid.uuid4().hex, project="default", prediction=spec)
        return admit(service, store, JobStore(store), request)

    assert start(1).state == v1.JOB_STATE_QUEUED
    with pytest.raises(InvalidInputError) as caught:
        start(1, v1.Taken(channels=["2"]))
    assert [violation.field for violation in caught.value.violations] == ["prediction.taken"]
    with pytest.raises(InvalidInputError, match=r"No test image .*takes-3:1") as caught:
        start(3)
    assert [violation.field for violation in caught.value.violations] == [
        f"test/source/field{number}.tif" for number in range(3)
    ]
    assert "YX with 3 channels along C or Z" in caught.value.message


def under_the_id(store: Store, request_id: str, dataset_uri: str) -> v1.Job:
    """The admitted job of a check, under a request id of one's choice."""
    work: Mapping[Any, Work] = {v1.JOB_KIND_EVALUATION: Work(Parameters, "none:none", needs_prediction=False)}
    service = replace(SERVICE, methods=(replace(FAKE, work=work, presets={}),))
    spec = v1.EvaluationSpec(method="fake-2d", dataset_uri=dataset_uri)
    request = v1.StartJobRequest(request_id=request_id, project="default", evaluation=spec)
    return admit(service, store, JobStore(store), request)


@pytest.mark.parametrize("what", ["microscope/day-1/a.tif", "a1/figure.png", RESULT_MANIFEST])
def test_a_request_id_that_names_a_folder_of_results_is_refused(store: Any, dataset_uri: str, what: str) -> None:
    name = f"scope-{uuid.uuid4().hex}"
    store.write(store.results / "default" / name / what, b"{}")
    with pytest.raises(AlreadyExistsError) as caught:
        under_the_id(store, name, dataset_uri)
    assert [violation.field for violation in caught.value.violations] == ["request_id"]


def test_a_request_id_of_a_deleted_result_is_refused_and_sent_images_do_no_harm(store: Any, dataset_uri: str) -> None:
    name = f"gone-{uuid.uuid4().hex}"
    store.write(store.results / "default" / ".trash" / name / RESULT_MANIFEST, b"{}")
    with pytest.raises(AlreadyExistsError):
        under_the_id(store, name, dataset_uri)
    name = f"sent-{uuid.uuid4().hex}"
    store.write(store.results / "default" / name / "inputs" / "a.tif", b"x")
    assert under_the_id(store, name, dataset_uri).id == name
