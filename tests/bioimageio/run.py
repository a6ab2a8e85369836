"""Has bioimageio.core test packages: run.py PACKAGE…; it runs without Parfocal."""

from __future__ import annotations

import sys
from pathlib import Path

from bioimageio.core import test_model
from loguru import logger


def main(packages: list[str]) -> int:
    """Test packages, name each, and return 1 if one does not pass."""
    logger.remove()
    failed = 0
    for package in packages:
        summary = test_model(package)
        sys.stdout.write(f"{Path(package).stem}: {summary.status}\n")
        if summary.status != "passed":
            failed = 1
            for detail in summary.details:
                for error in detail.errors:
                    sys.stdout.write(f"  {detail.name}: {error.msg}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
