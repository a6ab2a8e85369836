"""Claims on ports that nobody listens on yet."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO


class PortClaims:
    """Ports this process has claimed, so that two stacks that start together do not choose the same.

    Prefect takes 15 s until it listens; until then its port looks free. A claim is a lock on a file named by the port,
    in a folder of the user's; it lasts until `close` or the end of the process. `up` takes the claims, the
    supervisor joins them.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"parfocal-ports-{os.getuid()}"
        self._held: dict[int, IO[str]] = {}

    def take(self, port: int) -> bool:
        """Claim `port` for this stack alone; return False if another stack has it."""
        return port in self._held or self._lock(port, fcntl.LOCK_EX)

    def join(self, ports: Iterable[int]) -> None:
        """Share the claims on `ports` that `up` has taken for this stack, and give up all others."""
        ports = set(ports)
        for port in self._held.keys() - ports:
            self._held.pop(port).close()
        for port in ports - self._held.keys():
            self._lock(port, fcntl.LOCK_SH)

    def close(self) -> None:
        """Give up all claims."""
        self.join(())

    def __enter__(self) -> PortClaims:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _lock(self, port: int, kind: int) -> bool:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(self._folder / str(port), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        stream = os.fdopen(handle, "r+", encoding="utf-8")
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
            # Shared from now on, for the supervisor to join; whoever wants it alone is still refused.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return False
        self._held[port] = stream
        return True
