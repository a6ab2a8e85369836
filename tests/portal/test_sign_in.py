"""Signing in to the portal at a real provider, in front of real services with a real access file."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright
from portal_visitor import Visitor
from support import ROOT, S3Server, ServiceProcess, free_ports, wait_for

from parfocal.portal.__main__ import allowed_hosts, require_protection
from parfocal.portal.app import create_app
from parfocal.portal.settings import PortalSettings
from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.settings import Settings

ACCESS = """
[[issuers]]
issuer = "{issuer}"
audience = "parfocal"
name_claim = "email"
client_id = "parfocal-cli"

[projects.first]
users = ["group:imaging"]
viewers = ["bob@example.org"]

[projects.second]
operators = ["bob@example.org"]
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A token is renewed half a minute before its end: here, after two seconds.
TOKEN_SECONDS = 32


@dataclass
class Person(Visitor):
    """A browser of somebody who signs in."""

    project: str = "first"

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.base, follow_redirects=True, timeout=60)

    def open(self, path: str, **headers: str) -> httpx.Response:
        headers = {"Accept": "text/html", **headers}
        inside = not path.startswith(("/", "http:"))
        answer = self.http.get(f"/p/{self.project}/{path}" if inside else path, headers=headers)
        found = re.search(r'<meta name="csrf" content="([0-9a-f]+)">', answer.text)
        self.token = found.group(1) if found else self.token
        return answer

    def to_provider(self, path: str) -> str:
        """Return the address of the provider's page to which the portal sends somebody who opens `path`."""
        asked = self.open(path)
        (link,) = re.findall(r'href="(/sign-in/start[^"]+)"', asked.text)
        return str(self.http.get(html.unescape(link), follow_redirects=False).headers["location"])

    def come_back(self, address: str, user: str) -> str:
        """Choose who one is on the provider's page; return where it sends the browser."""
        return str(self.http.post(address, data={"user": user}, follow_redirects=False).headers["location"])

    def sign_in(self, user: str, path: str = "/") -> httpx.Response:
        return self.open(self.come_back(self.to_provider(path), user))


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ready = tmp_path_factory.mktemp("provider") / "issuer"
    (port,) = free_ports(1)
    command = [sys.executable, str(ROOT / "tests/identity_provider.py"), str(port), str(TOKEN_SECONDS), str(ready)]
    process = subprocess.Popen(command)
    yield wait_for(lambda: ready.exists() and ready.read_text(), 20, "the provider")
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def access_file(issuer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("access") / "access.toml"
    path.write_text(ACCESS.format(issuer=issuer))
    return path


@pytest.fixture(scope="module")
def guarded(
    s3: S3Server,
    start_service: Callable[..., ServiceProcess],
    access_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    names = ("fake", "catalog")
    fake, catalog = (start_service(name, access_file=str(access_file)) for name in names)
    # The portal has no key of the store.
    return Settings(
        services=fake.address,
        catalog=catalog.address,
        access_file=access_file,
        state_dir=tmp_path_factory.mktemp("state"),
    )


@pytest.fixture(scope="module")
def portal(guarded: Settings) -> Iterator[str]:
    (port,) = free_ports(1)
    app = create_app(guarded, PortalSettings(), hosts={f"127.0.0.1:{port}"})
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 30, "the portal")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def ann(portal: str) -> Iterator[Person]:
    with Person(portal) as person:
        person.sign_in("ann")
        yield person


@pytest.fixture
def bob(portal: str) -> Iterator[Person]:
    with Person(portal, project="second") as person:
        person.sign_in("bob")
        yield person


@pytest.fixture(scope="module")
def dataset(portal: str, files: dict[str, bytes]) -> str:
    """A dataset that ann made in the project first."""
    with Person(portal) as person:
        person.sign_in("ann")
        upload = person.upload(files)
        saved = person.send(f"uploads/{upload}/save", name="secret-fibres")
        assert saved.url.path == "/p/first/data/secret-fibres/1", saved.text
    return "secret-fibres"


# Signing in


def test_a_page_is_opened_after_signing_in_and_work_is_in_the_name_of_who_did(portal: str, dataset: str) -> None:
    with Person(portal) as person:
        page = person.sign_in("ann", f"/p/first/data/{dataset}/1?split=train")
        assert str(page.url) == f"{portal}/p/first/data/{dataset}/1?split=train"
        assert "ann@example.org" in page.text
        assert "by ann@example.org" in page.text, "who saved the dataset"


def test_tokens_and_codes_are_in_no_page_cookie_or_header(portal: str) -> None:
    with Person(portal) as person:
        address = person.to_provider("/p/first/")
        query = parse_qs(urlsplit(address).query)
        assert query["code_challenge_method"] == ["S256"]
        assert {"state", "nonce", "code_challenge"} <= query.keys()
        answer = person.http.get(person.come_back(address, "ann"), follow_redirects=False)
        assert answer.headers["location"] == "/p/first/"
        (cookie,) = [text for text in answer.headers.get_list("set-cookie") if text.startswith("parfocal_sign_in=")]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        seen = "".join([*(cookie.value or "" for cookie in person.http.cookies.jar), person.open("").text])
        assert "eyJ" not in seen, "a token begins like this"


def test_with_an_https_address_cookies_are_for_tls_and_this_host_alone(
    guarded: Settings, issuer: str, tmp_path: Path
) -> None:
    own = PortalSettings(url="https://parfocal.example.org")
    app = create_app(guarded.model_copy(update={"state_dir": tmp_path}), own, hosts={own.host})
    transport = httpx.ASGITransport(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url=own.url) as http:
            return await http.get("/sign-in/start", params={"issuer": issuer, "next": "/projects"})

    answer = asyncio.run(ask())
    assert parse_qs(urlsplit(answer.headers["location"]).query)["redirect_uri"] == [f"{own.url}/sign-in/callback"]
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2
    assert all(cookie.startswith("__Host-") and cookie.endswith("; Secure") for cookie in cookies)
    assert "strict-transport-security" in answer.headers


def test_an_answer_for_another_browser_is_refused(portal: str) -> None:
    with Person(portal) as person, Person(portal) as other:
        back = person.come_back(person.to_provider("/"), "ann")
        refused = other.open(back)
        assert refused.status_code == 401
        assert "another browser" in refused.text
        assert other.open("/p/first/").url.path == "/sign-in"
        assert person.open(back).status_code == 200
        assert person.open(back).status_code == 401, "a second time"


def test_an_identity_token_for_another_attempt_is_refused(portal: str, issuer: str) -> None:
    with Person(portal) as person:
        httpx.post(f"{issuer}/wrong-nonce", content="yes")
        try:
            answer = person.sign_in("ann")
        finally:
            httpx.post(f"{issuer}/wrong-nonce", content="no")
        assert answer.status_code == 401
        assert "another sign-in" in answer.text
        assert person.open("/p/first/").url.path == "/sign-in"


def test_who_refuses_or_has_no_role_is_told_so(portal: str) -> None:
    with Person(portal) as person:
        refused = person.sign_in("nobody")
        assert refused.status_code == 401
        assert "did not agree" in refused.text
        nowhere = person.sign_in("cid")
        assert nowhere.status_code == 401
        assert "cid@example.org, but have no role in any project" in nowhere.text
        assert person.open("/projects").url.path == "/sign-in"


@pytest.mark.parametrize("path", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_nobody_is_sent_to_another_site_after_signing_in(portal: str, path: str) -> None:
    with Person(portal) as person:
        asked = person.http.get("/sign-in", params={"next": path})
        (link,) = re.findall(r'href="(/sign-in/start[^"]+)"', asked.text)
        assert parse_qs(urlsplit(html.unescape(link)).query)["next"] == ["/"]


@pytest.mark.parametrize(
    ("listen", "url", "identities", "missing"),
    [
        ("127.0.0.1:8600", "", False, ""),
        ("0.0.0.0:8600", "", False, "PARFOCAL_ACCESS_FILE"),
        ("0.0.0.0:8600", "", True, "PARFOCAL_PORTAL_URL"),
        ("0.0.0.0:8600", "http://portal.example.org", True, "PARFOCAL_PORTAL_URL"),
        ("0.0.0.0:8600", "https://portal.example.org", True, ""),
    ],
)
def test_the_portal_is_not_opened_to_a_network_by_mistake(
    listen: str, url: str, identities: bool, missing: str, tmp_path: Path
) -> None:
    settings = Settings(access_file=tmp_path / "access.toml" if identities else None, tls_cert=tmp_path / "of-a-client")
    with contextlib.nullcontext() if not missing else pytest.raises(PreconditionError, match=missing):
        require_protection(listen, settings, PortalSettings(url=url))


def test_beyond_loopback_the_portal_answers_to_its_address_alone() -> None:
    own = PortalSettings(url="https://portal.example.org")
    assert allowed_hosts("0.0.0.0", "8600", own) == {"portal.example.org"}
    assert allowed_hosts("127.0.0.1", "8600", PortalSettings()) == {"127.0.0.1:8600", "localhost:8600"}


# While signed in


def test_nothing_but_the_sign_in_is_answered_to_a_stranger(portal: str, dataset: str) -> None:
    with Person(portal) as person:
        for path in ("", f"data/{dataset}/1", "jobs", f"tiles/dataset/{dataset}:1/a/source/info", "none"):
            assert person.open(path).url.path == "/sign-in"
            program = person.http.get(f"/p/first/{path}", headers={"Accept": "*/*"})
            assert (program.status_code, dataset in program.text) == (401, False)
        person.open("/sign-in")
        assert person.send("uploads", follow=False).status_code == 401
        form = {"Accept": "text/html", "Origin": portal, "Referer": f"{portal}/p/first/train?method=fake-2d"}
        lost = person.http.post("/p/first/train", data={"csrf": person.token}, headers=form)
        assert lost.url.path == "/sign-in"
        assert "nothing was sent" in lost.text
        assert "%2Fp%2Ffirst%2Ftrain%3Fmethod%3Dfake-2d" in lost.text
        assert person.http.get("/health").status_code == 200


def test_a_second_person_sees_nothing_of_the_first_ones_project(
    ann: Person, portal: str, access_file: Path, dataset: str
) -> None:
    before = access_file.read_text()
    access_file.write_text(before.replace('viewers = ["bob@example.org"]', ""))
    try:
        with Person(portal, project="first") as bob:
            bob.sign_in("bob")
            upload = ann.upload({"a.tif": b"x"})

            def forgotten() -> bool:
                return bob.open("/p/first/").status_code == 404

            wait_for(forgotten, 20, "the access file to be read again")
            assert "first" not in bob.open("/projects").text
            begun = ann.send("train", follow=False, method="fake-2d", dataset=f"{dataset}:1", model="m")
            job = begun.headers["location"].rsplit("/", 1)[1]
            for path in (
                *("", "data", f"data/{dataset}/1", "models", "jobs", "jobs/active", f"jobs/{job}", "search?q=s"),
                *(f"jobs/{job}/events", "operator", "operator/storage", f"uploads/{upload}", "results", "compare"),
                *("methods", "predict", "train", "predict/tried/x/input.png", f"data/{dataset}/1/viewer.json"),
                *(f"tiles/dataset/{dataset}:1/train:a/source/info", f"uploads/{upload}/files", "models/m/1"),
                *("annotate", "annotate/none", "annotate/none/viewer.json", "schedules", "deleted", "inboxes?inbox=x"),
                *(f"share/dataset/{dataset}", f"delete/dataset/{dataset}:1", "compare/viewer.json?a=m:1&b=n:1"),
                *("tiles/draft/none/train:a/labels/info", f"train/patches.png?method=fake-2d&dataset={dataset}:1"),
                f"data/{dataset}/1/pictures/train/source/a.tif",
            ):
                answer = bob.open(path)
                assert (path, answer.status_code) == (path, 404)
                # Nothing but the address that was asked for.
                text = html.unescape(answer.text).replace(path, "").replace(path.partition("?")[0] or "/", "")
                assert [word for word in (dataset, "5 training", job, "fake-2d", upload) if word in text] == []
            bob.token = re.findall(r'name="csrf" content="(\w+)"', bob.open("/projects").text)[0]
            for path in (f"uploads/{upload}/discard", f"jobs/{job}/cancel", "uploads", "predict", "train"):
                assert (path, bob.send(path).status_code) == (path, 404)
            assert ann.open(f"uploads/{upload}").status_code == 200
    finally:
        access_file.write_text(before)


def test_a_viewer_is_offered_no_work_and_is_refused_in_the_services_words(portal: str, dataset: str) -> None:
    with Person(portal, project="first") as bob, Person(portal, project="first") as ann:
        bob.sign_in("bob")
        ann.sign_in("ann")
        wait_for(lambda: bob.open("").status_code == 200, 20, "the access file to be read again")
        for path in ("", "data", f"data/{dataset}/1", "models", "jobs", "results", "methods", "predict", "train"):
            forms = re.findall(r'<form method="post" action="(/p/[^"]+)"', bob.open(path).text)
            assert (path, forms) == (path, []), "a viewer has no forms"
        # Here nothing cuts images into tiles.
        pages = [person.open(f"data/{dataset}/1").text for person in (bob, ann)]
        assert ["somebody who may start work" in text for text in pages] == [True, False]
        assert "Upload images" not in bob.open("data").text
        assert "Upload images" in ann.open("data").text
        refused = bob.send("uploads")
        assert refused.status_code == 403
        assert "bob@example.org) are a viewer of the project" in html.unescape(refused.text)
        assert "requires the role user" in refused.text
        assert 'href="/p/first/operator"' not in ann.open("").text
        assert ann.open("operator").status_code == 403


def test_an_upload_is_changed_by_who_began_it_or_by_an_operator(portal: str, ann: Person, access_file: Path) -> None:
    upload = ann.upload({"a.tif": b"x"})
    before = access_file.read_text()
    access_file.write_text(before.replace('viewers = ["bob@example.org"]', "").replace('"group:imaging"', '"*"'))
    try:
        with Person(portal, project="first") as bob:
            bob.sign_in("bob")
            page = wait_for(
                lambda: "Upload images" in bob.open("data").text and bob.open(f"uploads/{upload}"), 20, "a role"
            )
            assert "Discard" not in page.text
            refused = bob.send(f"uploads/{upload}/discard")
            assert (refused.status_code, "begun by ann@example.org" in refused.text) == (403, True)
    finally:
        access_file.write_text(before)
    assert "Discard" in ann.open(f"uploads/{upload}").text
    assert ann.send(f"uploads/{upload}/discard").url.path == "/p/first/data"


def test_projects_are_those_in_which_somebody_has_a_role(ann: Person, bob: Person) -> None:
    assert ann.open("/").url.path == "/p/first/"
    page = bob.open("/")
    assert page.url.path == "/projects"
    assert re.findall(r'<a href="/p/([^/]+)/"><strong>', page.text) == ["first", "second"]
    assert "an operator here" in page.text
    assert bob.open("/p/second/operator").status_code == 200


def test_a_token_is_renewed_and_signing_out_ends_it_everywhere(portal: str, issuer: str) -> None:
    with Person(portal) as person:
        person.sign_in("ann")
        time.sleep(TOKEN_SECONDS - 30 + 0.5)
        # Several requests at once: a refresh token is taken only once.
        answers: list[int] = []
        work = [threading.Thread(target=lambda: answers.append(person.open("jobs").status_code)) for _ in range(4)]
        for each in work:
            each.start()
        for each in work:
            each.join()
        assert answers == [200] * 4
        copied = dict(person.http.cookies)
        out = person.http.post("/sign-out", data={"csrf": person.token}, headers={"Origin": portal})
        assert out.url.path == "/signed-out"
        assert f"{issuer}/end?client_id=parfocal-cli" in out.text
        with httpx.Client(base_url=portal, cookies=copied) as thief:
            assert thief.get("/p/first/jobs").status_code == 401


@pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("PARFOCAL_NEEDS_CHROMIUM"),
    reason="needs chromium: apt-get install chromium",
)
def test_in_a_browser_the_place_is_kept_and_a_form_survives_the_end_of_a_sign_in(portal: str, dataset: str) -> None:
    said: list[str] = []
    found: list[tuple[str, str, str]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(base_url=portal, viewport={"width": 1280, "height": 720})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on(
            "console",
            lambda message: said.append(f"{message.text} {message.location}") if message.type == "error" else None,
        )

        def check(path: str) -> None:
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.goto(path)
                found.extend((path, scheme, each["id"]) for each in Axe().run(page).response["violations"])

        check("/sign-in?why=ended&next=/projects")
        page.goto(f"/p/first/data/{dataset}/1#train:field1,0,0,1")
        page.get_by_role("link", name=re.compile("^Sign in with")).click()
        page.get_by_role("button", name="ann").click()
        page.wait_for_url(f"{portal}/p/first/data/{dataset}/1#**")
        for path in ("/projects", "/p/first/deleted", f"/p/first/delete/dataset/{dataset}:1", "/p/first/schedules"):
            check(path)

        page.goto(f"/p/first/train?method=fake-2d&dataset={dataset}:1")
        page.get_by_label("Name of the model").fill("typed-before")
        context.clear_cookies(name="parfocal_sign_in")
        expect(page.get_by_role("alert")).to_contain_text("Your sign-in has ended", timeout=60_000)
        with context.expect_page() as opened:
            page.get_by_role("link", name="Sign in in another tab").click()
        tab = opened.value
        tab.get_by_role("link", name=re.compile("^Sign in with")).click()
        tab.get_by_role("button", name="ann").click()
        expect(tab.get_by_role("heading", level=1)).to_contain_text("You are signed in as ann@example.org")
        tab.close()
        page.get_by_role("button", name="Start training").click()
        page.wait_for_url(re.compile("/p/first/jobs/"))
        expect(page.get_by_role("heading", level=1)).to_contain_text("typed-before")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{portal}/signed-out")
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Sign in")
        check("/signed-out")
        browser.close()
    assert found == []
    # What the browser says of parts of pages that ask for a sign-in, and of the provider's page.
    assert [text for text in said if not re.search("(status of|Error Code) 401|favicon", text)] == []
