"""Nothing that is sent or given to Parfocal makes it fail in a way it should not: a short run, and what failed once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_matrix import all_services
from fuzz.inputs import attempt, corpus, run_inputs
from fuzz.parsers import all_parsers
from fuzz.rpcs import run_rpcs
from fuzz.run import served, tracebacks

# Together ten thousand where the machine has nothing else to do, and never more than a minute.
INPUTS, MESSAGES, SECONDS = 9_500, 500, 25


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with served(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


def test_parsers_refuse_in_words(tmp_path: Path) -> None:
    findings = run_inputs(3, INPUTS, tmp_path, None, time.monotonic() + SECONDS)
    assert not findings.defects
    assert findings.counts["refused"] > 100
    assert findings.counts["accepted"] > 10, "nearly all inputs are absurd: nothing deep is tested"


def test_what_was_a_defect_once_is_refused_in_words(tmp_path: Path) -> None:
    parsers = {parser.name: parser for parser in all_parsers(tmp_path / "good")}
    # Those of other environments are repeated beside their short runs.
    kept = [(name, data) for name, data in corpus() if name in parsers]
    assert kept
    for name, data in kept:
        assert attempt(parsers[name], data, tmp_path), name


def test_services_answer_every_message_in_words(services: Any) -> None:
    rpcs, known, processes = services
    assert {rpc.path.split("/")[1] for rpc in rpcs} == {service.full_name for service in all_services()}
    findings = asyncio.run(run_rpcs(3, MESSAGES, rpcs, known, time.monotonic() + SECONDS))
    assert not findings.defects
    assert findings.counts["OK"], findings.counts
    for process in processes:
        assert process.process.poll() is None, process.name
        assert not list(tracebacks(process.log)), process.log


def test_bytes_that_are_no_message_are_refused_by_every_rpc(services: Any) -> None:
    rpcs, _, processes = services
    for rpc in rpcs:
        with grpc.insecure_channel(rpc.address) as channel:
            call = channel.stream_stream(rpc.path)(iter([b"\x0a\xff\xff"]), timeout=20)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, rpc.path
        assert "cannot be read" in caught.value.details()
    assert not [found for process in processes for found in tracebacks(process.log)]


def test_a_client_that_leaves_a_stream_leaves_no_traceback(services: Any) -> None:
    from parfocal import v1

    rpcs, known, processes = services
    (archive,) = [rpc for rpc in rpcs if rpc.path.endswith("/ReadArchive")]
    for wait in (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
        with grpc.insecure_channel(archive.address) as channel:
            grpc.channel_ready_future(channel).result(20)
            call = v1.CatalogServiceStub(channel).ReadArchive(v1.ReadArchiveRequest(uri=known["uri"][2]))
            time.sleep(wait)
            call.cancel()
    time.sleep(0.5)
    assert not [found for process in processes for found in tracebacks(process.log)]
