"""What all tests share: a real S3 server, real services as processes, and tiny images."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.images.files import Image, PixelSize, image_stem, inspect_image, write_image
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    ImageEntry,
    Manifest,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.names import dataset_location, model_location, result_location
from parfocal.runtime.store.publish import claim_version, folder_files, publish, upload_files
from parfocal.runtime.store.store import Location, Store

ROOT = Path(__file__).parent.parent
PORT_FLAGS = (
    *("master.port", "volume.port", "filer.port", "admin.port", "s3.port.grpc"),
    *("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "admin.port.grpc"),
)
# Environment and module of services that have none of their own; the others are called as their folder. The module of
# the fake service lies beside this file.
MODULES = {
    "fake": ("qc", "fake"),
    "kinds": ("qc", "fake.kinds"),
    "outcomes": ("qc", "fake.outcomes"),
    "scaffold": ("fnet", "parfocal.scaffold"),
}


def mentions(text: str, *parts: str) -> bool:
    """Return whether a message has all these names, numbers and words in it, in whatever order."""
    return all(part in text for part in parts)


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def search_path(*folders: Path | str) -> str:
    """Return a PYTHONPATH of some folders and what is on the present one."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def wait_for(condition: Callable[[], Any], seconds: float = 30.0, what: str = "the condition") -> Any:
    """Return the first true value of `condition`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come about within {seconds} s")


def interruptible(*arguments: str) -> list[str]:
    """Return the command line of a `parfocal` that heeds Ctrl-C.

    A shell's background jobs ignore the signal, and children inherit that. It is undone in the command itself: code
    between fork and exec (`preexec_fn`) runs the fork handlers of gRPC, which were seen to abort the child.
    """
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    return [sys.executable, "-c", code + "from parfocal.cli import main; sys.exit(main())", *arguments]


@dataclass
class S3Server:
    """A SeaweedFS process; it can be stopped and started again on the same data and ports."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(1 + len(PORT_FLAGS)))
    process: subprocess.Popen[bytes] | None = None
    access_key: str = "test-access"
    secret_key: str = "test-secret"
    _catalog: ServiceProcess | None = None

    @property
    def catalog(self) -> str:
        """Address of a catalogue of this store, which is started when somebody asks for it."""
        if self._catalog is None:
            self._catalog = ServiceProcess("catalog", self.environment, self.folder / "catalog").start()
        return self._catalog.address

    @property
    def client_environment(self) -> dict[str, str]:
        """The settings of a client, and the key of the store, with which tests look what a client has done."""
        return {**self.environment, "PARFOCAL_CATALOG": self.catalog}

    @property
    def client_settings(self) -> Settings:
        """The same as settings."""
        return self.store().settings.model_copy(update={"catalog": self.catalog})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PARFOCAL_S3_ENDPOINT": self.endpoint,
            "PARFOCAL_S3_ACCESS_KEY": self.access_key,
            "PARFOCAL_S3_SECRET_KEY": self.secret_key,
        }

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        self.write_config(config)
        weed = Path(sysconfig.get_path("scripts")) / "weed"
        command = [str(weed), "-logtostderr=true", "mini", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1"]
        command += [
            "-ip.bind=127.0.0.1",
            f"-s3.port={self.ports[0]}",
            f"-s3.config={config}",
            "-s3.iam=false",
            "-webdav=false",
        ]
        command += [f"-{flag}={port}" for flag, port in zip(PORT_FLAGS, self.ports[1:], strict=True)]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-master.telemetry=false"]
        command += ["-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64", "-s3.autoCreateBucket=false"]
        (self.folder / "data").mkdir(exist_ok=True)
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._ready, 60, "the S3 server")

    def write_config(self, path: Path) -> None:
        """Write who may do what in the store."""
        identity = {
            "name": "test",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        path.write_text(json.dumps({"identities": [identity]}))

    def stop(self) -> None:
        if self._catalog is not None:
            self._catalog.stop()
            self._catalog = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def store(self) -> Store:
        """A client of this server."""
        return Store(
            Settings(s3_endpoint=self.endpoint, s3_access_key=self.access_key, s3_secret_key=self.secret_key)  # type: ignore[arg-type]
        )

    def _ready(self) -> bool:
        try:
            self.store().ensure_buckets()
        except UnavailableError:
            return False
        return True


# Set by deploy/images/check: by service, where its image is mounted, its environment and its command.
IMAGES: dict[str, Any] = json.loads(os.environ.get("PARFOCAL_TEST_IMAGES", "{}"))


def in_image(unit: str, volume: Path, settings: dict[str, str], *command: str) -> list[str]:
    """Return the command line that runs the command of a unit's image, or another one, in its file system.

    `volume` becomes the folder that it may write; `settings` are added to the environment that the image has.
    """
    image = IMAGES[unit]
    pairs = [f"{key}={value}" for key, value in {**image["environment"], **settings}.items()]
    program = command or image["command"]
    return [str(ROOT / "deploy/images/enter"), image["root"], str(volume), *pairs, "--", *program]


@dataclass
class ServiceProcess:
    """A service as a process of its own environment, or of its image; it can be killed and started again."""

    name: str
    environment: dict[str, str]
    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> ServiceProcess:
        env, module = MODULES.get(self.name, (self.name, f"parfocal.{self.name}"))
        python = ROOT / ".venvs" / env / "bin" / "python"
        variables = {**os.environ, **self.environment, "PARFOCAL_LISTEN": self.address}
        variables.setdefault("PARFOCAL_STATE_DIR", str(self.folder / "state"))
        if module.startswith("fake"):
            # Its workers inherit it.
            variables["PYTHONPATH"] = search_path(ROOT / "tests")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(python), "-m", "parfocal.runtime.server", module]
        if self.name in IMAGES:
            command = in_image(self.name, self.folder, {**self.environment, "PARFOCAL_LISTEN": self.address})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        wait_for(self._ready, 60, f"the service {self.name} ({self.log})")
        return self

    def stop(self) -> int:
        """End it as a supervisor would; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        self.process = None
        return code

    def kill(self) -> None:
        """End it as the out-of-memory killer would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended at start:\n{self.log.read_text()[-3000:]}")
        with grpc.insecure_channel(self.address) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def fake_command(python: Path) -> tuple[str, ...]:
    """Return what starts the fake service: a stack takes PYTHONPATH from its units, and this one is found by it."""
    return ("env", f"PYTHONPATH={ROOT / 'tests'}", str(python), "-m", "parfocal.runtime.server", "fake")


def read_audit(path: Path | str) -> list[dict[str, str]]:
    """Return the entries of an audit log."""
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def filament_pair(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Return a noisy and a clean uint16 image (Y, X) of blurred lines."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    clean = np.full(shape, 100.0)
    for angle, offset in zip(rng.uniform(0, np.pi, 6), rng.uniform(-0.5, 0.5, 6), strict=True):
        distance = (x / shape[1] - 0.5) * np.cos(angle) + (y / shape[0] - 0.5) * np.sin(angle) - offset
        clean += rng.uniform(200, 900) * np.exp(-((distance / 0.03) ** 2))
    noisy = rng.poisson(clean / 20) * 20 + rng.normal(0, 20, shape)
    return np.clip(noisy, 0, 65535).astype(np.uint16), clean.astype(np.uint16)


def nuclei_pair(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Return a noisy uint16 image (Y, X) of bright ellipses, some touching, and the label image of them."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.uint16)
    for number in range(1, max(4, shape[0] * shape[1] // 700)):
        row, column, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(5, 8)
        inside = ((y - row) / radius) ** 2 + ((x - column) / (radius * rng.uniform(0.8, 1.2))) ** 2 <= 1
        labels[inside & (labels == 0)] = number
    expected = 100 + 20 * rng.poisson(4 + 20 * (labels > 0), shape)
    return expected.astype(np.uint16), labels


def filament_volumes(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """Return a noisy and a clean uint16 volume (Z, Y, X) of blurred lines that are brightest in the middle plane."""
    _, lines = filament_pair(rng, shape[1:])
    planes = np.exp(-((np.linspace(-1.5, 1.5, shape[0])) ** 2))
    clean = 100 + planes[:, np.newaxis, np.newaxis] * (lines - 100.0)
    noisy = rng.poisson(clean / 20) * 20 + rng.normal(0, 20, shape)
    return np.clip(noisy, 0, 65535).astype(np.uint16), clean.astype(np.uint16)


def nuclei_volumes(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Any, Any]:
    """Return a noisy uint16 volume (Z, Y, X) of bright ellipsoids, half as high as wide, and the labels of them."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    labels = np.zeros(shape, np.uint16)
    for number in range(1, 6):
        plane, row, column = (rng.uniform(0.2, 0.8) * length for length in shape)
        radius = rng.uniform(5, 8)
        inside = (2 * (z - plane)) ** 2 + (y - row) ** 2 + (x - column) ** 2 <= radius**2
        labels[inside & (labels == 0)] = number
    expected = 100 + 20 * rng.poisson(4 + 20 * (labels > 0), shape)
    return expected.astype(np.uint16), labels


def write_pairs(folder: Path, pair: Callable[..., tuple[Any, Any]], shape: tuple[int, ...] = (64, 80)) -> Path:
    """Write a dataset folder of 5 training and 3 test pairs of images (Y, X) or (Z, Y, X) by `pair`; return it."""
    pixel_size = PixelSize(0.1, 0.1, None if len(shape) == 2 else 0.2)
    rng = np.random.default_rng(1)
    for split, count in (("train", 5), ("test", 3)):
        for number in range(count):
            for role, pixels in zip(("source", "target"), pair(rng, shape), strict=True):
                path = folder / split / role / f"field{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(pixels=pixels, axes="ZYX"[-len(shape) :], pixel_size=pixel_size))
    return folder


def publish_kind(store: Any, name: str, folder: Path, kind: str = "", axes: str = "") -> str:
    """Publish a folder of any kind as the client does, and return the address of the dataset version."""
    report = check_folder(folder, kind=kind, axes=axes)
    place = claim_version(store, dataset_location(store, "default", name), "test")
    with tempfile.TemporaryDirectory() as scratch:
        entries = []
        for item in report.items():
            path = Path(scratch) / item.file
            path.parent.mkdir(parents=True, exist_ok=True)
            entries.append(item.write(path))
        files = upload_files(store, place, folder_files(Path(scratch)))
    manifest = report.manifest(files, entries, project="default", dataset=name, version=int(place.name))
    return publish(store, place, DATASET_MANIFEST, manifest)


def publish_dataset(store: Any, name: str, folder: Path, project: str = "default") -> str:
    """Publish a folder {train,test}/{source,target} as a dataset version without a kind and return its address."""
    place = claim_version(store, dataset_location(store, project, name), "test")
    files = folder_files(folder)
    images = []
    for path, file in files:
        split, role, _ = file.split("/")
        header = inspect_image(path)
        entry = ImageEntry(
            split=split,
            role=role,
            stem=image_stem(path),
            file=file,
            shape=header.shape,
            dtype=str(header.dtype),
            axes=header.axes,
            pixel_size_um=(0.1, 0.1, header.pixel_size.z if header.pixel_size else None),
        )
        images.append(entry)
    manifest = DatasetManifest(
        project=project,
        dataset=name,
        version=int(place.name),
        images=tuple(images),
        files=upload_files(store, place, files),
    )
    return publish(store, place, DATASET_MANIFEST, manifest)


def publish_model(store: Any, name: str, dataset: str, **fields: Any) -> str:
    """Publish a model without files that was trained on a dataset, for what only reads its manifest."""
    place = claim_version(store, model_location(store, fields.get("project", "default"), name), "test")
    known = {"service": "test", "method": "test", "job": "none", "parameters": {}, "axes": "YX", "normaliser": {}}
    known |= {"project": "default", "model": name, "version": int(place.name), "dataset_uri": dataset}
    known["weights"] = {"best": {"epoch": 1}, "last": {"epoch": 1}}
    manifest = ModelManifest.model_validate(known | fields)
    return publish(store, place, MODEL_MANIFEST, manifest)


def publish_images(store: Any, folder: Path, targets: tuple[str, ...] = ("target",), **fields: Any) -> str:
    """Publish the images in a folder as a prediction of a new name and return its address.

    Those of the first target lie in the folder itself, those of each further one in a folder of its name.
    """
    place = result_location(store, "default", f"predicted-{uuid.uuid4().hex}")
    manifest = ResultManifest(
        project="default",
        job="none",
        service="test",
        method="test",
        kind="prediction",
        targets=targets,
        files=upload_files(store, place, folder_files(folder)),
        **fields,
    )
    return publish(store, place, RESULT_MANIFEST, manifest)


def put_image(store: Any, place: Location, seed: int) -> None:
    """Write an image of 32x48 random pixels (uint16, YX) to the store, as a microscope might."""
    pixels = np.random.default_rng(seed).integers(0, 4000, (32, 48)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.tif"
        write_image(path, Image(pixels, "YX"))
        store.write(place, path.read_bytes())


def read_published(store: Any, uri: str, name: str) -> bytes:
    """Return the content of a file that a job published, by its public name; the manifest tells where it lies."""
    place = Location.parse(uri)
    manifest = MODEL_MANIFEST if place.bucket == store.models.bucket else RESULT_MANIFEST
    return bytes(store.read(Manifest.read(store, place / manifest).place_of(place, name)))
