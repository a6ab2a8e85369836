"""Behind one public address a header says which service a call is for: with a real proxy before real services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support import Ended, S3Server, ServiceProcess, publish_dataset

from parfocal import v1
from parfocal.client import Client, requests
from parfocal.client.models import list_models, read_model
from parfocal.client.services import parse_addresses
from parfocal.runtime.errors import InvalidInputError, UnavailableError
from parfocal.runtime.images.files import Image


class Proxy(grpc.GenericRpcHandler):
    """Passes every call on to the service that its header names, as a GRPCRoute of a gateway does."""

    def __init__(self, backends: dict[str, str]) -> None:
        self._channels = {name: grpc.insecure_channel(address) for name, address in backends.items()}
        self.calls: list[tuple[str, str]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)
        name = str(metadata.get("parfocal-service", ""))
        self.calls.append((name, details.method))

        def answer(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
            if name not in self._channels:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "no route")
            kept = [(key, value) for key, value in context.invocation_metadata() if not key.startswith("user-agent")]
            call = self._channels[name].stream_stream(details.method)(messages, metadata=kept)
            context.add_callback(call.cancel)
            try:
                yield from call
            except grpc.RpcError as error:
                context.set_trailing_metadata(error.trailing_metadata())
                context.abort(error.code(), error.details())

        # On the wire a call of one message is a stream of one.
        return grpc.stream_stream_rpc_method_handler(answer)

    def stop(self) -> None:
        self._server.stop(0).wait()
        for channel in self._channels.values():
            channel.close()


@pytest.fixture(scope="module")
def proxy(s3: S3Server, share_service: Callable[..., ServiceProcess]) -> Iterator[Proxy]:
    proxy = Proxy({"fake": share_service("fake").address, "qc": share_service("qc").address, "catalog": s3.catalog})
    yield proxy
    proxy.stop()


@pytest.fixture
def settings(s3: S3Server, proxy: Proxy) -> Any:
    address = f"127.0.0.1:{proxy.port}"
    update = {"services": f"{address}/fake/qc", "catalog": f"{address}/catalog", "project": "public"}
    return s3.client_settings.model_copy(update=update)


def test_one_address_serves_everything(settings: Any, proxy: Proxy, pairs_folder: Path) -> None:
    with Client(settings) as client:
        assert [info.name for info in client.services()] == ["fake", "qc"]
        dataset = publish_dataset(client.store, "pairs", pairs_folder, project="public")
        job = client.wait(client.start(requests.training_request("fake-2d", dataset, "m", {"epochs": 2})).id)
        assert job.state == v1.JOB_STATE_SUCCEEDED, job.message
        assert [model.uri for model in list_models(client)] == [read_model(client, "m").uri]
        image = Image(np.zeros((32, 32), np.uint16), "YX")
        assert client.predict_image(read_model(client, "m").uri, image)
        assert [each.id for each in client.jobs()] == [job.id]
    named = {name for name, _ in proxy.calls}
    assert named == {"fake", "qc", "catalog"}
    assert ("fake", "/parfocal.v1.JobService/WatchJob") in proxy.calls
    assert ("fake", "/parfocal.v1.MethodService/PredictImage") in proxy.calls


def test_a_service_without_a_route_is_reported_with_its_address(settings: Any, proxy: Proxy) -> None:
    address = f"127.0.0.1:{proxy.port}/nobody"
    with Client(settings, services=[address]) as client:
        (info,) = client.services()
        assert address in info.error


def test_the_command_line_takes_the_same_addresses(
    settings: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from parfocal.cli import main

    monkeypatch.setenv("PARFOCAL_SERVICES", settings.services)
    monkeypatch.setenv("PARFOCAL_CATALOG", settings.catalog)
    assert main(["status", "--json"]) == 0
    ended = Ended(0, capfd.readouterr().out, "")
    assert [each["address"] for each in ended.json] == list(parse_addresses(settings.services))


def test_addresses_are_read_or_refused() -> None:
    expected = ("h:1/care", "h:1/qc", "127.0.0.1:2")
    assert parse_addresses("h:1/care/qc, 127.0.0.1:2,h:1/qc") == expected
    for wrong in ("h/care", "h:1/", "h:1/a b", "h:1/ümlaut", "/care", "h:99999/care"):
        with pytest.raises(InvalidInputError):
            parse_addresses(wrong)


def test_an_address_that_nobody_listens_at_is_named_with_the_service(settings: Any) -> None:
    with (
        Client(settings.model_copy(update={"catalog": "127.0.0.1:9/catalog"})) as client,
        pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9/catalog"),
    ):
        client.catalog.projects()
