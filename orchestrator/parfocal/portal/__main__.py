"""Run the portal: ``python -m parfocal.portal --listen 127.0.0.1:8600``."""

from __future__ import annotations

import argparse
import logging
import sys

import uvicorn

from parfocal.portal.app import create_app
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.settings import Settings


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    parser = argparse.ArgumentParser(prog="parfocal.portal", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8600", help="host:port to listen on")
    parser.add_argument("--workflows", default="", help="URL of Prefect's pages, for operators")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        app = create_app(Settings(), hosts=allowed_hosts(host, port), workflows=options.workflows)
    except ParfocalError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 1
    # Streams of events end with the browser's tab; a stop does not wait for it.
    uvicorn.run(app, host=host, port=int(port), log_level="warning", timeout_graceful_shutdown=2, server_header=False)
    return 0


def allowed_hosts(host: str, port: str) -> frozenset[str]:
    """Return the names by which a browser may call the portal.

    A page of somebody else whose name leads to this computer (DNS rebinding) has another one.
    """
    names = {host, "127.0.0.1", "localhost"} if host in {"127.0.0.1", "localhost"} else {host}
    return frozenset(f"{name}:{port}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
