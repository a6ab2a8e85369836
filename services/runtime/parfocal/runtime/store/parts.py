"""The parts in which large files are sent to the store."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from parfocal.runtime.store.publish import sha256_of

PART_BYTES: Final = 64 * 2**20
"""Files larger than this are sent in parts of this size or more: the store takes 10,000 parts at most."""
_MOST_PARTS: Final = 9_000
_BLOCK: Final = 2**18
# MD5 takes twice as long as SHA-256, so that both go through the file at about the same pace.
_MD5_THREADS: Final = 2


def part_size(size: int) -> int:
    """Return the size of the parts of a large file in bytes, whole MiB."""
    return max(PART_BYTES, -(-size // _MOST_PARTS // 2**20) * 2**20)


def digests_of(path: Path, part: int) -> tuple[str, list[bytes]]:
    """Return the SHA-256 of a file in hexadecimal, and the MD5 of each of its parts of `part` bytes."""
    with ThreadPoolExecutor(_MD5_THREADS) as pool:
        md5s = pool.map(partial(_md5_of, path, part), range(0, path.stat().st_size, part))
        return sha256_of(path), list(md5s)


def _md5_of(path: Path, size: int, offset: int) -> bytes:
    digest, block = hashlib.md5(usedforsecurity=False), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while size > 0 and (count := file.readinto(block[: min(size, _BLOCK)])):
            digest.update(block[:count])
            size -= count
    return digest.digest()
