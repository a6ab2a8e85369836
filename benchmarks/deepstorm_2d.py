"""Deep-STORM beside fits of local maxima: Jaccard index and error of localisations, and the reconstruction.

Run it in the environment of deepstorm:

    PYTHONPATH=tests:services/qc .venvs/deepstorm/bin/python benchmarks/deepstorm_2d.py --data FOLDER --minutes 10

FOLDER has {train,test}/frames/NAME.tif and {train,test}/localizations/NAME.csv (ThunderSTORM), with pixels of 100 nm.
Each method trains with the code of a worker on a real S3 store, for so many minutes at most, and predicts the test
stacks.
The baseline, a least-squares fit of every local maximum, chooses its threshold on the training frames. Reconstructions
are compared with a rendering of the true emitters: both are blurred by a Gaussian of 20 nm, without which images of
points hardly correlate at all.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import Clock, local_store, run_job
from numpy.typing import NDArray
from scipy import ndimage
from support import publish_kind

from parfocal import v1
from parfocal.deepstorm import SERVICE
from parfocal.qc.metrics.baselines.spots import choose_spots
from parfocal.qc.metrics.objects.localisations import match_stack
from parfocal.runtime.datasets.coordinates import Localisations, read_localisations
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, ModelManifest, ResultManifest
from parfocal.runtime.store.store import Location, Store

PIXEL_NM = 100.0
RADII_NM = (250.0, 100.0)
BLUR_NM = 20.0
_UM = PIXEL_NM / 1e3


def prepare(data: Path, folder: Path) -> None:
    """Write the stacks with their pixel size, and their tables, as a dataset."""
    for split in ("train", "test"):
        for path in sorted((data / split / "frames").glob("*.tif")):
            for role in ("source", "target"):
                (folder / split / role).mkdir(parents=True, exist_ok=True)
            stack = Image(read_image(path).pixels, "TYX", PixelSize(_UM, _UM))
            write_image(folder / split / "source" / path.name, stack)
            table = (data / split / "localizations" / f"{path.stem}.csv").read_bytes()
            (folder / split / "target" / f"{path.stem}.csv").write_bytes(table)


def stacks(folder: Path, split: str) -> dict[str, tuple[NDArray[Any], Localisations]]:
    """Return the frames of a split with their emitters, by stem."""
    found = {}
    for path in sorted((folder / split / "source").glob("*.tif")):
        pixels = read_image(path).pixels
        table = folder / split / "target" / f"{path.stem}.csv"
        found[path.stem] = (pixels, read_localisations(table, (_UM, _UM), pixels.shape))
    return found


def rendered(found: Localisations, shape: tuple[int, ...], upsampling: int) -> NDArray[np.float64]:
    """Return the number of localisations in each fine pixel of frames of shape (Y, X)."""
    bins = [np.arange(length * upsampling + 1) / upsampling for length in shape]
    return np.asarray(np.histogram2d(found.y, found.x, bins)[0])


def correlation(first: NDArray[Any], second: NDArray[Any], upsampling: int) -> float:
    """Return Pearson's correlation of two images, blurred."""
    sigma = BLUR_NM / PIXEL_NM * upsampling
    blurred = [ndimage.gaussian_filter(np.asarray(each, np.float64), sigma).ravel() for each in (first, second)]
    return float(np.corrcoef(*blurred)[0, 1])


def report(name: str, found: Localisations, true: Localisations, pixels: NDArray[Any], image: NDArray[Any]) -> None:
    """Print one line for each radius; `image` is the reconstruction."""
    upsampling = image.shape[0] // pixels.shape[1]
    truth = rendered(true, pixels.shape[1:], upsampling)
    for radius in RADII_NM:
        score = match_stack(found, true, len(pixels), (PIXEL_NM, PIXEL_NM), radius).numbers()
        print(
            f"{name} | {radius:g} nm | Jaccard {score.jaccard:.3f} | recall {score.recall:.3f} | precision "
            f"{score.precision:.3f} | RMSE {score.rmse_nm:.1f} nm | efficiency {score.efficiency:.1f} | correlation "
            f"{correlation(image, truth, upsampling):.3f}"
        )


def read_table(path: Path) -> Localisations:
    """Return a predicted table."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(int(row["frame"]) - 1, float(row["y [nm]"]), float(row["x [nm]"])) for row in csv.DictReader(file)]
    table = np.array(rows, np.float64).reshape(-1, 3)
    y, x = table[:, 1] / PIXEL_NM, table[:, 2] / PIXEL_NM
    return Localisations(table[:, 0].astype(np.int64), y, x, np.full(len(rows), np.nan))


def train_and_predict(
    store: Store, method: str, dataset: str, folder: Path, parameters: dict[str, Any], minutes: float
) -> tuple[ModelManifest, dict[str, tuple[Localisations, NDArray[Any]]]]:
    """Return a model and, by stem of the test stacks, their localisations and reconstruction."""
    training = v1.TrainingSpec(method=method, dataset_uri=dataset, model=method, parameters=values_struct(parameters))
    with Clock() as clock:
        job = run_job(SERVICE, store, v1.StartJobRequest(training=training), folder, minutes)
    uri = job.outputs[0].uri
    model = ModelManifest.read(store, Location.parse(uri) / MODEL_MANIFEST)
    print(
        f"{method}: {model.epochs} epochs, best {model.best_epoch}, {clock.wall:.0f} s ({clock.cpu:.0f} s of the "
        f"processor); {json.dumps(model.facts.measured)}"
    )
    predict = v1.PredictionSpec(model_uri=uri, input_uri=dataset, split="test")
    with Clock() as clock:
        result = run_job(SERVICE, store, v1.StartJobRequest(prediction=predict), folder)
    print(f"{method}: predicted in {clock.wall:.0f} s")
    place = Location.parse(result.outputs[0].uri)
    found = {}
    for image in ResultManifest.read(store, place / RESULT_MANIFEST).images:
        local = {}
        for kind in ("localisations", "prediction"):
            local[kind] = folder / f"{method}-{Path(image.outputs[kind]).name}"
            store.download(place / image.outputs[kind], local[kind])
        found[Path(image.input).stem] = (read_table(local["localisations"]), read_image(local["prediction"]).pixels)
    return model, found


def main() -> None:
    """Measure the baseline and the methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--methods", nargs="+", default=[method.name for method in SERVICE.methods])
    parser.add_argument("--filters", type=int, default=16, help="of the first stage; published are 32")
    parser.add_argument("--upsampling", type=int, default=4, help="published is 8")
    parser.add_argument("--patches-per-epoch", type=int, default=1024)
    parser.add_argument("--parameters", type=json.loads, default={}, help="further ones of the trainings, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parameters = {
        "epochs": 10_000,
        "first_filters": options.filters,
        "upsampling": options.upsampling,
        "patches_per_epoch": options.patches_per_epoch,
        "seed": options.seed,
        **options.parameters,
    }
    print(json.dumps(parameters | {"epochs": f"as many as {options.minutes:g} minutes hold"}))
    with tempfile.TemporaryDirectory() as name, local_store(Path(name)) as store:
        folder = Path(name)
        prepare(options.data, folder / "data")
        dataset = publish_kind(store, "smlm", folder / "data", "coordinates")
        known = [
            (pixels[number], true.of_frame(number))
            for pixels, true in stacks(folder / "data", "train").values()
            for number in range(len(pixels))
        ]
        baseline = choose_spots(known, (PIXEL_NM, PIXEL_NM), RADII_NM[0])
        print(json.dumps(baseline.describe()))
        tests = stacks(folder / "data", "test")
        for stem, (pixels, true) in tests.items():
            found = baseline.find(pixels)
            report(f"{stem}: local maxima", found, true, pixels, rendered(found, pixels.shape[1:], options.upsampling))
            widefield = pixels.mean(axis=0).repeat(options.upsampling, 0).repeat(options.upsampling, 1)
            truth = rendered(true, pixels.shape[1:], options.upsampling)
            print(f"{stem}: mean of the frames | correlation {correlation(widefield, truth, options.upsampling):.3f}")
        for method in options.methods:
            _, predicted = train_and_predict(store, method, dataset, folder, parameters, options.minutes)
            for stem, (pixels, true) in tests.items():
                report(f"{stem}: {method}", predicted[stem][0], true, pixels, predicted[stem][1])


if __name__ == "__main__":
    main()
