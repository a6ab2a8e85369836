"""The API of the cluster in miniature, over HTTP, with faults on demand.

Written here because it must run pods as processes and be in every environment; a mock of the API alone would need the
same controller, scheduler and node behind it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cluster.nodes import Nodes
from cluster.objects import KINDS, Object, Objects, TooOldError, now

TOKEN = "a-token"
NAMESPACE = "imaging"
_PATH = re.compile(rf"/(?:api/v1|apis/batch/v1)/namespaces/{NAMESPACE}/(\w+)(?:/([^/]+))?")
_PLACES = re.compile(
    rf"/apis/visibility.kueue.x-k8s.io/v1beta1/namespaces/{NAMESPACE}/localqueues/(\w+)/pendingworkloads"
)


@dataclass
class Faults:
    """What the API does wrong at the moment.

    Attributes
    ----------
    statuses
        By method, e.g. "POST": with what the next calls are refused.
    unanswered
        How many calls by POST are carried out and then not answered.
    delay
        Seconds that every call takes.
    away
        Whether every connection is closed at once.
    """

    statuses: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    unanswered: int = 0
    delay: float = 0.0
    away: bool = False


class Cluster:
    """A cluster with one node and its API. Leaving it ends all its processes."""

    def __init__(self, folder: Path, *, gpus: int = 4) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.objects = Objects()
        self.nodes = Nodes(self.objects, folder, gpus)
        self.faults = Faults()
        self.places: list[str] = []
        self.calls: list[str] = []
        self.streams = 0
        self.account = folder / "account"
        self.account.mkdir()
        (self.account / "token").write_text(TOKEN)
        (self.account / "namespace").write_text(NAMESPACE)
        self._drops = 0
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_streams()
        self._server.shutdown()
        self._server.server_close()
        self.nodes.stop()
        assert not self.nodes.troubles, self.nodes.troubles

    @property
    def settings(self) -> dict[str, str]:
        """The settings by which a service uses this cluster."""
        port = self._server.server_address[1]
        return {
            "launcher": "kubernetes",
            "kubernetes_api": f"http://127.0.0.1:{port}",
            "kubernetes_account": str(self.account),
        }

    def drop_streams(self) -> None:
        """End all streams in the middle."""
        with self.objects.changed:
            self._drops += 1
            self.objects.changed.notify_all()

    @property
    def drops(self) -> int:
        return self._drops

    def add_template(self, name: str, environment: dict[str, str], module: str = "fake", **labels: str) -> None:
        """Add the PodTemplate of a service's workers, which really run."""
        container = {
            "name": "worker",
            "image": "registry/parfocal-fake:1",
            "command": ["python", "-m", "parfocal.runtime.jobs.worker", module],
            "env": [{"name": key, "value": value} for key, value in environment.items()],
            "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "1Gi"}},
        }
        content = {"metadata": {"name": name, "labels": labels}, "template": {"spec": {"containers": [container]}}}
        self.objects.create("podtemplates", content)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        faults = self.cluster.faults
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.cluster.calls.append(f"{method} {url.path}")
        time.sleep(faults.delay)
        if faults.away:
            self.close_connection = True
            self.connection.close()
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "Unauthorized", "no token")
            return
        if faults.statuses.get(method) and "watch" not in query:
            self._refuse(*faults.statuses[method].pop(0), "as the test wants it")
            return
        if _PLACES.fullmatch(url.path):
            self._answer(200, {"items": [_pending(number, job) for number, job in enumerate(self.cluster.places)]})
            return
        found = _PATH.fullmatch(url.path)
        if found is None or found[1] not in KINDS:
            self._refuse(404, "NotFound", "no such kind")
            return
        kind, name = found[1], found[2] or ""
        if method == "POST":
            self._create(kind, body)
        elif method == "DELETE":
            self._delete(kind, name, body)
        elif name:
            self._give(self.cluster.objects.get(kind, name), name)
        elif "watch" in query:
            self._watch(kind, query)
        else:
            self._list(kind, query)

    def _create(self, kind: str, body: Object) -> None:
        faults, name = self.cluster.faults, body["metadata"]["name"]
        content = self.cluster.objects.create(kind, body)
        if faults.unanswered:
            faults.unanswered -= 1
            self.close_connection = True
            self.connection.close()
        elif content is None:
            self._refuse(409, "AlreadyExists", f"{name} exists already")
        else:
            self._answer(201, content)

    def _delete(self, kind: str, name: str, body: Object) -> None:
        content = self.cluster.objects.get(kind, name)
        if content is not None:
            assert body["propagationPolicy"] == "Foreground"
            content = self.cluster.objects.change_metadata(kind, name, deletionTimestamp=now())
        self._give(content, name)

    def _give(self, content: Object | None, name: str) -> None:
        if content is None:
            self._refuse(404, "NotFound", f"{name} is not there")
        else:
            self._answer(200, content)

    def _list(self, kind: str, query: dict[str, str]) -> None:
        objects = self.cluster.objects
        with objects.changed:
            items, version = objects.all(kind, query.get("labelSelector", "")), objects.version
        # In pages, as the API does where there are many.
        begin, size = int(query.get("continue") or 0), min(int(query.get("limit") or 500), 3)
        metadata = {"resourceVersion": str(version)}
        if begin + size < len(items):
            metadata["continue"] = str(begin + size)
        self._answer(200, {"metadata": metadata, "items": items[begin : begin + size]})

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        objects, version = self.cluster.objects, int(query.get("resourceVersion") or 0)
        drops, until = self.cluster.drops, time.monotonic() + float(query["timeoutSeconds"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.cluster.streams += 1
        self.close_connection = True
        try:
            while time.monotonic() < until:
                with objects.changed:
                    changes = objects.since(kind, version, query.get("labelSelector", ""))
                    if not changes:
                        objects.changed.wait(0.5)
                if self.cluster.drops != drops or self.cluster.faults.away:
                    # In the middle of a line, without the end of the body.
                    self._chunk(b'{"type": "MODI')
                    return
                for number, what, content in changes:
                    version = number
                    self._chunk(json.dumps({"type": what, "object": content}).encode() + b"\n")
            self._chunk(b"")
        except TooOldError:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            self._chunk(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            self._chunk(b"")
        except OSError:
            pass  # who watched is gone
        finally:
            self.cluster.streams -= 1

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _refuse(self, status: int, reason: str, message: str) -> None:
        self._answer(status, {"kind": "Status", "code": status, "reason": reason, "message": message})

    def _answer(self, status: int, content: Object) -> None:
        data = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # who asked is gone


def _pending(number: int, job: str) -> Object:
    return {"metadata": {"ownerReferences": [{"name": job}]}, "positionInLocalQueue": number}
