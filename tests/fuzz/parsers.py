"""Every parser of what comes from outside: images, annotations, tables, weights, manifests, records, names."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from package_maker import PERCENTILES, described
from PIL import Image as Picture

from parfocal import v1
from parfocal.runtime.datasets.annotations.box import Box
from parfocal.runtime.datasets.annotations.coco import coco_bytes, parse_coco
from parfocal.runtime.datasets.annotations.voc import parse_voc, voc_bytes
from parfocal.runtime.datasets.annotations.yolo import parse_yolo, read_class_names
from parfocal.runtime.datasets.coordinates import read_localisations
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import Image, ImageLimits, PixelSize, read_image, write_image
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.importing import Values
from parfocal.runtime.packages.description import parse_description
from parfocal.runtime.packages.steps import check_undone, normaliser_of
from parfocal.runtime.prediction.detections import read_detections
from parfocal.runtime.store.evaluations import EvaluationSummary
from parfocal.runtime.store.manifests import DatasetManifest, Manifest, ModelManifest, ResultManifest
from parfocal.runtime.store.names import check_name, parse_version
from parfocal.runtime.store.scores import read_scores
from parfocal.runtime.store.store import Location

_LIMITS = ImageLimits(max_pixels=2**22, max_bytes=2**24)
_SHAPE = (48, 64)
Seeds = Sequence[bytes]


@dataclass(frozen=True)
class Parser:
    """A parser by its name: what it takes, good contents, and whether it reads a file or the content itself."""

    name: str
    parse: Callable[[Any], object]
    seeds: Seeds
    suffix: str = ""
    weight: int = 1


def all_parsers(folder: Path) -> list[Parser]:
    """Return all parsers; `folder` is where good files are made."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes = (Box("cell", (1.0, 2.0, 20.0, 30.0)), Box("nucleus", (5.5, 2.0, 9.0, 40.0)))
    yolo = b"0 0.5 0.5 0.2 0.2\n1 0.1 0.2 0.05 0.1\n0 0.1 0.1 0.2 0.1 0.2 0.2\n"
    return [
        Parser("tiff", lambda path: read_image(path, limits=_LIMITS), _tiffs(folder), ".tif", 4),
        Parser("labels", lambda path: read_image(path, limits=_LIMITS, labels=True), _tiffs(folder), ".tif"),
        Parser("raster", lambda path: read_image(path, limits=_LIMITS), _rasters(), ".png", 2),
        Parser("voc", lambda path: parse_voc(path, path.name, Notes()), [voc_bytes("a.tif", _SHAPE, boxes)], ".xml", 2),
        Parser("coco", lambda path: parse_coco(path, path.name, Notes()), [_coco(boxes)], ".json", 2),
        Parser(
            "yolo", lambda path: parse_yolo(path, path.name, ("cell", "nucleus"), _SHAPE, Notes()), [yolo], ".txt", 2
        ),
        Parser("classes", lambda path: read_class_names(path, path.name), [b"cell\nnucleus\n"], ".txt"),
        Parser("class-yaml", lambda path: read_class_names(path, path.name), _YAMLS, ".yaml"),
        Parser("coordinates", lambda path: read_localisations(path, (0.1, 0.1), (20, *_SHAPE)), _TABLES, ".csv", 2),
        Parser("detections", read_detections, [_DETECTIONS], ".csv", 2),
        Parser("scores", lambda data: read_scores(data.decode("utf-8", "replace"), ("ssim", "psnr")), [_SCORES]),
        Parser("arrays", load_arrays, _arrays(folder), ".npz", 2),
        Parser(
            "values", lambda path: Values.read(path, "csbdeep").get("axes"), [b'{"axes": "YXC", "n": [1, 2]}'], ".json"
        ),
        Parser("package", _package, _PACKAGES, ".json", 2),
        Parser("model", lambda data: ModelManifest.parse(data, "model.json"), _kept("model.json"), weight=2),
        Parser("dataset", lambda data: DatasetManifest.parse(data, "dataset.json"), [_DATASET], weight=2),
        Parser("result", lambda data: ResultManifest.parse(data, "manifest.json"), [_RESULT]),
        Parser("manifest", lambda data: Manifest.parse(data, "manifest.json"), [_RESULT, _DATASET]),
        Parser("summary", lambda data: EvaluationSummary.parse(data, "summary.json"), [_SUMMARY]),
        Parser("record", _record, [_RECORD], weight=2),
        Parser(
            "location", lambda data: Location.parse(data.decode("utf-8", "replace")), [b"s3://bucket/a/b", b"s3://b/1"]
        ),
        Parser("name", lambda data: check_name("model", data.decode("utf-8", "replace")), [b"cells-2", b"a_b.c"]),
        Parser("version", lambda data: parse_version("model", data.decode("utf-8", "replace")), [b"cells:2", b"cells"]),
    ]


def _package(path: Path) -> object:
    """Read what a package says, and take its steps."""
    description = parse_description(Values.read(path, "bioimage.io").content)
    description.attached("config.json")
    check_undone(description.output, normaliser_of(description.input, 1))
    return description.files, description.own, description.spatial


class _OneObject:
    """A store in which every object has the same content."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.jobs = Location("parfocal-jobs", "")

    def read_versioned(self, _place: Location) -> tuple[bytes, str]:
        return self.data, "1"

    def read(self, _place: Location) -> bytes:
        return self.data


def _record(data: bytes) -> object:
    """Read a record of a job, its events and the mark of its cancellation, all damaged in the same way."""
    jobs = JobStore(_OneObject(data))  # type: ignore[arg-type]
    jobs.cancel_mark(v1.Job(id="j-1", project="p"))
    try:
        record = jobs.read("p", "j-1")
    except NotFoundError:
        return None  # one that is being deleted
    record.job.last_sequence = min(record.job.last_sequence, 3)
    return list(jobs.events(record, 0))


def _tiffs(folder: Path) -> Seeds:
    rng = np.random.default_rng(1)
    seeds = []
    images: Mapping[str, Image] = {
        "plane": Image(rng.integers(0, 4000, (24, 32)).astype(np.uint16), "YX", PixelSize(0.1, 0.1)),
        "volume": Image(rng.random((3, 16, 16)).astype(np.float32), "ZYX", PixelSize(0.1, 0.1, 0.3)),
        "channels": Image(rng.integers(0, 255, (2, 16, 16)).astype(np.uint8), "CYX"),
        "colour": Image(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8), "YXS"),
    }
    for name, image in images.items():
        for compress in (True, False):
            path = folder / f"{name}-{compress}.tif"
            write_image(path, image, compress=compress)
            seeds.append(path.read_bytes())
    pixels = rng.integers(0, 255, (4, 16, 16)).astype(np.uint8)
    for options in (
        {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 0.3, "unit": "um"}},
        {"bigtiff": True, "tile": (16, 16)},
        {"compression": "lzma"},
        {"compression": "deflate", "predictor": 2},
        {"photometric": "miniswhite"},
        {"byteorder": ">", "rowsperstrip": 3},
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels if "imagej" in options else pixels[0], **options)
        seeds.append(buffer.getvalue())
    return seeds


def _rasters() -> Seeds:
    rng = np.random.default_rng(2)
    seeds = []
    grey = Picture.fromarray(rng.integers(0, 255, (16, 16)).astype(np.uint8))
    pictures = [
        (grey, "PNG"),
        (Picture.fromarray(rng.integers(0, 60000, (16, 16)).astype(np.uint16)), "PNG"),
        (grey.convert("P"), "PNG"),
        (grey.convert("1"), "PNG"),
        (grey.convert("RGBA"), "PNG"),
        (grey.convert("RGB"), "JPEG"),
        (grey, "BMP"),
    ]
    for picture, kind in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        seeds.append(buffer.getvalue())
    return seeds


def _arrays(folder: Path) -> Seeds:
    path = folder / "arrays.npz"
    save_arrays(path, {"a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.zeros(2, np.int64)})
    return [path.read_bytes()]


def _coco(boxes: tuple[Box, ...]) -> bytes:
    return coco_bytes({"a.tif": (_SHAPE, [(box, 0.5) for box in boxes])}, ("cell", "nucleus"))


def _kept(name: str) -> Seeds:
    folder = Path(__file__).parents[1] / "kept"
    return [path.read_bytes() for path in sorted(folder.rglob(name))]


_YAMLS = (
    b"names: [cell, 'nucleus']\n",
    b'nc: 2\nnames:\n  0: cell\n  1: "nucleus"\n',
    b"names:\n- cell\n- nucleus\n",
)
_TABLES = (
    b'"id","frame","x [nm]","y [nm]","sigma [nm]","intensity [photon]","uncertainty [nm]"\n1,1,120.5,300,90,800,12\n'
    b"2,2,1200,1300,90,900,11\n3,2,640.1,2000,95,700,13\n",
    b"frame;x [px];y [px]\n0;1.5;2.5\n1;30.25;12\n",
)
_DETECTIONS = (
    b"class,confidence,x_min_px,y_min_px,x_max_px,y_max_px,plane\ncell,0.9,1,2,20,30,0\n"
    b"nucleus,0.25,5.5,2,9,40,0\ncell,0.5,0,0,64,48,0\n"
)
_SCORES = b"image,kind,slice,ssim,psnr\na,input,0,0.5,20.1\na,prediction,0,0.9,\nb,baseline,0,0.75,25\n"
_DATASET = json.dumps(
    {
        "schema_version": 1,
        "project": "default",
        "dataset": "pairs",
        "version": 1,
        "images": [
            {
                "split": split,
                "role": role,
                "stem": "a",
                "file": f"{split}/{role}/a.tif",
                "shape": [64, 80],
                "dtype": "uint16",
                "axes": "YX",
                "pixel_size_um": [0.1, 0.1, None],
            }
            for split in ("train", "test")
            for role in ("source", "target")
        ],
        "files": [{"name": "train/source/a.tif", "size": 12, "sha256": "0" * 64}],
    }
).encode()
_RESULT = json.dumps(
    {
        "schema_version": 1,
        "project": "default",
        "job": "predict-1",
        "service": "fake",
        "method": "fake-2d",
        "kind": "prediction",
        "targets": ["target"],
        "files": [{"name": "a0001/a.tif", "size": 12, "sha256": "0" * 64}],
    }
).encode()
_METRIC: dict[str, Any] = {
    "key": "ssim",
    "title": "SSIM",
    "unit": "",
    "digits": 3,
    "better": "higher",
    "used_by_verdict": True,
}
_SUMMARY = json.dumps(
    {
        "task": "restoration",
        "definition": "how",
        "verdict": "passed",
        "images": 2,
        "columns": [_METRIC],
        "shown": ["ssim"],
        "metrics": {"prediction": {}},
        "worst_image": {"image": "a", "values": {"ssim": 0.5}, "slices": 1},
        "interval": {},
        "thresholds": {},
        "baseline": {"name": "Gaussian filter"},
    }
).encode()
_RECORD = json.dumps(
    {
        "deleting": False,
        "job": {
            "id": "j-1",
            "project": "p",
            "service": "fake",
            "state": "JOB_STATE_RUNNING",
            "attempt": 1,
            "lastSequence": "2",
            "createdAt": "2026-01-01T00:00:00Z",
            "checkpoints": ["0001-000001"],
            "training": {"method": "fake-2d", "model": "m", "parameters": {"epochs": 2.0}},
        },
        "last_event": {"sequence": "2", "attempt": 1, "stateChange": {"state": "JOB_STATE_RUNNING", "message": "x"}},
        "request_sha256": "0",
    }
).encode()

_PACKAGES: Seeds = [
    json.dumps(described(weights={"keras_hdf5": "a.h5"}, attachments=["config.json"], **steps)).encode()
    for steps in (
        {"before": [PERCENTILES, {"name": "clip", "kwargs": {"min": 0, "max": 1}}]},
        {
            "before": [{"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "mean": [3.0], "std": [2.0]}}],
            "behind": [{"name": "scale_linear", "kwargs": {"gain": [2.0], "offset": [3.0]}}],
        },
        {"config": {"parfocal": {"method": "care-2d", "verdict": {"state": "trusted", "reasons": ["It says so."]}}}},
    )
]
