"""`python -m parfocal.runtime.server MODULE` serves what MODULE offers until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import ValidationError

from parfocal.runtime import traces
from parfocal.runtime.access.audit import Audit
from parfocal.runtime.access.gate import Gate
from parfocal.runtime.access.transport import require_protection, server_credentials
from parfocal.runtime.errors import ParfocalError, PreconditionError
from parfocal.runtime.logs import configure_logging
from parfocal.runtime.methods.service import Service, load_service
from parfocal.runtime.server.interceptors import EdgeInterceptor
from parfocal.runtime.server.metrics_page import serve_metrics
from parfocal.runtime.server.parts import open_part
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)
_SHUTDOWN_SECONDS = 3.0


def main(arguments: list[str] | None = None) -> int:
    """Serve what a package offers over gRPC."""
    parser = argparse.ArgumentParser(prog="python -m parfocal.runtime.server", description=main.__doc__)
    parser.add_argument("module", help="package with the constant SERVICE, for example parfocal.care")
    options = parser.parse_args(arguments)
    try:
        settings = Settings()
        service = load_service(options.module)
        configure_logging(service=service.name)
        traces.begin(service.name)
        return asyncio.run(serve(service, options.module, settings))
    except ValidationError as error:
        sys.stderr.write(f"A setting is wrong: {error}\n")
    except ParfocalError as error:
        sys.stderr.write(f"{error.message}\n")
    return 2


async def serve(service: Service, module: str, settings: Settings) -> int:
    """Serve until a signal asks to end; return 0, 1 if the address is taken, or 2 if the store cannot be used."""
    require_protection(settings)
    credentials = server_credentials(settings)
    gate = Gate(settings)
    audit = Audit(settings.audit_file, service.name, also_logged=not gate.is_open)
    part = open_part(service, module, settings)
    # Without so_reuseport=0 two servers could listen on one port and each get half of the calls.
    server = grpc.aio.server(
        interceptors=[EdgeInterceptor(gate, audit)],
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4 * 2**20)],
    )
    part.add_to(server)
    probe = health.aio.HealthServicer()
    # The servicer begins with "serving", but the part reads the store first.
    await probe.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(probe, server)
    names = (*part.names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    servers = [server]
    if settings.health_listen:
        servers.append(grpc.aio.server(options=[("grpc.so_reuseport", 0)]))
        health_pb2_grpc.add_HealthServicer_to_server(probe, servers[1])
    for each, address in zip(servers, (settings.listen, settings.health_listen), strict=False):
        try:
            # Probes of a cluster speak no TLS; what they ask for is no secret.
            if credentials is not None and each is server:
                each.add_secure_port(address, credentials)
            else:
                each.add_insecure_port(address)
        except RuntimeError:
            _log.error("cannot listen on %s: the address is taken or not of this machine", address)
            return 1
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.metrics_listen:
        try:
            await serve_metrics(settings.metrics_listen)
        except OSError as error:
            _log.error("cannot listen on %s: %s", settings.metrics_listen, error)
            return 1
    for each in servers:
        await each.start()
    code = 0
    try:
        await part.start()
    except PreconditionError as error:
        sys.stderr.write(f"{error.message}\n")
        code = 2
        stop.set()
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", *part.names):
        await probe.set(name, serving)
    _log.info("serving on %s", settings.listen, extra={"methods": [method.name for method in service.methods]})
    await stop.wait()
    _log.info("shutting down")
    await probe.enter_graceful_shutdown()
    await part.stop()
    for each in servers[1:]:
        await each.stop(None)
    with contextlib.suppress(asyncio.CancelledError):
        await server.stop(_SHUTDOWN_SECONDS)
    return code


if __name__ == "__main__":
    sys.exit(main())
