"""Calls of Prefect's HTTP API: what they send, how patient they are, and what their errors say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import free_ports

from parfocal.flows._api import PrefectApi
from parfocal.runtime.errors import NotFoundError, UnavailableError


class Server(ThreadingHTTPServer):
    """Answers with what is next in `answers`, and remembers what it was asked."""

    answers: list[tuple[int, str]]
    asked: list[tuple[str, str, str, str]]


class Handler(BaseHTTPRequestHandler):
    """Answers for `Server`."""

    def answer(self) -> None:
        """Answer a request of any method."""
        server = self.server
        assert isinstance(server, Server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        server.asked.append((self.command, self.path, body, self.headers.get("Authorization", "")))
        status, text = server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that the library asks for

    def log_message(self, *_: object) -> None:
        """Leave stderr alone."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server at a free port."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.answers, server.asked = [], []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server, monkeypatch: pytest.MonkeyPatch) -> PrefectApi:
    """The calls to that server; a proxy that does not answer must not be asked."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return PrefectApi(f"http://127.0.0.1:{server.server_port}/api", "me:s\u00e4cret")


def test_body_and_answer_are_json(server: Server, api: PrefectApi) -> None:
    server.answers = [(201, '{"id": "a"}'), (204, "")]
    assert api.call("POST", "/deployments/", {"name": "b"}) == {"id": "a"}
    assert api.call("DELETE", "/deployments/a") is None
    (_, path, body, auth), deleted = server.asked
    assert (path, json.loads(body), auth) == ("/api/deployments/", {"name": "b"}, "Basic bWU6c8OkY3JldA==")
    assert deleted[:3] == ("DELETE", "/api/deployments/a", "")


def test_a_server_that_asks_to_try_again_is_asked_again(server: Server, api: PrefectApi) -> None:
    server.answers = [(503, "locked"), (503, "locked"), (200, "[1]")]
    assert api.call("POST", "/flow_runs/filter", {}) == [1]
    assert len(server.asked) == 3
    server.answers = [(503, "database is locked")] * 9
    with pytest.raises(UnavailableError, match="503 database is locked"):
        api.call("GET", "/health")
    assert len(server.asked) == 3 + 5


@pytest.mark.parametrize(
    ("status", "text", "error", "words"),
    [
        (404, "", NotFoundError, "does not know /health"),
        (409, "no such parameter", UnavailableError, "refused /health: 409 no such parameter"),
        (500, "", UnavailableError, "refused /health: 500"),
        (200, "<html>", UnavailableError, "does not answer"),
    ],
)
def test_other_answers_are_errors_at_once(
    server: Server, api: PrefectApi, status: int, text: str, error: type[Exception], words: str
) -> None:
    server.answers = [(status, text)]
    with pytest.raises(error, match=words):
        api.call("GET", "/health")
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/api"
    with pytest.raises(UnavailableError, match=f"Prefect at {url} does not answer"):
        PrefectApi(url).call("GET", "/health")
