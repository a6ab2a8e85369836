"""How a service describes itself and its methods; imported by servers, so no framework is imported here.

A method package (`parfocal.care`) has one constant `SERVICE`; everything a client is told, and everything a
worker runs, follows from it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from google.protobuf import json_format, struct_pb2
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from parfocal import v1
from parfocal.runtime.datasets.kinds import KINDS, kinds_for
from parfocal.runtime.errors import InvalidParameterError, NotFoundError, Violation
from parfocal.runtime.images.needs import ImageNeeds
from parfocal.runtime.methods.device import DRIVERS, Device, Framework, describe_processor
from parfocal.runtime.store.manifests import DatasetManifest


class Parameters(BaseModel):
    """Base of all parameter models: unknown names are refused, values are checked, nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Resources:
    """Requirements of a worker on its machine.

    Attributes
    ----------
    gpu
        Number of devices it computes on, 0 or 1; on a machine without GPUs the processor is the device.
    cpu
        Processor cores; None where the installation decides.
    memory_gib
        GiB of memory; None where the installation decides.
    """

    gpu: int = 0
    cpu: float | None = None
    memory_gib: float | None = None


@dataclass(frozen=True)
class Work:
    """One kind of work of a method.

    Attributes
    ----------
    parameters
        Model of the parameters; its JSON Schema is what clients see.
    run
        "module:function" called by the worker with a `JobContext`; imported nowhere else.
    needs_device
        Whether the worker must hold the machine's device.
    needs_prediction
        Whether an evaluation judges a prediction; without one it judges a dataset alone.
    needs_targets
        Whether an evaluation compares a prediction with targets; without them it looks at the prediction's inputs.
    cpu, memory_gib
        Cores and memory that it needs on a cluster, where the installation's own figures do not suit it.
    """

    parameters: type[Parameters]
    run: str
    needs_device: bool = True
    needs_prediction: bool = True
    needs_targets: bool = True
    cpu: float | None = None
    memory_gib: float | None = None

    @property
    def resources(self) -> Resources:
        """Requirements of its worker on the machine."""
        return Resources(int(self.needs_device), self.cpu, self.memory_gib)


@dataclass(frozen=True)
class Preset:
    """Parameters of training that go well together.

    Attributes
    ----------
    description
        Purpose in one sentence.
    parameters
        Values by name; all others have their defaults.
    """

    description: str
    parameters: Mapping[str, Any]


def quick(**parameters: Any) -> dict[str, Preset]:
    """Return the preset that every method has: a small network and few steps, to try it in some minutes."""
    return {"quick": Preset("A small network and few steps, to try the method in some minutes.", parameters)}


@dataclass(frozen=True)
class Method:
    """One method of a service, in the words that people read.

    `axes` are those of one image; a further axis out of `channel_axes` makes the channels of a network's input, and
    one out of `target_channel_axes` those of its output. With `frames` movies (T, and these axes) are trained on
    frame by frame, by methods without targets.
    `divisible` says whether several jobs can share the prediction of an image.
    `presets` are choices of training parameters by name, "quick" first.
    `implementation` names the class ("module:Class") that the runtime's training and prediction drive.
    `validate` looks at parameters and dataset before a job is admitted; it raises InvalidInputError. `advise` looks at
    the same and returns warnings, in sentences, of what is likely to go wrong in such a training.
    """

    name: str
    title: str
    task: v1.Task.ValueType
    summary: str
    axes: str
    target: v1.TargetKind.ValueType
    work: Mapping[v1.JobKind.ValueType, Work]
    data: str
    citation: str
    licence: str
    documentation: str
    minimum_images: int = 1
    recommended_images: int = 20
    presets: Mapping[str, Preset] = field(default_factory=dict)
    channel_axes: str = ""
    target_channel_axes: str = ""
    frames: bool = False
    divisible: bool = True
    implementation: str = ""
    validate: Callable[[Parameters, DatasetManifest], None] | None = None
    advise: Callable[[Parameters, DatasetManifest], Sequence[str]] | None = None

    def __post_init__(self) -> None:
        for preset in self.presets.values():
            self.parse(v1.JOB_KIND_TRAINING, preset.parameters)

    def parse(self, kind: v1.JobKind.ValueType, values: Mapping[str, Any]) -> Parameters:
        """Return checked parameters with defaults; raise InvalidParameterError naming each bad one."""
        model = self.work_of(kind).parameters
        try:
            return model.model_validate(dict(values))
        except ValidationError as error:
            violations = [_violation(model, detail) for detail in error.errors()]
            text = " ".join(violation.description for violation in violations)
            raise InvalidParameterError(f"{self.title}: {text}", violations) from error

    def work_of(self, kind: v1.JobKind.ValueType) -> Work:
        """Return the work of this kind; raise NotFoundError if the method does not offer it."""
        if kind not in self.work:
            name = v1.JobKind.Name(kind).removeprefix("JOB_KIND_").lower()
            raise NotFoundError(f"{self.title} does not offer {name}.")
        return self.work[kind]

    @property
    def needs(self) -> ImageNeeds:
        """Requirements on an image to be predicted."""
        return ImageNeeds(self.title, self.axes, self.channel_axes)

    def _augmentations(self) -> Iterator[v1.Augmentation]:
        """Yield the parameters of training that say whether and how strongly patches are changed."""
        training = self.work.get(v1.JOB_KIND_TRAINING)
        for name, info in training.parameters.model_fields.items() if training else ():
            if name.startswith("augment_") and not name.endswith("_probability"):
                yield v1.Augmentation(parameter=name, description=info.description or "")

    def load(self, device: Device | None = None) -> Any:
        """Import the implementation and instantiate it for a device, by default the processor; workers only."""
        return load_with_framework(self.implementation)(device or Device())

    def to_proto(self) -> v1.Method:
        """Return the description that ListMethods sends."""
        return v1.Method(
            name=self.name,
            title=self.title,
            task=self.task,
            summary=inspect.cleandoc(self.summary),
            job_kinds=list(self.work),
            parameter_schemas=[
                v1.ParameterSchema(job_kind=kind, json_schema=schema_text(work.parameters))
                for kind, work in self.work.items()
            ],
            data_requirements=v1.DataRequirements(
                axes=self.axes,
                target=self.target,
                minimum_images=self.minimum_images,
                recommended_images=self.recommended_images,
                description=inspect.cleandoc(self.data),
                channel_axes=self.channel_axes,
                suitable_targets=[KINDS[name].target for name in kinds_for(self.target)],
                frames=self.frames,
            ),
            augmentations=list(self._augmentations()),
            citation=self.citation,
            licence=self.licence,
            documentation=self.documentation,
            presets=[
                v1.Preset(name=name, description=preset.description, parameters=values_struct(preset.parameters))
                for name, preset in self.presets.items()
            ],
        )


@dataclass(frozen=True)
class Service:
    """One image's worth of methods.

    `packages` are those whose versions are recorded; `framework` is what the methods compute with. `part` is for a
    service that serves something else than methods and jobs: "module:function", see `parfocal.runtime.server.parts`.
    """

    name: str
    methods: Sequence[Method]
    packages: Sequence[str] = ()
    framework: Framework = ""
    part: str = ""

    def method(self, name: str) -> Method:
        """Return a method by name; raise NotFoundError naming those there are."""
        for method in self.methods:
            if method.name == name:
                return method
        offered = ", ".join(method.name for method in self.methods)
        raise NotFoundError(f"The service {self.name!r} has no method {name!r}; it has {offered}.")

    def device(self) -> Device:
        """Return what networks of this service are computed on; workers only, for a framework is asked."""
        if not self.framework:
            return describe_processor(())
        device = load_with_framework(DRIVERS[self.framework])()
        assert isinstance(device, Device)
        return device

    def environment(self, device: Device | None = None, *, image: str = "") -> v1.Environment:
        """Return what the service runs on; servers know nothing of the device, which is then left empty."""
        packages = {"python": platform.python_version()}
        for package in ("parfocal-runtime", f"parfocal-{self.name}", "numpy", *self.packages):
            try:
                packages[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return v1.Environment(
            packages=packages,
            image=image,
            cuda=device.cuda if device else "",
            device=device.label if device else "",
            threads=thread_count(),
            precision=device.precision if device else "",
            host=platform.node(),
        )


def thread_count() -> int:
    """Return how many processor threads this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def load_service(module: str) -> Service:
    """Return the constant `SERVICE` of a method package."""
    service = importlib.import_module(module).SERVICE
    assert isinstance(service, Service)
    return service


def load_with_framework(path: str) -> Any:
    """Return an object whose module imports the framework, perhaps for the first time."""
    # Read when PyTorch is imported. Threads that wait by spinning take the processor from whoever else is on the
    # machine: small networks were ten times slower on two shared cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return load_object(path)


def load_object(path: str) -> Any:
    """Return the object named "module:name". Only names written in Parfocal's own code come here."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def schema_text(model: type[Parameters]) -> str:
    """Return the JSON Schema of a parameter model as text."""
    import json

    return json.dumps(model.model_json_schema(), sort_keys=False)


def struct_values(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Return a Struct as plain values; whole numbers become int, because JSON has one kind of number.

    Raises
    ------
    InvalidParameterError
        A number is infinite or none at all.
    """

    def whole(value: Any) -> Any:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        if isinstance(value, list):
            return [whole(item) for item in value]
        return value

    try:
        values = whole(json_format.MessageToDict(struct))
    except ValueError as error:  # JSON has no NaN and no infinity
        wrong = [name for name, value in struct.fields.items() if not math.isfinite(value.number_value)]
        violations = [
            Violation(name, f"Parameter {name!r}: must be a finite number.") for name in wrong or ["parameters"]
        ]
        raise InvalidParameterError(" ".join(each.description for each in violations), violations) from error
    assert isinstance(values, dict)
    return values


def values_struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return plain values as a Struct."""
    struct = struct_pb2.Struct()
    json_format.ParseDict(dict(values), struct)
    return struct


def _violation(model: type[Parameters], detail: ErrorDetails) -> Violation:
    name = ".".join(str(part) for part in detail["loc"]) or "parameters"
    if detail["type"] == "extra_forbidden":
        import difflib

        if name == "preset":
            return Violation(name, "There is no parameter 'preset': choose a preset beside parameters (--preset).")
        near = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(model.model_fields)}."
        return Violation(name, f"There is no parameter {name!r}.{hint}")
    message = detail["msg"].removeprefix("Value error, ")
    return Violation(name, f"Parameter {name!r}: {message[:1].lower() + message[1:]} (got {detail['input']!r}).")
