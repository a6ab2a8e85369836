"""Packs what the environment of a method wrote of a kept model: pack.py FOLDER PACKAGE."""

from __future__ import annotations

import sys
from pathlib import Path

from parfocal import v1
from parfocal.client.bioimageio import Publisher, write_package
from parfocal.client.models import ModelSummary
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.verdicts import Verdict


def main(folder: Path, package: Path) -> None:
    """Pack a model that nobody has judged."""
    manifest = ModelManifest.parse((folder / "files" / MODEL_MANIFEST).read_bytes(), MODEL_MANIFEST)
    model = ModelSummary(manifest, Verdict("unchecked"), "")
    method = v1.Method(title=manifest.method, summary="A model of the tests.")
    write_package(folder / "written", package, model, method, Publisher(("Parfocal",), "CC0-1.0"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
