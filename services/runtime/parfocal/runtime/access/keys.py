"""The public keys of an issuer, fetched when they are needed and kept."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import urllib3

from parfocal.runtime.access.policy import Issuer
from parfocal.runtime.errors import UnavailableError

if TYPE_CHECKING:
    from jwt import PyJWK

_log = logging.getLogger(__name__)
# An unknown key may be a new one or somebody's invention: the issuer is asked no more often than this.
UNKNOWN_SECONDS: Final = 60.0
# Without any key nobody can log in, so a failed attempt is repeated sooner.
_RETRY_SECONDS = 5.0
# A key that the issuer has withdrawn is accepted no longer than this, and if the issuer is gone, no longer than a day.
_FRESH_SECONDS, _LONGEST_SECONDS = 3600.0, 86_400.0
_MOST_BYTES = 2**20
_KINDS = {"RSA", "EC", "OKP"}


class IssuerKeys:
    """The public keys of one issuer by their id. Safe to use from several threads."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._keys: dict[str, PyJWK] = {}
        self._fetching = threading.Lock()
        self._asked = self._fetched = float("-inf")
        verified: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED"}
        if issuer.ca_file is not None:
            verified["ca_certs"] = str(issuer.ca_file)
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=3.0, read=5.0), retries=False, **verified)

    def find(self, key_id: str) -> PyJWK | None:
        """Return a key, asking the issuer if it is not known; None if there is no such key.

        Raises
        ------
        UnavailableError
            No key is known at all, because the issuer does not answer.
        """
        age = time.monotonic() - self._fetched
        if age > _LONGEST_SECONDS:
            self._keys = {}
        key = self._keys.get(key_id)
        if key is not None and age < _FRESH_SECONDS:
            return key
        # Who has keys does not wait for an issuer that is slow to answer somebody else's question.
        if self._fetching.acquire(blocking=not self._keys):
            try:
                pause = UNKNOWN_SECONDS if self._keys else _RETRY_SECONDS
                if time.monotonic() - self._asked >= pause:
                    self._fetch()
            finally:
                self._fetching.release()
        if not self._keys:
            raise UnavailableError(
                f"Tokens of {self._issuer.issuer} cannot be checked at the moment, because it does not tell its keys. "
                "Try again in a minute; if it lasts, the log of the service says why."
            )
        return self._keys.get(key_id)

    def _fetch(self) -> None:
        from jwt import PyJWK
        from jwt.exceptions import PyJWTError

        self._asked = time.monotonic()
        try:
            found: dict[str, PyJWK] = {}
            for entry in self._get(self._issuer.keys_url or self._discovered())["keys"]:
                if entry.get("kty") in _KINDS and entry.get("use", "sig") == "sig" and entry.get("kid"):
                    try:
                        found[str(entry["kid"])] = PyJWK(entry)
                    except PyJWTError:
                        continue  # of a kind that is not supported here
            if not found:
                raise ValueError("it has no key for signatures")
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.error("the keys of %s could not be read: %s", self._issuer.issuer, error)
            return
        self._keys, self._fetched = found, self._asked

    def _discovered(self) -> str:
        document = self._get(f"{self._issuer.issuer.rstrip('/')}/.well-known/openid-configuration")
        if document["issuer"] != self._issuer.issuer:
            raise ValueError(f"it calls itself {document['issuer']!r}")
        url = str(document["jwks_uri"])
        if urlsplit(self._issuer.issuer).scheme == "https" and urlsplit(url).scheme != "https":
            raise ValueError(f"its keys are not protected on their way: {url}")
        return url

    def _get(self, url: str) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        if self._issuer.token_file is not None:
            headers["Authorization"] = f"Bearer {self._issuer.token_file.read_text('ascii').strip()}"
        answer = self._http.request("GET", url, headers=headers, redirect=False, preload_content=False)
        try:
            data = answer.read(_MOST_BYTES + 1)
        finally:
            answer.release_conn()
        if answer.status != 200 or len(data) > _MOST_BYTES:
            raise ValueError(f"{url} answers with status {answer.status} and {len(data)} bytes")
        content = json.loads(data)
        if not isinstance(content, dict):
            raise TypeError(f"{url} answers with no JSON object")
        return content
