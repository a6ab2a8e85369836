"""The parts in which large files are sent to the store."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

PART_BYTES: Final = 64 * 2**20
"""Files larger than this are sent in parts of this size or more: the store takes 10,000 parts at most."""
_MOST_PARTS: Final = 9_000
# MD5 takes twice as long as SHA-256 on most processors.
_MD5_THREADS: Final = 2


def part_size(size: int) -> int:
    """Return the size of the parts of a large file in bytes, whole MiB."""
    return max(PART_BYTES, -(-size // _MOST_PARTS // 2**20) * 2**20)


def digests_of(path: Path, part: int) -> tuple[str, list[bytes]]:
    """Return the SHA-256 of a file in hexadecimal, and the MD5 of each of its parts of `part` bytes.

    The file is read once, and up to three parts are in memory.
    """
    whole, md5s, begun = hashlib.sha256(), [], deque[Future[bytes]]()
    with path.open("rb") as file, ThreadPoolExecutor(_MD5_THREADS) as pool:
        while data := file.read(part):
            begun.append(pool.submit(_md5, data))
            whole.update(data)
            if len(begun) == _MD5_THREADS:
                md5s.append(begun.popleft().result())
        md5s += [each.result() for each in begun]
    return whole.hexdigest(), md5s


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
