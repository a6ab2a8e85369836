"""What a server serves beside health and reflection: the methods and jobs of a service, or something of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc

from parfocal import v1
from parfocal.runtime.jobs.controller import Controller
from parfocal.runtime.jobs.device.lock import Devices
from parfocal.runtime.jobs.kubernetes.launcher import KubernetesLauncher
from parfocal.runtime.jobs.launcher import Launcher, LocalLauncher
from parfocal.runtime.jobs.processes import WorkerProcesses
from parfocal.runtime.methods.service import Service, load_object
from parfocal.runtime.server.forwarding import ForwardedImages, Images
from parfocal.runtime.server.interactive import Interactive
from parfocal.runtime.server.servicers import JobServicer, MethodServicer
from parfocal.runtime.server.warm_worker import WARM_WORKER, WarmWorker
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Store


class Part(Protocol):
    """RPCs, and the work that goes on beside them."""

    @property
    def names(self) -> Sequence[str]:
        """Full names of the gRPC services."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the servicers to a server that has not started."""

    async def start(self) -> None:
        """Begin the work; raise PreconditionError where the store cannot be used."""

    async def stop(self) -> None:
        """End the work; the server still answers."""


Opener = Callable[[Service, str, Settings], Part]
"""Makes the part of a service from its description, its module and the settings."""


def open_part(service: Service, module: str, settings: Settings) -> Part:
    """Return what a service serves."""
    opener: Opener = load_object(service.part) if service.part else MethodsAndJobs
    return opener(service, module, settings)


class MethodsAndJobs:
    """The methods of a service, and their jobs."""

    names = tuple(
        descriptor.services_by_name[name].full_name
        for descriptor, name in (
            (v1.method_service_pb2.DESCRIPTOR, "MethodService"),
            (v1.job_service_pb2.DESCRIPTOR, "JobService"),
        )
    )

    def __init__(self, service: Service, module: str, settings: Settings) -> None:
        store = Store(settings)
        device = Devices.of(settings)
        launcher: Launcher[Any]
        self._images: Images
        if settings.launcher == "kubernetes":
            launcher = KubernetesLauncher(settings, service.name)
            self._images = ForwardedImages(service.name, settings)
        else:
            processes = WorkerProcesses(settings, module, [WARM_WORKER])
            launcher = LocalLauncher(settings, processes, device)
            self._images = Interactive(service, store, WarmWorker(service, processes, device, settings), settings)
        self._service, self._store, self._settings = service, store, settings
        self._controller = Controller(service, store, launcher, settings)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the servicers to a server that has not started."""
        v1.add_JobServiceServicer_to_server(JobServicer(self._controller, self._settings), server)
        v1.add_MethodServiceServicer_to_server(
            MethodServicer(self._service, self._store, self._images, self._settings), server
        )

    async def start(self) -> None:
        """Begin to run jobs, where this instance shall; raise PreconditionError where the store cannot be used."""
        if self._settings.launcher != "none":
            await self._controller.start()
        if self._controller.refused is not None:
            raise self._controller.refused

    async def stop(self) -> None:
        """End the workers."""
        await self._controller.stop()
        await self._images.stop()
