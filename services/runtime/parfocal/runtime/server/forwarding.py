"""PredictImage where the service has no device: the call goes on to an instance that has one, if there is any."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

import grpc

from parfocal import v1
from parfocal.runtime import traces
from parfocal.runtime.access.calls import current
from parfocal.runtime.access.transport import channel_credentials
from parfocal.runtime.errors import ParfocalError, PreconditionError, UnavailableError
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.settings import Settings

_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 2**20),
    # An instance that has just been started shall be found soon.
    *((f"grpc.{name}_reconnect_backoff_ms", 1000) for name in ("initial", "min", "max")),
)


class Images(Protocol):
    """Predicts single images."""

    def predict(self, requests: AsyncIterator[v1.PredictImageRequest]) -> AsyncGenerator[v1.PredictImageResponse, None]:
        """Yield progress, warnings, images and tables of the image of `requests`; raise ParfocalError."""

    async def stop(self) -> None:
        """Give up the images in hand."""


class ForwardedImages:
    """Sends images to the instances behind an address, message by message.

    Parameters
    ----------
    service
        Name of the service, for messages.
    settings
        Where the instances are (`images_address`), and how they are spoken to.

    Raises
    ------
    PreconditionError
        The certificates cannot be used.
    """

    def __init__(self, service: str, settings: Settings) -> None:
        self._service = service
        self._address = address = settings.images_address
        self._channel: grpc.aio.Channel | None = None
        if address:
            credentials = channel_credentials(settings)
            self._channel = (
                grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
                if credentials is not None
                else grpc.aio.insecure_channel(address, options=_OPTIONS)
            )

    async def predict(
        self, requests: AsyncIterator[v1.PredictImageRequest]
    ) -> AsyncGenerator[v1.PredictImageResponse, None]:
        """Yield what the other instance answers; raise its error, or UnavailableError if none runs.

        Raises PreconditionError where there is no address, so that none ever will.
        """
        if self._channel is None:
            raise PreconditionError(
                f"The service {self._service!r} predicts no single images in this installation: "
                "PARFOCAL_IMAGES_ADDRESS is empty. Start a job instead."
            )
        # The types of the stubs know only channels without asyncio.
        stub: Any = v1.MethodServiceStub(self._channel)
        # The caller's own token goes with it: the other instance decides anew.
        trace = traces.current()
        metadata = (*current().forwarded, *(((traces.HEADER, trace),) if trace else ()))
        call = stub.PredictImage(requests, metadata=metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            meant = from_rpc_error(error, self._address)
            absent = isinstance(meant, UnavailableError) and not error.trailing_metadata()
            raise (self._absent() if absent else meant) from error
        finally:
            call.cancel()

    async def stop(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()

    def _absent(self) -> ParfocalError:
        return UnavailableError(
            f"The service {self._service!r} predicts no single images at the moment: they need a device of their own, "
            f"and none is set aside. Start a prediction job instead, or ask the administrator to scale the Deployment "
            f"parfocal-{self._service}-images to 1."
        )
