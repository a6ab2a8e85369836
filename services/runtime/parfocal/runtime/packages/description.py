"""What the description of a package says, in the formats 0.4 and 0.5 of bioimage.io: checked, and in one form.

A description comes from anywhere. It names files and steps; nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import LARGEST_VALUE
from parfocal.runtime.methods.portable import Step

PARFOCAL: Final = "parfocal"
"""Name of Parfocal's own part of the configuration in a description."""

_KNOWN: Final = ("0.4", "0.5")
_LETTERS: Final = {"batch": "b", "channel": "c", "time": "t", "index": "i"}
_SPATIAL: Final = "zyx"
_MOST_AXES: Final = 6
_MOST_STEPS: Final = 20
_MOST_FILES: Final = 100
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# Of what is repeated from a description.
_MOST_CHARACTERS: Final = 500
_MOST_ITEMS: Final = 20


@dataclass(frozen=True)
class Tensor:
    """The input or the output of the described network.

    Attributes
    ----------
    name
        "input" or "output", for messages.
    axes
        One letter for each axis: b batch, c channel, z, y, x.
    steps
        What is done before the network, or behind it.
    periods
        By spatial axis, in pixels: lengths are multiples of it, as far as the description says.
    example
        Name of the file with the test tensor.
    """

    name: str
    axes: str
    steps: tuple[Step, ...]
    periods: Mapping[str, int]
    example: str


@dataclass(frozen=True)
class Description:
    """What a package says of its model.

    Attributes
    ----------
    name
        What the package calls itself.
    input, output
        Its tensors: one of each.
    weights
        The file of each form in which the network is there.
    attachments
        Names of further files.
    config
        What programs have added for themselves, by program.
    digests
        SHA-256 in hexadecimal by name of a file, where it is given.
    said
        What the package says of its model's authors, licence and quality: shown as its word, and used for nothing.
    """

    name: str
    input: Tensor
    output: Tensor
    weights: Mapping[str, str]
    attachments: tuple[str, ...]
    config: Mapping[str, Any]
    digests: Mapping[str, str]
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Names of the files that an import may need, each once."""
        named = (self.input.example, self.output.example, *self.attachments, *self.weights.values())
        return list(dict.fromkeys(named))

    @property
    def own(self) -> Mapping[str, Any]:
        """Parfocal's own part of the configuration; empty in packages of other programs."""
        return _mapping(self.config.get(PARFOCAL, {}), "config.parfocal")

    @property
    def spatial(self) -> str:
        """The spatial axes of an image in Parfocal's order, "YX" or "ZYX"."""
        return "".join(axis for axis in _SPATIAL if axis in self.input.axes).upper()

    def attached(self, name: str) -> str | None:
        """Return the attachment with this name in whatever folder of the package; None without one."""
        return next((each for each in self.attachments if each.rpartition("/")[2] == name), None)


def parse_description(content: Mapping[str, Any]) -> Description:
    """Return what the content of rdf.yaml says.

    Raises
    ------
    InvalidInputError
        It is no description of a model, of another format, or has several inputs or outputs.
    """
    version = _text(content.get("format_version"), "format_version")
    if not version.startswith(tuple(f"{known}." for known in _KNOWN)):
        raise InvalidInputError(
            f"The package is written in the format {version} of bioimage.io, and Parfocal reads "
            f"{' and '.join(_KNOWN)}. Have it rewritten, for example with the package bioimageio.spec."
        )
    if (kind := content.get("type")) != "model":
        raise InvalidInputError(f"The package is not a model: its type is {_short(kind)}.")
    older = version.startswith("0.4.")
    weights = {
        _text(form, "weights"): _text(_mapping(entry, f"weights.{form}").get("source"), f"weights.{form}.source")
        for form, entry in _mapping(content.get("weights"), "weights").items()
    }
    tensors = [_tensor(content, name, older=older) for name in ("input", "output")]
    attached = _attachments(content.get("attachments"), older=older)
    return Description(
        name=_text(content.get("name"), "name")[:_MOST_CHARACTERS],
        input=tensors[0],
        output=tensors[1],
        weights=weights,
        attachments=tuple(attached),
        config=_mapping(content.get("config") or {}, "config"),
        digests=dict(_digests(content)),
        said=_said(content),
    )


def _tensor(content: Mapping[str, Any], name: str, *, older: bool) -> Tensor:
    """Return the only input or output."""
    field = f"{name}s"
    entries = _list(content.get(field), field)
    if len(entries) != 1:
        raise InvalidInputError(f"The package has {len(entries)} {field}: Parfocal imports networks with one {name}.")
    entry = _mapping(entries[0], field)
    kind = "preprocessing" if name == "input" else "postprocessing"
    steps = [
        {
            "id": _text(step.get("name" if older else "id"), f"{field}.{kind}"),
            "kwargs": dict(_mapping(step.get("kwargs") or {}, f"{field}.{kind}")),
        }
        for step in (_mapping(each, f"{field}.{kind}") for each in _list(entry.get(kind) or [], f"{field}.{kind}"))
    ]
    if len(steps) > _MOST_STEPS:
        raise InvalidInputError(f"The package has {len(steps)} steps in {field}.{kind}: those are too many.")
    if older:
        axes = _text(entry.get("axes"), f"{field}.axes")
        tests = _list(content.get(f"test_{field}"), f"test_{field}")
        example, periods = tests[0] if len(tests) == 1 else None, _older_periods(entry.get("shape"), axes)
        where = f"test_{field}"
    else:
        described = [_mapping(axis, f"{field}.axes") for axis in _list(entry.get("axes"), f"{field}.axes")]
        letters = [_letter(axis) for axis in described]
        axes = "".join(letters)
        periods = {letter: _period(axis.get("size")) for letter, axis in zip(letters, described, strict=True)}
        where = f"{field}.test_tensor.source"
        example = _mapping(entry.get("test_tensor"), f"{field}.test_tensor").get("source")
    spatial = [axis for axis in axes if axis in _SPATIAL]
    if len(axes) > _MOST_AXES or len(set(axes)) != len(axes) or set(axes) - set("bczyx") or len(spatial) < 2:
        raise InvalidInputError(
            f"The package's {name} has the axes {axes!r}: Parfocal takes y and x, or z, y and x, with a batch axis and "
            "channels."
        )
    return Tensor(
        name,
        axes,
        tuple(steps),
        {axis: length for axis, length in periods.items() if axis in _SPATIAL and length > 0},
        _text(example, where),
    )


def _letter(axis: Mapping[str, Any]) -> str:
    """Return the letter for an axis of the format 0.5; "?" for one that nobody here knows."""
    kind = axis.get("type")
    if kind == "space":
        name = axis.get("id")
        return name if isinstance(name, str) and len(name) == 1 else "?"
    return _LETTERS.get(kind, "?") if isinstance(kind, str) else "?"


def _period(size: object) -> int:
    """Return the step between the legal lengths of an axis of the format 0.5; 0 where none is given."""
    step = size.get("step") if isinstance(size, Mapping) else None
    return step if type(step) is int else 0


def _older_periods(shape: object, axes: str) -> dict[str, int]:
    """Return the steps between legal lengths by axis, in the format 0.4."""
    steps = shape.get("step") if isinstance(shape, Mapping) else None
    if not isinstance(steps, list) or len(steps) != len(axes):
        return {}
    return {axis: step for axis, step in zip(axes, steps, strict=True) if type(step) is int}


def _attachments(given: object, *, older: bool) -> list[str]:
    """Return the names of the attached files."""
    if older:
        given = _mapping(given or {}, "attachments").get("files")
    entries = _list(given or [], "attachments")
    if len(entries) > _MOST_FILES:
        raise InvalidInputError(f"The package has {len(entries)} attachments: those are too many.")
    return [_text(entry if older else _mapping(entry, "attachments").get("source"), "attachments") for entry in entries]


def _digests(value: object) -> Iterator[tuple[str, str]]:
    """Yield names of files with the SHA-256 that stands beside them, wherever in the description."""
    if isinstance(value, Mapping):
        source, digest = value.get("source"), value.get("sha256")
        if isinstance(source, str) and digest is not None:
            if not isinstance(digest, str) or not _DIGEST.fullmatch(digest.lower()):
                raise InvalidInputError(f"The package names a SHA-256 of {_short(source)} that is none.")
            yield source, digest.lower()
        for each in value.values():
            yield from _digests(each)
    elif isinstance(value, list):
        for each in value:
            yield from _digests(each)


def _said(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is repeated as the word of the package."""
    config = content.get("config")
    own = config.get(PARFOCAL) if isinstance(config, Mapping) else None
    verdict = own.get("verdict") if isinstance(own, Mapping) else None
    authors = content.get("authors")
    said: dict[str, Any] = {
        "name": _short_text(content.get("name")),
        "authors": [
            _short_text(author.get("name"))
            for author in (authors if isinstance(authors, list) else [])[:_MOST_ITEMS]
            if isinstance(author, Mapping)
        ],
        "licence": _short_text(content.get("license")),
    }
    if isinstance(verdict, Mapping):
        reasons = verdict.get("reasons")
        said["verdict"] = _short_text(verdict.get("state"))
        said["reasons"] = [_short_text(each) for each in (reasons if isinstance(reasons, list) else [])[:_MOST_ITEMS]]
        said["scores"] = _scores(own.get("scores") if isinstance(own, Mapping) else None)
        said["dataset"] = _short_text(own.get("dataset") if isinstance(own, Mapping) else "")
    return said


def _scores(given: object) -> dict[str, dict[str, float]]:
    """Return means by kind and metric, as far as they are numbers."""
    if not isinstance(given, Mapping):
        return {}
    return {
        _short_text(kind): {
            _short_text(metric): float(value)
            for metric, value in list(means.items())[:_MOST_ITEMS]
            if type(value) in (int, float) and abs(value) <= LARGEST_VALUE
        }
        for kind, means in list(given.items())[:_MOST_ITEMS]
        if isinstance(means, Mapping)
    }


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"The description of the package is damaged: {where} is {_short(value)}.")
    return value


def _list(value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise InvalidInputError(f"The description of the package is damaged: {where} is {_short(value)}, not a list.")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"The description of the package is damaged: {where} is {_short(value)}, not a text.")
    return value


def _short_text(value: object) -> str:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else ""


def _short(value: object) -> str:
    """Return a value as messages show it."""
    if value is None:
        return "missing"
    text = repr(value) if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"
