"""The arrows between the units: what the orchestrator may use of the runtime, and that no framework comes with it."""

from __future__ import annotations

import ast

from support import ROOT

# What images, datasets and published files are is told once, in the runtime; jobs, servers and drivers are none of the
# client's. What patches look like, what trainings require of a computer, what a table of detections or the pace of a
# prediction says, and what the description of a package says belong to trainings, predictions and imports there.
ROOMS = {"errors", "numbers", "rpc_errors", "settings", "traces", "access", "images", "datasets", "store"}
FURTHER = {
    "parfocal.runtime.methods.capacity",
    "parfocal.runtime.packages.description",
    "parfocal.runtime.packages.package",
    "parfocal.runtime.prediction.box_files",
    "parfocal.runtime.prediction.detections",
    "parfocal.runtime.prediction.pace",
    "parfocal.runtime.training.preview",
}
UNITS = tuple(
    f"parfocal.{path.parent.name}"
    for path in (ROOT / "services").glob("*/pyproject.toml")
    if path.parent.name != "runtime"
)
FRAMEWORKS = ("tensorflow", "keras", "torch", "csbdeep")


def imported_modules() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "orchestrator" / "parfocal").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                # A room that is one module can be imported by name.
                whole = node.module == "parfocal.runtime"
                found.update(f"{node.module}.{alias.name}" if whole else node.module or "" for alias in node.names)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
    return found


def test_the_services_are_found() -> None:
    assert {"parfocal.care", "parfocal.qc"} < set(UNITS)


def test_the_orchestrator_uses_only_the_light_modules_of_the_runtime() -> None:
    used = {name for name in imported_modules() if name.startswith("parfocal.runtime")} - FURTHER
    assert used
    assert {name.split(".")[2] for name in used} <= ROOMS


def test_the_orchestrator_imports_no_service_and_no_framework() -> None:
    assert not [name for name in imported_modules() if name.startswith((*UNITS, *FRAMEWORKS))]
