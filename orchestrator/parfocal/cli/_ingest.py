"""`parfocal ingest`: images of a folder at the microscope into an inbox of the project."""

from __future__ import annotations

import time
from pathlib import Path

import click

from parfocal.cli._app import Command, current_app


@click.command(cls=Command, short_help="Send a microscope's images to an inbox, each once.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--inbox", required=True, metavar="NAME", help="Inbox of the project that gets the images.")
@click.option("--once", is_flag=True, help="Look once, send what is finished, and end: for cron.")
@click.option("--every", default="1m", show_default=True, metavar="TIME", help="How often to look: 30s, 5m, 1h.")
@click.option(
    "--settle",
    default="1m",
    show_default=True,
    metavar="TIME",
    help="An image is sent when its size and time have not changed for so long.",
)
@click.option(
    "--delete-after",
    type=float,
    metavar="DAYS",
    help="Delete originals that are so old, 7 days at least, once the store has given their copies back unchanged. "
    "Without it nothing is deleted.",
)
def ingest(folder: Path, inbox: str, once: bool, every: str, settle: str, delete_after: float | None) -> None:
    """Send the images of FOLDER, and of its sub-folders, to an inbox of the project.

    Images that are still being written wait. None is sent twice, also after an interruption, and none in the inbox is
    replaced. FOLDER may be a network share. Files in proprietary formats are converted to OME-TIFF.

    `parfocal schedule create --watch` can look at the inbox; its address is shown.
    """
    app = current_app()
    from parfocal.cli._render import print_json, say, warn
    from parfocal.cli._schedule import interval
    from parfocal.client.ingest import Ingest
    from parfocal.runtime.errors import UnavailableError
    from parfocal.stack.config import resolve_folder

    seconds, settled = interval(every, "--every", 1), interval(settle, "--settle", 0)
    warned: dict[str, str] = {}
    state = resolve_folder(app.folder) / "ingest"
    with (
        app.client() as client,
        Ingest(client, folder, inbox, state, settle_seconds=settled, delete_after_days=delete_after) as work,
    ):
        while True:
            begin = time.monotonic()
            try:
                done = work.look(lambda name: say(f"sent: {name}"))
                if once and done.waiting:
                    say(f"{done.waiting} may still be written; looking again in {settle}.")
                    time.sleep(settled)
                    again = work.look(lambda name: say(f"sent: {name}"))
                    done.sent, done.sent_bytes = done.sent + again.sent, done.sent_bytes + again.sent_bytes
                    done.waiting, done.left, done.stopped = again.waiting, again.left, again.stopped
                    done.deleted += again.deleted
            except UnavailableError as error:
                if once:
                    raise
                warn(f"{error.message} It is tried again.")
                time.sleep(seconds)
                continue
            for name, why in done.left.items():
                if warned.get(name) != why:
                    warn(f"{name} was not sent: {why}")
            warned = done.left
            if once:
                if app.json:
                    values = {key: getattr(done, key) for key in ("sent", "known", "waiting", "deleted", "left")}
                    print_json({**values, "inbox": work.address})
                else:
                    say(f"{done.sentence} Inbox: {work.address}")
                if done.stopped:
                    raise UnavailableError(f"{done.stopped} The rest is sent by the next call.")
                return
            if done.stopped:
                warn(f"{done.stopped} The rest is tried again.")
            if done.sent or done.deleted:
                say(f"{done.sentence} Inbox: {work.address}")
            time.sleep(work.pause(seconds, time.monotonic() - begin))
