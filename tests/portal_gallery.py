"""A page with viewers of simulated images, served by the portal's own routes of tiles; for tests and for looking at it.

`python tests/portal_gallery.py [PORT]` serves it until it is stopped.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from scipy import ndimage
from support import ROOT, free_ports, wait_for

from parfocal.portal.tiles import Kind, tile_router
from parfocal.runtime.datasets.layers import Layer, Layers
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import Image, PixelSize, inspect_image, write_image
from parfocal.runtime.images.memmaps import decode_to_memmap
from parfocal.runtime.images.pyramid import INFO, THUMBNAIL, Pyramid, encode_tile
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location

STATIC = ROOT / "orchestrator" / "parfocal" / "portal" / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Viewer</title>
<link rel="stylesheet" href="/gallery.css"><link rel="stylesheet" href="/static/viewer.css">
<script type="module" src="/static/viewer.js"></script><main><h1>Viewer</h1>
<div class="viewer" id="images" data-config="#config"></div>
<script type="application/json" id="config">{config}</script>
<table><tr><th>Object</th></tr>{rows}</table></main></html>"""
_STYLE = "body{margin:0;font:14px system-ui;height:100vh;overflow:hidden}h1{display:none}.viewer{height:86vh!important}"


def nuclei(shape: tuple[int, int], seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Return simulated nuclei, blurred and without noise, and the label image of them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    for number in range(1, shape[0] * shape[1] // 1600):
        centre, radii = rng.uniform(0, shape), rng.uniform(7, 14, 2)
        low = np.maximum(np.floor(centre - 15).astype(int), 0)
        part = labels[low[0] : low[0] + 31, low[1] : low[1] + 31]
        y, x = np.indices(part.shape)
        inside = ((y + low[0] - centre[0]) / radii[0]) ** 2 + ((x + low[1] - centre[1]) / radii[1]) ** 2 <= 1
        part[inside & (part == 0)] = number
    brightness = rng.uniform(600, 2600, int(labels.max()) + 1)
    brightness[0] = 120
    texture = ndimage.gaussian_filter(rng.normal(1, 0.6, shape), 2)
    return ndimage.gaussian_filter(brightness[labels] * texture, 1.5).clip(0).astype(np.uint16), labels


class Gallery:
    """Images by name and layer, as a reader of the tile routes. They are read from TIFF files, as the job does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[tuple[str, str], bytes] = {}
        self.images: dict[str, dict[str, Layer]] = {}
        self.boxes: dict[str, list[dict[str, int]]] = {}
        self.requests: list[str] = []

    def path(self, image: str, name: str) -> Path:
        """Return the file of an image."""
        return self.folder / image / f"{name}.tif"

    def add(
        self, image: str, name: str, pixels: NDArray[Any], axes: str, *, labels: bool = False, um: float = 0.1
    ) -> None:
        """Add an image and its tiles."""
        path = self.path(image, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, Image(pixels, axes, PixelSize(um, um) if um else None))
        layer = Layer(image, name, FileEntry(name=path.name, size=1, sha256=sha256_of(path)), labels)
        self.images.setdefault(image, {})[name] = layer
        header = inspect_image(path)
        decoded = decode_to_memmap(path, self.folder / "decoded", layer.entry.sha256)
        pyramid = Pyramid(decoded, header.axes, header.pixel_size, labels=labels)
        self.files[layer.digest, THUMBNAIL] = pyramid.thumbnail()
        self.files[layer.digest, INFO] = json.dumps(pyramid.info(layer.digest)).encode()
        for tile in pyramid.tiles():
            self.files[layer.digest, tile.name] = encode_tile(tile.pixels)

    @property
    def tiles_asked_for(self) -> int:
        """How many tiles browsers have asked for."""
        return sum(re.search(r"/[0-9a-f]{64}/", path) is not None for path in self.requests)

    def layers(self, project: str, kind: Kind, name: str) -> Layers:
        """Return all images, whatever is asked for."""
        return Layers(Location(project, f"{kind}/{name}"), self.images)

    def derived(self, digest: str, name: str) -> bytes:
        """Return what was derived."""
        try:
            return self.files[digest, name]
        except KeyError:
            raise NotFoundError("There is no such file.") from None

    def config(self, **more: Any) -> dict[str, Any]:
        """Return the configuration that shows all images."""
        images = []
        for image, layers in self.images.items():
            shown = []
            for name, layer in layers.items():
                config: dict[str, Any] = {"name": name, "info": f"/p/lab/tiles/dataset/d:1/{image}/{name}/info"}
                if layer.labels:
                    config["overlay"] = True
                if name == "Error":
                    config |= {"lut": "magma", "scale": "root"}
                shown.append(config)
            images.append({"name": image, "layers": shown, "boxes": self.boxes.get(image, [])})
        return {"images": images, "keep": "gallery", **more}

    def app(self, **more: Any) -> FastAPI:
        """Return the pages."""
        app = FastAPI()

        @app.middleware("http")
        async def guard(request: Request, call_next: Any) -> Response:
            self.requests.append(request.url.path)
            answer: Response = await call_next(request)
            answer.headers["Content-Security-Policy"] = POLICY
            return answer

        app.include_router(tile_router(lambda _: self))

        @app.get("/")
        def page() -> Response:
            rows = "".join(
                f'<tr tabindex="0" data-viewer="images" data-object="{number}"><td>{number}</td></tr>'
                for number in (3, 14, 15)
            )
            config = json.dumps(self.config(**more)).replace("<", "\\u003c")
            text = _PAGE.replace("{config}", config).replace("{rows}", rows)
            return Response(text, media_type="text/html")

        @app.get("/gallery.css")
        def style() -> Response:
            return Response(_STYLE, media_type="text/css")

        @app.get("/favicon.ico")
        def icon() -> Response:
            return Response(status_code=204)

        app.mount("/static", StaticFiles(directory=STATIC))
        return app


def simulated(folder: Path, shape: tuple[int, int] = (1300, 1700)) -> Gallery:
    """Return noisy nuclei, restored ones, the true ones, an error map and labels; a stack, colours, two channels."""
    gallery = Gallery(folder)
    clean, labels = nuclei(shape)
    rng = np.random.default_rng(1)
    noisy = (rng.poisson(clean / 40) * 40 + rng.normal(100, 30, shape)).clip(0).astype(np.uint16)
    restored = ndimage.gaussian_filter(noisy.astype(np.float32), 1.5)
    for name, pixels in (("Input", noisy), ("Prediction", restored), ("Target", clean)):
        gallery.add("nuclei", name, pixels, "YX")
    gallery.add("nuclei", "Error", ((restored - clean) ** 2 / 4000).astype(np.float32), "YX")
    gallery.add("nuclei", "Objects", labels, "YX", labels=True)
    planes = np.exp(-(np.linspace(-1.5, 1.5, 9) ** 2))[:, np.newaxis, np.newaxis]
    gallery.add("stack", "Input", (clean[:400, :600] * planes).astype(np.uint16), "ZYX", um=0.25)
    boxes = [(number, part) for number, part in enumerate(ndimage.find_objects(labels[:400, :600]), 1) if part]
    gallery.boxes["stack"] = [
        {
            "id": number,
            "x": part[1].start,
            "y": part[0].start,
            "width": part[1].stop - part[1].start,
            "height": part[0].stop - part[0].start,
        }
        for number, part in boxes
    ]
    parts = [clean[:300, :400] // 12, clean[300:600, :400] // 20, clean[:300, 200:600] // 16]
    gallery.add("colours", "Input", np.stack(parts, axis=-1).clip(0, 255).astype(np.uint8), "YXS", um=0)
    gallery.add("channels", "Input", np.stack([clean[:300, :400], clean[300:600, :400]]), "CYX")
    return gallery


@contextmanager
def served(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve pages on loopback and give their address."""
    port = port or free_ports(1)[0]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 30, "the gallery")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="parfocal-gallery-"))
    with served(simulated(place).app(), int(sys.argv[1]) if len(sys.argv) > 1 else 8899) as address:
        sys.stdout.write(f"{address}\n")
        threading.Event().wait()
