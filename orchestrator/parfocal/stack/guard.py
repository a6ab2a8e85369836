"""The guard: ends what a supervisor leaves behind when it is killed.

The supervisor holds the write end of a pipe whose read end is the guard's standard input. However the supervisor
ends, the system closes its end; the guard then ends every process that carries the mark of that run, and itself.
After a clean stop there are none. This needs nothing special of the system, and reaches processes that PR_SET_PDEATHSIG
does not: children of units, and those that moved to another session.
"""

from __future__ import annotations

import signal
import sys

from parfocal.stack.processes import end_marked

_GRACE = 5.0


def main(mark: str) -> None:
    """Wait until the supervisor is gone, then end all processes that carry `mark`."""
    # Ctrl-C and the like are for the supervisor; the guard ends after it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    end_marked(mark, grace=_GRACE)


if __name__ == "__main__":
    main(sys.argv[1])
