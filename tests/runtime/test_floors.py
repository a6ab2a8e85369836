"""The floors of the runtime: each room uses only rooms below its own. There is no exception."""

from __future__ import annotations

import ast
from pathlib import Path

from support import ROOT

RUNTIME = ROOT / "services" / "runtime" / "parfocal" / "runtime"
# From the ground up. Rooms of one floor do not know each other either.
FLOORS = (
    ("errors", "settings", "logs", "metrics", "numbers", "report", "traces"),
    ("rpc_errors", "access"),
    ("images",),
    ("store",),
    ("datasets",),
    ("methods",),
    ("frameworks", "jobs"),
    ("prediction",),
    ("training", "server", "packages"),
    ("bases",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(RUNTIME).with_suffix("").parts[0]


def imported_rooms(code: str) -> set[str]:
    """Return the rooms of the runtime that code imports, at its top or later on."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[2] for name in names if name.startswith("parfocal.runtime.")}


def test_every_room_has_its_floor() -> None:
    rooms = {room_of(path) for path in RUNTIME.rglob("*.py")} - {"__init__"}
    assert rooms == FLOOR_OF.keys()


def test_no_module_imports_one_of_a_higher_floor() -> None:
    upwards, known = [], set()
    for path in sorted(RUNTIME.rglob("*.py")):
        here = room_of(path)
        for room in imported_rooms(path.read_text(encoding="utf-8")):
            known.add(room)
            if room != here and FLOOR_OF[room] >= FLOOR_OF.get(here, 0):
                upwards.append(f"{path.relative_to(RUNTIME)} imports from {room}")
    assert not upwards
    # Otherwise nothing was looked at.
    assert {"errors", "images", "store", "datasets", "methods", "jobs", "prediction"} <= known
