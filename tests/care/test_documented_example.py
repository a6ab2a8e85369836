"""The method that docs/adding-a-method.md writes out in full is one: its code runs as it is printed there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from learner_suite import ImageLearnerSuite
from support import search_path

import parfocal
from parfocal import v1

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"
# Which file each Python block of the page is, in their order.
FILES = ("parameters.py", "__init__.py", "network.py")


@pytest.fixture(scope="module", autouse=True)
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("plain") / "parfocal"
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (folder / "plain").mkdir(parents=True)
    for name, code in zip(FILES, blocks, strict=True):
        (folder / "plain" / name).write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parfocal, "__path__", [*parfocal.__path__, str(folder)])
        patch.setenv("PYTHONPATH", search_path(folder.parent))  # for processes that a test starts
        yield
    for name in [name for name in sys.modules if name.startswith("parfocal.plain")]:
        del sys.modules[name]


def parameters(**values: Any) -> Any:
    from parfocal.plain.parameters import PlainParameters  # type: ignore[import-not-found]

    return PlainParameters(patch_size=16, learning_rate=0.003, precision="float32", **values)


class TestDocumentedExample(ImageLearnerSuite):
    path = "parfocal.plain.network:Plain2D"
    patch = (16, 16)
    image = (64, 48)
    tile = (32, 48)
    weights_suffix = ".npz"

    @property
    def parameters(self) -> Any:  # type: ignore[override]
        return parameters()

    @property
    def other(self) -> Any:  # type: ignore[override]
        return parameters(seed=9)

    @property
    def larger(self) -> Any:  # type: ignore[override]
        return parameters(layers=5)

    def test_the_service_offers_the_method(self) -> None:
        from parfocal.plain import SERVICE  # type: ignore[import-not-found]

        (described,) = (method.to_proto() for method in SERVICE.methods)
        assert (described.name, described.task) == ("plain-2d", v1.TASK_RESTORATION)
