"""Writes the messages that users read into one page, tests/messages.md, so that wording can be reviewed in one place.

The page has the help of every command, what every service publishes for forms (`ListMethods`), and the texts in the
code, by unit and file. No unit, command or message is listed here: they are found in the folders, in the tree of
commands and in the sources. Runs in the environment of the orchestrator; a service's description of itself needs no
framework.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import click
from message_templates import Message, find_messages

from parfocal import v1
from parfocal.cli import cli
from parfocal.runtime.methods.service import load_service

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tests" / "messages.md"
WIDTH = 100
"""Columns of the help: the most that the command line uses."""

INTRODUCTION = """\
# Messages of Parfocal

What users read: the help of the commands, the texts of the forms, errors, verdicts, reports and logs. `make messages`
writes this page from the code, so edit the code, never this page. `{…}` stands for what is filled in, `{"a" or "b"}`
for one of several texts, and ⏎ for the end of a line. Texts that stand in an earlier section are not repeated."""

SECTIONS = {
    "error": ("Errors", "Refusals and failures, with their class or that of the problem that they list."),
    "text": ("Sentences and labels", "Verdicts, findings, reports, figures, progress and all else that is shown."),
    "log": ("Logs", "For those who operate an installation; %s, %d and the like are filled in."),
}
SHOWN = 20
"""Lines of the difference that a check prints."""
REPEATED_WORDS = 4
"""A text of fewer words may stand inside another one by chance."""


def main() -> int:
    """Write the page, or with --check say whether it is stale; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; end with 1 if the page is stale")
    options = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    text = page()
    if text == before:
        return 0
    name = PAGE.relative_to(ROOT)
    if options.check:
        lines = before.splitlines(), text.splitlines()
        changes = list(difflib.unified_diff(*lines, str(name), "the code", lineterm="", n=0))
        sys.stderr.write("\n".join([*changes[:SHOWN], f"{name} is stale: run make messages and commit the result\n"]))
        return 1
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{name} written\n")
    return 0


def page() -> str:
    """Return the whole page."""
    services = sorted(path.parent for path in ROOT.glob("services/*/pyproject.toml"))
    sys.path[:0] = [str(folder) for folder in services]
    shown = [INTRODUCTION, *command_helps(), *forms([each.name for each in services if each.name != "runtime"])]
    units = {folder.name: folder for folder in [*services, ROOT / "orchestrator"]}
    return "\n".join([*shown, *code_sections(units, "\n".join(shown))]).rstrip() + "\n"


def command_helps() -> Iterator[str]:
    """Yield the help of every command in the order of the tree, at a fixed width."""

    def helps(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
        context = click.Context(command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH)
        context.help_option_names = cli.context_settings["help_option_names"]
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        yield f"\n### {context.command_path}\n\n```text\n{text}\n```"
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                if found is not None and not found.hidden:
                    yield from helps(found, context, child)

    yield "\n## Commands"
    yield from helps(cli, None, "parfocal")


def forms(services: Sequence[str]) -> Iterator[str]:
    """Yield what each service publishes of its methods; what an earlier form has in the same words is only named."""
    seen: set[tuple[str, str]] = set()
    yield "\n## Methods and their forms"
    for service in services:
        for method in (each.to_proto() for each in load_service(f"parfocal.{service.replace('-', '_')}").methods):
            yield f"\n### {method.title} ({method.name})\n\n{method.summary}\n"
            yield f"Data: {' '.join(method.data_requirements.description.split())}"
            for title, texts in (
                ("Presets", {preset.name: preset.description for preset in method.presets}),
                ("Augmentations", {each.parameter: each.description for each in method.augmentations}),
                *(
                    (f"Form of the {_kind(schema.job_kind)}", labels(json.loads(schema.json_schema)))
                    for schema in method.parameter_schemas
                ),
            ):
                if texts:
                    yield from _listed(title, texts, seen)


def labels(schema: Mapping[str, object]) -> dict[str, str]:
    """Return label and help of each field of a form, by the field's name."""
    properties = schema.get("properties", {})
    assert isinstance(properties, Mapping)
    found = {}
    for name, option in properties.items():
        title, text = option.get("title", ""), " ".join(option.get("description", "").split())
        # pydantic makes this title of the name, where the code has none.
        found[name] = text if title == name.replace("_", " ").title() else f"“{title}” {text}".strip()
    return found


def code_sections(units: Mapping[str, Path], shown: str) -> Iterator[str]:
    """Yield the texts in the sources of the units, in sections by use, then by unit and file.

    Parameters
    ----------
    units
        Folder of each unit by its name; its sources lie below `parfocal/`.
    shown
        The sections before, whose texts are left out here.
    """
    known = _words(shown)
    found: dict[str, dict[str, list[Message]]] = {use: {} for use in SECTIONS}
    sources = {unit: sorted((folder / "parfocal").rglob("*.py")) for unit, folder in units.items()}
    messages = find_messages([path for paths in sources.values() for path in paths])
    for unit, folder in units.items():
        for path in [*sources[unit], *sorted((folder / "parfocal").rglob("*.html"))]:
            name = f"{unit}/{path.relative_to(folder / 'parfocal').as_posix().removeprefix(f'{unit}/')}"
            for message in messages.get(path) or _of_template(path):
                if _stands_in(known, _words(message.text)):
                    continue
                texts = found[message.use].setdefault(name, [])
                if message not in texts:
                    texts.append(message)
    for use, (title, explanation) in SECTIONS.items():
        yield f"\n## {title}\n\n{explanation}"
        for name, texts in found[use].items():
            yield f"\n### {name}\n"
            for message in texts:
                kind = f"{message.kind}: " if message.kind else ""
                yield f"- {kind}{_plain(message.text)}"


def _kind(kind: v1.JobKind.ValueType) -> str:
    return v1.JobKind.Name(kind).removeprefix("JOB_KIND_").lower()


def _listed(title: str, texts: Mapping[str, str], seen: set[tuple[str, str]]) -> Iterator[str]:
    new = {name: text for name, text in texts.items() if (name, text) not in seen}
    yield f"\n{title}\n"
    for name, text in new.items():
        yield f"- `{name}` {text}".rstrip()
    if old := [f"`{name}`" for name in texts if name not in new]:
        yield f"- as above: {', '.join(old)}"
    seen |= set(new.items())


def _words(text: str) -> str:
    return " ".join(text.split())


def _stands_in(known: str, text: str) -> bool:
    """Return whether a text is repeated; a short one may stand inside another by chance, so it must be a label."""
    return (text if len(text.split()) >= REPEATED_WORDS else f"“{text}”") in known or f"### {text} (" in known


def _plain(text: str) -> str:
    """Return a text as one line that Markdown shows as it is, but for its code in backticks."""
    text = re.sub(r"(<|(?<![\s*])\*+|\*+(?![\s*]))", r"\\\1", inspect.cleandoc(text))
    return text.replace("\n", " ⏎ ")


def _of_template(path: Path) -> list[Message]:
    """Return the texts of an HTML template; none for other files."""
    if path.suffix != ".html":
        return []
    reader = _Template()
    reader.feed(re.sub(r"\{%.*?%\}", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL))
    return [Message("text", "", text) for text in reader.texts]


class _Template(HTMLParser):
    """Collects what a browser would show of a template, between its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        shown = self.cdata_elem is None and re.search(r"[A-Za-z]{2}", re.sub(r"\{\{.*?\}\}", "", data))
        if shown:
            self.texts.append(_words(data))


if __name__ == "__main__":
    sys.exit(main())
