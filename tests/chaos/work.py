"""What is asked for, and the book of what was answered."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import struct_pb2

from parfocal import v1

METHOD = "fake-2d"
# Equal trainings must give equal models, whatever happened to them. That of 3 epochs ends before most kills reach it.
TRAININGS: dict[str, dict[str, Any]] = {
    "training of 6 epochs": {"epochs": 6, "patches_per_image": 4, "pause_seconds": 0.05},
    "training of 12 epochs": {"epochs": 12, "patches_per_image": 4, "pause_seconds": 0.03},
    "training of 3 epochs": {"epochs": 3, "patches_per_image": 2},
    # So long that it hands the device to predictions: one that is done within seconds does not.
    "training of 16 epochs": {"epochs": 16, "patches_per_image": 4, "pause_seconds": 0.1},
}
# The models that predictions use; a prediction pauses after each tile as the training did after each step.
MODELS: dict[str, dict[str, Any]] = {
    "quick": {"epochs": 2, "patches_per_image": 4, "pause_seconds": 0.02},
    "slow": {"epochs": 1, "patches_per_image": 1, "pause_seconds": 0.4},
}
SHARE_OF_TRAININGS = 0.65
# After a prediction, one with the same model: a spare worker goes on to it.
SHARE_OF_REPEATS = 0.6


@dataclass
class Request:
    """One request and what its client was told.

    Attributes
    ----------
    message
        As it is sent, every time.
    work
        What is asked for; requests with the same work must have the same result.
    mode
        How the client behaves, see `chaos.clients`.
    answered_at
        Seconds since 1970 of the first answer with a job; None if there was none.
    reserved_uri
        Where that job publishes.
    problems
        Answers that no client should get.
    """

    message: v1.StartJobRequest
    work: str
    mode: str
    answered_at: float | None = None
    reserved_uri: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The request id, which is the job's id."""
        return self.message.request_id


class Book:
    """All requests of a run by id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, Request] = {}

    def add(self, request: Request) -> None:
        """Write down a request before it is sent."""
        with self._lock:
            self._requests[request.id] = request

    def all(self) -> dict[str, Request]:
        """Return all requests by id."""
        with self._lock:
            return dict(self._requests)

    def answered(self, request: Request, job: v1.Job) -> bool:
        """Write down an answer; return whether it is the first to this request."""
        with self._lock:
            if job.id != request.id:
                request.problems.append(f"answered with the job {job.id}")
            if request.reserved_uri not in ("", job.reserved_uri):
                request.problems.append(f"given two places: {request.reserved_uri} and {job.reserved_uri}")
            first = request.answered_at is None
            if first:
                request.answered_at, request.reserved_uri = time.time(), job.reserved_uri
            return first


class Work:
    """Makes requests: trainings of some lengths, and predictions as soon as there are `models` (name to address)."""

    def __init__(self, dataset_uri: str) -> None:
        self._dataset_uri = dataset_uri
        self.models: dict[str, str] = {}
        self._predicted = ""

    def any(self, request_id: str, mode: str, rng: random.Random) -> Request:
        """Return a request for anything."""
        if self._predicted and rng.random() < SHARE_OF_REPEATS:
            return self.prediction(request_id, mode, self._predicted)
        self._predicted = ""
        if rng.random() >= SHARE_OF_TRAININGS and self.models:
            self._predicted = rng.choice(sorted(self.models))
            return self.prediction(request_id, mode, self._predicted)
        work = rng.choice(sorted(TRAININGS))
        return self.training(request_id, mode, work, TRAININGS[work])

    def training(self, request_id: str, mode: str, work: str, parameters: dict[str, Any]) -> Request:
        """Return a request for a training; its model is named after it."""
        values = struct_pb2.Struct()
        values.update(parameters)
        spec = v1.TrainingSpec(
            method=METHOD, dataset_uri=self._dataset_uri, model=f"model-{request_id}", parameters=values
        )
        return Request(v1.StartJobRequest(request_id=request_id, training=spec), work, mode)

    def prediction(self, request_id: str, mode: str, model: str) -> Request:
        """Return a request for a prediction of the test images."""
        spec = v1.PredictionSpec(model_uri=self.models[model], input_uri=self._dataset_uri, split="test")
        return Request(v1.StartJobRequest(request_id=request_id, prediction=spec), f"prediction, {model}", mode)
