"""The help: complete, quick, and right about exit codes."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from parfocal.cli import cli
from parfocal.cli._errors import EXIT_CODES

HEAVY = ("prefect", "numpy", "grpc", "google.protobuf", "rich", "pydantic", "minio", "tifffile", "bioio")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize("path", [(), *commands(cli)], ids=" ".join)
def test_every_help_is_shown_without_loading_anything_heavy(path: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom parfocal.cli import main\n"
        f"code = main([*{path!r}, '--help'])\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert code == 0 and not loaded, (code, loaded)\n"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Usage: parfocal")
    assert max(len(line) for line in ended.stdout.splitlines()) <= 80


def test_the_help_documents_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    from parfocal.cli import main

    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for code, meaning in EXIT_CODES.items():
        assert f"{code:>3}  {meaning}" in text


def test_every_command_has_a_short_description_that_fits_a_line() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert not command.get_short_help_str(60).endswith("...")


def test_every_option_has_help() -> None:
    for path in commands(cli):
        command: click.Command = cli
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, (path, option.name)
