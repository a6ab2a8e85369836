"""Run the portal: ``python -m parfocal.portal --listen 127.0.0.1:8600``."""

from __future__ import annotations

import argparse
import logging
import sys

import uvicorn
from pydantic import ValidationError

from parfocal.portal.app import create_app
from parfocal.portal.settings import PortalSettings
from parfocal.runtime.access.transport import UNPROTECTED, is_loopback
from parfocal.runtime.errors import ParfocalError, PreconditionError
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
        settings, own = Settings(), PortalSettings()
        require_protection(options.listen, settings, own)
        app = create_app(settings, own, hosts=allowed_hosts(host, port, own), workflows=options.workflows)
    except ValidationError as error:
        problem = error.errors()[0]
        print(f"The setting {problem['loc'][0]} cannot be used: {problem['msg']}.", file=sys.stderr)  # noqa: T201
        return 1
    except ParfocalError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 1
    # No access log: the address to which a provider sends a browser back has the code of the sign-in in it.
    # Streams of events end with the browser's tab; a stop does not wait for it.
    uvicorn.run(
        app,
        host=host,
        port=int(port),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    return 0


def require_protection(listen: str, settings: Settings, own: PortalSettings) -> None:
    """Refuse to listen where others could open pages without signing in, or read them on their way.

    Raises
    ------
    PreconditionError
        `listen` is beyond loopback, something is missing, and nobody has said that this is meant.
    """
    missing = [] if settings.access_file is not None else ["PARFOCAL_ACCESS_FILE, so that people sign in"]
    if not own.is_secure:
        missing.append("PARFOCAL_PORTAL_URL, the https address of what speaks TLS in front of it")
    if missing and not is_loopback(listen) and settings.unprotected != UNPROTECTED:
        raise PreconditionError(
            f"The portal would listen on {listen}, where other machines can open it. Set {' and '.join(missing)}, or "
            "listen on 127.0.0.1; docs/operating.md says how."
        )


def allowed_hosts(host: str, port: str, own: PortalSettings) -> frozenset[str]:
    """Return the names by which a browser may call the portal.

    A page of somebody else whose name leads to this computer (DNS rebinding) has another one.
    """
    if is_loopback(f"{host}:{port}"):
        return frozenset(f"{name}:{port}" for name in (host, "127.0.0.1", "localhost")) | ({own.host} - {""})
    return frozenset({own.host or f"{host}:{port}"})


if __name__ == "__main__":
    sys.exit(main())
