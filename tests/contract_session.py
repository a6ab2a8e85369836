"""What the tests of the contract share: which methods are held to it, and one running service with its stubs."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format, struct_pb2
from support import IMAGES, ROOT

from parfocal import v1

FINAL = {v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}
_CONTENTS = [json.loads(path.read_text()) for path in sorted(ROOT.glob("tests/*/contract.json"))]


def _driver(service: str) -> str:
    """Return the name of the framework's driver that a service imports; none for the numpy methods of tests."""
    code = "".join(path.read_text("utf-8") for path in (ROOT / "services" / service).rglob("*.py"))
    found = re.search(r"parfocal\.runtime\.frameworks(?:\.| import )(keras|torch)\b", code)
    return found[1] if found else ""


# Every folder of tests with such a file is held to the contract: its service, a method, and parameters that train in
# a second or two on images of 64x80 pixels. What services share is tested with one of each driver, on pairs of images:
# a method of another kind of data says so in "data".
TINY = {content["method"]: content for content in reversed(_CONTENTS) if "data" not in content}
TINY = {each["method"]: each for each in {_driver(each["service"]): each for each in TINY.values()}.values()}
# What a method can break by itself is tested with all others: further methods of the services, and what
# `make new-method` makes, before anybody has changed it. Methods of a service follow one another: they share it.
_SCAFFOLD = json.loads((ROOT / "deploy/template/tests/NAME/contract.json").read_text().replace("NAME", "scaffold"))
SESSIONS = {
    entry["method"]: {"service": content["service"], **entry}
    for content in (*_CONTENTS, _SCAFFOLD)
    for entry in (content, *content.get("further", ()))
    if entry["method"] not in TINY
}
# Of a family's methods the first is killed while it trains: that the others go on bit for bit from what they restore
# is tested without processes (learner_suite.py).
KILLED = {content["method"] for content in (*_CONTENTS, _SCAFFOLD)} & set(SESSIONS)
# Images are checked with a session for each of their methods, see deploy/images/check.
if IMAGES:
    SESSIONS = {
        entry["method"]: {"service": content["service"], **entry}
        for content in _CONTENTS
        if content["service"] in IMAGES
        for entry in (content, *content.get("further", ()))
    }
    KILLED = set(SESSIONS)


def struct(values: dict[str, Any]) -> struct_pb2.Struct:
    message = struct_pb2.Struct()
    json_format.ParseDict(values, message)
    return message


@dataclass
class Session:
    """One running service and the stubs to talk to it."""

    process: Any
    method: str
    channel: grpc.Channel

    @property
    def jobs(self) -> v1.JobServiceStub:
        return v1.JobServiceStub(self.channel)

    @property
    def methods(self) -> v1.MethodServiceStub:
        return v1.MethodServiceStub(self.channel)

    @property
    def method_description(self) -> v1.Method:
        methods = self.methods.ListMethods(v1.ListMethodsRequest()).methods
        return next(method for method in methods if method.name == self.method)

    def request(self, dataset_uri: str, **parameters: Any) -> v1.StartJobRequest:
        spec = v1.TrainingSpec(
            method=self.method,
            dataset_uri=dataset_uri,
            model=f"m-{uuid.uuid4().hex[:8]}",
            parameters=struct((TINY | SESSIONS)[self.method]["parameters"] | parameters),
        )
        return v1.StartJobRequest(request_id=uuid.uuid4().hex, training=spec)

    def finish(self, job: v1.Job) -> v1.Job:
        for _ in self.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=180):
            pass
        return self.jobs.GetJob(v1.GetJobRequest(job_id=job.id)).job

    def train(self, dataset_uri: str, **parameters: Any) -> v1.Job:
        return self.finish(self.jobs.StartJob(self.request(dataset_uri, **parameters)).job)


def rpc_error(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def single_image(service: Session, model_uri: str, pixels: Any, axes: str = "YX") -> dict[str, Any]:
    """Return the images among the outputs of PredictImage."""
    heads = {}
    data: dict[str, bytearray] = {}
    for answer in _answers(service, model_uri, pixels, axes):
        if answer.HasField("header"):
            heads[answer.header.name] = answer.header
            content = data.setdefault(answer.header.name, bytearray())
        elif answer.HasField("pixels"):
            content.extend(answer.pixels)
    return {name: np.frombuffer(data[name], head.dtype).reshape(head.shape) for name, head in heads.items()}


def single_tables(service: Session, model_uri: str, pixels: Any, axes: str = "YX") -> dict[str, bytes]:
    """Return the tables among the outputs of PredictImage, as CSV."""
    data: dict[str, bytearray] = {}
    for answer in _answers(service, model_uri, pixels, axes):
        if answer.HasField("table"):
            content = data.setdefault(answer.table.name, bytearray())
        elif answer.HasField("csv"):
            content.extend(answer.csv)
    return {name: bytes(content) for name, content in data.items()}


def _answers(service: Session, model_uri: str, pixels: Any, axes: str) -> list[v1.PredictImageResponse]:
    image = v1.ImageHeader(shape=pixels.shape, dtype=pixels.dtype.name, axes=axes)
    header = v1.PredictImageHeader(model_uri=model_uri, image=image)
    requests = [v1.PredictImageRequest(header=header), v1.PredictImageRequest(pixels=pixels.tobytes())]
    return list(service.methods.PredictImage(iter(requests), timeout=180))
