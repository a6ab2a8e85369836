"""pix2pix after 10 and after 20 minutes of training, beside fnet, a linear predictor, and the mean image.

Run it in the environment of gan:

    PYTHONPATH=tests:services/qc:services/fnet .venvs/gan/bin/python benchmarks/translation_paired.py --data FOLDER

FOLDER has {train,test}/{source,target}, in pairs. Scores are those of quality control (restoration): SSIM and Pearson
correlation after the best linear fit of intensities to the target, means over the test images. Of both networks those
weights count that the method itself would have kept by its validation images, had training ended after the minutes
given. The linear predictor is the best linear function of a pixel's grey value, the mean image the mean of all training
targets; both are fitted to all training images. Networks are smaller than published, so that minutes on a processor
show something: widths and sizes are options and are printed. A method that OUT has been measured in already is not
trained again, so that the table can be made in several goes (`--methods`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import local_store
from matplotlib.figure import Figure
from numpy.typing import NDArray
from support import publish_kind
from watched import chosen, normalised, read_images, read_table, train, write_table

from parfocal.fnet import SERVICE as FNET
from parfocal.gan import SERVICE as GAN
from parfocal.qc.metrics.baselines.linear import fit_linear_predictor
from parfocal.qc.metrics.images.fit import scale_target
from parfocal.qc.metrics.images.restoration import score_scaled
from parfocal.runtime.images.files import Image
from parfocal.runtime.methods.implementation import Selection
from parfocal.runtime.methods.service import Service
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.store.facts import Facts

Images = Mapping[str, NDArray[Any]]
_SHOWN = 3


class TestImages:
    """The test images, and how well predictions of them fit the targets."""

    def __init__(self, data: Path) -> None:
        self.sources, self.targets = (read_images(data / "test" / role) for role in ("source", "target"))
        self._scaled = {stem: scale_target(image.pixels) for stem, image in self.targets.items()}
        self.predicted: list[Images] = []

    def scores(self, made: Images) -> dict[str, float]:
        """Return mean SSIM and Pearson correlation."""
        found = [score_scaled(made[stem], scaled)[0] for stem, scaled in self._scaled.items()]
        return {f"test_{name}": float(np.mean([getattr(each, name) for each in found])) for name in ("ssim", "pearson")}

    def look(self, implementation: Any, learner: Any, parameters: Any, facts: Facts) -> dict[str, float]:
        """Predict and score them with a network in training."""
        made = {}
        for stem, image in self.sources.items():
            pixels = normalised(implementation, image)
            made[stem] = implementation.apply(learner, pixels, parameters, facts, Tiling(2**20))["prediction"].pixels
        self.predicted.append(made)
        return self.scores(made)


def networks(options: argparse.Namespace) -> dict[str, tuple[Service, Selection, list[float]]]:
    """Return, by method, the service, what selects its weights, and after how many minutes it is judged."""
    return {
        "pix2pix": (GAN, Selection("ssim", "higher"), options.minutes),
        "fnet-2d": (FNET, Selection(), [options.fnet_minutes]),
    }


def parameters(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of a training that goes on until its time is up."""
    common = {"epochs": 100_000, "seed": options.seed, "first_filters": options.filters}
    if method == "fnet-2d":
        return common | {"patch_size": 128, "patches_per_image": 8, "batch_size": 8}
    return common | {
        "patch_size": 256,
        "network_depth": 8,
        "patches_per_image": 2,
        "batch_size": 1,
        "augment_rotate": True,
        "decay_epochs": 0,
        "score_every": 2,
    }


def measure(method: str, options: argparse.Namespace, test: TestImages) -> None:
    """Train a network, and write its curve and its predictions to OUT."""
    service, selection, ends = networks(options)[method]
    values = parameters(method, options)
    print(f"{method}, {max(ends):g} minutes: {values}", flush=True)
    with tempfile.TemporaryDirectory() as name, local_store(Path(name)) as store:
        folder = Path(name) / method
        dataset = publish_kind(store, "benchmark", options.data, "paired")
        rows = train(
            service, store, method, dataset, values, folder, minutes=max(ends), look=test.look, look_every=1
        ).rows
    looks = [row for row in rows if "test_ssim" in row]
    options.out.mkdir(parents=True, exist_ok=True)
    for end in ends:
        np.savez(options.out / f"{method}-{end:g}.npz", **test.predicted[looks.index(chosen(looks, selection, end))])
    test.predicted.clear()
    write_table(options.out / f"{method}.csv", rows)


def main() -> None:
    """Train, print the table, and write it with a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 20], help="of the training of pix2pix")
    parser.add_argument("--fnet-minutes", type=float, default=5)
    parser.add_argument("--filters", type=int, default=16, help="first filters of both networks")
    parser.add_argument("--methods", nargs="+", choices=("pix2pix", "fnet-2d"), default=["pix2pix", "fnet-2d"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("translation_paired"))
    options = parser.parse_args()
    test = TestImages(options.data)
    for method in options.methods:
        if not (options.out / f"{method}.csv").exists():
            measure(method, options, test)
    pictures: dict[str, Images] = {}
    table: list[dict[str, Any]] = []
    for name, made in baselines(options.data, test.sources).items():
        pictures[name] = made
        table.append({"method": name, **test.scores(made)})
    curves = {}
    for method, (_, selection, minutes) in networks(options).items():
        if (options.out / f"{method}.csv").exists():
            curves[method] = rows = read_table(options.out / f"{method}.csv")
            for end in minutes:
                row, name = chosen(rows, selection, end), f"{method}, {end:g} min"
                pictures[name] = dict(np.load(options.out / f"{method}-{end:g}.npz"))
                scores = {
                    key: row[key] for key in ("epoch", "minutes", "processor_minutes", "test_ssim", "test_pearson")
                }
                table.append({"method": name, **scores})
    for entry in table:
        print(f"{entry['method']:20s} SSIM {entry['test_ssim']:.3f}  Pearson {entry['test_pearson']:.3f}", end="")
        print(
            f"  (epoch {entry['epoch']:.0f}, {entry['minutes']:.1f} min, of the processor "
            f"{entry['processor_minutes']:.1f})"
            if "epoch" in entry
            else ""
        )
    write_table(options.out / "scores.csv", table)
    figure(test, curves, pictures, table).savefig(options.out / "translation_paired.png", dpi=140)
    print(f"table and figure: {options.out}")


def baselines(data: Path, sources: Mapping[str, Image]) -> dict[str, Images]:
    """Return the baselines: the mean of all training targets, and the best linear function of a grey value."""
    known, targets = (read_images(data / "train" / role) for role in ("source", "target"))
    mean = np.mean([image.pixels for image in targets.values()], axis=0)
    linear = fit_linear_predictor((known[stem].pixels, targets[stem].pixels) for stem in known)
    return {
        "mean image": dict.fromkeys(sources, mean),
        "linear predictor": {stem: linear.apply(image.pixels) for stem, image in sources.items()},
    }


def figure(
    test: TestImages,
    curves: Mapping[str, list[dict[str, float]]],
    pictures: Mapping[str, Images],
    table: list[dict[str, Any]],
) -> Figure:
    """Return the scores over time above examples."""
    result = Figure(figsize=(2.2 * (len(pictures) + 1), 10), layout="constrained")
    above, below = result.subfigures(2, 1, height_ratios=[1, 2])
    for axes, (key, title) in zip(
        above.subplots(1, 2), {"test_ssim": "SSIM", "test_pearson": "Pearson correlation"}.items(), strict=True
    ):
        for method, curve in curves.items():
            rows = [row for row in curve if key in row]
            axes.plot([row["minutes"] for row in rows], [row[key] for row in rows], label=method, linewidth=1)
        for entry, style in zip(table[:2], (":", "--"), strict=True):
            axes.axhline(entry[key], color="grey", linestyle=style, label=entry["method"])
        axes.set(xlabel="minutes of training", ylabel=f"{title}, mean over {len(test.targets)} test images")
        axes.legend(fontsize=7)
    columns = {"source": {stem: image.pixels for stem, image in test.sources.items()}}
    columns |= {name: made for name, made in pictures.items() if name != "mean image"}
    columns["target"] = {stem: image.pixels for stem, image in test.targets.items()}
    stems = list(test.targets)[:_SHOWN]
    for row, stem in zip(below.subplots(len(stems), len(columns)), stems, strict=True):
        for axes, (name, made) in zip(row, columns.items(), strict=True):
            low, high = np.percentile(made[stem], [0.5, 99.5])
            axes.imshow(made[stem], cmap="gray", vmin=low, vmax=high)
            axes.set_axis_off()
            if stem == stems[0]:
                axes.set_title(name, fontsize=8)
    return result


if __name__ == "__main__":
    main()
