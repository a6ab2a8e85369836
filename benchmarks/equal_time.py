"""Methods of one task, trained for the same processor time on the same images: quality, speed, memory, and size.

Run it once for each method, in the environment of that method:

    PYTHONPATH=tests:services/qc .venvs/cellpose/bin/python benchmarks/equal_time.py cellpose-2d \
        --data FOLDER --task objects --seconds 100 --parameters '{"first_filters": 8}'

FOLDER has {train,test}/{source,target}. Two short trainings, of one and of nine epochs, say how many seconds of the
processor an epoch takes; then a model is trained for as many epochs as fit into `--seconds`. Processor time is counted
instead of wall time so that other work on the machine does not matter, and epochs are chosen beforehand because the
learning rate of some methods falls towards the last one. Fetching, checking and calibrating are not part of the time.
Memory is the peak of the process over training and prediction, with its framework.

Quality is that of quality control on the test images. `objects`: F1 at an IoU of 0.5 and of 0.75, over all objects.
`images`: PSNR, SSIM and Pearson correlation after the best linear fit of intensities to the target, as means. Each row
is appended to the file `--table`, whose rows are printed as one table for each task and dataset.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import Measured, train_and_predict

from parfocal.qc.metrics.images.restoration import score_restoration
from parfocal.qc.metrics.objects.instances import Counts, score_instances
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.service import Service, load_service

# Families whose methods do not begin with their name.
_FAMILIES = {"denoiseg": "n2v", "splinedist": "stardist", "pix2pix": "gan"}


def objects_quality(predictions: Mapping[str, Any], targets: Mapping[str, Path]) -> dict[str, float]:
    """Return F1 at an IoU of 0.5 and of 0.75, over all objects of the test images."""
    totals = {0.5: Counts(), 0.75: Counts()}
    for stem, path in targets.items():
        counts = score_instances(read_image(path).pixels, labels_of(predictions, stem), name=stem).counts
        totals = {level: total + counts[level] for level, total in totals.items()}
    return {"F1 at IoU 0.5": totals[0.5].f1, "F1 at IoU 0.75": totals[0.75].f1}


def labels_of(predictions: Mapping[str, Any], stem: str) -> Any:
    """Return the label image of a method that makes nothing else, or that makes other images besides."""
    return predictions.get(f"instances/{stem}", predictions[stem])


def images_quality(predictions: Mapping[str, Any], targets: Mapping[str, Path]) -> dict[str, float]:
    """Return means of PSNR (dB), SSIM and Pearson correlation over the test images."""
    scores = [score_restoration(predictions[stem], read_image(path).pixels)[0] for stem, path in targets.items()]
    names = {"PSNR": "psnr", "SSIM": "ssim", "Pearson": "pearson"}
    return {title: float(np.mean([getattr(score, name) for score in scores])) for title, name in names.items()}


TASKS = {"objects": objects_quality, "images": images_quality}


def service_of(method: str) -> Service:
    """Return the service that has a method."""
    family = method.partition("-")[0]
    return load_service(f"parfocal.{_FAMILIES.get(family, family)}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure an epoch, train for the given time, and return the row of the table."""
    service = service_of(options.method)

    def trained(epochs: int) -> Measured:
        with tempfile.TemporaryDirectory() as name:
            values = {**options.parameters, "epochs": epochs}
            return train_and_predict(service, options.method, options.data, values, Path(name))

    # The first training compiles what the others find compiled.
    _, one, nine = (trained(epochs).training.cpu for epochs in (1, 1, 9))
    each = max(1e-3, (nine - one) / 8)
    epochs = max(3, round(options.seconds / each))
    print(f"{options.method}: an epoch takes {each:.2f} s of the processor; {epochs} epochs", flush=True)
    made = trained(epochs)
    found = TASKS[options.task](made.predictions, find_images(options.data / "test" / "target"))
    sources = find_images(options.data / "test" / "source").values()
    pixels = sum(int(np.prod(read_image(path).pixels.shape[:2])) for path in sources)
    weights = sum(entry.size for entry in made.model.files if "weights" in entry.public_name)
    return {
        "task": options.task,
        "data": options.data.name,
        "method": options.method,
        **{title: f"{value:.3f}" for title, value in found.items()},
        "epochs": epochs,
        "epochs, CPU s": f"{epochs * each:.0f}",
        "training job, CPU s": f"{made.training.cpu:.0f}",
        "prediction, MPix per CPU s": f"{pixels / 1e6 / made.predicting.cpu:.2f}",
        # Linux counts in KiB.
        "peak memory, GiB": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}",
        "weights, MB": f"{weights / 1e6:.1f}",
    }


def print_table(path: Path) -> None:
    """Print the rows measured so far as one table for each task and dataset."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for task, data in dict.fromkeys((row["task"], row["data"]) for row in rows):
        chosen = [row for row in rows if (row["task"], row["data"]) == (task, data)]
        names = [name for name in chosen[0] if name not in ("task", "data")]
        print(f"\n{task}, {data}\n\n| {' | '.join(names)} |\n|{' --- |' * len(names)}")
        for row in chosen:
            print(f"| {' | '.join(str(row.get(name, '')) for name in names)} |")


def main() -> None:
    """Measure one method and add it to the table, which is printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seconds", type=float, default=100.0, help="processor seconds of all epochs together")
    parser.add_argument("--parameters", type=json.loads, default={}, help="parameters of the training, as JSON")
    parser.add_argument("--table", type=Path, default=Path("equal_time.jsonl"), help="where the rows are kept")
    options = parser.parse_args()
    row = measure(options)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    with options.table.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print_table(options.table)


if __name__ == "__main__":
    main()
