"""Methods that find objects, trained for the same processor time on the same images: F1 on the same test images.

Run it once for each method, in the environment of that method:

    PYTHONPATH=tests:services/qc .venvs/cellpose/bin/python benchmarks/objects_in_equal_time.py cellpose-2d \
        --data FOLDER --seconds 100 --parameters '{"first_filters": 8}'

FOLDER has {train,test}/{source,target}. Two short trainings, of one and of nine epochs, measure the seconds of the
processor that an epoch takes; then a model is trained for as many epochs as fit into `--seconds`. Processor time is
counted instead of wall time so that other work on the machine does not matter, and epochs are chosen beforehand because
the learning rate of some methods falls towards the last one. Fetching, checking and calibrating are not part of the
time.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import Measured, train_and_predict

from parfocal.qc.metrics.objects.instances import Counts, score_instances
from parfocal.runtime.datasets.pairs import find_images
from parfocal.runtime.images.files import read_image
from parfocal.runtime.methods.service import load_service


def quality(predictions: dict[str, Any], target_folder: Path) -> tuple[float, float]:
    """Return F1 at an IoU of 0.5 and of 0.75, over all objects of the test images."""
    totals = {0.5: Counts(), 0.75: Counts()}
    for stem, path in find_images(target_folder).items():
        counts = score_instances(read_image(path).pixels, predictions[stem], name=stem).counts
        totals = {level: total + counts[level] for level, total in totals.items()}
    return totals[0.5].f1, totals[0.75].f1


def main() -> None:
    """Measure an epoch, train for the given time, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100.0, help="processor seconds of all epochs together")
    parser.add_argument("--parameters", type=json.loads, default={}, help="parameters of the training, as JSON")
    options = parser.parse_args()
    service = load_service(f"parfocal.{options.method.partition('-')[0]}")

    def trained(epochs: int) -> Measured:
        with tempfile.TemporaryDirectory() as name:
            values = {**options.parameters, "epochs": epochs}
            return train_and_predict(service, options.method, options.data, values, Path(name))

    # The first training compiles what the others find compiled.
    _, one, nine = (trained(epochs).training.cpu for epochs in (1, 1, 9))
    each = (nine - one) / 8
    epochs = max(3, round(options.seconds / each))
    print(f"an epoch takes {each:.2f} s of the processor: {epochs} epochs", flush=True)
    made = trained(epochs)
    f1, strict = quality(made.predictions, options.data / "test" / "target")
    sources = find_images(options.data / "test" / "source").values()
    pixels = sum(int(np.prod(read_image(path).pixels.shape[:2])) for path in sources)
    print(
        f"{options.method}: F1 {f1:.3f} at IoU 0.5, {strict:.3f} at 0.75; {epochs} epochs, {epochs * each:.0f} s "
        f"of the processor ({made.training.cpu:.0f} s in all, {made.training.wall:.0f} s of the clock); "
        f"prediction {pixels / 1e6 / made.predicting.cpu:.2f} MPix per second of the processor",
        flush=True,
    )


if __name__ == "__main__":
    main()
