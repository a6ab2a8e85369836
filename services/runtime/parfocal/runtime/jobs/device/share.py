"""How much of a device's time short work may take from trainings that wait.

```
<state folder>/<device>.share    seconds by stretch of time in which a training waited for short work
```

Short work is everything that trainings give way to. Only time that a training lost is counted: as long as none waits,
short work may have the device all the time.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

_STRETCHES = 30
# Waiting trainings are asked about every 0.2 s; after a longer silence nobody is known to have waited.
_LONGEST_STEP = 2.0
_MOST_BYTES = 2**16


class Share:
    """The account of one device. Safe to use from several processes.

    Parameters
    ----------
    path
        The file; made when missing.
    most
        Part of the time that short work may take from trainings, 0 to 1.
    window_seconds
        Length of the time that is looked back on.
    """

    def __init__(self, path: Path, most: float, window_seconds: float) -> None:
        self._path = path
        self._most = most
        self._window = window_seconds

    def used_up(self) -> bool:
        """Return whether trainings go first now."""
        try:
            seconds = self._read(self._path.read_bytes())[0]
        except OSError:
            seconds = {}
        return sum(seconds.values()) >= self._most * self._window

    def wait(self) -> None:
        """Count the time since the last call as lost to a training that waits for short work."""
        self._add(None)

    def add(self, seconds: float) -> None:
        """Count a time that a training has lost by a hand-over in another way than by waiting."""
        self._add(seconds)

    def _add(self, added: float | None) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            seconds, last = self._read(os.pread(file, _MOST_BYTES, 0))
            now = time.time()
            if added is None:
                passed = now - last
                added = passed if 0 <= passed <= _LONGEST_STEP else 0.0
                last = now
            stretch = self._stretch(now)
            seconds[stretch] = seconds.get(stretch, 0.0) + added
            data = json.dumps({"last": last, "seconds": seconds}).encode()
            os.ftruncate(file, 0)
            os.pwrite(file, data, 0)
        finally:
            os.close(file)

    def _read(self, data: bytes) -> tuple[dict[int, float], float]:
        """Return the seconds by stretch within the window, and when somebody waited last; nothing if it is damaged."""
        oldest = self._stretch(time.time() - self._window)
        try:
            content = json.loads(data)
            seconds = {int(stretch): float(amount) for stretch, amount in content["seconds"].items()}
            last = float(content["last"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return {}, 0.0
        return {stretch: amount for stretch, amount in seconds.items() if stretch > oldest}, last

    def _stretch(self, moment: float) -> int:
        return int(moment * _STRETCHES / self._window)
