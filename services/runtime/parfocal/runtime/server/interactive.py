"""PredictImage: takes one image from the wire, has it predicted by the warm worker, and sends the outputs back.

Pixels go from the wire to a file and from files to the wire, piece by piece: an image is never in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal import v1
from parfocal.runtime.errors import (
    DiskFullError,
    InvalidInputError,
    ParfocalError,
    QueueFullError,
    Violation,
)
from parfocal.runtime.jobs.admission import read_manifest, require_outputs
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Service, struct_values
from parfocal.runtime.rpc_errors import from_reason
from parfocal.runtime.server.streams import next_message
from parfocal.runtime.server.warm_worker import WarmWorker
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.confinement import confine_model
from parfocal.runtime.store.housekeeping import free_space, own_folder, remove_abandoned
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.store import Location, Store, translate_disk_error

_ADVICE = "Send the header and all pixels without a pause"
_log = logging.getLogger(__name__)
CHUNK_BYTES = 3 * 2**20
_ITEM_BYTES = {"uint8": 1, "uint16": 2, "uint32": 4, "int16": 2, "int32": 4, "float32": 4, "float64": 8}
_AXES = "TCZYXS"
_OUTPUT_ITEM_BYTES = 4
_DISK_RESERVE = 64 * 2**20


@dataclass(frozen=True)
class _Task:
    header: v1.PredictImageHeader
    method: str
    parameters: PredictionParameters
    size: int

    @property
    def project(self) -> str:
        """The project that the model belongs to."""
        return Location.parse(self.header.model_uri).key.partition("/")[0]

    def question(self, folder: Path) -> dict[str, Any]:
        image = self.header.image
        return {
            "folder": str(folder),
            "model_uri": self.header.model_uri,
            "method": self.method,
            "parameters": self.parameters.model_dump(mode="json"),
            "axes": image.axes,
            "shape": list(image.shape),
            "dtype": image.dtype,
            "pixel_size": [image.pixel_size.x, image.pixel_size.y, image.pixel_size.z],
        }


class Interactive:
    """Predicts single images of one service."""

    def __init__(self, service: Service, store: Store, worker: WarmWorker, settings: Settings) -> None:
        self._service = service
        self._store = store
        self._worker = worker
        self._settings = settings
        self._images = 0
        scratch, prefix = settings.state_folder / "scratch", f"images-{service.name}-"
        # At once, whatever their age: those of a server that was killed a moment ago may be large.
        remove_abandoned(scratch, prefix, older_than=0.0)
        self._scratch = own_folder(scratch, prefix)

    async def predict(
        self, requests: AsyncIterator[v1.PredictImageRequest]
    ) -> AsyncGenerator[v1.PredictImageResponse, None]:
        """Yield progress while the image of `requests` is predicted, then warnings, then images, then tables.

        Raises
        ------
        InvalidInputError, NotFoundError
            The request is wrong; nothing was computed.
        QueueFullError
            There are too many images already, or other work has the device.
        OutOfMemoryError, DiskFullError
            The image does not fit this machine.
        """
        if self._images >= self._settings.max_images:
            raise QueueFullError(
                f"The service {self._service.name!r} has {self._images} single images in hand, as many as it takes "
                "on. Try again in a moment.",
                retry_seconds=5.0,
            )
        self._images += 1
        folder: Path | None = None
        try:
            header = await next_message(requests, _ADVICE)
            if header is None or not header.HasField("header"):
                raise InvalidInputError("The first message of PredictImage must be the header; pixels follow it.")
            task = await asyncio.to_thread(self._check, header.header)
            folder = Path(tempfile.mkdtemp(dir=self._scratch))
            await self._receive(requests, task, folder / "input")
            result: dict[str, Any] = {}
            async with contextlib.aclosing(self._worker.ask(task.question(folder), task.project)) as answers:
                async for answer in answers:
                    if "progress" in answer:
                        yield v1.PredictImageResponse(progress=v1.Progress(**answer["progress"]))
                    result = _result(answer)
            for warning in result.get("warnings", ()):
                yield v1.PredictImageResponse(warning=warning)
            for output in result.get("outputs", ()):
                image = v1.ImageHeader()
                image.CopyFrom(task.header.image)
                image.name, image.dtype, image.axes = output["name"], output["dtype"], output["axes"]
                image.shape[:] = output["shape"]
                x, y, z = output["pixel_size"]
                image.pixel_size.CopyFrom(v1.PixelSize(x=x, y=y, z=z))
                yield v1.PredictImageResponse(header=image)
                async for chunk in _chunks(folder / output["file"]):
                    yield v1.PredictImageResponse(pixels=chunk)
            for table in result.get("tables", ()):
                columns = [v1.TableColumn(name=name, unit=unit) for name, unit in table["columns"]]
                yield v1.PredictImageResponse(table=v1.TableHeader(name=table["name"], columns=columns))
                async for chunk in _chunks(folder / table["file"]):
                    yield v1.PredictImageResponse(csv=chunk)
        finally:
            self._images -= 1
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    async def stop(self) -> None:
        """End the warm worker; images in hand are dropped, and their senders are told."""
        await self._worker.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _check(self, header: v1.PredictImageHeader) -> _Task:
        """Check everything that can be checked without the pixels."""
        size = self._check_image(header.image)
        confine_model(self._store, header.model_uri, "header.model_uri")
        model = read_manifest(self._store, header.model_uri, MODEL_MANIFEST, "header.model_uri", ModelManifest)
        method = self._service.method(model.method)
        parameters = method.parse(v1.JOB_KIND_PREDICTION, struct_values(header.parameters))
        if not isinstance(parameters, PredictionParameters):
            raise InvalidInputError(f"{method.title} predicts no single images; start a prediction job instead.")
        require_outputs(parameters, model)
        facts = model.facts.directed(backwards=parameters.backwards)
        method.needs.check(header.image.axes, header.image.shape, facts.input_channels)
        outputs = max(1, facts.output_channels) + parameters.wants_uncertainty
        item = max(_OUTPUT_ITEM_BYTES, _ITEM_BYTES[header.image.dtype])
        needed = size + outputs * math.prod(header.image.shape) * item
        free = free_space(self._scratch, self._settings.state_folder, needed + _DISK_RESERVE)
        if free < needed + _DISK_RESERVE:
            raise DiskFullError(
                f"The image and its outputs need {needed / 2**20:.0f} MiB, but the folder {self._scratch} has "
                f"{free / 2**20:.0f} MiB left. Free some space, or move it by setting PARFOCAL_STATE_DIR."
            )
        return _Task(header, method.name, parameters, size)

    def _check_image(self, image: v1.ImageHeader) -> int:
        """Return the bytes of the image; raise InvalidInputError naming every wrong field of its header."""
        problems = []
        # Errors travel in gRPC's small trailer, so nothing of the request is repeated at any length.
        dtype, axes = image.dtype[:20], image.axes[:20]
        shape = "x".join(map(str, image.shape[: len(_AXES)]))
        if image.dtype not in _ITEM_BYTES:
            problems.append(Violation("header.image.dtype", f"{dtype!r} is none of {', '.join(_ITEM_BYTES)}"))
        if not image.axes or len(set(image.axes)) != len(image.axes) or not set(image.axes) <= set(_AXES):
            problems.append(Violation("header.image.axes", f"{axes!r} must be different letters of {_AXES}"))
        if len(image.shape) != len(image.axes) or any(length < 1 for length in image.shape):
            text = f"{shape or 'empty'} must have one length of 1 or more for each of the axes {axes!r}"
            problems.append(Violation("header.image.shape", text))
        size = image.pixel_size
        if not all(math.isfinite(length) and length >= 0 for length in (size.x, size.y, size.z)):
            problems.append(Violation("header.image.pixel_size", "must be micrometres, or 0 where it is unknown"))
        if problems:
            raise InvalidInputError(f"The image's header is wrong: {_listed(problems)}.", problems)
        pixels = math.prod(image.shape)
        total = pixels * _ITEM_BYTES[image.dtype]
        if pixels > self._settings.max_image_pixels or total > self._settings.max_image_bytes:
            text = (
                f"{shape} {image.dtype} is {pixels} pixels and {total / 2**20:.0f} MiB; PredictImage takes at most "
                f"{self._settings.max_image_pixels} pixels (PARFOCAL_MAX_IMAGE_PIXELS) and "
                f"{self._settings.max_image_bytes / 2**20:.0f} MiB (PARFOCAL_MAX_IMAGE_BYTES)"
            )
            problems = [Violation("header.image.shape", text)]
            raise InvalidInputError(f"The image is too large: {text}. Start a prediction job instead.", problems)
        return total

    @staticmethod
    async def _receive(requests: AsyncIterator[v1.PredictImageRequest], task: _Task, path: Path) -> None:
        """Write the pixels to a file as they come."""
        received = 0
        with path.open("wb") as file:
            while (request := await next_message(requests, _ADVICE)) is not None:
                chunk = request.pixels
                if request.WhichOneof("part") != "pixels" or not 0 < len(chunk) <= CHUNK_BYTES:
                    raise InvalidInputError(
                        f"Each message after the first must carry 1 to {CHUNK_BYTES} bytes of pixels; one carries "
                        f"{len(chunk)}."
                    )
                received += len(chunk)
                if received > task.size:
                    raise InvalidInputError(
                        f"More pixels came than the {task.size} bytes that shape and dtype of the header ask for."
                    )
                try:
                    await asyncio.to_thread(file.write, chunk)
                except OSError as error:
                    raise translate_disk_error(error) from error
        if received < task.size:
            raise InvalidInputError(
                f"The pixels end after {received} bytes; shape and dtype of the header ask for {task.size}."
            )


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that names outputs or brings progress; raise the error that another one tells of."""
    error = answer.get("error")
    if error is None:
        return answer
    if error["reason"] == ParfocalError.reason:
        # A defect: the edge logs it and gives people a request id.
        raise RuntimeError(f"the warm worker failed by {error['text']}")
    raise from_reason(error["reason"], error["text"], [Violation(*item) for item in error["violations"]])


async def _chunks(path: Path) -> AsyncGenerator[bytes, None]:
    """Yield a file in pieces that fit a message."""
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


def _listed(problems: Sequence[Violation]) -> str:
    return "; ".join(f"{problem.field.rsplit('.', 1)[-1]} {problem.description}" for problem in problems)
