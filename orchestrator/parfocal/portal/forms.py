"""Forms from the parameters that a method publishes. No name of a parameter is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from parfocal import v1
from parfocal.client.parameters import parse_parameters, preset_values, schema_of, table_rows
from parfocal.runtime.errors import ParfocalError, Violation

ESSENTIAL: Final = 6
"""So many parameters are shown at once; the others when they are asked for."""

_SENT: Final = "sent"


@dataclass(frozen=True)
class Field:
    """One parameter as a form shows it.

    Attributes
    ----------
    name, title, help
        As the service publishes them.
    kind
        "yes-no", "choice", "number" or "text".
    value, default
        As text; what stands in the form, and what the service takes without it.
    limits
        The range in words; may be empty.
    choices
        Of a "choice".
    whole
        Whether a number has no decimals.
    error
        Why the value was refused; empty if it was not.
    """

    name: str
    title: str
    help: str
    kind: str
    value: str
    default: str
    limits: str = ""
    choices: Sequence[str] = ()
    whole: bool = False
    error: str = ""

    @property
    def changed(self) -> bool:
        """Whether the value is not the default."""
        return self.value != self.default


@dataclass(frozen=True)
class Form:
    """The parameters of one kind of work of one method, with the values that a person has chosen.

    Attributes
    ----------
    essential, more
        The fields that are shown at once, and the others.
    preset
        The preset that the values started from; empty for the service's defaults.
    errors
        What was refused and is no field of this form.
    """

    essential: Sequence[Field]
    more: Sequence[Field]
    preset: str = ""
    errors: Sequence[Violation] = field(default_factory=tuple)

    @property
    def fields(self) -> Sequence[Field]:
        """All fields."""
        return (*self.essential, *self.more)

    @property
    def changed_more(self) -> int:
        """How many of the further fields have another value than the default."""
        return sum(each.changed for each in self.more)

    @property
    def refused(self) -> Sequence[Field]:
        """The fields whose values were refused."""
        return [each for each in self.fields if each.error]


def make_form(
    method: v1.Method,
    kind: v1.JobKind.ValueType,
    *,
    preset: str = "",
    sent: Mapping[str, str] | None = None,
    error: ParfocalError | None = None,
) -> Form:
    """Return the form of a method's parameters.

    Parameters
    ----------
    preset
        Whose values to begin with; empty: the defaults.
    sent
        What a person sent; it replaces all other values.
    error
        Why it was refused; shown at the fields it names.
    """
    schema = schema_of(method, kind)
    chosen = preset_values(method, preset) if preset else {}
    wrong = {_last(violation.field): violation.description for violation in error.violations} if error else {}
    limits = {row[0]: _in_words(row[3]) for row in table_rows(schema)}
    fields = []
    for name, option in schema.get("properties", {}).items():
        default = _text(option.get("default"))
        value = _text(chosen[name]) if name in chosen else default
        if sent is not None:
            value = sent.get(name, "false" if option.get("type") == "boolean" and _SENT in sent else value).strip()
        types = option.get("type")
        fields.append(
            Field(
                name=name,
                title=str(option.get("title", name)),
                help=str(option.get("description", "")),
                kind="choice"
                if "enum" in option
                else "yes-no"
                if types == "boolean"
                else "number"
                if types in {"integer", "number"}
                else "text",
                value=value,
                default=default,
                limits=limits.get(name, "") if "enum" not in option else "",
                choices=tuple(map(str, option.get("enum", ()))),
                whole=types == "integer",
                error=wrong.pop(name, ""),
            )
        )
    left = tuple(violation for violation in (error.violations if error else ()) if _last(violation.field) in wrong)
    # Services publish what matters first in front.
    return Form(
        essential=fields[:ESSENTIAL],
        more=fields[ESSENTIAL:],
        preset=preset,
        errors=left,
    )


def sent_parameters(method: v1.Method, kind: v1.JobKind.ValueType, sent: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a form that differ from the defaults, checked by the published schema.

    Raises
    ------
    InvalidParameterError
        Names each parameter that is of the wrong type or out of range.
    """
    schema = schema_of(method, kind)
    assignments = []
    for each in make_form(method, kind, sent=sent).fields:
        # An emptied field means: as usual.
        if each.value and each.changed:
            assignments.append(f"{each.name}={each.value}")
    return parse_parameters(method.title, schema, assignments)


def decisive_parameters(
    method: v1.Method, kind: v1.JobKind.ValueType, sent: Mapping[str, str], beginnings: tuple[str, ...]
) -> dict[str, Any]:
    """Return the values of a form whose names begin in one of some ways, also those that are defaults.

    Raises
    ------
    InvalidParameterError
        As by `sent_parameters`.
    """
    fields = make_form(method, kind, sent=sent).fields
    chosen = [f"{each.name}={each.value}" for each in fields if each.value and each.name.startswith(beginnings)]
    return parse_parameters(method.title, schema_of(method, kind), chosen)


def _text(value: Any) -> str:
    """Return a value as a person would write it into the field, and `parse_parameters` reads it."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}" if not value.is_integer() else str(int(value))
        case list() | tuple():
            return ",".join(map(_text, value))
    return str(value)


def _in_words(limits: str) -> str:
    """Return a range without signs of mathematics."""
    for sign, word in (("≥", "at least"), ("≤", "at most"), (">", "more than"), ("<", "less than")):
        limits = limits.replace(sign, word)
    # The lower end first.
    parts = limits.split(", ")
    return ", ".join(sorted(parts, key=lambda part: part.startswith(("at most", "less than"))))


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
