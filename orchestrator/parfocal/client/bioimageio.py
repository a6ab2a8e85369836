"""A model as a package of bioimage.io: for ilastik, deepImageJ, napari's readers and everything that runs such models.

The environment of the method writes network, test tensors and what must be known of them
(`parfocal.runtime.prediction.bioimageio`); here stands what the catalogue knows: verdict, numbers and lineage.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from parfocal.client.client import Client
from parfocal.client.models import ModelSummary
from parfocal.client.quality import evaluation_summary
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError
from parfocal.runtime.store.evaluations import EvaluationSummary
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.publish import sha256_of

DESCRIPTION: Final = "rdf.yaml"
DOCUMENTATION: Final = "README.md"
# The first one that has all that is used here.
_FORMAT: Final = "0.5.12"
_MOST_CHARACTERS: Final = 1000
_DOI: Final = re.compile(r"\bdoi:(10\.\S+?)[.)]*$")
# Keys that YAML reads as text and as nothing else: "y" and "n" are answers to some readers.
_PLAIN: Final = re.compile(r"[a-z_]{4,}")
# Characters that YAML does not allow as they are, or takes for the end of a line.
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_SPDX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


class Described(Protocol):
    """What is said of a method: its name for people and a sentence or two; `v1.Method` has both."""

    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def summary(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Publisher:
    """Who publishes the package, and under which terms.

    Attributes
    ----------
    authors
        Names of those who made the model.
    licence
        SPDX identifier of the licence of the model, e.g. "CC-BY-4.0".
    """

    authors: tuple[str, ...]
    licence: str

    def __post_init__(self) -> None:
        if not self.authors or not all(each.strip() for each in self.authors):
            raise InvalidInputError("A package needs at least one author: give a name.")
        if not _SPDX.fullmatch(self.licence):
            raise InvalidInputError(
                f"{self.licence!r} is no identifier of a licence. Give one of https://spdx.org/licenses, for example "
                "CC-BY-4.0."
            )


def quality_of(client: Client, model: ModelSummary) -> EvaluationSummary | None:
    """Return the evaluation behind a model's verdict; None where there is none, or it can no longer be read."""
    if not model.verdict.uri:
        return None
    try:
        return evaluation_summary(client, model.verdict.uri)
    except ParfocalError:
        return None


def dataset_of(client: Client, model: ModelSummary) -> DatasetManifest | None:
    """Return the dataset that a model was trained on; None where none is known or it is gone."""
    if not model.manifest.dataset_uri:
        return None
    try:
        return DatasetManifest.parse(client.catalog.read(model.manifest.dataset_uri), model.manifest.dataset_uri)
    except NotFoundError:
        return None


def write_package(
    folder: Path,
    target: Path,
    model: ModelSummary,
    method: Described,
    publisher: Publisher,
    *,
    quality: EvaluationSummary | None = None,
    weights: str = "best",
) -> None:
    """Write the package `target`, a zip file, of what the method's environment wrote to `folder`.

    Parameters
    ----------
    folder
        With report.json and the files that it names.
    target
        The zip file; whatever has its name is replaced.
    model
        What is packed, with its verdict.
    method
        Of the model: its title, summary and publication are taken.
    publisher
        Who publishes it.
    quality
        The evaluation behind the verdict.
    weights
        The name of the weights that were written.
    """
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report["attached"] = [{"source": name} for name in report["attachments"]]
    documentation = "\n".join(_documentation(report, model, method, quality, weights))
    content = _description(_with_digests(report, folder), model, method, publisher, quality)
    part = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(DESCRIPTION, "\n".join(_yaml(content)) + "\n")
            archive.writestr(DOCUMENTATION, documentation + "\n")
            for name in (*report["files"], *report["attachments"]):
                archive.write(folder / name, name)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _with_digests(content: Any, folder: Path) -> Any:
    """Return a part of a description with the SHA-256 of each file that is named in it."""
    if isinstance(content, Mapping):
        whole = {key: _with_digests(value, folder) for key, value in content.items()}
        source = content.get("source")
        return whole | {"sha256": sha256_of(folder / source)} if source else whole
    return [_with_digests(each, folder) for each in content] if isinstance(content, list) else content


def _description(
    report: Mapping[str, Any],
    model: ModelSummary,
    method: Described,
    publisher: Publisher,
    quality: EvaluationSummary | None,
) -> dict[str, Any]:
    """Return what rdf.yaml says."""
    manifest, verdict = model.manifest, model.verdict
    name = re.sub(r"[^A-Za-z0-9_+\-() ]", "-", f"{manifest.model} {manifest.version} ({method.title})")
    text = f"{method.title} model, made with Parfocal. Quality control: {verdict.sentence}"
    doi = _DOI.search(manifest.citation)
    cite: dict[str, Any] = {"text": manifest.citation or method.title}
    cite |= {"doi": doi[1]} if doi else {"url": "https://bioimage.io"}
    return {
        "format_version": _FORMAT,
        "type": "model",
        "name": name[:128],
        "description": text[:_MOST_CHARACTERS],
        "timestamp": manifest.created_at.isoformat(),
        "version": f"{manifest.version}.0.0",
        "authors": [{"name": author.replace("/", " ").strip()} for author in publisher.authors],
        "cite": [cite],
        "license": publisher.licence,
        "documentation": {"source": DOCUMENTATION},
        "tags": ["parfocal", manifest.method, *("3d" if "Z" in manifest.axes else "2d",)],
        "inputs": report["inputs"],
        "outputs": report["outputs"],
        "weights": report["weights"],
        "attachments": report["attached"],
        "config": {
            "bioimageio": {"reproducibility_tolerance": [_tolerance(report)]},
            "parfocal": {
                "method": manifest.method,
                "verdict": {"state": verdict.state, "reasons": list(verdict.reasons)},
                "scores": _numbers(quality),
                "dataset": versioned_name(manifest.dataset_uri) if manifest.dataset_uri else "",
                "dataset_sha256": dict(manifest.dataset_sha256),
                "parent": versioned_name(manifest.parent) if manifest.parent else "",
                "origin": manifest.origin,
                "parameters": dict(manifest.parameters),
                "pixel_size_um": list(manifest.pixel_size_um or ()),
                "tile": list(report["tile"]),
            },
        },
    }


def _tolerance(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far the example's result may differ on another machine."""
    if report["outputs"][0]["data"]["type"] == "int32":
        # Objects whose probabilities differ in the last digits change places: pixels where two touch.
        return {"mismatched_elements_per_million": 1000}
    return {"relative_tolerance": 1e-3, "absolute_tolerance": 1e-3}


def _numbers(quality: EvaluationSummary | None) -> dict[str, dict[str, float]]:
    """Return the means of the metrics for people, by kind and metric."""
    if quality is None:
        return {}
    return {
        kind: {metric.key: found[metric.key].mean for metric in quality.shown_metrics if metric.key in found}
        for kind, found in quality.metrics.items()
    }


def _documentation(
    report: Mapping[str, Any], model: ModelSummary, method: Described, quality: EvaluationSummary | None, weights: str
) -> Iterator[str]:
    """Yield the lines of README.md."""
    manifest, verdict = model.manifest, model.verdict
    yield f"# {manifest.model}, version {manifest.version}"
    yield ""
    yield f"A model of {method.title}, made with Parfocal. {' '.join(str(method.summary).split())}"
    yield from ("", "## What it takes and what it makes", "")
    channels = report["inputs"][0]["axes"]
    names = next(axis["channel_names"] for axis in channels if axis["type"] == "channel")
    yield f"- Input: images with the axes {manifest.axes}, channels: {', '.join(names)}, in their own grey values."
    if size := manifest.pixel_size_um:
        shown = " x ".join(f"{each:g}" for each in size if each)
        yield f"- Pixel size of the training images (x, y, z): {shown} µm. Bring yours to this size."
    yield f"- Output: {report['meaning']}"
    tile = " x ".join(str(each) for each in report["tile"])
    yield f"- Large images: tiles of {tile} pixels or larger ({manifest.axes}); the description gives the halo."
    yield (
        "- The first steps of the description normalise each image as a whole. Give whole images where you can: tiles "
        "normalised one by one differ in brightness."
    )
    yield from ("", "## Validation", "", verdict.sentence)
    yield from (f"- {reason}" for reason in verdict.reasons)
    if quality is not None:
        yield from ("", *_table(quality))
        yield from ("", quality.definition)
    yield from (
        "",
        "Test it on images of your own before you use it: a model is right only for images like those it was trained "
        "on. Compare its output with targets that it has not seen.",
    )
    yield from ("", "## How it was made", "")
    yield f"- Dataset: {versioned_name(manifest.dataset_uri) if manifest.dataset_uri else 'not known'}"
    if manifest.parent:
        yield f"- Started from: {versioned_name(manifest.parent)}"
    if manifest.origin:
        yield f"- Imported from: {manifest.origin}"
    if manifest.epochs:
        yield f"- Epochs: {manifest.epochs}; weights: {weights}, of epoch {manifest.best_epoch}"
    packages = manifest.environment.get("packages", {})
    if packages:
        yield f"- Made with: {', '.join(f'{package} {version}' for package, version in packages.items())}"
    for warning in manifest.warnings:
        yield f"- {warning}"
    yield from ("", "| Parameter | Value |", "| --- | --- |")
    for key, value in manifest.parameters.items():
        yield f"| {key} | {json.dumps(value)} |"
    yield from ("", "## Cite", "", manifest.citation or method.title)


def _table(quality: EvaluationSummary) -> Iterator[str]:
    """Yield a table of the mean scores of all kinds."""
    names = quality.names
    yield f"| Mean over {quality.images} test images | {' | '.join(names.values())} |"
    yield f"| --- |{' --- |' * len(names)}"
    for metric in quality.shown_metrics:
        cells = [
            metric.number(quality.metrics[kind][metric.key].mean) if metric.key in quality.metrics[kind] else "–"
            for kind in names
        ]
        yield f"| {metric.heading} | {' | '.join(cells)} |"


def _yaml(value: Mapping[str, Any] | Sequence[Any], depth: int = 0) -> Iterator[str]:
    """Yield the lines of mappings and lists as YAML."""
    indent = "  " * depth
    if isinstance(value, Mapping):
        for key, item in value.items():
            name = key if _PLAIN.fullmatch(key) else json.dumps(key)
            if isinstance(item, Mapping | list | tuple) and item:
                yield f"{indent}{name}:"
                yield from _yaml(item, depth + 1)
            else:
                yield f"{indent}{name}: {_scalar(item)}"
        return
    for item in value:
        if isinstance(item, Mapping | list | tuple) and item:
            first, *rest = _yaml(item, depth + 1)
            yield f"{indent}- {first.strip()}"
            yield from rest
        else:
            yield f"{indent}- {_scalar(item)}"


def _scalar(value: object) -> str:
    """Return a value as YAML: as in JSON, but for what YAML reads as something else."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        # Without a point it is a text.
        return text if "." in text else text.replace("e", ".0e")
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
