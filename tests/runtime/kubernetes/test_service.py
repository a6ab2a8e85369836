"""A service as it runs on a cluster, as a process: its memory, its health, and single images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from cluster.server import Cluster
from grpc_health.v1 import health_pb2, health_pb2_grpc
from image_service import Service, image, requests_for
from support import ROOT, ServiceProcess, free_ports, mentions, search_path, wait_for

from parfocal import v1
from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.methods.capacity import Point, capacity_of, write_capacity
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.server.forwarding import ForwardedImages
from parfocal.runtime.settings import Settings


@dataclass
class Installation:
    """The service on a cluster, where its instance for single images would be, and its port for health."""

    service: Service
    images_port: int
    health_port: int
    cluster: Cluster


@pytest.fixture(scope="module")
def installed(
    start_service: Callable[..., ServiceProcess], s3: Any, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    images_port, health_port = free_ports(2)
    capacity = tmp_path_factory.mktemp("capacity")
    points = [
        Point(batch_size=batch, patch_shape=(16, 16), seconds_per_step=1, memory_gib=2 + batch) for batch in (4, 8)
    ]
    write_capacity(capacity, capacity_of("fake-2d", "a node", 1, points))
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        environment = {**s3.environment, "PYTHONPATH": search_path(ROOT / "tests")}
        cluster.add_template("parfocal-fake-worker", environment)
        process = start_service(
            "fake",
            images_address=f"127.0.0.1:{images_port}",
            health_listen=f"127.0.0.1:{health_port}",
            capacity_dir=str(capacity),
            **cluster.settings,
        )
        with grpc.insecure_channel(process.address) as channel:
            service = Service(process, channel, dataset)
            service.models["quick"] = service.finish(service.start_training(epochs=1)).outputs[0].uri
            yield Installation(service, images_port, health_port, cluster)
        process.stop()


def test_the_controller_is_small(installed: Installation) -> None:
    assert installed.service.process.process is not None
    memory = psutil.Process(installed.service.process.process.pid).memory_info()
    # The files of its libraries, which count as shared, can be given back at any time.
    assert memory.rss - memory.shared < 100e6, memory


def test_a_training_asks_for_the_memory_that_was_measured(installed: Installation) -> None:
    memory = {
        container["resources"]["requests"].get("memory")
        for job in installed.cluster.objects.all("jobs")
        for container in job["spec"]["template"]["spec"]["containers"]
    }
    # A quarter more than the 6 GiB of batches of four, which are the default, in whole steps of half a GiB.
    assert memory == {"7680Mi"}


def test_health_has_a_port_of_its_own(installed: Installation) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{installed.health_port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            v1.JobServiceStub(channel).ListJobs(v1.ListJobsRequest(), timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def reaches(service: Service, pixels: np.ndarray[Any, Any]) -> bool:
    try:
        return bool(service.predict(pixels))
    except grpc.RpcError:
        return False


def test_a_single_image_is_predicted_where_an_instance_is_set_aside_for_them(installed: Installation, s3: Any) -> None:
    service, pixels = installed.service, image(40, 40)
    refused = service.fails(requests_for(pixels, service.models["quick"]))
    error = from_rpc_error(refused, "here")
    assert (refused.code(), error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert mentions(error.message, "parfocal-fake-images")
    alone = ServiceProcess(
        "fake",
        {**s3.environment, "PARFOCAL_LAUNCHER": "none"},
        service.process.folder.parent / "alone",
        port=installed.images_port,
    ).start()
    try:
        wait_for(lambda: reaches(service, pixels), 10, "the instance for single images")
        answers = service.predict(pixels)
        sent = b"".join(answer.pixels for answer in answers)
        assert np.frombuffer(sent, np.float32).size == pixels.size
        # Its errors come through as they are.
        wrong = from_rpc_error(service.fails(requests_for(pixels, "s3://parfocal-models/default/none/1")), "here")
        assert wrong.reason == "NOT_FOUND"
        spec = v1.TrainingSpec(method="fake-2d", dataset_uri=service.dataset, model="m")
        with grpc.insecure_channel(alone.address) as channel:
            jobs = v1.JobServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                jobs.StartJob(v1.StartJobRequest(training=spec), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        alone.stop()


def test_where_there_is_no_address_no_deployment_is_named() -> None:
    async def scene() -> None:
        async def nothing() -> AsyncIterator[v1.PredictImageRequest]:
            for request in ():
                yield request

        async for _ in ForwardedImages("qc", Settings()).predict(nothing()):
            pass

    with pytest.raises(PreconditionError) as caught:
        asyncio.run(scene())
    assert mentions(caught.value.message, "PARFOCAL_IMAGES_ADDRESS")
    assert not mentions(caught.value.message, "parfocal-qc-images")
