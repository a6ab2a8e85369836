"""The journal of a run: one JSON object a line for what was done and seen, and the seconds since the beginning."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any


class Journal:
    """Writes `steps.jsonl`; lines that are `loud` are printed as well if the journal is to `echo`. Thread-safe."""

    def __init__(self, path: Path, *, echo: bool) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._echo = echo
        self._lock = threading.Lock()
        self._begin = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning of the run."""
        return time.monotonic() - self._begin

    def note(self, what: str, *, loud: bool = False, **details: Any) -> None:
        """Write a line; from a thread that outlives the run it is left out."""
        line = {"seconds": round(self.seconds, 2), "clock": time.strftime("%H:%M:%S"), "what": what, **details}
        with self._lock:
            if self._file.closed:
                return
            self._file.write(json.dumps(line, default=str) + "\n")
            self._file.flush()
        if loud and self._echo:
            told = ", ".join(f"{name} {value}" for name, value in details.items() if value not in (None, ""))
            print(f"{self.seconds:7.1f} s  {what}{': ' if told else ''}{told}", flush=True)
