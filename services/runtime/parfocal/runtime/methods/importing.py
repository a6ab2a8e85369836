"""Common parts of importers of models that other programs wrote: their values checked, their answer written down.

The files come from anywhere, so nothing in them is run, and each value is looked at before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, InvalidParameterError, ParfocalError
from parfocal.runtime.methods.implementation import Implementation
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.service import Method, Service
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.publish import empty_folder

_MOST_BYTES: Final = 2**20


@dataclass(frozen=True)
class Values(Mapping[str, Any]):
    """The values of a JSON file; `name` is the file's, for messages."""

    name: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, program: str) -> Values:
        """Read a file of a program, e.g. "stardist"; raise InvalidInputError if it is missing, too large or damaged."""
        if not path.is_file():
            raise InvalidInputError(
                f"{path.parent.name} is not a {program} model: it lacks {path.name}. Name the folder in which "
                f"{path.name} and the weights lie side by side."
            )
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidInputError(
                f"{path.name} is larger than {_MOST_BYTES // 2**20} MiB: it is not a file of {program}."
            )
        try:
            # Editors of Windows put a mark before the text.
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{path.name} is damaged: {error}.") from error
        if not isinstance(content, dict):
            raise InvalidInputError(f"{path.name} is not a file of {program}: it names no values.")
        return cls(path.name, content)

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def whole(self, key: str, least: int, most: int) -> int:
        """Return a whole number within limits; raise InvalidInputError for anything else."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInputError(
                f"{self.name}: {key} is {value!r} and must be a whole number from {least} to {most}."
            )
        return value

    def numbers(self, key: str, count: int) -> list[Any]:
        """Return a list of so many numbers; raise InvalidInputError for anything else."""
        values = self.get(key)
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(type(each) in (int, float) for each in values)
        ):
            raise InvalidInputError(f"{self.name}: {key} is {values!r} and must be {count} numbers.")
        return values

    def fraction(self, key: str) -> float:
        """Return a number between 0 and 1; raise InvalidInputError for anything else."""
        value = self.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
            raise InvalidInputError(f"{self.name}: {key} is {value!r} and must be a number between 0 and 1.")
        return float(value)


def training_parameters(
    method: Method, source: str, network: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """Return the parameters of a training that describe an imported model, and warnings of values left out of them.

    Parameters
    ----------
    method
        The method that the model becomes one of.
    source
        The file the values are from, for messages.
    network
        Parameters that the network is built by: all must be such as the method allows.
    training
        Values of the original's training, None for those that its file does not have. What the method does not accept
        is replaced by its default.

    Raises
    ------
    InvalidInputError
        The method does not build such a network.
    """
    accepted, refused = {}, []
    for name, value in training.items():
        if value is None:
            continue
        try:
            method.parse(v1.JOB_KIND_TRAINING, {name: value})
        except InvalidParameterError:
            refused.append(name)
        else:
            accepted[name] = value
    try:
        parameters = method.parse(v1.JOB_KIND_TRAINING, {**network, **accepted})
    except InvalidParameterError as error:
        raise InvalidInputError(
            f"{source} describes a network that Parfocal does not build. {error.message}"
        ) from error
    return parameters, [
        f"{source}: the model was trained with {name} {_short(training[name])}, which {method.title} does not accept. "
        f"The version records the default instead, {getattr(parameters, name)}; predictions do not depend on it."
        for name in refused
    ]


def patch_lengths(given: object, axes: str) -> dict[str, Any]:
    """Return the parameters that are the lengths of a training patch; none where `given` is no list of them.

    Parameters
    ----------
    given
        Lengths in pixels along (Z,) Y and X, as csbdeep's programs write them.
    axes
        Spatial axes of the method, "YX" or "ZYX".
    """
    if not isinstance(given, list) or len(given) != len(axes):
        return {}
    return {"patch_size": given[-1]} | ({"patch_depth": given[0]} if axes[0] == "Z" else {})


def _short(value: object) -> str:
    """Return a value as messages show it."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def check_network(
    config: Values, ours: Mapping[str, Any], names: Iterable[str], older: Mapping[str, Any] | None = None
) -> None:
    """Raise InvalidInputError where a value that decides on the network is not the one Parfocal builds with.

    Parameters
    ----------
    config
        The file.
    ours
        The configuration that Parfocal writes for the same parameters.
    names
        Names of the values.
    older
        Values that files of older versions imply if they lack some of the names.
    """
    for name in names:
        built = json.loads(json.dumps(ours[name]))
        given = config.get(name, (older or {}).get(name))
        if given != built:
            raise InvalidInputError(f"{config.name}: {name} is {given!r}; Parfocal builds networks with {built!r}.")


def manifest_fields(
    method: Method,
    implementation: Implementation[Any, Any],
    parameters: BaseModel,
    facts: Facts,
    weights: Iterable[str],
    warnings: Sequence[str],
    normaliser: Normaliser | None = None,
) -> dict[str, Any]:
    """Return what the manifest of an imported model says, as JSON values: nobody knows how long it was trained.

    `normaliser` is the rule by which the model was trained, where it is not the method's.
    """
    return {
        "method": method.name,
        "citation": method.citation,
        "axes": method.axes,
        "parameters": parameters.model_dump(mode="json"),
        "facts": facts.model_dump(mode="json"),
        "weights": {name: {"epoch": 0} for name in weights},
        "normaliser": (normaliser or implementation.normaliser).record(),
        "warnings": list(warnings),
    }


def run_import(
    service: Service,
    arguments: tuple[str, str, str],
    import_model: Callable[[Method, Path, Path], dict[str, Any]],
    locate: Callable[[Method, str], Path] = lambda _, source: Path(source),
) -> int:
    """Import METHOD SOURCE FOLDER: write FOLDER/model and FOLDER/report.json; return 0, or 1 if it cannot be used.

    Parameters
    ----------
    service
        Has the method.
    arguments
        Arguments of the command line.
    import_model
        Given the method, the source's place and the folder for the model's files, writes these and returns fields of
        `ModelManifest`, see `manifest_fields`.
    locate
        Returns where the source is.
    """
    method_name, source, folder = arguments
    target = empty_folder(Path(folder))
    try:
        method = service.method(method_name)
        place = locate(method, source)
        (target / "model").mkdir()
        report = import_model(method, place, target / "model")
    except ParfocalError as error:
        report = {"error": error.message}
    (target / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return int("error" in report)
