"""The parts in which large files are sent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from parfocal.runtime.store.parts import PART_BYTES, digests_of, part_size

_MIB = 2**20


@pytest.mark.parametrize("size", [0, 1, _MIB, 3 * _MIB, 3 * _MIB + 1, 7 * _MIB - 1])
def test_digests_are_those_of_the_file_and_of_each_part(tmp_path: Path, size: int) -> None:
    path, part = tmp_path / "movie.tif", 3 * _MIB
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    # Every block differs, so that none can be taken for another one.
    data = b"".join(bytes([number % 251]) + data[begin + 1 : begin + _MIB] for number, begin in _blocks(size))
    path.write_bytes(data)
    whole, md5s = digests_of(path, part)
    assert whole == hashlib.sha256(data).hexdigest()
    assert md5s == [hashlib.md5(data[begin : begin + part]).digest() for begin in range(0, size, part)]


def _blocks(size: int) -> list[tuple[int, int]]:
    return list(enumerate(range(0, size, _MIB)))


def test_parts_are_few_enough_for_the_store() -> None:
    for size in (PART_BYTES + 1, 10 * 2**30, 5 * 2**40):
        assert -(-size // part_size(size)) <= 10_000
        assert part_size(size) >= PART_BYTES
        assert part_size(size) % _MIB == 0
