"""The command: `python -m parfocal.runtime.store.backup {save,check,restore} FOLDER`, by the settings of a service."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.logs import configure_logging
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.backup.restoring import restore
from parfocal.runtime.store.backup.saving import save
from parfocal.runtime.store.backup.snapshot import check
from parfocal.runtime.store.store import Store

_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Save, check or restore by the settings of a service; return the exit code."""
    parser = argparse.ArgumentParser(prog="parfocal.runtime.store.backup", description="Back-up of the store.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("save", help="make a snapshot below FOLDER").add_argument("folder", type=Path)
    commands.add_parser("check", help="read every file of a snapshot").add_argument("folder", type=Path)
    commands.add_parser("restore", help="write a snapshot into empty buckets").add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    configure_logging(program="backup")
    begin = time.monotonic()
    try:
        store = Store(Settings())
        if options.command == "save":
            saved = save(store, options.folder)
            folder, snapshot, copied = saved.folder, saved.snapshot, saved.copied
        else:
            folder, copied = options.folder, 0
            snapshot = check(folder) if options.command == "check" else restore(store, folder)
    except (ParfocalError, OSError) as error:
        _log.error("%s", error)
        return 1
    told = {
        "snapshot": str(folder),
        "objects": len(snapshot.objects),
        "bytes": snapshot.size,
        "copied": copied,
        "seconds": round(time.monotonic() - begin, 1),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
