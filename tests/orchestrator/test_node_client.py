"""The client in JavaScript of docs/examples does what the page says, with the contract and nothing else.

Needs Node.js, and its packages in a folder `node_modules`: that of the setting PARFOCAL_NODE_MODULES, or
.venvs/node/node_modules (`deploy/tools/envs node`, which `make test` calls).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT, S3Server, ServiceProcess, publish_dataset

from parfocal.runtime.images.files import read_image

PACKAGES = Path(os.environ.get("PARFOCAL_NODE_MODULES") or ROOT / ".venvs/node/node_modules")


@pytest.mark.skipif(
    not os.environ.get("PARFOCAL_NEEDS_NODE")
    and (shutil.which("node") is None or not (PACKAGES / "@grpc/grpc-js").is_dir()),
    reason="Node.js, or its packages for gRPC, are not installed",
)
def test_a_client_without_python_lists_trains_uploads_and_downloads(
    s3: S3Server, services: dict[str, ServiceProcess], images: Path, tmp_path: Path
) -> None:
    # Node.js looks for packages beside the file that asks for them.
    shutil.copy(ROOT / "docs/examples/client.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(PACKAGES)
    sent = sorted((images / "test" / "source").iterdir())
    publish_dataset(s3.store(), "from-python", images)
    addresses = (s3.catalog, services["fake"].address)
    command = ["node", "client.mjs", *addresses, "from-python", "fake-2d", "results", *map(str, sent)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PROTO": str(ROOT / "proto")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "datasets: from-python:1" in done.stdout
    assert "image_completed" in done.stdout, "the events of the jobs are watched"
    made = {path.name: read_image(path) for path in (tmp_path / "results").rglob("*.tif")}
    assert made.keys() == {path.name for path in sent}
    assert made[sent[0].name].pixels.shape == read_image(sent[0]).pixels.shape
