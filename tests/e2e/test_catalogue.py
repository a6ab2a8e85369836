"""Forms offer what the catalogue has; what was deleted is gone from them, and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import wait_for

from parfocal.client.datasets import create_dataset
from parfocal.runtime.errors import PreconditionError


def test_a_deleted_dataset_leaves_the_forms_until_it_is_restored(stack: Any, pairs_folder: Path) -> None:
    manifest = create_dataset(stack.client, "mistake", pairs_folder)
    name = f"mistake:{manifest.version}"
    stack.wait_for_choice("train/fake-2d", "dataset", name)
    endless = {"epochs": 1000, "pause_seconds": 0.4}
    run = stack.start("train/fake-2d", {"dataset": name, "model": "busy", "parameters": endless})
    job = stack.job(run, "train", lambda _job: True)
    with pytest.raises(PreconditionError, match=job.id):
        stack.client.catalog.delete("dataset", name)
    stack.client.cancel(job.id)
    stack.client.wait(job.id)
    stack.wait(run)
    stack.client.catalog.delete("dataset", name)

    def offered() -> bool:
        form = stack.deployment("train/fake-2d")["parameter_openapi_schema"]["properties"]["dataset"]
        return name in form.get("enum", ())

    wait_for(lambda: not offered(), 90, "the deleted dataset to leave the form")
    stack.client.catalog.restore("dataset", name)
    stack.wait_for_choice("train/fake-2d", "dataset", name)
