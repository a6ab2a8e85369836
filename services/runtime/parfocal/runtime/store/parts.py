"""The parts in which large files are sent to the store."""

from __future__ import annotations

import hashlib
import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

PART_BYTES: Final = 64 * 2**20
"""Files larger than this are sent in parts of this size or more: the store takes 10,000 parts at most."""
_MOST_PARTS: Final = 9_000
_BLOCK: Final = 2**20


def part_size(size: int) -> int:
    """Return the size of the parts of a large file in bytes, whole MiB."""
    return max(PART_BYTES, -(-size // _MOST_PARTS // 2**20) * 2**20)


def digests_of(path: Path, part: int) -> tuple[str, list[bytes]]:
    """Return the SHA-256 of a file in hexadecimal, and the MD5 of each of its parts of `part` bytes, whole MiB.

    The file is read once, and both are computed at the same time.
    """
    whole, md5s = hashlib.sha256(), list[Any]()
    # One is filled while the MD5 of the other one is computed.
    blocks = itertools.cycle((bytearray(_BLOCK), bytearray(_BLOCK)))
    before: Future[None] | None = None
    with path.open("rb") as file, ThreadPoolExecutor(1) as pool:
        for begin in itertools.count(0, _BLOCK):
            block = next(blocks)
            data = memoryview(block)[: file.readinto(block)]
            if not data:
                break
            if begin % part == 0:
                md5s.append(hashlib.md5(usedforsecurity=False))
            now = pool.submit(md5s[-1].update, data)
            whole.update(data)
            if before is not None:
                before.result()
            before = now
    return whole.hexdigest(), [md5.digest() for md5 in md5s]
