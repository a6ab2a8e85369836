"""`parfocal backup` and `parfocal restore`: snapshots of the Parfocal of this computer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from parfocal.cli._app import Command, current_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from parfocal.runtime.store.backup.snapshot import Snapshot


@click.command(cls=Command, short_help="Back up the Parfocal of this computer.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def backup(folder: Path) -> None:
    """Make a snapshot of the Parfocal of this computer below FOLDER, while it runs.

    Datasets, models, results, jobs and schedules are in it, also trainings that run. Files that have not changed since
    the snapshot before are shared with it, so that a snapshot every night costs what is new. Old ones may be deleted.
    """
    app = current_app()
    from parfocal.cli._progress import waiting
    from parfocal.cli._render import print_json, say
    from parfocal.stack.backup import save_stack

    with waiting("Backing up") as show:
        saved = save_stack(app.folder, folder, _on_file(show))
    if app.json:
        print_json(_told(saved.folder, saved.snapshot) | {"copied": saved.copied})
    else:
        say(f"{_sentence(saved.snapshot)}, {saved.copied} of them new or changed: {saved.folder}")


@click.command(cls=Command, short_help="Restore a back-up on this computer.")
@click.argument("snapshot", type=click.Path(exists=True, file_okay=False, path_type=Path))
def restore(snapshot: Path) -> None:
    """Make a Parfocal on this computer from a SNAPSHOT, a folder that `parfocal backup` has made.

    There must be none yet, or name a new folder with --home. All files are checked first. Then start it with
    `parfocal up`: trainings go on from their last checkpoints.
    """
    app = current_app()
    from parfocal.cli._progress import waiting
    from parfocal.cli._render import print_json, say
    from parfocal.stack.backup import restore_stack

    with waiting("Restoring") as show:
        restored = restore_stack(snapshot, app.folder, _on_file(show))
    if app.json:
        print_json(_told(snapshot, restored))
    else:
        say(
            f"{_sentence(restored)} restored, as of {restored.started_at:%Y-%m-%d %H:%M} UTC. Go on with `parfocal up`."
        )


def _on_file(show: Callable[[str], None]) -> Callable[[int, int], None]:
    def told(done: int, count: int) -> None:
        if done % 1000 == 0:
            show(f"{done} of {count} files")

    return told


def _told(folder: Path, snapshot: Snapshot) -> dict[str, object]:
    return {
        "snapshot": str(folder),
        "started_at": snapshot.started_at.isoformat(),
        "objects": len(snapshot.objects),
        "bytes": snapshot.size,
    }


def _sentence(snapshot: Snapshot) -> str:
    return f"{len(snapshot.objects)} files of {snapshot.size / 2**30:.2f} GiB"
