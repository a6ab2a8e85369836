"""`python -m upgrade --old COMMIT [--service NAME …]`: upgrade and rollback of a service beside running jobs.

```
PYTHONPATH=tests .venvs/orchestrator/bin/python -m upgrade --old v0.1.0 --service fake --service fnet
```

Both versions run on one store, each from the files of its commit and in an environment made of the locks of its commit,
by the `deploy/tools/envs` of its commit; --shared takes the environments of this repository for both, which saves
minutes where the locks hardly differ. A training that the old version has begun is finished by the new one, and the
other way round at the rollback; models of each are used by the other. It is no part of `make test`. Exit code 1:
something that should not happen did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from support import ROOT

from upgrade.trial import Trial, runs_in


def main(arguments: list[str] | None = None) -> int:
    """Try each service; return 0 if all went as it should."""
    parser = argparse.ArgumentParser(
        prog="python -m upgrade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", required=True, metavar="COMMIT", help="the older version")
    parser.add_argument("--new", default="", metavar="COMMIT", help="the newer version; empty: the files as they are")
    parser.add_argument("--service", action="append", default=[], help="fake, or a service; repeat for more")
    parser.add_argument("--epochs", type=int, default=60, help="of the trainings that are interrupted (60)")
    parser.add_argument("--shared", action="store_true", help="run both in the environments of this repository")
    parser.add_argument("--out", type=Path, help="a new folder for store and logs; without it they are removed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.out or scratch)
        old = _files(options.old, folder / "old-files")
        new = _files(options.new, folder / "new-files") if options.new else ROOT
        lines: list[tuple[bool, str]] = []
        services: list[str] = options.service or ["fake"]
        shared = ROOT / ".venvs"
        old_environments = shared if options.shared else _environments(old, services)
        new_environments = shared if options.shared or new == ROOT else _environments(new, services)
        for service in services:
            print(f"{service}: {options.old} and {options.new or 'the files as they are'}", flush=True)
            with Trial(
                old, new, old_environments, new_environments, service, folder / service, options.epochs
            ) as trial:
                try:
                    trial.run()
                finally:
                    lines += trial.lines
    wrong = sum(not good for good, _ in lines)
    print(f"{len(lines)} observations, {wrong} wrong")
    return 1 if wrong else 0


def _files(commit: str, folder: Path) -> Path:
    """Write the files of a commit to a folder and return it."""
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "-C", str(ROOT), "archive", "--output", str(archive), commit], check=True)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    archive.unlink()
    return folder


def _environments(tree: Path, services: list[str]) -> Path:
    """Make the environments of some services as a checkout of these files would; return the folder they are in."""
    names = sorted({runs_in(service)[0] for service in services})
    subprocess.run([str(tree / "deploy/tools/envs"), *names], check=True)
    return tree / ".venvs"


if __name__ == "__main__":
    sys.exit(main())
