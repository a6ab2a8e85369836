"""Parameters as a method publishes them: read from text, checked against the schema, shown as a table.

No name of a parameter is written here, in the command line or in the portal.
"""

from __future__ import annotations

import difflib
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parfocal.runtime.errors import InvalidParameterError, NotFoundError, Violation

if TYPE_CHECKING:
    from parfocal import v1

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NOTHING = {"null", "none", ""}
_LIMITS: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
    ("minimum", "at least", operator.ge),
    ("exclusiveMinimum", "greater than", operator.gt),
    ("maximum", "at most", operator.le),
    ("exclusiveMaximum", "less than", operator.lt),
)
_WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "array": "list",
    "object": "JSON object",
    "null": "none",
}


def schema_of(method: v1.Method, kind: v1.JobKind.ValueType) -> dict[str, Any]:
    """Return the published schema of one kind of work; raise NotFoundError if the method does not offer it."""
    for item in method.parameter_schemas:
        if item.job_kind == kind:
            schema = json.loads(item.json_schema)
            assert isinstance(schema, dict)
            return schema
    raise NotFoundError(f"{method.title} offers no {kind_word(kind)}.")


def kind_word(kind: v1.JobKind.ValueType) -> str:
    """Return the word for a kind of work, e.g. "training"."""
    from parfocal import v1

    return v1.JobKind.Name(kind).removeprefix("JOB_KIND_").lower()


def preset_values(method: v1.Method, name: str) -> dict[str, Any]:
    """Return the parameters of a preset; raise InvalidParameterError naming those there are."""
    from google.protobuf import json_format

    for preset in method.presets:
        if preset.name == name:
            values = json_format.MessageToDict(preset.parameters)
            # JSON has one kind of number.
            return {
                key: int(value) if isinstance(value, float) and value.is_integer() else value
                for key, value in values.items()
            }
    known = ", ".join(preset.name for preset in method.presets) or "none"
    text = f"{method.title} has no preset {name!r}; it has: {known}."
    raise InvalidParameterError(text, [Violation("preset", text)])


def parse_parameters(title: str, schema: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values in "name=value" texts, converted and checked by the schema.

    Raises
    ------
    InvalidParameterError
        Names each parameter that is unknown, of the wrong type or out of range.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    values: dict[str, Any] = {}
    problems: list[Violation] = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            problems.append(Violation(assignment, f"{assignment!r} is no parameter: write name=value."))
        elif name not in properties:
            problems.append(Violation(name, _unknown(name, properties)))
        elif name in values:
            problems.append(Violation(name, f"Parameter {name!r} is given twice."))
        else:
            try:
                values[name] = _convert(text.strip(), properties[name], schema)
            except ValueError as error:
                problems.append(Violation(name, f"Parameter {name!r}: {error} (got {text.strip()!r})."))
    if problems:
        raise InvalidParameterError(f"{title}: {' '.join(item.description for item in problems)}", problems)
    return values


def table_rows(schema: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return name, type, default, range and help of every parameter."""
    required = set(schema.get("required", ()))
    rows = []
    for name, raw in schema.get("properties", {}).items():
        option = _resolve(raw, schema)
        branches = [branch for branch in _branches(option, schema) if branch.get("type") != "null"]
        types = " or ".join(dict.fromkeys(_type_word(branch, schema) for branch in branches)) or "any"
        default = "required" if name in required else _shown(option.get("default"))
        limits = "; ".join(filter(None, (_range(branch) for branch in branches)))
        rows.append((name, types, default, limits, str(option.get("description", option.get("title", "")))))
    return rows


def _unknown(name: str, properties: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_").lower(), properties, n=1, cutoff=0.5)
    known = ", ".join(properties) or "none"
    return f"There is no parameter {name!r}." + (f" Did you mean {near[0]!r}?" if near else f" Known: {known}.")


def _resolve(option: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Follow references within the schema; what stands beside a reference wins."""
    resolved = dict(option)
    parts = [resolved.pop("$ref")] if "$ref" in resolved else []
    if len(resolved.get("allOf", ())) == 1:
        return _resolve({**resolved.pop("allOf")[0], **resolved}, schema)
    for reference in parts:
        target: Any = schema
        for key in str(reference).removeprefix("#/").split("/"):
            target = target[key]
        resolved = {**_resolve(target, schema), **resolved}
    return resolved


def _branches(option: Mapping[str, Any], schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    resolved = _resolve(option, schema)
    choices = resolved.get("anyOf") or resolved.get("oneOf")
    if choices:
        return [branch for choice in choices for branch in _branches(choice, schema)]
    if isinstance(resolved.get("type"), list):
        return [{**resolved, "type": name} for name in resolved["type"]]
    return [resolved]


def _convert(text: str, option: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """Return the value that `text` stands for; raise ValueError saying what is wanted."""
    branches = _branches(option, schema)
    problems: list[str] = []
    # "none" is no text where the parameter may be left empty.
    for branch in sorted(branches, key=lambda branch: branch.get("type") != "null"):
        try:
            return _convert_one(text, branch, schema)
        except ValueError as error:
            if str(error) not in problems:
                problems.append(str(error))
    raise ValueError(" or ".join(problem for problem in problems if problem != "must be none") or problems[0])


def _convert_one(text: str, branch: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    if "const" in branch or "enum" in branch:
        choices = branch.get("enum", [branch.get("const")])
        for choice in choices:
            if text == (choice if isinstance(choice, str) else json.dumps(choice)):
                return choice
        near = difflib.get_close_matches(text, [str(choice) for choice in choices], n=1, cutoff=0.6)
        wanted = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"must be one of {wanted}" + (f"; did you mean {near[0]!r}?" if near else ""))
    kind = branch.get("type")
    value: Any
    match kind:
        case "null":
            if text.lower() not in _NOTHING:
                raise ValueError("must be none")
            return None
        case "boolean":
            if text.lower() in _TRUE:
                return True
            if text.lower() in _FALSE:
                return False
            raise ValueError("must be true or false")
        case "integer":
            value = _whole(text)
        case "number":
            value = _finite(text)
        case "array":
            return _list(text, branch, schema)
        case "object":
            value = _json(text, dict, 'must be a JSON object such as {"name": 1}')
        case "string":
            value = text
        case _:
            try:
                value = json.loads(text)
            except ValueError:
                value = text
    _check(value, branch)
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = _finite(text, "must be a whole number")
    if not value.is_integer():
        raise ValueError("must be a whole number")
    return int(value)


def _finite(text: str, wanted: str = "must be a number") -> float:
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        raise ValueError(f"{wanted}; write a point, not a comma")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(wanted) from None
    if value in (float("inf"), float("-inf")) or value != value:
        raise ValueError(wanted)
    return value


def _list(text: str, branch: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Any]:
    """Read "1,2,3" or JSON."""
    if text.startswith("["):
        items = [item if isinstance(item, str) else json.dumps(item) for item in _json(text, list, "must be a list")]
    else:
        items = [part.strip() for part in text.split(",")] if text else []
    prefix = branch.get("prefixItems", [])
    kinds = [prefix[index] if index < len(prefix) else branch.get("items", {}) for index in range(len(items))]
    values = [_convert(item, kind, schema) for item, kind in zip(items, kinds, strict=True)]
    least, most = branch.get("minItems", 0), branch.get("maxItems")
    if len(values) < least or (most is not None and len(values) > most):
        count = str(least) if least == most else f"{least} to {most}" if most is not None else f"{least} or more"
        raise ValueError(f"must be a list of {count} values, with commas between them")
    return values


def _json(text: str, kind: type, wanted: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError(wanted) from None
    if not isinstance(value, kind):
        raise ValueError(wanted)
    return value


def _check(value: Any, branch: Mapping[str, Any]) -> None:
    if isinstance(value, int | float):
        for key, word, good in _LIMITS:
            if key in branch and not good(value, branch[key]):
                raise ValueError(f"must be {word} {_shown(branch[key])}")
        step = branch.get("multipleOf")
        if step and abs(value / step - round(value / step)) > 1e-9:
            raise ValueError(f"must be a multiple of {_shown(step)}")
    if isinstance(value, str):
        if len(value) < branch.get("minLength", 0):
            raise ValueError(f"must have {branch['minLength']} or more characters")
        if "maxLength" in branch and len(value) > branch["maxLength"]:
            raise ValueError(f"must have at most {branch['maxLength']} characters")
        if "pattern" in branch and not re.search(branch["pattern"], value):
            raise ValueError(f"must match {branch['pattern']}")


def _type_word(branch: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "enum" in branch or "const" in branch:
        return "choice"
    word = _WORDS.get(str(branch.get("type")), "any")
    if word == "list" and branch.get("items"):
        inner = " or ".join(_type_word(item, schema) for item in _branches(branch["items"], schema))
        return f"list of {inner}s" if " or " not in inner else f"list of {inner}"
    return word


def _range(branch: Mapping[str, Any]) -> str:
    if "enum" in branch or "const" in branch:
        return ", ".join(_shown(choice) for choice in branch.get("enum", [branch.get("const")]))
    parts = []
    if "minimum" in branch and "maximum" in branch:
        parts.append(f"{_shown(branch['minimum'])} to {_shown(branch['maximum'])}")
    else:
        for key, sign in (("minimum", "≥"), ("maximum", "≤")):
            if key in branch:
                parts.append(f"{sign} {_shown(branch[key])}")
    for key, sign in (("exclusiveMinimum", ">"), ("exclusiveMaximum", "<")):
        if key in branch:
            parts.append(f"{sign} {_shown(branch[key])}")
    if "multipleOf" in branch:
        parts.append(f"multiple of {_shown(branch['multipleOf'])}")
    return ", ".join(parts)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if not value.is_integer() else str(int(value))
    if isinstance(value, list):
        return ",".join(_shown(item) for item in value)
    return str(value)
