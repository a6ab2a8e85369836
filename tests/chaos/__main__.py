"""`python -m chaos --seed N --config shared|apart --kills K --minutes M --out FOLDER`; see README.md."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from chaos.arena import SETTINGS
from chaos.run import Options, run

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if nothing is wrong, 1 if anything is, 130 after Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Kill and freeze a small Parfocal at random.")
    parser.add_argument("--seed", type=int, default=1, help="decides what is asked for and what is killed (default 1)")
    parser.add_argument("--config", choices=sorted(SETTINGS), default="shared", help="one machine, or as on two")
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs after which faults end (default 100)")
    parser.add_argument("--minutes", type=float, default=11.0, help="time after which faults end (default 11)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for journal, summary, store and logs")
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out: {options.out} is not empty; a run needs a folder and a store of its own")
    # A shell's background jobs ignore Ctrl-C, and children inherit that; a supervisor sends SIGTERM.
    for number in SIGNALS:
        signal.signal(number, _break_off)
    try:
        summary = run(
            Options(options.seed, options.config, options.kills, options.minutes, options.out.resolve(), echo=True)
        )
    except KeyboardInterrupt:
        print("broken off; all processes are ended", file=sys.stderr)
        return 130
    print(summary.table())
    return 1 if summary.anomalies else 0


def _break_off(*_: object) -> None:
    for number in SIGNALS:
        # Only once: ending the processes must not be broken off as well.
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
