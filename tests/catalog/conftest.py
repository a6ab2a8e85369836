"""The catalogue as a process, and calls of its RPCs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from catalog_calls import Caller
from support import ServiceProcess


@pytest.fixture(scope="module")
def catalog(start_service: Callable[..., ServiceProcess]) -> ServiceProcess:
    return start_service("catalog")


@pytest.fixture
def call(catalog: ServiceProcess) -> Iterator[Caller]:
    caller = Caller(catalog.address)
    yield caller
    caller.close()
