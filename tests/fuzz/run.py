"""A run: services and a store for the messages, the parsers in this process, and what came of both."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from access_matrix import all_services
from google.protobuf import struct_pb2
from support import S3Server, ServiceProcess, filament_pair, publish_dataset, publish_images, publish_model, write_pairs

from fuzz.elsewhere import parsers_here
from fuzz.inputs import Findings, run_inputs
from fuzz.rpcs import Rpc, rpcs_at, run_rpcs
from parfocal import v1

# Of the run's time the messages may take so much.
_PART_OF_RPCS = 0.5
PARTS = ("rpcs", "inputs", "elsewhere")
"""Messages; inputs of parsers that every environment can run; inputs of those that need the packages of this one."""


def run(shares: Mapping[str, int], minutes: float, seed: int, scratch: Path, keep: Path | None) -> int:
    """Send and give as much as `shares` says; print what came of it and return the number of kinds of defects."""
    begin, wrong = time.monotonic(), 0
    until = begin + 60 * minutes
    for part in PARTS:
        count, started = shares.get(part, 0), time.monotonic()
        if not count:
            continue
        if part == "rpcs":
            limit = begin + 60 * minutes * (_PART_OF_RPCS if "inputs" in shares else 1)
            findings = _messages(seed, count, scratch, limit)
        else:
            parsers = parsers_here(scratch / "here") if part == "elsewhere" else None
            findings = run_inputs(seed, count, scratch, keep, until, parsers)
        seconds = time.monotonic() - started
        counts = ", ".join(f"{number} {what}" for what, number in findings.counts.most_common())
        print(f"{part}: {findings.counts.total()} in {seconds:.0f} s, seed {seed}: {counts}", flush=True)
        for kind, text in findings.defects.items():
            print(f"DEFECT {kind}\n    {text}", flush=True)
        wrong += len(findings.defects)
    return wrong


def _messages(seed: int, count: int, scratch: Path, until: float) -> Findings:
    with served(scratch) as (rpcs, known, services):
        findings = asyncio.run(run_rpcs(seed, count, rpcs, known, until))
        for service in services:
            if service.process is None or service.process.poll() is not None:
                findings.defect(f"{service.name} ended", service.log.read_text("utf-8", "replace")[-2000:])
            for kind, text in tracebacks(service.log):
                findings.defect(f"{service.name}: {kind}", text)
    return findings


def tracebacks(log: Path) -> Iterator[tuple[str, str]]:
    """Yield the last line and the whole of each traceback in a log of JSON lines."""
    for line in log.read_text("utf-8", "replace").splitlines():
        try:
            text = str(json.loads(line).get("traceback", ""))
        except (ValueError, AttributeError):
            text = line if "Error" in line else ""
        if text:
            yield text.strip().splitlines()[-1][:100], text[-2000:]


@contextmanager
def served(folder: Path) -> Iterator[tuple[list[Rpc], Mapping[str, list[Any]], list[ServiceProcess]]]:
    """Start a store, the fake service and the catalogue; yield every RPC, values that exist, and the services."""
    s3 = S3Server(folder / "s3")
    services: list[ServiceProcess] = []
    try:
        s3.start()
        store = s3.store()
        pairs = write_pairs(folder / "pairs", filament_pair)
        dataset = publish_dataset(store, "pairs", pairs)
        model = publish_model(store, "m", dataset, service="fake", method="fake-2d")
        result = publish_images(store, pairs / "test" / "target")
        # One worker, kept busy: jobs are admitted, listed, cancelled and deleted, and few of them run.
        settings = {"PARFOCAL_MAX_ACTIVE_JOBS": "100000", "PARFOCAL_IMAGE_WAIT_SECONDS": "0.1"}
        for name in ("fake", "catalog"):
            services.append(ServiceProcess(name, {**s3.environment, **settings}, folder / name).start())
        job = _busy(services[0].address, dataset)
        addresses = {
            service.full_name: services[service.name == "CatalogService"].address for service in all_services()
        }
        project = ["default", "", "other"]
        known: dict[str, list[Any]] = {
            "project": project,
            "projects": project,
            "job_id": [job, "none"],
            "request_id": [job, "a-1", "a-2"],
            "method": ["fake-2d", "care-2d"],
            "model": ["m", "new"],
            "name": ["m", "pairs", result.rsplit("/", 1)[-1], "dataset.json", "model.json", "test/source/field0.tif"],
            "names": ["dataset.json", "model.json", "train/source/field0.tif"],
            "version": [1, 0],
            "uri": [dataset, model, result],
            "dataset_uri": [dataset],
            "model_uri": [model],
            "input_uri": [dataset, result],
            "prediction_uri": [result],
            "evaluation_uris": [result],
            "initial_model_uri": [model],
            "split": ["train", "test", ""],
            "parameters": ["epochs", "batch_size", "learning_rate", "tile_size", "patch_size", "seed"],
            "axes": ["YX", "ZYX", ""],
            "dtype": ["uint16", "float32"],
            "shape": [8, 16],
            "sha256": ["0" * 64],
            "digest": ["0" * 64],
            "month": ["2026-11", ""],
            "upload": ["dataset/a-1", "inputs/a-1"],
            "page_token": [""],
        }
        yield rpcs_at(addresses), known, services
    finally:
        for service in services:
            if service.process is not None:
                service.kill()
        s3.stop()


def _busy(address: str, dataset: str) -> str:
    """Start a training that outlasts the run and return its job."""
    parameters = struct_pb2.Struct()
    parameters.update({"epochs": 1000, "pause_seconds": 10})
    spec = v1.TrainingSpec(method="fake-2d", dataset_uri=dataset, model="busy", parameters=parameters)
    with grpc.insecure_channel(address) as channel:
        request = v1.StartJobRequest(request_id="busy", training=spec)
        return v1.JobServiceStub(channel).StartJob(request, timeout=60).job.id
