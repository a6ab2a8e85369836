"""What the viewer is told: which images there are, and where the tiles of each of their layers lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from parfocal.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.client.published import read_manifest
from parfocal.portal.words import title_in
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem
from parfocal.runtime.store.manifests import DatasetManifest, ResultManifest
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import Location

Layer = dict[str, Any]

_ERROR_MAPS: Final = "maps/prediction/"
_MAPS: Final[Mapping[str, Mapping[str, str]]] = {
    "rse": {"lut": "magma", "scale": "root", "name": "Squared error"},
    "ssim": {"lut": "cividis", "name": "SSIM map"},
}


def dataset_config(project: str, manifest: DatasetManifest) -> dict[str, Any]:
    """Return what the viewer shows of a dataset: each image with its targets."""
    name = title_in(project, manifest).replace("/", "~")
    images: dict[str, list[Layer]] = {}
    for image in sorted(manifest.images, key=lambda image: (image.split != "train", image.role != "source")):
        key = f"{image.split}:{image.stem}"
        images.setdefault(key, []).append(_dataset_layer(project, name, key, image.role))
    return {
        "images": [{"name": key, "layers": layers} for key, layers in images.items()],
        "layout": "swipe" if any(len(layers) > 1 for layers in images.values()) else "single",
        "keep": name,
    }


def prediction_config(client: Client, result: ResultManifest, *, labels: bool) -> dict[str, Any]:
    """Return what the viewer shows of a prediction: each input, where it is of a dataset, with what was made of it."""
    inputs = _inputs(client, result)
    images = []
    for each in result.images:
        made = _outputs(client.project, result, each.input, each.outputs, overlay=labels)
        source = inputs.get(image_stem(Path(each.input)), {}).get("source")
        if made:
            images.append({"name": each.input.rsplit("/", 1)[-1], "layers": [*([source] if source else []), *made]})
    return {"images": images, "layout": "single" if labels else "swipe", "keep": f"results of {result.method}"}


def evaluation_config(
    client: Client, place: Location, result: ResultManifest, order: Sequence[str], *, labels: bool
) -> dict[str, Any]:
    """Return what the viewer shows of an evaluation: input, prediction, target and error maps, the worst image first.

    Parameters
    ----------
    place
        Where the evaluation was published.
    order
        The names of the images as they shall follow each other.
    labels
        Whether predictions are label images.
    """
    inputs = _inputs(client, result)
    predicted = _predicted(client, result, overlay=labels)
    maps = _error_maps(client.project, place, result)
    images = []
    for number, name in enumerate(order):
        stem = image_stem(Path(name))
        known = inputs.get(stem, {})
        made = predicted.get(stem, [])
        layers = [known.get("source"), *made[:1], known.get("target"), *maps.get(stem, []), *made[1:]]
        shown = [layer for layer in layers if layer is not None]
        if shown:
            note = f"worst of {len(order)}" if number == 0 and len(order) > 1 else ""
            images.append({"name": name, "note": note, "layers": shown})
    return {"images": images, "layout": "single" if labels else "swipe", "keep": versioned_name(result.input_uri)}


def _dataset_layer(project: str, dataset: str, image: str, role: str) -> Layer:
    title = {"source": "Input", "target": "Target"}.get(role, role.replace("_", " ").capitalize())
    return {"name": title, "info": _url(project, "dataset", dataset, image, role)}


def _inputs(client: Client, result: ResultManifest) -> dict[str, dict[str, Layer]]:
    """Return by stem and role the images of the dataset that a result was made from; nothing for own images."""
    if not result.split or not result.input_uri:
        return {}
    name = versioned_name(result.input_uri, client.project)
    try:
        manifest = read_dataset(client, name)
    except ParfocalError:
        return {}
    found: dict[str, dict[str, Layer]] = {}
    for image in manifest.images:
        if image.split == result.split:
            layer = _dataset_layer(client.project, name.replace("/", "~"), f"{image.split}:{image.stem}", image.role)
            found.setdefault(image.stem, {})[image.role] = layer
    return found


def _predicted(client: Client, result: ResultManifest, *, overlay: bool) -> dict[str, list[Layer]]:
    """Return by stem the predictions that an evaluation scored."""
    uri = next((uri for image in result.images if (uri := image.outputs.get("prediction", ""))), "")
    if not uri:
        return {}
    scored = read_manifest(client, uri, ResultManifest)
    return {
        image_stem(Path(each.input)): _outputs(client.project, scored, each.input, each.outputs, overlay=overlay)
        for each in scored.images
    }


def _outputs(
    project: str, result: ResultManifest, image: str, outputs: Mapping[str, str], *, overlay: bool
) -> list[Layer]:
    layers = []
    for kind, file in outputs.items():
        if not file.lower().endswith(IMAGE_SUFFIXES) or kind == "overlay":
            continue
        layer: Layer = {
            "name": kind.replace("_", " ").capitalize(),
            "info": _url(project, "result", result.job, image.replace("/", ":"), kind),
        }
        if overlay and kind == "prediction":
            layer["overlay"] = True
        layers.append(layer)
    return layers


def _error_maps(project: str, place: Location, result: ResultManifest) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    inputs = {image_stem(Path(each.input)): each.input for each in result.images}
    for file in _names(result):
        kind, _, name = file.removeprefix(_ERROR_MAPS).partition("/")
        stem = image_stem(Path(name)) if name else ""
        if file.startswith(_ERROR_MAPS) and kind in _MAPS and stem in inputs:
            image = inputs[stem].replace("/", ":")
            info = _url(project, "result", place.name, image, f"maps.prediction.{kind}")
            found.setdefault(stem, []).append({**_MAPS[kind], "info": info})
    return found


def _names(result: ResultManifest) -> Iterable[str]:
    return (entry.public_name for entry in result.files)


def _url(project: str, kind: str, name: str, image: str, layer: str) -> str:
    return "/".join(("/p", project, "tiles", kind, *(quote(part, safe=":") for part in (name, image, layer)), "info"))
