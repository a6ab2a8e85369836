"""A bench on a cluster in miniature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.bench import Bench, bench_on
from cluster.server import Cluster
from support import publish_dataset


@pytest.fixture(scope="session")
def dataset(s3: Any, pairs_folder: Path) -> str:
    return publish_dataset(s3.store(), "cluster", pairs_folder)


@pytest.fixture
def bench(s3: Any, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with Cluster(tmp_path / "cluster") as cluster, bench_on(cluster, s3, dataset, tmp_path, monkeypatch) as bench:
        yield bench
