"""The page for authors of tools does what it says: its code, and its example, from an image to a verdict."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, Ended, S3Server, ServiceProcess, mentions

from parfocal.client import Client
from parfocal.runtime.images.files import read_image


def page_code(name: str) -> Any:
    """Return what the page defines under a name."""
    page = (ROOT / "docs" / "for-tool-authors.md").read_text("utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"\ndef {name}(" in code)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/for-tool-authors.md", "exec"), names)
    return names[name]


@pytest.fixture
def example(s3: S3Server, services: dict[str, ServiceProcess], tmp_path: Path) -> Callable[..., Ended]:
    """Run docs/examples/tool.py, which knows the contract alone."""
    addresses = (services["fake"].address, services["qc"].address, s3.catalog)

    def call(*arguments: object) -> Ended:
        command = [sys.executable, str(ROOT / "docs/examples/tool.py"), *addresses, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


def test_from_an_image_to_a_verdict(dataset: str, images: Path, example: Callable[..., Ended], tmp_path: Path) -> None:
    image = next((images / "test" / "source").iterdir())
    predicted = page_code("use")(dataset, "tool", image, "fake-2d", {"epochs": 1})
    pixels = predicted.images["prediction"].pixels
    with Client() as client:
        assert client.catalog.entry("model", "tool").model.verdict.state in {"passed", "failed"}
        model, data = client.model_uri("tool"), client.dataset_uri(dataset)

    done = example(model, data, image)
    assert done.code == 0, done.err
    assert mentions(done.out, "ping: SERVING", "method: fake-2d YX TASK_RESTORATION", "image: prediction float32")
    assert re.search(r"^verdict:\n  (passed|failed)$", done.out, re.MULTILINE)
    assert (read_image(tmp_path / "prediction.tif").pixels == pixels).all()

    refused = example(f"{model}0", data, image)
    assert refused.code == 1
    assert mentions(refused.err, "NOT_FOUND NOT_FOUND: ", "\n  header.model_uri: ")
