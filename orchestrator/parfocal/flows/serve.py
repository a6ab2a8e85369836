"""The flow runner: `python -m parfocal.flows.serve`.

Asks the services what they offer, registers a deployment for each method and workflow, keeps their forms up to date,
and runs what people start. Settings: PREFECT_API_URL and PARFOCAL_* (services, catalogue, project).

One runner serves a Prefect server. SIGTERM ends it at once: jobs go on, and the next runner takes their runs up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import psutil
from prefect.runner import Runner

from parfocal.client import Client
from parfocal.flows._process import announce_runner
from parfocal.flows.catalogue import Catalogue, CatalogueReader
from parfocal.flows.deployments import JUDGE, Deployments, Offer, offers, scheduled
from parfocal.flows.reconcile import judge_trainings, reconcile
from parfocal.runtime.errors import ParfocalError, UnavailableError

_log = logging.getLogger("prefect.parfocal.flows")
_REFRESH_SECONDS = 20.0
_RETRY_SECONDS = 2.0
_QUERY_SECONDS = 3.0
# How often trainings that wait for a verdict are looked for. Many projects take their time: they are asked less often.
_LOOK_SECONDS = 5.0
_TIMES_AS_LONG = 4.0


class _FlowRunner(Runner):
    """A runner that leaves its runs as they are when it is ended.

    Prefect's own answer to SIGTERM cancels them, and with them their jobs would be cancelled.
    """

    def __init__(self, on_signal: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._on_signal = on_signal

    def handle_sigterm(self, *_args: Any, **_kwargs: Any) -> None:
        self._on_signal()


async def serve(stop: asyncio.Event) -> None:
    """Serve all deployments until `stop` is set.

    Raises
    ------
    Exception
        Prefect's runner ended by itself, for instance because its server is gone for good.
    """
    loop = asyncio.get_running_loop()
    with Client() as client:
        reader = CatalogueReader(client)
        catalogue = await _first_catalogue(reader)
        runner = _FlowRunner(
            lambda: _call_soon(loop, stop.set),
            name="parfocal",
            pause_on_shutdown=False,
            query_seconds=_QUERY_SECONDS,
        )
        deployments = Deployments(runner)
        await deployments.update(await _wanted(catalogue, client.project))
        await _reconcile(deployments)
        tasks = [
            asyncio.create_task(_refresh(reader, deployments, client.project)),
            asyncio.create_task(_judge(client, deployments)),
        ]
        try:
            await runner.start()
        finally:
            for task in tasks:
                task.cancel()


async def _wanted(catalogue: Catalogue, project: str) -> list[Offer]:
    return [*offers(catalogue, project), *await scheduled(catalogue)]


async def _first_catalogue(reader: CatalogueReader) -> Catalogue:
    said = ""
    while True:
        try:
            catalogue = await asyncio.to_thread(reader.read)
            why = "no service offers a method yet"
        except UnavailableError as error:
            catalogue, why = None, error.message
        if catalogue is not None and catalogue.methods:
            return catalogue
        if why != said:
            _log.info("waiting: %s", why)
            said = why
        await asyncio.sleep(_RETRY_SECONDS)


async def _reconcile(deployments: Deployments) -> None:
    while True:
        try:
            await reconcile(deployments.ids)
        except UnavailableError as error:
            _log.warning("runs of an earlier runner cannot be looked at yet: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _refresh(reader: CatalogueReader, deployments: Deployments, project: str) -> None:
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        try:
            catalogue = await asyncio.to_thread(reader.read)
            await deployments.update(await _wanted(catalogue, project))
        except ParfocalError as error:
            _log.warning("the forms could not be refreshed: %s", error)
        except Exception:
            # Prefect's server may be away for a while; the runner itself decides when that is too long.
            _log.exception("the forms could not be refreshed")


async def _judge(client: Client, deployments: Deployments) -> None:
    begun: set[str] = set()
    said = ""
    while True:
        began = time.monotonic()
        try:
            await judge_trainings(client, deployments.id(*JUDGE), begun)
            said = ""
        except ParfocalError as error:
            if error.message != said:
                _log.warning("trainings that wait for a verdict cannot be looked for: %s", error.message)
            said = error.message
        except Exception:
            _log.exception("trainings that wait for a verdict cannot be looked for")
        await asyncio.sleep(max(_LOOK_SECONDS, _TIMES_AS_LONG * (time.monotonic() - began)))


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(function)


async def _until_stopped() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(serve(stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        _leave()
    await serving


def _leave() -> NoReturn:
    """End this process and those of the flow runs, at once and without telling Prefect.

    A regular shutdown of Prefect's runner would call the runs cancelled or crashed, which they are not.
    """
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    _log.info("the runner ends; jobs go on, and their runs are taken up again when it starts")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> int:
    """Run until SIGTERM or Ctrl-C; return the exit code."""
    if not os.environ.get("PREFECT_API_URL"):
        print(  # noqa: T201
            "PREFECT_API_URL is not set. Start the whole stack with `parfocal up`, or set it to http://HOST:PORT/api.",
            file=sys.stderr,
        )
        return 2
    announce_runner()
    try:
        asyncio.run(_until_stopped())
    except ParfocalError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
