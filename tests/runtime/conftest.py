"""The fake service that images are sent to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from image_service import IDLE_SECONDS, Service, image, publish_variant, requests_for
from support import ServiceProcess, publish_dataset


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., ServiceProcess],
    s3: Any,
    pairs_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    process = start_service(
        "fake",
        warm_idle_seconds=str(IDLE_SECONDS),
        spare_seconds="1",
        image_wait_seconds="4",
        max_images="3",
        checkpoint_seconds="0",
    )
    with grpc.insecure_channel(process.address) as channel:
        running = Service(process, channel, publish_dataset(s3.store(), "interactive", pairs_folder))
        quick = running.finish(running.start_training(epochs=2)).outputs[0].uri
        running.models = {
            "quick": quick,
            "other": publish_variant(s3.store(), quick, "other", tmp_path_factory.mktemp("other"), factor=2.0),
            "slow": publish_variant(s3.store(), quick, "slow", tmp_path_factory.mktemp("slow"), pause_seconds=0.2),
        }
        yield running
    process.stop()


@pytest.fixture
def slow_call(service: Service) -> Iterator[Any]:
    """A call whose worker is in the middle of an image that takes half a minute."""
    call = service.call(requests_for(image(512, 512), service.models["slow"], tile_size=64))
    for answer in call:
        if answer.progress.stage == "predicting":
            break
    yield call
    call.cancel()
