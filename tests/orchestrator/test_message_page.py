"""What the page of all messages finds in the code, see tests/messages.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import ROOT

SOURCE = '''
"""A docstring is for developers."""

_PATTERN = re.compile("not for people")
TITLES: dict[Literal["a key of two"], str] = {"another key": "A label"}


class LostError(InvalidInputError):
    """Another docstring."""


def lost(name: str) -> LostError:
    return LostError(f"{name} is lost")


def check(names, job):
    if job.state == "compared with this":
        raise lost("An argument that says why.")
    text = f"{len(names)} {'image' if one else 'images'}, {', '.join(map(str, names))}, {count(names, 'pair')}."
    _log.warning("job %s is late", job.id)
    report("single", f"The score is {score.mean:.2f}.")
    raise NotFoundError(text, [Violation("names", "give another name")])
'''


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    monkeypatch.syspath_prepend(str(ROOT / "deploy" / "tools"))
    from message_templates import find_messages

    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    messages = find_messages([path])[path]
    del sys.modules["message_templates"]
    return [(message.use, message.kind, message.text) for message in messages]


def test_every_text_is_found_by_its_use_and_what_code_reads_is_not(found: list[tuple[str, str, str]]) -> None:
    assert found == [
        ("text", "", "A label"),
        ("error", "LostError", "{name} is lost"),
        ("error", "LostError", "An argument that says why."),
        ("error", "NotFoundError", '{names} {"image" or "images"}, {names}, {count(names, "pair")}.'),
        ("log", "", "job %s is late"),
        ("text", "", "The score is {score.mean}."),
        ("error", "Violation", "give another name"),
    ]
