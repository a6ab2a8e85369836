"""What `parfocal dataset preview` does: draw examples of a folder or of a stored dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal.cli import _dataset_check
from parfocal.cli._app import App
from parfocal.cli._render import print_fields, print_json
from parfocal.client.parameters import parse_parameters, schema_of
from parfocal.runtime.errors import InvalidInputError, Violation

if TYPE_CHECKING:
    from parfocal.client import Client


def preview(
    app: App,
    what: str,
    *,
    kind: str,
    axes: str,
    augment: bool,
    method: str,
    parameters: Sequence[str],
    output: Path,
    overwrite: bool,
) -> None:
    """Write the picture and say where it is; a folder needs no running stack unless a method is named."""
    from parfocal.client.previews import preview_folder, preview_stored

    if output.suffix.lower() != ".png":
        raise InvalidInputError(f"--output {output} must end in .png.", [Violation("output", "must end in .png")])
    if output.exists() and not overwrite:
        raise InvalidInputError(f"{output} exists. Name another file, or add --overwrite.")
    if parameters and not augment:
        raise InvalidInputError("-p sets how patches are cut and augmented, and applies only with --augment: add it.")
    folder = _dataset_check.is_folder(what)
    if folder and not method:
        picture = preview_folder(Path(what), _values(None, method, parameters), kind=kind, axes=axes, augmented=augment)
    else:
        with app.client() as client:
            values = _values(client, method, parameters)
            if folder:
                picture = preview_folder(Path(what), values, kind=kind, axes=axes, augmented=augment)
            elif kind or axes:
                raise InvalidInputError("--kind and --axes belong to folders: a stored dataset has its own.")
            else:
                picture = preview_stored(client, what, values, augmented=augment)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(picture)
    if app.json:
        print_json({"preview": str(output)})
    else:
        print_fields({"Picture": str(output)})


def _values(client: Client | None, method: str, parameters: Sequence[str]) -> dict[str, Any]:
    """Return the values of a method's training, or of -p alone, checked."""
    from parfocal import v1
    from parfocal.runtime.training.preview import PreviewParameters

    if client is None or not method:
        return parse_parameters("The preview", PreviewParameters.model_json_schema(), parameters)
    described = client.method(method)
    schema = schema_of(described, v1.JOB_KIND_TRAINING)
    defaults = {name: field["default"] for name, field in schema["properties"].items() if "default" in field}
    return {**defaults, **parse_parameters(described.title, schema, parameters)}
