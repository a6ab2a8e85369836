"""Damage done to weights in HDF5, which importers must refuse: what is no plain number."""

from __future__ import annotations

from pathlib import Path

import h5py


def external_link(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")


def text_inside(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["note"] = "hello"


def garbage(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 no weights")
