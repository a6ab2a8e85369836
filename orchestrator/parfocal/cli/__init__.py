"""The command line of Parfocal: `parfocal --help`.

Each group of commands is one module, imported when it is needed; `_app` holds what they share, `_render` all
tables and messages, `_progress` all progress, `_errors` the exit codes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from parfocal.cli._app import App, Command, Group, shared_options
from parfocal.cli._errors import EXIT_CODES, exit_code_of, report_defect, report_error
from parfocal.cli._extras import STACK, stack_is_missing
from parfocal.runtime.errors import ParfocalError

# In the order of use, which is the order of the help.
_COMMANDS = {
    "demo": "_demo:demo",
    "up": "_stack:up",
    "status": "_stack:status",
    "logs": "_stack:logs",
    "down": "_stack:down",
    "doctor": "_stack:doctor",
    "backup": "_backup:backup",
    "restore": "_backup:restore",
    "methods": "_methods:methods",
    "dataset": "_datasets:dataset",
    "train": "_train:train",
    "evaluate": "_evaluate:evaluate",
    "compare": "_compare:compare",
    "study": "_study:study",
    "predict": "_predict:predict",
    "schedule": "_schedule:schedule",
    "ingest": "_ingest:ingest",
    "notify": "_notify:notify",
    "models": "_models:models",
    "results": "_results:results",
    "jobs": "_jobs:jobs",
    "projects": "_projects:projects",
    "usage": "_usage:usage",
    "storage": "_storage:storage",
    "login": "_login:login",
    "logout": "_login:logout",
    "contexts": "_login:contexts",
    "tokens": "_login:tokens",
}
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())


class _Commands(Group):
    """Loads a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(f"parfocal.cli.{module}"), name)
        assert isinstance(command, Command | Group)
        return command


@click.command(
    cls=_Commands,
    params=shared_options(),
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "obj": None},
)
@click.version_option(package_name="parfocal", message="parfocal %(version)s")
def cli() -> None:
    """Deep learning for microscopy images: train, check and apply models without writing code.

    \b
    First steps:
      parfocal demo                     try everything once, in five minutes
      parfocal up                       start Parfocal on this computer
      parfocal methods                  what can be done, with which images
      parfocal dataset create beads F   F/train/source, F/train/target, F/test/…
      parfocal train care-2d --dataset beads --model beads
      parfocal predict --model beads IMAGES --output RESULTS
    """  # noqa: D301 - click's mark for kept line ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become messages, never tracebacks."""
    app = App()
    try:
        result = cli.main(args=arguments, prog_name="parfocal", standalone_mode=False, obj=app)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ParfocalError as error:
        report_error(app, error)
        return exit_code_of(error)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in STACK:
            report_defect(app, error)
            return 1
        missing = stack_is_missing(module)
        report_error(app, missing)
        return exit_code_of(missing)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\nStopped.\n")
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        sys.stderr.close()
        return 0
    except Exception as error:
        report_defect(app, error)
        return 1
