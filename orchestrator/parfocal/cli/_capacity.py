"""`parfocal methods METHOD --capacity`: what trainings of a method need of this computer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal.cli import _dataset_check
from parfocal.cli._app import App
from parfocal.cli._modules import service_of
from parfocal.cli._progress import waiting
from parfocal.cli._render import print_json, print_table, say, warn
from parfocal.client.parameters import parse_parameters, schema_of
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError, PreconditionError
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.client import Client
    from parfocal.runtime.methods.capacity import Capacity, Need, Point

_MODULE = "parfocal.runtime.training.capacity"


def capacity_folder(app: App) -> Path:
    """Return where this computer keeps what was measured."""
    from parfocal.stack.config import resolve_folder

    return resolve_folder(app.folder) / "capacity"


def measure(app: App, client: Client, method: v1.Method, dataset: str, parameters: Sequence[str]) -> None:
    """Measure some batch sizes and patch sizes, each in a process of its own; print a table and keep it in a file."""
    from parfocal import v1
    from parfocal.runtime.methods.capacity import Point, capacity_of, write_capacity

    if v1.JOB_KIND_TRAINING not in method.job_kinds:
        raise InvalidInputError(f"{method.name} is not trained, so there is nothing to measure.")
    command = _command(client, method.name)
    schema = schema_of(method, v1.JOB_KIND_TRAINING)
    given = parse_parameters(method.title, schema, parameters)
    points: list[Point] = []
    device, threads = "", 0
    with _sample(client, dataset) as folder, waiting(f"Measuring {method.name}") as show:
        grid = list(_grid(schema, given))
        for number, values in enumerate(grid, start=1):
            show(f"{number} of {len(grid)}: {', '.join(f'{name} {value}' for name, value in values.items())}")
            told = _told([*command, str(folder), json.dumps({**given, **values})])
            if "error" in told:
                warn(f"{values}: {told['error']}")
                continue
            points.append(Point.model_validate(told["point"]))
            device, threads = str(told["device"]), int(told["threads"])
    if not points:
        raise PreconditionError("Nothing could be measured; the warnings say why.")
    capacity = capacity_of(method.name, device, threads, points)
    path = write_capacity(capacity_folder(app), capacity)
    if app.json:
        print_json(capacity.model_dump(mode="json") | {"file": str(path)})
    else:
        show_capacity(capacity)
        say(f"Kept in {path}. `parfocal train {method.name}` says what it expects by it.")


def show_capacity(capacity: Capacity) -> None:
    """Print what was measured as a table."""
    rows = [
        (
            str(point.batch_size),
            " x ".join(map(str, point.patch_shape)),
            f"{point.seconds_per_step:.3g}",
            f"{point.memory_gib:.2f}",
            f"{point.device_memory_gib:.2f}" if point.device_memory_gib else "",
        )
        for point in sorted(capacity.points, key=lambda point: (point.pixels, point.batch_size))
    ]
    title = f"\nMeasured on {capacity.device}, {capacity.threads} threads, {capacity.measured_at:%Y-%m-%d}"
    columns = ("Batch", "Patch (px)", "Seconds per step", "Memory (GiB)", "GPU memory (GiB)")
    print_table(columns, rows, title=title, numbers=columns)


def expected(app: App, method: v1.Method, values: Mapping[str, Any]) -> Need | None:
    """Return what a training with these parameters needs by what was measured here; None where nothing was."""
    from parfocal.client.estimates import need_of
    from parfocal.runtime.methods.capacity import read_capacity

    try:
        return need_of(read_capacity(capacity_folder(app), method.name), method, values)
    except ParfocalError:
        return None


def _command(client: Client, method: str) -> list[str]:
    from parfocal.stack.discover import discover_services

    service = service_of(client, method)
    unit = discover_services().get(service)
    if unit is None:
        raise NotFoundError(f"The service {service} is not installed here: measure on the computer that trains.")
    return [str(unit.python), "-m", _MODULE, unit.module, method]


def _told(command: list[str]) -> dict[str, Any]:
    """Return what a measurement has printed; a process that was killed is an error as well."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        why = "the process was killed, most likely for lack of memory" if done.returncode < 0 else done.stderr[-300:]
        return {"error": why}
    return told


@contextmanager
def _sample(client: Client, dataset: str) -> Iterator[Path]:
    """Yield a folder with some images of a dataset, or of a folder of images, and their manifest."""
    from parfocal.client.previews import sampled_dataset, sampled_folder

    is_folder = _dataset_check.is_folder(dataset)
    with sampled_folder(Path(dataset)) if is_folder else sampled_dataset(client, dataset) as (folder, manifest):
        _write(folder, manifest)
        yield folder


def _write(folder: Path, manifest: DatasetManifest) -> None:
    (folder / DATASET_MANIFEST).write_bytes(manifest.to_bytes())


def _grid(schema: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Yield batch sizes and patch sizes around the usual ones; what is given on the command line stays as it is."""

    def around(name: str, factors: Sequence[float]) -> list[int]:
        field = schema["properties"].get(name, {})
        if name in given or "default" not in field:
            return [int(given[name])] if name in given else []
        values = (int(field["default"] * factor) for factor in factors)
        least, most = field.get("minimum", 1), field.get("maximum", 2**20)
        return sorted({min(max(value, least), most) for value in values})

    for patch in around("patch_size", (1, 2)) or [0]:
        for batch in around("batch_size", (0.25, 1, 2)):
            yield {"batch_size": batch} | ({"patch_size": patch} if patch else {})
