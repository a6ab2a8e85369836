"""Checks a request as far as it can be checked without its pixels, and makes it a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from parfocal import v1
from parfocal.runtime import traces
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.datasets.coordinates import AXES as FRAME_AXES
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.datasets.kinds import IMAGE_TARGETS, has_comparable, require_suitable, title_of
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    Violation,
    refusal,
)
from parfocal.runtime.images.needs import fits_axes
from parfocal.runtime.images.taken import Taken
from parfocal.runtime.jobs.parts import check_parts, refuse_part
from parfocal.runtime.jobs.records import JobStore, job_kind, now, request_digest
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.roles import Roles, TrainingBase
from parfocal.runtime.methods.service import Method, Parameters, Service, struct_values, values_struct
from parfocal.runtime.store.confinement import confine_request
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    UNCERTAINTY,
    UNCERTAINTY_FACTOR,
    DatasetManifest,
    ImageEntry,
    Manifest,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.names import check_name, check_request_id, model_location, result_location
from parfocal.runtime.store.publish import claim_version, is_taken
from parfocal.runtime.store.store import Location, Store

M = TypeVar("M", bound=Manifest)


def admit(
    service: Service,
    store: Store,
    jobs: JobStore,
    request: v1.StartJobRequest,
    *,
    created_by: str = UNVERIFIED.name,
    requested_by: str = "",
) -> v1.Job:
    """Return the new job, queued in the store.

    Parameters
    ----------
    created_by, requested_by
        Who starts it, and who asks on their behalf, as `v1.Job` has them.

    Raises
    ------
    InvalidInputError, NotFoundError
        The request cannot be carried out; nothing has been stored.
    AlreadyExistsError
        Something else lies where the result would be published.
    """
    check_name("project", request.project)
    check_request_id(request.request_id)
    confine_request(store, request.project, request)
    kind = job_kind(request)
    job = v1.Job(
        id=request.request_id,
        project=request.project,
        service=service.name,
        request_id=request.request_id,
        labels=request.labels,
        created_by=created_by,
        requested_by=requested_by,
        created_at=now(),
        environment=service.environment(image=store.settings.image),
        traceparent=traces.current(),
    )
    if request.HasField("training"):
        method, parameters, warnings = _check_training(service, store, request.training)
        job.warnings.extend(warnings)
        job.training.CopyFrom(request.training)
    elif request.HasField("prediction"):
        method, parameters, images = _check_prediction(service, store, request.prediction)
        job.progress.steps = images
        job.prediction.CopyFrom(request.prediction)
    elif request.HasField("evaluation"):
        method, parameters = _check_evaluation(service, store, request.evaluation)
        job.evaluation.CopyFrom(request.evaluation)
    elif request.HasField("comparison"):
        method, parameters = _check_comparison(service, store, request.comparison)
        job.comparison.CopyFrom(request.comparison)
    elif request.HasField("derivation"):
        method, parameters = _check_derivation(service, store, request.derivation)
        job.derivation.CopyFrom(request.derivation)
    else:
        raise InvalidInputError(
            "The request asks for nothing: set training, prediction, evaluation, comparison or derivation."
        )
    method.work_of(kind)
    job.method = method.name
    job.resolved_parameters.CopyFrom(values_struct(parameters.model_dump(mode="json")))
    if request.HasField("training"):
        place = claim_version(store, model_location(store, job.project, request.training.model), job.id)
    else:
        place = result_location(store, job.project, job.id)
        if is_taken(store, place):
            # The same request may have reached another instance a moment ago.
            known = jobs.repeated(request)
            if known is not None:
                return known
            text = (
                f"The request id {job.id!r} belongs to results that are there already or were deleted, or to a folder "
                "that scheduled predictions write to: use a fresh one."
            )
            raise AlreadyExistsError(text, [Violation("request_id", text)])
    job.reserved_uri = str(place)
    try:
        return jobs.create(job, request_digest(request)).job
    except ConflictError:
        # The same request reached another instance at the same moment.
        known = jobs.repeated(request)
        if known is None:
            raise UnavailableError(f"The job {job.id} is just being deleted. Try again.") from None
        return known


def read_manifest(store: Store, uri: str, name: str, field: str, model: type[M]) -> M:
    """Return the manifest of a published folder; errors name the field of the request that is wrong."""
    try:
        place = Location.parse(uri)
        return model.read(store, place / name)
    except NotFoundError as error:
        what = {DATASET_MANIFEST: "dataset", MODEL_MANIFEST: "model", RESULT_MANIFEST: "result"}[name]
        text = f"There is no published {what} at {uri}."
        raise NotFoundError(text, [Violation(field, text)]) from error
    except (InvalidInputError, DamagedError) as error:
        raise type(error)(error.message, [Violation(field, error.message)]) from error


def _check_judged(store: Store, spec: v1.EvaluationSpec) -> None:
    """Raise unless there is a prediction to judge."""
    field = "evaluation.prediction_uri"
    refuse_part(read_manifest(store, spec.prediction_uri, RESULT_MANIFEST, field, ResultManifest), field)


def _check_training(service: Service, store: Store, spec: v1.TrainingSpec) -> tuple[Method, Parameters, Sequence[str]]:
    method = service.method(spec.method)
    parameters = method.parse(v1.JOB_KIND_TRAINING, struct_values(spec.parameters))
    check_name("model", spec.model)
    dataset = read_manifest(store, spec.dataset_uri, DATASET_MANIFEST, "training.dataset_uri", DatasetManifest)
    roles = parameters.roles(dataset) if isinstance(parameters, TrainingBase) else Roles()
    check_dataset(method, dataset, roles)
    if method.validate is not None:
        method.validate(parameters, dataset)
    if spec.initial_model_uri:
        initial = read_manifest(
            store, spec.initial_model_uri, MODEL_MANIFEST, "training.initial_model_uri", ModelManifest
        )
        _require_known(initial)
        if initial.method != method.name:
            raise InvalidInputError(
                f"The initial model {spec.initial_model_uri} was made by {initial.method}; {method.name} can only "
                "start from a model of its own."
            )
        if spec.initial_weights_name:
            initial.weights_named(spec.initial_weights_name, "training.initial_weights_name")
    return method, parameters, method.advise(parameters, dataset) if method.advise is not None else ()


def _check_prediction(service: Service, store: Store, spec: v1.PredictionSpec) -> tuple[Method, Parameters, int]:
    """Return also how many images are to be predicted; in a folder, files of any kind are counted."""
    model = read_manifest(store, spec.model_uri, MODEL_MANIFEST, "prediction.model_uri", ModelManifest)
    method = service.method(model.method)
    parameters = method.parse(v1.JOB_KIND_PREDICTION, struct_values(spec.parameters))
    require_outputs(parameters, model)
    _require_known(model)
    if Taken.of_message(spec.taken, "prediction.taken") and spec.split:
        text = "Channels, planes and frames are taken of images of a folder; those of a dataset were, when it was made."
        raise InvalidInputError(text, [Violation("prediction.taken", text)])
    if spec.HasField("part") or spec.part_uris:
        check_parts(store, method, spec, parameters)
    if spec.split and spec.inputs:
        text = "Name either a split of a dataset or images of a folder, not both."
        raise InvalidInputError(text, [Violation("prediction.inputs", text)])
    if spec.split:
        dataset = read_manifest(store, spec.input_uri, DATASET_MANIFEST, "prediction.input_uri", DatasetManifest)
        backwards = isinstance(parameters, PredictionParameters) and parameters.backwards
        facts = model.facts.directed(backwards=backwards)
        images = len(dataset.select(spec.split, facts.source))
        if not images:
            raise InvalidInputError(
                f"The dataset {spec.input_uri} has no {spec.split!r} images in the role {facts.source!r}, which the "
                "model was trained on."
            )
        _check_inputs(method, model, facts, dataset, spec.split)
    elif spec.inputs:
        _check_named(store, Location.parse(spec.input_uri), spec.inputs)
        images = len(spec.inputs)
    else:
        images = sum(1 for _ in store.objects(Location.parse(spec.input_uri)))
        if not images:
            raise NotFoundError(f"There are no images below {spec.input_uri}.")
    return method, parameters, images


def _require_known(model: ModelManifest) -> None:
    """Raise PreconditionError where a model is described in a way that only a newer version knows."""
    model.facts.require_known()
    Normaliser.of_record(model.normaliser)


def _check_named(store: Store, folder: Location, names: Sequence[str]) -> None:
    """Raise if images of a folder that are named one by one are not there, or cannot be names."""
    problems = []
    result = ResultManifest.at(store, folder)
    predictions = result.predictions if result is not None else None
    for name in names:
        try:
            there = store.exists(folder / name) if predictions is None else name in predictions
        except InvalidInputError as error:
            problems.append(Violation(name, error.message))
        else:
            if not there:
                problems.append(Violation(name, f"There is no image {name!r} below {folder}."))
    if problems:
        raise refusal("Some of the images that were named cannot be predicted:", problems)


def require_outputs(parameters: Parameters, model: ModelManifest) -> None:
    """Raise InvalidInputError if the parameters of a prediction ask for what the model does not have or make."""
    if isinstance(parameters, PredictionParameters):
        model.weights_named(parameters.weights)
    if getattr(parameters, UNCERTAINTY, False) and UNCERTAINTY_FACTOR not in model.calibration:
        text = f"The model {model.model}:{model.version} makes no uncertainty: it was trained without it."
        raise InvalidInputError(text, [Violation(UNCERTAINTY, text)])


def _check_inputs(method: Method, model: ModelManifest, facts: Facts, dataset: DatasetManifest, split: str) -> None:
    """Raise InvalidInputError if no image of a split suits a model; single ones are left out of the prediction."""
    images, problems = dataset.select(split, facts.source), []
    for image in images:
        try:
            method.needs.check(image.axes, image.shape, facts.input_channels)
        except InvalidInputError as error:
            problems.append(Violation(image.file, error.message))
    if len(problems) == len(images):
        raise refusal(f"No {split} image of the dataset suits the model {model.model}:{model.version}:", problems)


def _check_evaluation(service: Service, store: Store, spec: v1.EvaluationSpec) -> tuple[Method, Parameters]:
    method = service.method(spec.method)
    parameters = method.parse(v1.JOB_KIND_EVALUATION, struct_values(spec.parameters))
    work = method.work_of(v1.JOB_KIND_EVALUATION)
    if not work.needs_targets:
        _refuse(spec, ("dataset_uri", "split", "model_uri"), f"{method.title} judges a prediction by its inputs")
        _check_judged(store, spec)
        return method, parameters
    dataset = read_manifest(store, spec.dataset_uri, DATASET_MANIFEST, "evaluation.dataset_uri", DatasetManifest)
    if not work.needs_prediction:
        _refuse(spec, ("prediction_uri", "model_uri"), f"{method.title} judges a dataset alone")
        _check_dataset_alone(dataset, spec)
        return method, parameters
    split = spec.split or "test"
    if not has_comparable(dataset, split, method.target):
        why = "they are no pairs" if split in dataset.unpaired else f"it has {title_of(dataset)}"
        text = f"The dataset {spec.dataset_uri} has no {split!r} images with targets to compare with ({why})."
        raise InvalidInputError(text, [Violation("evaluation.dataset_uri", text)])
    _check_judged(store, spec)
    if spec.model_uri:
        read_manifest(store, spec.model_uri, MODEL_MANIFEST, "evaluation.model_uri", ModelManifest)
    return method, parameters


def _refuse(spec: v1.EvaluationSpec, fields: Iterable[str], why: str) -> None:
    """Raise InvalidInputError where a field is set that an evaluation would not look at."""
    for field in fields:
        if getattr(spec, field):
            text = f"{why}: leave {field} empty."
            raise InvalidInputError(text, [Violation(f"evaluation.{field}", text)])


def _check_dataset_alone(dataset: DatasetManifest, spec: v1.EvaluationSpec) -> None:
    if not any(spec.split in {"", image.split} for image in dataset.images):
        part = f"{spec.split!r} " if spec.split else ""
        text = f"The dataset {spec.dataset_uri} has no {part}images to look at."
        raise InvalidInputError(text, [Violation("evaluation.split", text)])


def _check_comparison(service: Service, store: Store, spec: v1.ComparisonSpec) -> tuple[Method, Parameters]:
    method = service.method(spec.method)
    parameters = method.parse(v1.JOB_KIND_COMPARISON, struct_values(spec.parameters))
    if len(spec.evaluation_uris) < 2:
        raise InvalidInputError("A comparison needs two evaluations or more.")
    for uri in spec.evaluation_uris:
        read_manifest(store, uri, RESULT_MANIFEST, "comparison.evaluation_uris", ResultManifest)
    return method, parameters


def _check_derivation(service: Service, store: Store, spec: v1.DerivationSpec) -> tuple[Method, Parameters]:
    method = service.method(spec.method)
    parameters = method.parse(v1.JOB_KIND_DERIVATION, struct_values(spec.parameters))
    field = "derivation.input_uris"
    if not spec.input_uris:
        text = "A derivation needs published datasets or results: name one or more."
        raise InvalidInputError(text, [Violation(field, text)])
    for uri in spec.input_uris:
        try:
            place = Location.parse(uri)
        except InvalidInputError as error:
            raise InvalidInputError(error.message, [Violation(field, error.message)]) from error
        if not any(store.exists(place / name) for name in (DATASET_MANIFEST, RESULT_MANIFEST)):
            text = f"There is no published dataset and no published result at {uri}."
            raise NotFoundError(text, [Violation(field, text)])
    return method, parameters


def check_dataset(method: Method, dataset: DatasetManifest, roles: Roles) -> None:
    """Raise InvalidInputError where a dataset does not suit a method; the manifest alone tells."""
    sources = dataset.select("train", roles.source)
    name = f"The dataset {dataset.dataset!r} (version {dataset.version})"
    require_suitable(dataset, method.target, method.title)
    target_roles = roles.targets if method.target in IMAGE_TARGETS else ()
    for role in (roles.source, *target_roles):
        if not dataset.select("train", role) and dataset.images:
            known = ", ".join((*dataset.roles("source"), *dataset.roles("target")))
            raise InvalidInputError(
                f"{name} has no training images in the role {role!r}; it has {known}. Choose one of these.",
                [Violation("source" if role == roles.source else "targets", f"there are no images {role!r}")],
            )
    if len(sources) < method.minimum_images:
        raise InvalidInputError(
            f"{name} has {count(len(sources), 'training image')}; {method.title} needs {method.minimum_images} or more."
        )
    if method.target == v1.TARGET_KIND_COORDINATES:
        problems = [*_frame_problems(sources), *_annotation_problems(dataset, sources)]
    else:
        problems = list(_axes_problems(method.axes, method.channel_axes, sources, frames=method.frames))
    if method.target == v1.TARGET_KIND_BOXES:
        problems += _annotation_problems(dataset, sources)
    elif method.target == v1.TARGET_KIND_UNPAIRED_IMAGE:
        for role in target_roles:
            targets = dataset.select("train", role)
            problems += _axes_problems(method.axes, method.target_channel_axes, targets)
            if len(targets) < method.minimum_images:
                text = f"has {count(len(targets), 'image')}; {method.title} needs at least {method.minimum_images}"
                problems.append(Violation(f"train/{role}", text))
    else:
        for role in target_roles:
            targets = dataset.select("train", role)
            problems += _axes_problems(method.axes, method.target_channel_axes, targets)
            problems += _partner_problems(method, sources, targets, role)
    if problems:
        raise refusal(f"{name} does not suit {method.title}:", problems)


def _frame_problems(stacks: Iterable[ImageEntry]) -> Iterable[Violation]:
    """Yield the stacks that are none of frames, or whose pixels have no size: coordinates could not be read."""
    for stack in stacks:
        if stack.axes != FRAME_AXES:
            yield Violation(stack.file, f"has axes {stack.axes} where {FRAME_AXES} is required")
        elif stack.pixel_size_um is None or not stack.pixel_size_um[0] or not stack.pixel_size_um[1]:
            yield Violation(stack.file, "has no pixel size, which the coordinates need")


def _annotation_problems(dataset: DatasetManifest, images: Iterable[ImageEntry]) -> Iterable[Violation]:
    """Yield the images that have no file with boxes or coordinates; where there are none it is an empty one."""
    known = {entry.stem for entry in dataset.select_annotations("train")}
    for image in images:
        if image.stem not in known:
            yield Violation(image.file, "has no annotation file of the same name")


def _axes_problems(
    axes: str, channel_axes: str, images: Iterable[ImageEntry], *, frames: bool = False
) -> Iterable[Violation]:
    """Yield the images that have other axes than `axes` and one of `channel_axes`, or other ones than the first.

    With `frames` they may all be movies, with T in front.
    """
    first: ImageEntry | None = None
    for image in images:
        single = image.axes.removeprefix("T" if frames else "")
        if not fits_axes(axes, channel_axes, single):
            also = f" (or channels along {' or '.join(channel_axes)} besides)" if channel_axes else ""
            yield Violation(image.file, f"has axes {image.axes} where {axes} is required{also}")
            continue
        first = first or image
        extra = "".join(axis for axis in single if axis not in axes)
        if image.axes != first.axes or (extra and _length(image, extra) != _length(first, extra)):
            yield Violation(image.file, f"is {image.axes} {image.shape}, {first.file} {first.axes} {first.shape}")


def _partner_problems(
    method: Method, sources: Iterable[ImageEntry], images: Iterable[ImageEntry], role: str
) -> Iterable[Violation]:
    targets = {entry.stem: entry for entry in images}
    for source in sources:
        target = targets.get(source.stem)
        if target is None:
            yield Violation(source.file, f"has no {role} of the same name")
        elif _lengths(source, method.axes) != _lengths(target, method.axes):
            yield Violation(source.file, f"is {source.shape}, but its {role} {target.shape}")


def _length(image: ImageEntry, axis: str) -> int:
    return image.shape[image.axes.index(axis)]


def _lengths(image: ImageEntry, axes: str) -> tuple[int, ...]:
    """Return the lengths along axes, as far as the image has them."""
    return tuple(_length(image, axis) for axis in axes if axis in image.axes)
