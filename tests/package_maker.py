"""Packages of bioimage.io as other programs write them, unpacked as the command line does, for tests of importers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.packages.package import CONTENT, FILES, Package

Step = Mapping[str, Any]
PERCENTILES: Step = {
    "name": "scale_range",
    "kwargs": {"mode": "per_sample", "axes": "yx", "min_percentile": 1.0, "max_percentile": 99.8},
}


def described(
    *,
    weights: Mapping[str, str],
    attachments: Sequence[str] = (),
    before: Sequence[Step] = (PERCENTILES,),
    behind: Sequence[Step] = (),
    axes: str = "byxc",
    config: Mapping[str, Any] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """Return the content of rdf.yaml in the format 0.4, with other values where they are named."""
    return {
        "format_version": "0.4.10",
        "type": "model",
        "name": "theirs",
        "authors": [{"name": "Grace Hopper"}],
        "license": "MIT",
        "inputs": [{"name": "input", "axes": axes, "shape": {}, "data_type": "float32", "preprocessing": list(before)}],
        "outputs": [{"name": "output", "axes": axes, "data_type": "float32", "postprocessing": list(behind)}],
        "test_inputs": ["test_input.npy"],
        "test_outputs": ["test_output.npy"],
        "weights": {form: {"source": source} for form, source in weights.items()},
        "attachments": {"files": list(attachments)},
        "config": dict(config or {}),
        **changed,
    }


def packed(
    folder: Path,
    content: Mapping[str, Any],
    files: Sequence[Path],
    taken: NDArray[Any],
    made: NDArray[Any],
) -> Package:
    """Write an unpacked package with its files and its example to a folder and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / FILES).mkdir(parents=True)
    (folder / CONTENT).write_text(json.dumps(content))
    for path in files:
        shutil.copyfile(path, folder / FILES / path.name)
    np.save(folder / FILES / "test_input.npy", taken)
    np.save(folder / FILES / "test_output.npy", made)
    return Package.read(folder)
