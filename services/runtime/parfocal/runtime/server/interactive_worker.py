"""The warm worker predicts single images and keeps its last model.

It is started as `python -m parfocal.runtime.server.interactive_worker MODULE`, reads one question a line from standard
input and writes answers, one a line, to standard output, all in JSON; pixels are in files without header (C order,
little endian). A question:

    {"folder": FOLDER, "model_uri": URI, "method": NAME, "parameters": {...},
     "axes": AXES, "shape": [...], "dtype": NAME, "pixel_size": [X, Y, Z]}

where FOLDER/input holds the pixels, and a pixel size of 0 is unknown. Any number of {"progress": {...}} comes back,
then either
{"outputs": [{"name": ..., "dtype": ..., "axes": ..., "shape": [...], "pixel_size": [X, Y, Z], "file": NAME}, ...],
 "tables": [{"name": ..., "columns": [[NAME, UNIT], ...], "file": NAME}, ...], "warnings": [TEXT, ...]}
with the files in FOLDER, tables as CSV, or
{"error": {"reason": ..., "text": ..., "violations": [[FIELD, DESCRIPTION], ...]}}.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np

from parfocal import v1
from parfocal.runtime.errors import OutOfMemoryError, ParfocalError
from parfocal.runtime.images.files import Image, PixelSize
from parfocal.runtime.jobs.attempt import is_out_of_memory
from parfocal.runtime.logs import configure_logging
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Service, load_service
from parfocal.runtime.prediction.job import differences_from_training
from parfocal.runtime.prediction.loaded_model import KeptModel, LoadedModel, load_model, predict_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.housekeeping import temporary_files_in
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.store import Location, Store, translate_disk_error
from parfocal.runtime.store.verdicts import Verdict, newest_verdict

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 0.2


def run(arguments: list[str] | None = None) -> NoReturn:
    """Answer questions until standard input closes, which it does when the server is gone."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("module")
    options = parser.parse_args(arguments)
    questions, answers = _own_pipes()
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(questions, waiting), name="questions", daemon=True).start()
    # Where memory runs out, this process shall go, not the server or a job.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    configure_logging(worker="warm")
    service = load_service(options.module)
    predictor = WarmPredictor(service, Store(Settings()), answers)
    while True:
        predictor.answer(json.loads(waiting.get()))


class WarmPredictor:
    """Answers questions one after the other and keeps the model of the last one."""

    def __init__(self, service: Service, store: Store, answers: TextIO) -> None:
        self._service = service
        self._store = store
        self._answers = answers
        self._kept = KeptModel()
        self._next_progress = 0.0

    def answer(self, question: dict[str, Any]) -> None:
        """Predict one image and say how it went; nothing the image does ends the worker."""
        try:
            with temporary_files_in(Path(question["folder"])):
                said = self._predict(question)
            self._say(said)
        except Exception as problem:
            error = _translate(problem)
            if error is None:
                _log.exception("the prediction failed by a defect")
                error = ParfocalError(f"{type(problem).__name__}: {problem}"[:2000])
            violations = [[violation.field, violation.description] for violation in error.violations]
            self._say({"error": {"reason": error.reason, "text": error.message, "violations": violations}})

    def _predict(self, question: dict[str, Any]) -> dict[str, Any]:
        folder, axes, shape = Path(question["folder"]), question["axes"], tuple(question["shape"])
        dtype = np.dtype(question["dtype"]).newbyteorder("<")
        self._next_progress = 0.0
        model, parameters = self._load(question, folder)
        pixels = np.asarray(np.memmap(folder / "input", dtype, "r", shape=shape))
        self._next_progress = 0.0

        def on_tile(done: int, total: int) -> None:
            self._report({"stage": "predicting", "step": done, "steps": total, "fraction": done / total})

        x, y, z = question["pixel_size"]
        image = Image(pixels, axes, PixelSize(x, y, z or None) if x and y else None)
        predicted = predict_image(model, image, parameters, folder, "image", on_tile=on_tile).finish()
        described: list[dict[str, Any]] = []
        for number, (name, output) in enumerate(predicted.images.items()):
            values, size = output.pixels, output.pixel_size
            # Not ndarray.tofile: it hides a full disk behind an OSError without a number.
            with (folder / f"output-{number}").open("wb") as file:
                file.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
            described.append(
                {
                    "name": name,
                    "dtype": values.dtype.name,
                    "axes": output.axes,
                    "shape": list(values.shape),
                    "pixel_size": [0, 0, 0] if size is None else [size.x, size.y, size.z or 0],
                    "file": f"output-{number}",
                }
            )
        verdict = newest_verdict(self._store, Location.parse(question["model_uri"]))
        differences = differences_from_training(model, image, parameters)
        return {
            "outputs": described,
            "tables": [
                {"name": name, "columns": [[each.name, each.unit] for each in table.columns], "file": table.file}
                for name, table in predicted.tables.items()
            ],
            "warnings": _warnings(verdict, differences, predicted.clipped),
        }

    def _load(self, question: dict[str, Any], folder: Path) -> tuple[LoadedModel, PredictionParameters]:
        method = self._service.method(question["method"])
        parameters = method.parse(v1.JOB_KIND_PREDICTION, question["parameters"])
        assert isinstance(parameters, PredictionParameters)

        def load() -> LoadedModel:
            self._report({"stage": "loading the model"})
            place = Location.parse(question["model_uri"])
            manifest = ModelManifest.read(self._store, place / MODEL_MANIFEST)
            cache = Cache(self._store.settings.state_folder, folder / "held")
            files = cache.mirror(self._store, place, manifest.files, folder / "model")
            weights = manifest.weights_named(parameters.weights)
            device, why = self._service.device().choose(parameters.precision, len(method.axes), training=False)
            _log.info("computing on %s in %s", device.name, why)
            return load_model(method, manifest, files, weights=weights, device=device)

        return self._kept.get((question["model_uri"], parameters.weights, parameters.precision), load), parameters

    def _report(self, progress: dict[str, Any]) -> None:
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + _PROGRESS_SECONDS
            self._say({"progress": progress})

    def _say(self, message: dict[str, Any]) -> None:
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()


def _warnings(verdict: Verdict, differences: Sequence[str], clipped: float) -> list[str]:
    """Return what people who see the outputs should know, in sentences; what a job's result says as well."""
    warnings = [] if verdict.state == "passed" else [verdict.sentence]
    if differences:
        warnings.append(
            "This image is unlike the images the model was trained on, so that its quality control says little about "
            f"it: {' and '.join(differences)}."
        )
    if clipped:
        warnings.append(f"{clipped:.2%} of the pixels were clipped to the range of the image's type.")
    return warnings


def _translate(problem: Exception) -> ParfocalError | None:
    """Return the error that people are told, None for a defect."""
    if isinstance(problem, OSError):
        problem = MemoryError() if problem.errno == errno.ENOMEM else translate_disk_error(problem)
    if isinstance(problem, MemoryError) or is_out_of_memory(problem):
        return OutOfMemoryError(
            "The image needs more memory than there is. Choose a smaller tile_size, or crop the image."
        )
    return problem if isinstance(problem, ParfocalError) else None


def _own_pipes() -> tuple[TextIO, TextIO]:
    """Take standard input and output for the talk with the server: frameworks print, and children would read."""
    questions, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(questions, encoding="utf-8"), os.fdopen(answers, "w", encoding="utf-8")


def _listen(questions: TextIO, waiting: queue.SimpleQueue[str]) -> None:
    """Pass questions on, and end this process at once, whatever it is doing, when the server is gone."""
    for line in questions:
        waiting.put(line)
    os._exit(3)


if __name__ == "__main__":
    run()
