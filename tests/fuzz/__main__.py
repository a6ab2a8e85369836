"""`python -m fuzz --count N`: random messages to every RPC, and random files to every parser.

```
PYTHONPATH=tests .venvs/qc/bin/python -m fuzz --count 1000000 --minutes 12 --seed 7 --keep build/fuzz
```

A tenth of the count is messages: to the fake service and the catalogue, as real processes on a store of their own, made
from the descriptors of the contract, so that a new RPC is called without further ado. The rest are inputs of the
parsers. Parsers of packages, of OME-Zarr and of weights of Keras, PyTorch and Darknet need what only some environments
have: `--part elsewhere` runs those that it finds, in the environments orchestrator, care and yolo.

Defects are an outcome of INTERNAL or UNKNOWN, a traceback in a log, any exception of a parser but those with a message
for people, and a parser that is busy for more than five seconds. Each kind is printed once; exit code 1.
Inputs that were defects are kept in `--keep`; put them into `tests/fuzz/corpus/<parser>/`, where a test repeats them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fuzz.run import PARTS, run


def main(arguments: list[str] | None = None) -> int:
    """Run once; return 0 if there was no defect."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="messages and inputs (default 10000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="time after which it ends in any case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", choices=PARTS, help="only one part, with the whole count")
    parser.add_argument("--keep", type=Path, help="folder for inputs that are defects")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        shares = {"rpcs": options.count // 10, "inputs": options.count - options.count // 10}
        if options.part:
            shares = {options.part: options.count}
        wrong = run(shares, options.minutes, options.seed, Path(scratch), options.keep)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
