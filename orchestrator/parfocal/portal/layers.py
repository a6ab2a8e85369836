"""What the viewer is told: which images there are, and where the tiles of each of their layers lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from parfocal import v1
from parfocal.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.client.published import read_manifest
from parfocal.portal.words import title_in
from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem
from parfocal.runtime.store.manifests import OBJECTS, DatasetManifest, ImageEntry, ResultFile, ResultManifest
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import Location

Layer = dict[str, Any]

_ERROR_MAPS: Final = "maps/prediction/"
_MAPS: Final[Mapping[str, Mapping[str, str]]] = {
    "rse": {"lut": "magma", "scale": "root", "name": "Squared error"},
    "ssim": {"lut": "cividis", "name": "SSIM map"},
}


def class_dataset(client: Client, uri: str) -> DatasetManifest | None:
    """Return the dataset at an address, or that which the model at an address was trained on; None if unreadable.

    It says what classes are called. That is a help and no condition, and models are shared without their datasets.
    """
    try:
        entry = client.catalog.entry_at(uri)
        place = entry.model.dataset_uri if entry.kind == v1.ENTRY_KIND_MODEL else uri
        return read_manifest(client, place, DatasetManifest)
    except ParfocalError:
        return None


def dataset_config(project: str, manifest: DatasetManifest) -> dict[str, Any]:
    """Return what the viewer shows of a dataset: each image with its targets."""
    name = title_in(project, manifest).replace("/", "~")
    images: dict[str, list[Layer]] = {}
    for image in sorted(manifest.images, key=lambda image: (image.split != "train", image.role != "source")):
        key = f"{image.split}:{image.stem}"
        images.setdefault(key, []).append(_dataset_layer(project, name, manifest, image))
    return {
        "images": [{"name": key, "layers": layers} for key, layers in images.items()],
        "layout": "swipe" if any(len(layers) > 1 for layers in images.values()) else "single",
        "keep": name,
    }


def prediction_config(client: Client, result: ResultManifest, *, labels: bool) -> dict[str, Any]:
    """Return what the viewer shows of a prediction: each input, where it is of a dataset, with what was made of it."""
    inputs = _inputs(client, result)
    names = _names_in(client, result)
    images = []
    for each in result.images:
        made = _outputs(client.project, result, each, names, overlay=labels)
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


def comparison_config(client: Client, compared: Sequence[tuple[str, ResultManifest]], order: Mapping[str, str]) -> Any:
    """Return what the viewer shows of a comparison: input, the prediction of each model, target, side by side.

    Parameters
    ----------
    compared
        For each model its name and its evaluation, all on the same images.
    order
        The names of the images as they shall follow each other, with a note on each.
    """
    inputs = _inputs(client, compared[0][1])
    predicted = [(name, _predicted(client, result, overlay=False)) for name, result in compared]
    images = []
    for name, note in order.items():
        stem = image_stem(Path(name))
        known = inputs.get(stem, {})
        made = [{**layer, "name": model} for model, found in predicted for layer in found.get(stem, [])[:1]]
        layers = [layer for layer in (known.get("source"), *made, known.get("target")) if layer is not None]
        if layers:
            images.append({"name": name, "note": note, "layers": layers})
    return {"images": images, "layout": "grid", "keep": versioned_name(compared[0][1].input_uri)}


def _dataset_layer(project: str, dataset: str, manifest: DatasetManifest, image: ImageEntry) -> Layer:
    title = {"source": "Input", "target": "Target"}.get(image.role, image.role.replace("_", " ").capitalize())
    layer = {"name": title, "info": _url(project, "dataset", dataset, f"{image.split}:{image.stem}", image.role)}
    classed = image.role == CLASS_ROLE or (manifest.kind == "classes" and image.role.startswith("target"))
    return {**layer, **_legend(_titles(manifest))} if classed else layer


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
            layer = _dataset_layer(client.project, name.replace("/", "~"), manifest, image)
            found.setdefault(image.stem, {})[image.role] = layer
    return found


def _predicted(client: Client, result: ResultManifest, *, overlay: bool) -> dict[str, list[Layer]]:
    """Return by stem the predictions that an evaluation scored."""
    uri = next((uri for image in result.images if (uri := image.outputs.get("prediction", ""))), "")
    if not uri:
        return {}
    scored = read_manifest(client, uri, ResultManifest)
    names = _names_in(client, scored)
    return {
        image_stem(Path(each.input)): _outputs(client.project, scored, each, names, overlay=overlay)
        for each in scored.images
    }


def _names_in(client: Client, result: ResultManifest) -> dict[int, str]:
    """Return the names of the classes in the class images of a prediction; it is looked for only if there are some."""
    known = any(map(_class_kinds, result.images)) and result.model_uri
    dataset = class_dataset(client, result.model_uri) if known else None
    return {} if dataset is None else _titles(dataset)


def has_areas(method: v1.Method | None, result: ResultManifest) -> bool:
    """Return whether a prediction tells the class of each pixel."""
    semantic = method is not None and method.task == v1.TASK_SEMANTIC_SEGMENTATION
    return semantic or any("prediction" in _class_kinds(image) for image in result.images)


def _class_kinds(image: ResultFile) -> set[str]:
    """Return the kinds of outputs whose values are numbers of classes, not of objects."""
    objects = {"prediction", "instances"} if OBJECTS in image.outputs else set()
    if "instances" in image.outputs:
        objects = {"instances"}
    return ({*image.labels} | ({CLASS_ROLE} & image.outputs.keys())) - objects


def _legend(names: Mapping[int, str]) -> Layer:
    return {"classes": {str(value): name for value, name in names.items()}}


def _titles(manifest: DatasetManifest) -> dict[int, str]:
    """Return what the viewer calls the classes of class images: by number where they have no name."""
    names = manifest.class_names
    return {value: names.get(value, f"class {value}") for value in manifest.class_values if value or value in names}


def _outputs(
    project: str, result: ResultManifest, image: ResultFile, names: Mapping[int, str], *, overlay: bool
) -> list[Layer]:
    layers = []
    classed = _class_kinds(image)
    for kind, file in image.outputs.items():
        if not file.lower().endswith(IMAGE_SUFFIXES) or kind == "overlay":
            continue
        layer: Layer = {
            "name": kind.replace("_", " ").capitalize(),
            "info": _url(project, "result", result.job, image.input.replace("/", ":"), kind),
        }
        if kind in classed:
            layer |= _legend(names)
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
