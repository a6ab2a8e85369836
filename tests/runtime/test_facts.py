"""What models of a newer version of Parfocal say: kept and shown, but not computed with where it is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from parfocal.runtime.errors import ParfocalError, PreconditionError
from parfocal.runtime.images.drift import TrainingStatistics
from parfocal.runtime.methods.package_record import Record
from parfocal.runtime.prediction.loaded_model import load_model
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import ModelManifest

KEPT = ROOT / "tests" / "kept" / "0.1.0" / "care-2d" / "model.json"


def newer(part: str, value: object) -> dict[str, Any]:
    """Return a manifest with a field that this version does not know, in a part of what describes the network."""
    content: dict[str, Any] = json.loads(KEPT.read_text("utf-8"))
    facts = content["facts"]
    place = {"facts": facts, "input": facts["inputs"][0], "target": facts["targets"][0]}[part]
    place["of_a_newer_version"] = value
    return content


@pytest.mark.parametrize("part", ["facts", "input", "target"])
def test_a_model_of_a_newer_version_is_listed_and_copied_but_not_used(part: str, tmp_path: Path) -> None:
    content = newer(part, 2.0)
    manifest = ModelManifest.parse(json.dumps(content).encode(), "model.json")
    assert json.loads(manifest.to_bytes())["facts"] == content["facts"]
    with pytest.raises(PreconditionError, match="of_a_newer_version"):
        manifest.facts.require_known()
    method: Any = None
    with pytest.raises(PreconditionError, match="newer version"):
        load_model(method, manifest, tmp_path, weights="best")


@pytest.mark.parametrize("part", ["facts", "input", "target"])
def test_what_a_newer_version_leaves_empty_is_no_obstacle(part: str) -> None:
    ModelManifest.model_validate(newer(part, None)).facts.require_known()
    Facts(inputs=(Port(role="source"),), measured={"anything": 1}).require_known()


def test_statistics_that_are_not_known_are_passed_over() -> None:
    # They are for a warning only.
    each = {"contrast_to_noise": 1.0, "median_level": 0.1, "bright_level": 0.2, "sharpness": 3.0}
    read = TrainingStatistics.model_validate({"images": 3, "lowest": each, "highest": each, "planes": 7})
    assert read.lowest.bright_level == 0.2


@pytest.mark.parametrize("field", ["facts", "normaliser"])
def test_a_package_of_a_newer_version_is_refused_as_one(field: str) -> None:
    record: dict[str, Any] = {"method": "care-2d", "parameters": {}, "facts": {}, "normaliser": {}}
    record |= {"weights": {"best": 1}, "files": ["config.json"], field: {"of_a_newer_version": 1}}
    with pytest.raises(ParfocalError, match="newer version"):
        Record.model_validate_json(json.dumps(record)).facts.require_known()
