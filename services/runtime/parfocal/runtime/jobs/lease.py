"""The lease: which instance of a service runs its jobs."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Mapping
from typing import Any

import psutil

from parfocal.runtime.errors import ConflictError, NotFoundError
from parfocal.runtime.store.store import Store


class Lease:
    """The right to run a service's jobs: one object in the store that its holder renews.

    A holder that died on this machine is recognised by its process and replaced at once; one of another machine
    after the lease has run out.
    """

    def __init__(self, store: Store, service: str, seconds: float) -> None:
        self._store = store
        self._place = store.jobs / ".leases" / f"{service}.json"
        self._seconds = seconds
        self._until = 0.0
        self._etag: str | None = None
        self._owner = {
            "owner": uuid.uuid4().hex,
            "host": platform.node(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
        }

    def hold(self) -> bool:
        """Take or renew the lease; return whether this process has it now."""
        until = time.time() + self._seconds
        content = json.dumps({**self._owner, "until": until}).encode()
        try:
            self._etag = self._take(content) if self._etag is None else self._renew(content, self._etag)
        except (ConflictError, NotFoundError):
            # Another one was faster, or has just given it back: the next renewal tries again.
            self._etag = None
        self._until = until if self._etag is not None else 0.0
        return self._etag is not None

    def is_valid(self) -> bool:
        """Return whether nobody else can have taken the lease yet, by the clock that the others go by, too.

        A process that was paused finds out here, before it does anything in the belief that it holds the lease.
        """
        return time.time() < self._until

    def _take(self, content: bytes) -> str | None:
        try:
            return self._store.create(self._place, content)
        except ConflictError:
            data, etag = self._store.read_versioned(self._place)
            return self._store.replace(self._place, content, etag) if self._is_free(_holder(data)) else None

    def _renew(self, content: bytes, etag: str) -> str | None:
        try:
            return self._store.replace(self._place, content, etag)
        except ConflictError:
            # Of a renewal before only the answer may have been lost: then the lease is still ours.
            data, etag = self._store.read_versioned(self._place)
            return self._store.replace(self._place, content, etag) if self._is_ours(_holder(data)) else None

    def release(self) -> None:
        """Give the lease back, so that a successor need not wait."""
        if self._etag is not None and self.hold():
            self._store.delete(self._place)
            self._etag, self._until = None, 0.0

    def _is_ours(self, holder: Mapping[str, Any]) -> bool:
        return holder.get("owner") == self._owner["owner"]

    def _is_free(self, holder: Mapping[str, Any]) -> bool:
        # Of the first request, too, the answer may have been lost.
        if self._is_ours(holder):
            return True
        try:
            if float(holder["until"]) < time.time():
                return True
            if holder["host"] != self._owner["host"]:
                return False
            process = psutil.Process(int(holder["pid"]))
            return bool(abs(process.create_time() - float(holder["process_started"])) > 1.0)
        except (KeyError, TypeError, ValueError, psutil.NoSuchProcess):
            return True


def _holder(lease: bytes) -> Mapping[str, Any]:
    """Return what a lease says of its holder; nothing if it is damaged."""
    try:
        holder = json.loads(lease)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}
