"""A browser without a screen or scripts, for the tests of the portal."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httpx

PROJECT = "pages"
"""Each module of tests has a project of its own, with the module's name."""


@dataclass
class Visitor:
    """Opens pages and sends forms as a browser does: with the cookie, the origin and the token of the page."""

    base: str
    http: httpx.Client = field(init=False)
    token: str = ""
    project: str = PROJECT

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.base, follow_redirects=True, timeout=60)
        self.open("")

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def open(self, path: str, **headers: str) -> httpx.Response:
        answer = self.http.get(f"/p/{self.project}/{path}", headers=headers)
        found = re.search(r'<meta name="csrf" content="([0-9a-f]+)">', answer.text)
        self.token = found.group(1) if found else self.token
        return answer

    def send(self, path: str, follow: bool = True, **values: str) -> httpx.Response:
        return self.http.post(
            f"/p/{self.project}/{path}",
            data={"csrf": self.token, **values},
            headers={"Origin": self.base},
            follow_redirects=follow,
        )

    def upload(self, files: dict[str, bytes]) -> str:
        headers = {"Origin": self.base, "X-CSRF-Token": self.token}
        begun = self.http.post(f"/p/{self.project}/uploads", headers={**headers, "Accept": "application/json"})
        upload = str(begun.json()["id"])
        for name, content in files.items():
            answer = self.http.put(f"/p/{self.project}/uploads/{upload}/files/{name}", content=content, headers=headers)
            assert answer.status_code == 204, answer.text
        return upload
