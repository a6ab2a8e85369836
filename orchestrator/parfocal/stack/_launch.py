"""Starts a program in a special way and becomes it; run by path with ``python -I -S``, so it imports little.

``_launch.py detached PROGRAM ARGUMENT…``
    Leaves the caller's session and process tree, prints nothing and lets the caller go on.
``_launch.py tied PARENT PROGRAM ARGUMENT…``
    On Linux the system sends SIGTERM to the program when the process PARENT, which must be the caller, dies.
    Elsewhere there is no such call; the guard (`parfocal.stack.guard`) does that work there, and
    also here for whatever does not heed SIGTERM.

A separate program and not `preexec_fn`, because code between fork and exec is unsafe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Do what the module says."""
    mode, *arguments = arguments
    if mode == "detached":
        if os.fork():
            os._exit(0)
        os.setsid()
    else:
        parent = int(arguments.pop(0))
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have died before the call took effect.
        if os.getppid() != parent:
            sys.exit(1)
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        sys.exit(f"{arguments[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
