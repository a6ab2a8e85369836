"""Finds the texts for people in Python sources, without importing them.

A text is any string of at least two words that is no docstring and nothing that only code reads: an annotation, a
pattern, what is compared with or looked up. It is an error if it goes into an exception, or into a function that
returns one; a log if a logger gets it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

_LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# Calls whose strings are read by code alone.
_CODE = {"compile", "search", "fullmatch", "match", "sub", "findall", "split", "partition", "filterwarnings", "encode"}
_CODE |= {"startswith", "endswith", "removeprefix", "removesuffix"}
_CODE_KEYWORDS = {"loc", "pattern", "prog", "citation", "licence"}
# Calls that say nothing to a reader of the placeholder.
_SILENT = {"len", "str", "sum", "sorted", "list", "tuple", "int", "round", "text", "number", "get", "float"}
_STRIPPED = {"replace", "removeprefix", "removesuffix", "strip", "rstrip", "upper", "lower", "capitalize"}
_LONGEST = 40
"""Characters of a placeholder; a longer expression is shortened."""


@dataclass(frozen=True)
class Message:
    """A text for people: `use` is the section, `kind` the class of an error, `text` has {…} where values go."""

    use: Literal["error", "text", "log"]
    kind: str
    text: str


_Use: TypeAlias = tuple[Literal["error", "text", "log"], str]
_SHOWN: Final[_Use] = ("text", "")
_PROBLEM: Final[_Use] = ("error", "Violation")


@dataclass
class _Errors:
    """What makes an error: the classes, and the functions that return one, with its class."""

    classes: set[str] = field(default_factory=set)
    functions: dict[str, str] = field(default_factory=dict)


def find_messages(paths: Sequence[Path]) -> Mapping[Path, Sequence[Message]]:
    """Return the texts of each source in the order they stand there."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}
    errors = _find_errors(trees.values())
    return {path: list(_Reader(tree, errors).messages()) for path, tree in trees.items()}


def _find_errors(trees: Iterable[ast.AST]) -> _Errors:
    errors = _Errors()
    nodes = [node for tree in trees for node in ast.walk(tree)]
    for node in nodes:
        if isinstance(node, ast.ClassDef) and any(_is_error(_last(base), errors) for base in node.bases):
            errors.classes.add(node.name)
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            returned = next((name for name in _names(node.returns) if _is_error(name, errors)), "")
            if returned:
                errors.functions[node.name] = returned
    return errors


def _is_error(name: str, errors: _Errors) -> bool:
    return name.endswith(("Error", "Exception")) or name in {"Violation", "SystemExit"} or name in errors.classes


def _last(node: ast.AST) -> str:
    """Return the last name of `a.b.c` or `a.b.c(…)`; empty for other expressions."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if name := _last(each):
            yield name


class _Reader:
    def __init__(self, tree: ast.Module, errors: _Errors) -> None:
        self._tree, self._errors = tree, errors

    def messages(self) -> Iterator[Message]:
        yield from self._visit(self._tree, _SHOWN, {})

    def _visit(self, node: ast.AST, use: _Use, variables: Mapping[str, _Use]) -> Iterator[Message]:
        text = _template(node)
        if text is not None:
            if _is_prose(text):
                yield Message(*use, text)
            # The placeholders of an f-string show what texts they have.
            return
        if isinstance(node, ast.Call):
            use = self._use_of(node) or use
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            variables = self._variables(node)
        elif isinstance(node, ast.Assign) and use == _SHOWN:
            use = next((variables[name] for name in map(_last, node.targets) if name in variables), use)
        for child in _read_by_people(node):
            yield from self._visit(child, use, variables)

    def _variables(self, function: ast.AST) -> Mapping[str, _Use]:
        """Return the variables of a function that errors or loggers get, with their use."""
        calls = [(call, self._use_of(call)) for call in ast.walk(function) if isinstance(call, ast.Call)]
        calls.sort(key=lambda each: each[1] != _PROBLEM)  # an error rather than the problem that it lists
        return {each.id: use for call, use in calls if use for each in call.args if isinstance(each, ast.Name)}

    def _use_of(self, call: ast.Call) -> _Use | None:
        name = _last(call.func)
        if _is_error(name, self._errors):
            return "error", name
        if name in self._errors.functions:
            return "error", self._errors.functions[name]
        if name in _LEVELS and isinstance(call.func, ast.Attribute) and "log" in ast.unparse(call.func.value).lower():
            return "log", ""
        return None


def _read_by_people(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node in the order of the source, without docstrings and strings that only code reads."""
    if isinstance(node, ast.Compare | ast.Assert | ast.Subscript):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Call) and _last(node.func) in _CODE:
        yield node.func
        return
    skipped = {"annotation", "returns", "decorator_list"} if not isinstance(node, ast.FunctionDef) else {"returns"}
    for name, value in ast.iter_fields(node):
        if name in skipped or (isinstance(node, ast.Dict) and name == "keys"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword) and child.arg in _CODE_KEYWORDS:
                continue
            if isinstance(child, ast.AST):
                yield child


def _template(node: ast.AST) -> str | None:
    """Return the text of a string with placeholders; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(
        f"{{{_placeholder(part.value)}}}" if isinstance(part, ast.FormattedValue) else str(_template(part))
        for part in node.values
    )


def _placeholder(node: ast.expr) -> str:
    """Return a short name of what is filled in; texts in it are kept."""
    if (text := _template(node)) is not None:
        return f'"{text}"'
    if isinstance(node, ast.IfExp):
        return f"{_placeholder(node.body)} or {_placeholder(node.orelse)}"
    if isinstance(node, ast.BoolOp):
        return " or ".join(_placeholder(value) for value in node.values)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant):  # ", ".join(names)
            return ", ".join(_placeholder(value) for value in node.args)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _STRIPPED:
            return _placeholder(node.func.value)
        name = _last(node.func).strip("_")
        if name in _SILENT and node.args:
            return _placeholder(node.args[0])
        if name == "map":
            return _placeholder(node.args[-1])
        if not node.args:
            return _shortened(node)
        shown = [each for place, each in enumerate(node.args) if place == 0 or _template(each) is not None]
        return f"{name}({', '.join(_placeholder(each) for each in shown)})"
    if isinstance(node, ast.Attribute | ast.Name):
        return ".".join(ast.unparse(node).split(".")[-2:])
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return node.slice.value
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return f"{_placeholder(node.elt)}, …"
    return _shortened(node)


def _shortened(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"


def _is_prose(text: str) -> bool:
    plain = re.sub(r"\{[^{}\"]*\}", "{}", text)  # those with texts in them stay
    return re.search(r"[A-Za-z]{2}", plain) is not None and re.search(r"[\w{}'’.,;:)%] [\w{(]", plain) is not None
