"""The arrows between the units: what the orchestrator may use of the runtime, and that no framework comes with it."""

from __future__ import annotations

import ast

from support import ROOT

# Layout, trash, publisher, image checks, verdicts and the table of scores exist once, in the runtime; jobs, servers and
# drivers are none of the client's.
ALLOWED = {
    f"parfocal.runtime.{name}"
    for name in (
        *("errors", "rpc_errors", "settings", "images.files", "images.needs"),
        *("datasets", "datasets.folder", "datasets.kinds", "datasets.pairs", "store.evaluations"),
        *(
            "store.evaluations",
            "store.housekeeping",
            "store.manifests",
            "store.names",
            "store.publish",
            "store.scores",
            "store.store",
        ),
        "store.verdicts",
    )
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
                found.add(node.module or "")
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
    return found


def test_the_services_are_found() -> None:
    assert {"parfocal.care", "parfocal.qc"} < set(UNITS)


def test_the_orchestrator_uses_only_the_light_modules_of_the_runtime() -> None:
    used = {name for name in imported_modules() if name.startswith("parfocal.runtime")}
    assert used
    assert used <= ALLOWED


def test_the_orchestrator_imports_no_service_and_no_framework() -> None:
    assert not [name for name in imported_modules() if name.startswith((*UNITS, *FRAMEWORKS))]
