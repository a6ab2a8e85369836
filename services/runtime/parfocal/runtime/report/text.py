"""Values and versions as text, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def versions(packages: Mapping[str, str]) -> str:
    """Return "numpy 2.4.6, scipy 1.17.1", in order of name."""
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items())) or "versions not recorded"


def value_text(value: Any) -> str:
    """Return a parameter as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " x ".join(value_text(each) for each in value)
    if value is None or value == "":
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)
