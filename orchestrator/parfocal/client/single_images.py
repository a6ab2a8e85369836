"""Single images: sent to a service, predicted at once and sent back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf import struct_pb2

from parfocal import v1
from parfocal.client.services import Service
from parfocal.runtime.errors import CancelledError
from parfocal.runtime.images.files import Image, PixelSize
from parfocal.runtime.rpc_errors import from_rpc_error

_MOST_BYTES: Final = 3 * 2**20
_SECONDS: Final = 600.0

OnFraction = Callable[[float], None]
"""Called with the completed part of a prediction, 0 to 1."""


@dataclass(frozen=True)
class PredictedImage:
    """What a model made of one image.

    Attributes
    ----------
    images
        By name, "prediction" first.
    tables
        By name: CSV with the names of the columns in the first line.
    warnings
        Sentences to show beside them.
    """

    images: Mapping[str, Image]
    tables: Mapping[str, str]
    warnings: tuple[str, ...]


class Stop:
    """Ends predictions from another thread than the one that waits for them: that one then gets a CancelledError."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._call: grpc.Call | None = None
        self.asked = False

    def ask(self) -> None:
        """End the present prediction, and every later one that is given this object."""
        with self._lock:
            self.asked = True
            if self._call is not None:
                self._call.cancel()

    def heed(self, call: grpc.Call) -> None:
        """Cancel a call when somebody asks, or at once if somebody has."""
        with self._lock:
            self._call = call
            if self.asked:
                call.cancel()


def predict_image(
    service: Service,
    model_uri: str,
    image: Image,
    parameters: Mapping[str, Any] | None = None,
    *,
    on_fraction: OnFraction | None = None,
    stop: Stop | None = None,
) -> PredictedImage:
    """Return what a service makes of one image; see `parfocal.client.Client.predict_image`."""
    heads: list[v1.ImageHeader | v1.TableHeader] = []
    parts: list[bytearray] = []
    warnings: list[str] = []
    try:
        call = service.methods.PredictImage(_messages(model_uri, image, parameters), timeout=_SECONDS)
        if stop is not None:
            stop.heed(call)
        for answer in call:
            match answer.WhichOneof("part"):
                case "progress" if on_fraction is not None:
                    on_fraction(answer.progress.fraction)
                case "warning":
                    warnings.append(answer.warning)
                case "header":
                    heads.append(answer.header)
                    parts.append(bytearray())
                case "table":
                    heads.append(answer.table)
                    parts.append(bytearray())
                case "pixels":
                    parts[-1].extend(answer.pixels)
                case "csv":
                    parts[-1].extend(answer.csv)
    except grpc.RpcError as error:
        if stop is not None and stop.asked:
            raise CancelledError("The prediction was cancelled.") from error
        raise from_rpc_error(error, service.address) from error
    images: dict[str, Image] = {}
    tables: dict[str, str] = {}
    for head, part in zip(heads, parts, strict=True):
        if isinstance(head, v1.TableHeader):
            tables[head.name] = part.decode()
        else:
            pixels = np.frombuffer(part, np.dtype(head.dtype).newbyteorder("<")).reshape(tuple(head.shape))
            images[head.name] = Image(pixels.astype(head.dtype, copy=False), head.axes, _pixel_size(head))
    return PredictedImage(images, tables, tuple(warnings))


def _messages(model_uri: str, image: Image, parameters: Mapping[str, Any] | None) -> Iterator[v1.PredictImageRequest]:
    struct = struct_pb2.Struct()
    struct.update(dict(parameters or {}))
    pixels, size = image.pixels, image.pixel_size
    header = v1.ImageHeader(shape=pixels.shape, dtype=pixels.dtype.name, axes=image.axes)
    if size is not None:
        header.pixel_size.CopyFrom(v1.PixelSize(x=size.x, y=size.y, z=size.z or 0.0))
    yield v1.PredictImageRequest(header=v1.PredictImageHeader(model_uri=model_uri, image=header, parameters=struct))
    data = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
    for begin in range(0, len(data), _MOST_BYTES):
        yield v1.PredictImageRequest(pixels=data[begin : begin + _MOST_BYTES])


def _pixel_size(head: v1.ImageHeader) -> PixelSize | None:
    size = head.pixel_size
    return PixelSize(size.x, size.y, size.z or None) if size.x and size.y else None
