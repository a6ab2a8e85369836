"""When a command leaves a training to a workflow; that it does is shown by a whole stack in tests/e2e."""

from __future__ import annotations

import pytest

from parfocal.cli._flow import same_place
from parfocal.runtime.settings import Settings

STACK = {
    "PARFOCAL_SERVICES": "127.0.0.1:15051,127.0.0.1:15052",
    "PARFOCAL_CATALOG": "127.0.0.1:15060",
}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"PARFOCAL_PROJECT": "mine"}, True),
        ({"PARFOCAL_SERVICES": "127.0.0.1:15051"}, False),
        ({"PARFOCAL_CATALOG": "facility:50051"}, False),
    ],
    ids=["nothing", "project", "services", "catalogue"],
)
def test_workflows_serve_commands_of_the_same_services_and_catalogue(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, str], same: bool
) -> None:
    for name, value in {**STACK, **other}.items():
        monkeypatch.setenv(name, value)
    assert same_place(Settings().model_dump(), STACK) is same
