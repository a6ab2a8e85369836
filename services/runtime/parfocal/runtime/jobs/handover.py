"""How a worker is handed its next job: through a socket of which the service and the worker hold one end each.

The service sends one job at a time, with the files that go with it; the worker answers by single bytes. The socket is
the worker's lifeline as well: the operating system closes it with the process at its other end, however that ends.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

TAKEN: Final = b"t"
"""The worker has begun with the job that it was handed."""
FREE: Final = b"f"
"""The worker has done its job, has let go of the device, and waits for another one."""
_MOST_BYTES = 4096
_MOST_FILES = 8


class Assignment(NamedTuple):
    """What a worker is to do: one attempt of one job."""

    project: str
    job_id: str
    attempt: int


def hand_over(line: socket.socket, assignment: Assignment, files: Sequence[int]) -> None:
    """Send a job to a free worker, and with it open files; raise OSError if the worker is gone."""
    socket.send_fds(line, [json.dumps(assignment).encode() + b"\n"], files)


def receive(line: socket.socket) -> tuple[Assignment, list[int]] | None:
    """Wait for a job; return it with the files that came with it, or None when the service is gone."""
    data, files = b"", list[int]()
    while not data.endswith(b"\n"):
        try:
            part, received, _, _ = socket.recv_fds(line, _MOST_BYTES, _MOST_FILES)
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
        files += received
    return Assignment(*json.loads(data)), files
