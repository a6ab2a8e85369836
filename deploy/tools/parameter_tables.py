"""Writes tables of parameters and settings into the documentation, from what the code publishes.

A page has a pair of markers for each table; what stands between them is replaced:

    <!-- parameters:training -->          in the page that a method names as its documentation
    <!-- settings -->                     in docs/operating.md
    <!-- end -->

Each service is asked in its own environment, where its constant SERVICE is imported and nothing heavier. The words of
the tables are those of `parfocal methods`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parfocal.client.parameters import table_rows
from parfocal.runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OPERATING = "docs/operating.md"
END = "<!-- end -->"

# Runs in the service's environment: prints page, kind and schema of all that the service offers.
_ASK = """
import json, sys
from parfocal import v1
from parfocal.runtime.methods.service import load_service
print(json.dumps([
    (method.documentation, v1.JobKind.Name(kind).removeprefix("JOB_KIND_").lower(), work.parameters.model_json_schema())
    for method in load_service(sys.argv[1]).methods
    for kind, work in method.work.items()
]))
"""


def main() -> int:
    """Write the tables, or with --check say which pages are stale; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; end with 1 if a page is stale")
    parser.add_argument("services", nargs="+", metavar="SERVICE", help="folder of services/")
    options = parser.parse_args()
    tables: dict[str, dict[str, list[str]]] = {OPERATING: {"settings": settings_table()}}
    for service in options.services:
        for page, kind, schema in ask(service):
            if f"parameters:{kind}" in tables.setdefault(page, {}):
                sys.exit(f"{page} is named by two methods that offer {kind}; give each method a page of its own.")
            tables[page][f"parameters:{kind}"] = parameter_table(schema)
    stale = [page for page, content in tables.items() if update(ROOT / page, page, content, write=not options.check)]
    if stale and options.check:
        sys.stderr.write(f"stale: {', '.join(stale)}; run make docs and commit the result\n")
        return 1
    for page in stale:
        sys.stdout.write(f"{page}: tables written\n")
    return 0


def ask(service: str) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    """Return page, kind of work and JSON Schema of everything a service offers."""
    python = ROOT / ".venvs" / service / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} does not exist: run make envs first.")
    module = f"parfocal.{service.replace('-', '_')}"
    answer = subprocess.run([python, "-P", "-c", _ASK, module], stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        sys.exit(f"The service {service} could not be asked for its parameters (see above).")
    found: list[tuple[str, str, Mapping[str, Any]]] = json.loads(answer.stdout)
    return found


def parameter_table(schema: Mapping[str, Any]) -> list[str]:
    """Return the parameters of a schema as lines of a Markdown table."""
    rows = []
    for name, kind, default, limits, text in table_rows(schema):
        values = limits if kind == "choice" else ", ".join(filter(None, (kind, limits)))
        rows.append((f"`{name}`", f"`{default}`" if default else "", values, text))
    return markdown(("Parameter", "Default", "Values", "What it does"), rows)


def settings_table() -> list[str]:
    """Return the deployment settings as lines of a Markdown table."""
    rows = []
    for name, _, default, _, text in table_rows(Settings.model_json_schema()):
        shown = "empty" if default in ("", "none") else f"`{default}`"
        rows.append((f"`PARFOCAL_{name.upper()}`", shown, text))
    return markdown(("Variable", "Default", "Meaning"), rows)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def update(path: Path, page: str, tables: Mapping[str, Sequence[str]], *, write: bool) -> bool:
    """Replace the tables of a page; return whether they differed from what stood there."""
    if not path.exists():
        sys.exit(
            f"{page} does not exist: a method names it as its documentation. Write it, see docs/adding-a-method.md."
        )
    before = text = path.read_text(encoding="utf-8")
    wanted, there = set(tables), set(re.findall(r"<!-- (settings|parameters:\w+) -->", text))
    if wanted != there:
        sys.exit(f"{page} has the markers {sorted(there)}, but needs {sorted(wanted)}.")
    for name, lines in tables.items():
        marker = f"<!-- {name} -->"
        head, *rest = text.split(marker)
        if len(rest) != 1 or END not in rest[0]:
            sys.exit(f"{page} needs the marker {marker} once, and {END} behind it.")
        tail = rest[0].partition(END)[2]
        text = "".join([head, "\n".join([marker, *lines, END]), tail])
    if write and text != before:
        path.write_text(text, encoding="utf-8")
    return text != before


if __name__ == "__main__":
    sys.exit(main())
