"""Notices by a real mail server and a real HTTP server of this computer: sent, signed, told once, never in the way."""

from __future__ import annotations

import email
import hmac
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import Ended, ServiceProcess

from parfocal.flows import hooks, notices
from parfocal.flows.notices import Hook, Mail, Notice
from parfocal.runtime.errors import InvalidInputError, UnavailableError

FAILED = Notice(
    title="predict new images with nuclei:2", text="The store does not answer.", failed=True, page="http://p/1"
)


@pytest.fixture(scope="module")
def services() -> dict[str, ServiceProcess]:
    """No service has to run for this."""
    return {}


@dataclass
class Post:
    """A server that takes notices: its address, what has arrived, and what it answers."""

    address: str = ""
    arrived: list[Any] = field(default_factory=list)
    answer: Any = None


@pytest.fixture
def mail_server() -> Iterator[Post]:
    """A mail server without encryption, as RFC 5321 has it; its `answer` to the text of a mail can be set."""
    post = Post()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 post.lab.org ESMTP")
            sender, to = "", list[str]()
            while line := self.rfile.readline().decode().strip():
                verb, _, rest = line.partition(" ")
                if verb.upper() == "EHLO":
                    self.say("250-post.lab.org\r\n250 8BITMIME")
                elif verb.upper() == "MAIL":
                    sender = address_in(rest)
                    self.say("250 OK")
                elif verb.upper() == "RCPT":
                    to.append(address_in(rest))
                    self.say("250 OK")
                elif verb.upper() == "DATA":
                    self.say("354 go on")
                    text = b"".join(iter(self.rfile.readline, b".\r\n"))
                    if post.answer is None:
                        post.arrived.append((sender, to, email.message_from_bytes(text)))
                    self.say(post.answer or "250 taken")
                else:
                    self.say("221 bye" if verb.upper() == "QUIT" else "250 OK")
                    if verb.upper() == "QUIT":
                        return

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    post.address = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield post
    server.shutdown()
    server.server_close()


def address_in(text: str) -> str:
    return text.partition("<")[2].partition(">")[0]


@pytest.fixture
def web_server() -> Iterator[Post]:
    post = Post(answer=200)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            post.arrived.append((dict(self.headers), body))
            self.send_response(post.answer)
            if post.answer == 302:
                self.send_header("Location", f"{post.address}/elsewhere")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    post.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield post
    server.shutdown()
    server.server_close()


def mail(server: Post, **values: Any) -> Mail:
    return Mail(to=("anna@lab.org", "ben@lab.org"), sender="parfocal@lab.org", server=server.address, **values)


def test_an_email_says_what_failed_and_where_to_look(mail_server: Post) -> None:
    notices.send(mail(mail_server, security="none"), FAILED)
    ((sender, to, message),) = mail_server.arrived
    assert (sender, to) == ("parfocal@lab.org", ["anna@lab.org", "ben@lab.org"])
    assert message["Subject"] == "Parfocal: predict new images with nuclei:2 failed"
    text = message.get_payload(decode=True).decode()
    assert "The store does not answer." in text
    assert "http://p/1" in text
    odd = FAILED.model_copy(update={"title": "a\r\nBcc: everybody@lab.org"})
    notices.send(mail(mail_server, security="none"), odd)
    assert mail_server.arrived[1][2]["Bcc"] is None


def test_a_mail_server_that_refuses_or_is_away_is_told_apart(mail_server: Post) -> None:
    mail_server.answer = "554 not here"
    with pytest.raises(InvalidInputError, match="554 not here"):
        notices.send(mail(mail_server, security="none"), FAILED)
    mail_server.answer = "451 later"
    with pytest.raises(UnavailableError, match="451 later"):
        notices.send(mail(mail_server, security="none"), FAILED)
    with pytest.raises(InvalidInputError, match="STARTTLS"):
        notices.send(mail(mail_server), FAILED)
    with pytest.raises(UnavailableError, match="does not answer"):
        notices.send(mail(Post("127.0.0.1:9"), security="none"), FAILED)
    with pytest.raises(InvalidInputError, match="everybody can read it"):
        notices.send(mail(Post("mail.lab.org:25"), security="none", user="anna", password="secret"), FAILED)


def test_a_webhook_is_signed_and_follows_no_redirect(web_server: Post) -> None:
    told = Hook(url=f"{web_server.address}/T0/secret-path", secret="s3cret")
    notices.send(told, FAILED)
    headers, body = web_server.arrived[0]
    assert headers["X-Parfocal-Signature"] == f"sha256={hmac.new(b's3cret', body, 'sha256').hexdigest()}"
    said = json.loads(body)
    assert said["text"].startswith("Parfocal: predict new images with nuclei:2 failed\n")
    assert (said["failed"], said["page"]) == (True, "http://p/1")
    assert "secret" not in repr(told) + told.where
    for answer, error in ((404, InvalidInputError), (302, InvalidInputError), (503, UnavailableError)):
        web_server.answer = answer
        with pytest.raises(error, match=r"127\.0\.0\.1"):
            notices.send(told, FAILED)
    assert len(web_server.arrived) == 4


def test_the_same_failure_is_told_once_a_day_and_a_dead_server_disturbs_nobody(
    web_server: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_PAUSES", (0.0,))
    path, memory, now = tmp_path / "notify.json", tmp_path / "state" / "told.json", [2e9]

    def tell(notice: Notice) -> list[str]:
        return list(notices.tell(path, notice, memory, lambda: now[0]))

    assert tell(FAILED) == [], "nobody is told yet"
    notices.add(path, "chat", Hook(url=web_server.address))
    notices.add(path, "all", Hook(url=web_server.address, on="always"))
    notices.add(path, "dead", Hook(url="http://127.0.0.1:9"))
    assert path.stat().st_mode & 0o077 == 0
    done = FAILED.model_copy(update={"failed": False})
    assert [tell(FAILED), tell(FAILED), tell(done)] == [["chat", "all"], [], ["all"]]
    now[0] += 86_401
    assert tell(FAILED) == ["chat", "all"]
    path.write_text("{")
    assert tell(FAILED) == []


def test_a_run_that_found_nothing_new_is_not_told(
    web_server: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notices.FILE_SETTING, str(tmp_path / "notify.json"))
    monkeypatch.setenv("PARFOCAL_STATE_DIR", str(tmp_path))
    notices.add(tmp_path / "notify.json", "all", Hook(url=web_server.address, on="always"))
    run: Any = SimpleNamespace(id="r1", name="predict new images with nuclei:2", parameters={"project": "lab"})

    def ended(text: str, *, completed: bool) -> int:
        state: Any = SimpleNamespace(is_completed=lambda: completed, message=text, name="Completed")
        hooks.tell_of_run(None, run, state)  # type: ignore[arg-type]
        return len(web_server.arrived)

    assert ended("0 images predicted; 3 of 3 had been done before.", completed=True) == 0
    assert ended("2 images predicted; 3 of 5 had been done before.", completed=True) == 1
    assert ended("Paused: anna has no role in the project 'lab' any more.", completed=False) == 2
    assert "(lab) failed" in json.loads(web_server.arrived[1][1])["text"]


def test_the_command_keeps_what_works_and_shows_no_secret(
    run: Callable[..., Ended], mail_server: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notices.FILE_SETTING, str(tmp_path / "notify.json"))
    command = ("notify", "email", "--to", "anna@lab.org", "--server", mail_server.address)
    refused = run(*command)
    assert (refused.code, "--security" in refused.err) == (2, True)
    assert run("notify", "list", "--json").json == []
    first = run(*command, "--security", "none")
    assert (first.code, len(mail_server.arrived)) == (0, 1), first.err
    assert run("notify", "test").code == 0
    assert len(mail_server.arrived) == 2
    (listed,) = run("notify", "list", "--json").json
    assert listed == {"name": "email", "to": f"e-mail to anna@lab.org by {mail_server.address}", "on": "failed"}
    assert run("notify", "webhook", "http://chat.lab.org/secret").code == 2
    assert run("notify", "email", "--to", "anna", "--server", mail_server.address).code == 2
    assert run("notify", "remove", "email").code == 0
    assert run("notify", "remove", "email").code == 3
