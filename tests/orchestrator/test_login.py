"""Logging in at a real OpenID Connect provider, and working with services that ask who calls."""

from __future__ import annotations

import csv
import io
import stat
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ROOT, Ended, ServiceProcess, free_ports, read_audit, wait_for

from parfocal.client.contexts import ContextFolder

ACCESS = """
[[issuers]]
issuer = "{issuer}"
audience = "parfocal"
name_claim = "email"
client_id = "parfocal-cli"

[projects.test-login]
users = ["group:imaging"]

[projects.elsewhere]
users = ["bob@example.org"]
"""
# A token is renewed half a minute before its end: here, after a second.
TOKEN_SECONDS = 31


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A provider as a process of its own."""
    ready = tmp_path_factory.mktemp("provider") / "issuer"
    (port,) = free_ports(1)
    command = [sys.executable, str(ROOT / "tests/identity_provider.py"), str(port), str(TOKEN_SECONDS), str(ready)]
    process = subprocess.Popen(command)
    yield wait_for(lambda: ready.exists() and ready.read_text(), 20, "the provider")
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def services(
    start_service: Callable[..., ServiceProcess], issuer: str, audit: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ServiceProcess]:
    path = tmp_path_factory.mktemp("access") / "access.toml"
    path.write_text(ACCESS.format(issuer=issuer))
    settings = {"access_file": str(path), "audit_file": str(audit)}
    return {name: start_service(name, **settings) for name in ("fake", "catalog")}


@pytest.fixture
def environment(
    services: dict[str, ServiceProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """A folder for contexts: services and catalogue are known by the context alone, and nobody has the store's key."""
    values = {"PARFOCAL_HOME": str(tmp_path / "home")}
    for name in ("PARFOCAL_SERVICES", "PARFOCAL_PROJECT", "PARFOCAL_CATALOG", "PARFOCAL_TOKEN", "PARFOCAL_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def log_in(run: Callable[..., Ended], issuer: str, services: dict[str, ServiceProcess]) -> Callable[..., Ended]:
    """Log in while somebody in a browser agrees, or does not."""

    def call(user: str, agree: str = "yes") -> Ended:
        ended = threading.Event()

        def browser() -> None:
            form = urllib.parse.urlencode({"user_code": "*", "user": user, "agree": agree}).encode()
            while not ended.wait(0.2):
                urllib.request.urlopen(f"{issuer}/agree", form, timeout=5).close()

        person = threading.Thread(target=browser)
        person.start()
        try:
            place = ("--services", services["fake"].address, "--catalog", services["catalog"].address)
            place += ("--project", "test-login")
            return run("login", "facility", *place, "--issuer", issuer, "--client-id", "parfocal-cli")
        finally:
            ended.set()
            person.join()

    return call


def test_a_person_logs_in_trains_and_is_named_in_what_they_make(
    run: Callable[..., Ended],
    log_in: Callable[..., Ended],
    environment: dict[str, str],
    images: Path,
    audit: Path,
    services: dict[str, ServiceProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PARFOCAL_CATALOG", services["catalog"].address)
        unknown = run("methods", "--services", services["fake"].address)
    assert unknown.code == 6, unknown.err
    assert "parfocal login" in unknown.err
    done = log_in("ann")
    assert done.code == 0, done.err
    assert "ann@example.org" in done.err

    folder = ContextFolder(Path(environment["PARFOCAL_HOME"]))
    first = folder.tokens("facility")
    assert first is not None
    for name in ("contexts.json", "tokens.json"):
        assert stat.S_IMODE((Path(environment["PARFOCAL_HOME"]) / name).stat().st_mode) == 0o600
    (context,) = run("contexts", "list", "--json").json
    assert (context["user"], context["project"], context["current"]) == ("ann@example.org", "test-login", True)

    assert run("dataset", "create", "spots", images).code == 0
    trained = run("train", "fake-2d", "--dataset", "spots", "--model", "m", "--no-qc", "--json")
    assert trained.code == 0, trained.err
    (job,) = run("jobs", "list", "--json").json
    assert job["created_by"] == "ann@example.org"
    # It has become old meanwhile, and was renewed without a word.
    wait_for(lambda: run("jobs", "list").code == 0 and folder.tokens("facility") != first, 20, "the renewal")

    def used() -> list[dict[str, str]]:
        table = run("usage", "--all-projects")
        assert table.code == 0, table.err
        return [row for row in csv.DictReader(io.StringIO(table.out)) if row["service"] == "fake"]

    (row,) = wait_for(used, 20, "the account of the job")
    assert (row["project"], row["user"], row["jobs"]) == ("test-login", "ann@example.org", "1")
    assert 0 < float(row["device_hours"]) < 1
    assert run("usage", "--storage").out.startswith("project,month,kind,mean_gb,largest_gb,days")

    entries = read_audit(audit)
    assert {"UNAUTHENTICATED", "OK"} <= {entry["outcome"] for entry in entries}
    (start,) = [entry for entry in entries if entry["rpc"].endswith("/StartJob")]
    assert (start["who"], start["project"], start["target"]) == ("ann@example.org", "test-login", job["id"])
    kept = folder.tokens("facility")
    assert kept is not None
    assert kept.token not in audit.read_text() + services["fake"].log.read_text()

    assert run("logout").code == 0
    assert folder.tokens("facility") is None
    assert run("jobs", "list").code == 6


def test_somebody_without_a_role_sees_nothing(run: Callable[..., Ended], log_in: Callable[..., Ended]) -> None:
    assert log_in("bob").code == 0
    assert run("methods").code == 0
    hidden = run("jobs", "list")
    absent = run("jobs", "list", "--project", "no-such-project")
    assert hidden.code == absent.code == 3
    assert hidden.err == absent.err.replace("no-such-project", "test-login")
    assert run("jobs", "list", "--project", "elsewhere").code == 0


def test_a_refused_login_says_so(log_in: Callable[..., Ended]) -> None:
    refused = log_in("ann", agree="no")
    assert refused.code == 6
    assert "refused" in refused.err


def test_a_new_context_says_what_it_needs(run: Callable[..., Ended]) -> None:
    ended = run("login", "somewhere")
    assert ended.code == 2
    assert "--issuer" in ended.err
    assert run("contexts", "use", "nowhere").code == 3


def test_the_digest_of_a_machines_token_is_all_that_servers_get(run: Callable[..., Ended]) -> None:
    made = run("tokens", "new", "runner", "--group", "robots", "--expires", "2030-01-31", "--json")
    assert made.code == 0
    assert made.json["token"] not in made.json["entry"]
    assert run("tokens", "new", "runner", "--expires", "tomorrow").code == 2
