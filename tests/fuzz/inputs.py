"""Files and texts to the parsers: whatever is raised but the errors that people are shown is a defect."""

from __future__ import annotations

import hashlib
import logging
import random
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.mutation import mutate
from fuzz.parsers import Parser, all_parsers
from parfocal.runtime.errors import ParfocalError

CORPUS = Path(__file__).parent / "corpus"
# A small file that keeps a service busy for longer than this stops it for others.
_SLOW_SECONDS = 5


class SlowError(Exception):
    """A parser has not ended in time."""


@dataclass
class Findings:
    """What came of the inputs: how many of which outcome, and one of each kind of defect."""

    counts: Counter[str] = field(default_factory=Counter)
    defects: dict[str, str] = field(default_factory=dict)

    def defect(self, kind: str, text: str) -> None:
        """Keep the first defect of a kind."""
        self.counts["defect"] += 1
        self.defects.setdefault(kind, text)


def run_inputs(
    seed: int,
    count: int,
    scratch: Path,
    keep: Path | None,
    until: float = float("inf"),
    parsers: Sequence[Parser] | None = None,
) -> Findings:
    """Give random inputs to parsers until there were `count`, or it is `until`; keep those that are defects.

    Without `parsers` all those are taken that need no package of a certain environment.
    """
    rng, findings = random.Random(seed), Findings()
    parsers = all_parsers(scratch / "good") if parsers is None else parsers
    assert parsers, "no parser of this environment is known"
    weights = [parser.weight for parser in parsers]
    for parser in parsers:
        for good in parser.seeds:
            # A good content that is refused would let the rest test little.
            assert not (said := attempt(parser, good, scratch)), f"{parser.name} refuses what is good: {said}"
    while findings.counts.total() < count and time.monotonic() < until:
        (parser,) = rng.choices(parsers, weights)
        data = mutate(rng, parser.seeds)
        try:
            said = attempt(parser, data, scratch)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{parser.name}: {type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
            findings.defect(kind, f"{error}"[:300])
            if keep is not None and findings.defects.get(kind) is not None:
                save(keep / parser.name, data)
        else:
            findings.counts["refused" if said else "accepted"] += 1
    return findings


def attempt(parser: Parser, data: bytes, scratch: Path) -> str:
    """Give one content to a parser; return the message with which it was refused, or nothing."""
    path = scratch / f"input{parser.suffix}"
    if parser.suffix:
        path.write_bytes(data)
    with _within_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parser.parse(path if parser.suffix else data)
        except ParfocalError as error:
            return error.message or "refused"
    return ""


def save(folder: Path, data: bytes) -> None:
    """Keep an input under its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def corpus(folder: Path = CORPUS) -> Iterator[tuple[str, bytes]]:
    """Yield the inputs that were defects once, with the name of their parser."""
    for path in sorted(folder.glob("*/*")):
        yield path.parent.name, path.read_bytes()


@contextmanager
def _within_time() -> Iterator[None]:
    def late(_number: int, _frame: Any) -> None:
        raise SlowError(f"not ended after {_SLOW_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_SLOW_SECONDS)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
