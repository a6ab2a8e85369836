"""The audit log: who did what, when, from where, to what, and with which result. It is only ever added to.

One JSON object a line, in a file of its own and, where there are identities, in the log of the service. Neither tokens
nor anything of requests but names is in it.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from parfocal.runtime.access.calls import Call

_log = logging.getLogger(__name__)
_LONGEST = 300


class Audit:
    """Writes the audit log of one server.

    Parameters
    ----------
    path
        The file; made if it is not there, readable by its owner only. None: only the log of the service.
    service
        Name of the service, e.g. "care".
    also_logged
        Write each line to the log of the service as well.
    """

    def __init__(self, path: Path | None, service: str, *, also_logged: bool) -> None:
        self._service = service
        self._also_logged = also_logged
        self._file: int | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Each line is one write at the end of the file: services may share it.
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, call: Call, outcome: str, request_id: str) -> None:
        """Note a call that has ended with this outcome: OK or the reason of its error."""
        if self._file is None and not self._also_logged:
            return
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "service": self._service,
            "who": call.identity.name,
            "acts_for": call.acts_for,
            "rpc": call.rpc.lstrip("/"),
            "project": call.project,
            "target": call.target,
            "shared": " ".join(call.shared),
            "from": call.peer,
            "outcome": outcome,
            "request_id": request_id,
        }
        entry = {key: value[:_LONGEST] for key, value in entry.items()}
        if self._file is not None:
            try:
                os.write(self._file, json.dumps(entry).encode() + b"\n")
            except OSError as error:
                # A full disk ends no work, but must not go unnoticed.
                _log.error("the audit log could not be written: %s", error, extra={"audit": entry})
                return
        if self._also_logged:
            _log.info("audit", extra={"audit": entry})
