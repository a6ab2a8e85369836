"""Who waits for a device of this machine: one small file for each waiter, renewed as long as it waits."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from parfocal.runtime.jobs.device.use import Kind, Use

# Whoever waits asks again every 0.2 s, a busy controller a little later: an older wish is one of someone gone.
_FRESH_SECONDS = 2.0
_FORGOTTEN_SECONDS = 60.0
_GIVEN = ".given"
# Processes in containers that share the state folder may have the same number.
_PROCESS = uuid.uuid4().hex


@dataclass(frozen=True)
class Wish:
    """A wish for one of some devices.

    Attributes
    ----------
    name
        Its file.
    use
        What the device is wanted for.
    since
        Since when, in seconds since 1970.
    devices
        Names of the devices any of which will do.
    """

    name: str
    use: Use
    since: float
    devices: tuple[str, ...]


class Wishes:
    """The wishes of all processes of a machine.

    A process has at most one wish for jobs and one for single images.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, use: Use, devices: Sequence[str]) -> None:
        """Make known that a device is wanted, or that it still is."""
        path = self._own(use)
        known = self._read(path)
        if known is not None and known.use == use and self._is_fresh(path):
            with contextlib.suppress(OSError):
                os.utime(path)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {"use": asdict(use), "since": time.time(), "devices": list(devices)}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)
        path.with_suffix(_GIVEN).unlink(missing_ok=True)

    def withdraw(self, use: Use) -> None:
        """Forget this process's wish of that kind."""
        path = self._own(use)
        path.unlink(missing_ok=True)
        path.with_suffix(_GIVEN).unlink(missing_ok=True)

    def own(self, use: Use) -> Wish | None:
        """Return this process's wish for the same use, None if it has none."""
        known = self._read(self._own(use))
        return known if known is not None and known.use == use else None

    def others(self, use: Use, device: str) -> list[Wish]:
        """Return the wishes of others for a device, as this process sees them who wants it for `use`."""
        own = self._own(use).name
        return [wish for wish in self.all(device) if wish.name != own]

    def all(self, device: str) -> list[Wish]:
        """Return all wishes for a device."""
        found = []
        for path in self._folder.glob("*.json"):
            if self._is_fresh(path):
                wish = self._read(path)
                if wish is not None and device in wish.devices:
                    found.append(wish)
            elif self._is_older(path, _FORGOTTEN_SECONDS):
                path.unlink(missing_ok=True)
                path.with_suffix(_GIVEN).unlink(missing_ok=True)
        return found

    def give(self, wish: Wish) -> bool:
        """Note that a device is being handed over to a wish; return False if another one is already."""
        path = (self._folder / wish.name).with_suffix(_GIVEN)
        if self._is_older(path, _FORGOTTEN_SECONDS):
            path.unlink(missing_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError:
            return False
        return True

    def _own(self, use: Use) -> Path:
        return self._folder / f"{_PROCESS}-{'images' if use.kind is Kind.IMAGES else 'job'}.json"

    @staticmethod
    def _read(path: Path) -> Wish | None:
        try:
            content = json.loads(path.read_bytes())
            use = content["use"]
            use = Use(**{**use, "kind": Kind(use["kind"])})
            return Wish(path.name, use, float(content["since"]), tuple(content["devices"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @staticmethod
    def _is_fresh(path: Path) -> bool:
        return not Wishes._is_older(path, _FRESH_SECONDS, missing=True)

    @staticmethod
    def _is_older(path: Path, seconds: float, *, missing: bool = False) -> bool:
        try:
            return time.time() - path.stat().st_mtime > seconds
        except OSError:
            return missing
