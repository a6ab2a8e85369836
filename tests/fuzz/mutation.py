"""Random changes of bytes and texts that were good."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

NUMBERS = ("0", "-1", "1e400", "nan", "-inf", "1e-320", "9223372036854775808", "4294967296", "0x10", "1_000", "٣", "")
TEXTS = (
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "a/../b",
    "/",
    "\\",
    "\x00",
    "a\x00b",
    "\u202egnp.tif",
    "é" * 200,
    "x" * 5000,
    "%s%n",
    "{}",
    "'; DROP TABLE",
    "<x/>",
    "null",
    "NaN",
    "\ud7ff\uffff",
    "s3://",
    "s3://parfocal-models/../x",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
)
_TOKEN = re.compile(rb"[A-Za-z_]+|-?\d+(?:\.\d+)?(?:e-?\d+)?|[^\sA-Za-z_0-9]")
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of some good contents with one to four changes; rarely something that was never good."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(_CHANGES)(rng, data, seeds)
    return bytes(data)


def _change(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _set(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    """Write a number at the edge of a type over some bytes: lengths, offsets and counts are such numbers."""
    size = rng.choice((1, 2, 4, 8))
    if len(data) >= size:
        at = min(_place(rng, data), len(data) - size)
        value = rng.choice(_EDGES) % (1 << (8 * size))
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _cut(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    del data[_place(rng, data) :]


def _remove(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    del data[at : at + rng.randrange(1, 40)]


def _repeat(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at:at] = data[at : at + rng.randrange(1, 60)] * rng.choice((1, 2, 20))


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    at = rng.randrange(len(other) + 1)
    data[_place(rng, data) :] = other[at:]


def _token(rng: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    """Replace a word or number of a text by another one, or by something strange."""
    found = list(_TOKEN.finditer(bytes(data[:20000])))
    if found:
        match = rng.choice(found)
        strange = rng.choice((*NUMBERS, *TEXTS)).encode("utf-8", "surrogatepass")
        data[match.start() : match.end()] = rng.choice((rng.choice(found)[0], strange))


def _place(rng: random.Random, data: bytearray) -> int:
    """Return a place, half of the time near the start, where headers are."""
    return rng.randrange(min(len(data), 400) + 1 if rng.random() < 0.5 else len(data) + 1) if data else 0


_CHANGES = (_change, _set, _set, _cut, _remove, _repeat, _splice, _token, _token)
