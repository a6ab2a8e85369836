"""Say what is inside an environment: a bill of materials and the licences of all that others made.

    python describe.py ENVIRONMENT REPORT…

Writes ENVIRONMENT/share/sbom.cdx.json (CycloneDX 1.6, by cyclonedx-py) and ENVIRONMENT/share/THIRD-PARTY-NOTICES.txt
(by pip-licenses). The REPORTs are what ``pip install --report`` wrote: from them each component gets the SHA-256 of the
file that it was installed from, that of PyTorch included, whose builds differ and which no lock file can pin by hash.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit


def name_of(text: str) -> str:
    """Return the normalised name of a distribution."""
    return re.sub(r"[-_.]+", "-", text).lower()


def hashes(reports: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of the file each distribution was installed from."""
    found = {}
    for report in reports:
        for item in json.loads(report.read_text("utf-8"))["install"]:
            source = item["download_info"]
            digest = source.get("archive_info", {}).get("hashes", {}).get("sha256")
            if not digest:  # a file of this stage, which pip does not look at twice
                digest = hashlib.sha256(Path(unquote(urlsplit(source["url"]).path)).read_bytes()).hexdigest()
            found[name_of(item["metadata"]["name"])] = digest
    return found


def main() -> None:
    """Write both files; fail if a component of others has no digest."""
    environment, reports = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    tools, python, share = Path(sys.executable).parent, environment / "bin/python", environment / "share"
    bill = subprocess.run(
        [tools / "cyclonedx-py", "environment", "--output-reproducible", "--of", "JSON", "--sv", "1.6", python],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    content, digests = json.loads(bill), hashes(reports)
    for component in content["components"]:
        name = name_of(component["name"])
        if not name.startswith("parfocal"):
            component["hashes"] = [{"alg": "SHA-256", "content": digests[name]}]
    (share / "sbom.cdx.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    notices = [tools / "pip-licenses", f"--python={python}", "--format=plain-vertical", "--with-license-file"]
    notices += ["--with-notice-file", "--with-urls", "--no-license-path", "--ignore-packages"]
    own = [component["name"] for component in content["components"] if component["name"].startswith("parfocal")]
    text = subprocess.run([*notices, *own], check=True, capture_output=True, text=True).stdout
    (share / "THIRD-PARTY-NOTICES.txt").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
