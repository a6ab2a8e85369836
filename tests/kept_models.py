"""Models of earlier versions, kept in tests/kept, and the suite that opens them: an upgrade must not break a model.

Every version keeps one small model of each method, before it is released:

    PYTHONPATH=tests:benchmarks .venvs/care/bin/python -m kept_models care

trains those of a family (or only the methods named behind it) with the parameters of its contract.json and writes
tests/kept/VERSION/METHOD: the model as it is published, an image, and what the model makes of it. A class derived from
`KeptModelSuite` in the tests of the family opens the models of all versions and compares.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support import ROOT

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.package_record import RECORD
from parfocal.runtime.methods.service import Method, Service, load_service, values_struct
from parfocal.runtime.packages.importing import import_package
from parfocal.runtime.packages.package import CONTENT, FILES, Package
from parfocal.runtime.prediction.bioimageio import export
from parfocal.runtime.prediction.loaded_model import load_model, predict_image
from parfocal.runtime.prediction.outputs import Predicted
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest

KEPT = ROOT / "tests" / "kept"
# What a version may add to the repository for a method.
_MOST_BYTES = 1_000_000
# Methods whose models other programs can run.
_EXPORTED = {
    *("care-2d", "care-3d", "cyclegan", "fnet-2d", "fnet-3d", "n2v-2d", "n2v-3d", "pix2pix"),
    *("stardist-2d", "stardist-3d", "unet-2d", "unet-3d"),
}
_REPORTS = {".pdf", ".png", ".html", ".csv"}


def predicted(method: Method, folder: Path, scratch: Path) -> Predicted:
    """Return what the model in a folder makes of the image beside it."""
    manifest = ModelManifest.model_validate_json((folder / MODEL_MANIFEST).read_bytes())
    model = load_model(method, manifest, folder / "model", weights=next(iter(manifest.weights)))
    parameters: Any = method.parse(v1.JOB_KIND_PREDICTION, {})
    return predict_image(model, read_image(folder / "image.tif"), parameters, scratch, "image").finish()


def places(service: str) -> Iterator[Any]:
    """Yield the folders of the models that a family has kept, named by version and method."""
    for path in sorted(KEPT.glob(f"*/*/{MODEL_MANIFEST}")):
        if ModelManifest.model_validate_json(path.read_bytes()).service == service:
            yield pytest.param(path.parent, id=f"{path.parent.parent.name}-{path.parent.name}")


class KeptModelSuite:
    """Models of earlier versions open and predict as they did. Derived classes name their `service`."""

    service: ClassVar[Service]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("kept", list(places(self.service.name)))

    def test_it_opens_and_predicts_as_it_did(self, kept: Path, tmp_path: Path) -> None:
        method = self.service.method(kept.name)
        found = predicted(method, kept, tmp_path)
        expected = {path.stem: read_image(path).pixels for path in (kept / "images").glob("*.tif")}
        assert set(found.images) == set(expected)
        assert sorted(found.files) == json.loads((kept / "files.json").read_text())
        for name, pixels in expected.items():
            made = found.images[name].pixels
            assert (made.shape, made.dtype) == (pixels.shape, pixels.dtype)
            if method.task == v1.TASK_INSTANCE_SEGMENTATION and pixels.dtype.kind == "u":
                # Objects are numbered by their probability, and those of so short a training are nearly the same.
                assert made.max() == pytest.approx(pixels.max(), rel=0.01)
                made, pixels = made > 0, pixels > 0
            # Processors differ in the last digits, which may move single pixels across a threshold.
            span = float(np.ptp(pixels.astype(np.float64))) or 1.0
            difference = np.abs(made.astype(np.float64) - pixels)
            assert np.mean(difference > 1e-3 * span) < 0.01

    def test_it_is_exported_with_the_result_it_gives_here_or_refused_in_words(self, kept: Path, tmp_path: Path) -> None:
        method = self.service.method(kept.name)
        manifest = ModelManifest.model_validate_json((kept / MODEL_MANIFEST).read_bytes())
        model = load_model(method, manifest, kept / "model", weights=next(iter(manifest.weights)))
        if method.name not in _EXPORTED:
            with pytest.raises(InvalidInputError, match="cannot be written for other programs"):
                export(model, tmp_path)
            return
        image = None
        if method.axes == "YX":
            small = read_image(kept / "image.tif")
            image = tmp_path / "large.tif"
            write_image(
                image, Image(np.tile(small.pixels, [4 if axis in "YX" else 1 for axis in small.axes]), small.axes)
            )
        report = export(model, tmp_path, image)
        ((weights, file),) = report["weights"].items()
        assert (tmp_path / file["source"]).stat().st_size > 0
        taken, made = (
            np.load(tmp_path / report[side][0]["test_tensor"]["source"])[0] for side in ("inputs", "outputs")
        )
        if weights == "torchscript":
            taken, made = (np.moveaxis(each, 0, -1) for each in (taken, made))
        sent = Image(taken[..., 0], method.axes) if taken.shape[-1] == 1 else Image(taken, method.axes + "S")
        parameters: Any = method.parse(v1.JOB_KIND_PREDICTION, {"precision": "float32"})
        found = predict_image(model, sent, parameters, tmp_path, "image").finish().images["prediction"].pixels
        expected = made[..., 0] if made.shape[-1] != 3 or found.ndim == made.ndim - 1 else made
        if method.task == v1.TASK_INSTANCE_SEGMENTATION:
            assert np.mean((expected > 0) != (found > 0)) < 0.001
        elif method.task == v1.TASK_SEMANTIC_SEGMENTATION:
            assert made.min() >= 0
            assert made.max() <= 1
            measured = manifest.facts.measured
            classes = expected >= measured["threshold"] if made.shape[-1] == 1 else np.argmax(made, axis=-1)
            assert np.mean(np.array(measured["class_values"])[classes.astype(int)] != found) < 0.001
        else:
            if method.task == v1.TASK_RESTORATION:
                normaliser = model.view.normaliser
                expected = normaliser.undo(expected, normaliser.fit(sent.pixels, sent.axes))
            np.testing.assert_allclose(expected, found, rtol=1e-3, atol=1e-3 * float(np.ptp(found)))

    def test_its_package_becomes_the_same_model(self, kept: Path, tmp_path: Path) -> None:
        method = self.service.method(kept.name)
        if method.name not in _EXPORTED:
            pytest.skip("It has no package.")
        manifest = ModelManifest.model_validate_json((kept / MODEL_MANIFEST).read_bytes())
        weights = next(iter(manifest.weights))
        model = load_model(method, manifest, kept / "model", weights=weights)
        files = tmp_path / "package" / FILES
        files.mkdir(parents=True)
        report = export(model, files, None, weights)
        content = {
            "format_version": "0.5.12",
            "type": "model",
            "name": "kept",
            **{part: report[part] for part in ("inputs", "outputs", "weights")},
            "attachments": [{"source": name} for name in report["attachments"]],
            "config": {
                "parfocal": {"method": method.name, "verdict": {"state": "trusted", "reasons": ["It says so."]}}
            },
        }
        (files.parent / CONTENT).write_text(json.dumps(content))
        package = Package.read(files.parent)
        assert package.method == method.name
        (tmp_path / "model").mkdir()
        module = f"parfocal.{self.service.name}"
        fields = import_package(module, method, package, tmp_path / "model")
        # What the package says of itself is kept as its word.
        assert fields["package"]["verdict"] == "trusted"
        former = manifest.model_dump(mode="json")
        former["normaliser"] = Normaliser.of_record(manifest.normaliser).record()
        for name in ("method", "axes", "parameters", "facts", "normaliser", "training_statistics", "pixel_size_um"):
            assert fields[name] == former[name], name
        back = ModelManifest.model_validate({**former, **fields})
        found = load_model(method, back, tmp_path / "model", weights=weights).learner.weights()
        for name, values in model.learner.weights().items():
            np.testing.assert_array_equal(found[name], values)
        # A file that was changed gives something else than the example.
        record = json.loads((files / RECORD).read_text())
        record["normaliser"] = {"rule": "fixed", "constants": {"offset": [-1e4], "scale": [0.5]}}
        (files / RECORD).write_text(json.dumps(record))
        (tmp_path / "other").mkdir()
        with pytest.raises(InvalidInputError):
            import_package(module, method, package, tmp_path / "other")


def _image(method: Method, channels: int, data: Path) -> Image:
    """Return an image for a method: new, or of recordings one of the test images of its data."""
    from example_data import PAIRS

    if method.axes == "TYX":
        return read_image(data / "test" / "source" / "field0.tif")
    pair, shape = PAIRS[method.axes, False]
    rng = np.random.default_rng(7)
    pixels = np.stack([pair(rng, shape)[0] for _ in range(channels)], axis=-1)
    return Image(pixels[..., 0], method.axes) if channels == 1 else Image(pixels, method.axes + "S")


def keep(service: Service, *methods: str) -> None:
    """Train a model of each method of a family, or of those named, and keep it under the present version."""
    from common import local_store, run_job
    from example_data import publish_for

    from parfocal.runtime.store.store import Location

    content = json.loads((ROOT / "tests" / service.name / "contract.json").read_text())
    for entry in (content, *content.get("further", ())):
        method = service.method(entry["method"])
        if methods and method.name not in methods:
            continue
        with tempfile.TemporaryDirectory() as name, local_store(Path(name)) as store:
            uri = publish_for(store, "images", Path(name) / "data", method.target, method.axes)
            spec = v1.TrainingSpec(
                method=method.name, dataset_uri=uri, model="kept", parameters=values_struct(entry["parameters"])
            )
            job = run_job(service, store, v1.StartJobRequest(training=spec), Path(name))
            place = Location.parse(job.outputs[0].uri)
            manifest = ModelManifest.read(store, place / MODEL_MANIFEST)
            folder = KEPT / importlib.metadata.version(f"parfocal-{service.name}") / method.name
            shutil.rmtree(folder, ignore_errors=True)
            usual = f"weights_{next(iter(manifest.weights))}"
            for file in manifest.files:
                path = Path(file.public_name)
                # One set of weights is enough to open, and reports are nothing to open.
                if path.suffix not in _REPORTS and (path.stem == usual or not path.stem.startswith("weights_")):
                    store.download(place / file.name, folder / "model" / path)
            if sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > _MOST_BYTES:
                shutil.rmtree(folder)
                sys.stdout.write(f"{method.name} is too large to keep\n")
                continue
            (folder / MODEL_MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
            write_image(folder / "image.tif", _image(method, manifest.facts.input_channels, Path(name) / "data"))
            outputs = predicted(method, folder, Path(name) / "outputs")
            for role, made in outputs.images.items():
                (folder / "images").mkdir(exist_ok=True)
                write_image(folder / "images" / f"{role}.tif", made)
            (folder / "files.json").write_text(json.dumps(sorted(outputs.files)) + "\n")
            sys.stdout.write(f"kept {folder.relative_to(ROOT)}\n")


if __name__ == "__main__":
    keep(load_service(f"parfocal.{sys.argv[1]}"), *sys.argv[2:])
