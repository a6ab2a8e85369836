"""The files that a demo leaves: those of the demo before make room, a user's own are never touched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from parfocal.runtime.errors import AlreadyExistsError

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.client import Client

# Names and digests of what the last demo wrote.
_RECORD = ".parfocal-demo.json"


def check_place(output: Path, folders: tuple[str, ...]) -> None:
    """Raise AlreadyExistsError if `folders` of `output` hold anything that no demo wrote, or that was changed since.

    Results beside other files could not be told from them, so nothing is begun. Hidden files are passed over: file
    managers leave them everywhere.
    """
    written = set(_written(output))
    for folder in folders:
        for path in sorted((output / folder).rglob("*")):
            hidden = any(part[0] == "." for part in path.relative_to(output).parts)
            if path.is_file() and not hidden and path not in written:
                raise AlreadyExistsError(
                    f"{path} is not from a demo, or was changed since; nothing was done. Move {output / folder} away, "
                    "or choose another place with --output."
                )


def bring(client: Client, output: Path, jobs: Mapping[str, v1.Job]) -> None:
    """Download the results of jobs, each to its folder of `output`, in place of those of the demo before."""
    from parfocal.cli._progress import transfer
    from parfocal.client.results import download_result, read_result

    names = {
        f"{folder}/{entry.public_name}": entry.sha256
        for folder, job in jobs.items()
        for entry in read_result(client, job).files
    }
    for path in _written(output):
        path.unlink()
        for parent in path.parents:
            if parent == output or any(parent.iterdir()):
                break
            parent.rmdir()
    output.mkdir(parents=True, exist_ok=True)
    # Before the files themselves: what a demo wrote that was cut off here must make room too.
    (output / _RECORD).write_text(json.dumps(names, indent=1), encoding="utf-8")
    for folder, job in jobs.items():
        with transfer("   Downloading") as on_progress:
            download_result(client, job, output / folder, on_progress=on_progress)


def _written(output: Path) -> list[Path]:
    """Return the files that the last demo wrote and that are as it wrote them."""
    from parfocal.runtime.store.publish import sha256_of

    try:
        names = json.loads((output / _RECORD).read_text(encoding="utf-8"))
        files = {output / name: str(digest) for name, digest in names.items()}
    except (OSError, ValueError, AttributeError):
        return []  # there was no demo, or nobody can tell what it wrote
    return [
        path
        for path, digest in files.items()
        # A record that somebody altered must not lead out of the folder.
        if path.is_relative_to(output) and ".." not in path.relative_to(output).parts
        if path.is_file() and sha256_of(path) == digest
    ]
