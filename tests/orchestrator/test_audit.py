"""The audit outside CI finds secrets in files and history, and calls a database that is away no clean result."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support import ROOT, free_ports

TOOL = ROOT / "deploy" / "tools" / "audit"


def audit(repository: Path, *arguments: str, url: str = "") -> tuple[int, str]:
    command = [sys.executable, str(TOOL), "--root", str(repository), *arguments]
    environment = {**os.environ, "OSV_URL": url or f"http://127.0.0.1:{free_ports(1)[0]}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    commit(tmp_path, "README", "A file whose password = 'the one that you have chosen' is none.")
    return tmp_path


def commit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", name]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)


@pytest.fixture
def database() -> Iterator[str]:
    """A database that knows one vulnerability of one version."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            wrong = [query["package"]["name"] == "spoiled" and query["version"] == "1.0" for query in queries]
            answer = json.dumps({"results": [{"vulns": [{"id": "GHSA-1"}]} if bad else {} for bad in wrong]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "text",
    [
        f"secret_key = '{secrets.token_hex(20)}'",
        "AKIA" + "QRSTUVWXYZ234567",
        "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ",
        "postgresql://prefect:" + "h4rdToGuess" + "@db.internal/prefect",
    ],
)
def test_a_secret_is_found_also_after_it_was_removed(repository: Path, text: str) -> None:
    assert audit(repository, "secrets")[0] == 0
    commit(repository, "settings.py", text)
    code, said = audit(repository, "secrets")
    assert code == 1
    assert "settings.py:" in said
    assert text not in said, "the report is no place for secrets"
    commit(repository, "settings.py", "")
    if "\n" not in text:
        assert audit(repository, "secrets")[0] == 1, "it is in the history"


def test_locked_versions_are_asked_about(repository: Path, database: str) -> None:
    commit(repository, "a.lock", "fine==2.0 \\\n    --hash=sha256:0\nspoiled==1.0\n")
    code, said = audit(repository, "packages", url=database)
    assert code == 1
    assert "GHSA-1 spoiled 1.0 (a.lock)" in said
    commit(repository, "a.lock", "fine==2.0\nspoiled==1.1\n")
    assert audit(repository, "packages", url=database)[0] == 0


def test_a_database_that_is_away_is_said(repository: Path) -> None:
    commit(repository, "a.lock", "fine==2.0\n")
    code, said = audit(repository, "packages")
    assert code == 3
    assert "NOT looked at" in said
