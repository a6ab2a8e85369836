"""An OpenID Connect provider as a process: `python identity_provider.py PORT SECONDS FILE`.

It has the device flow, and the authorization code flow with PKCE for the portal. The flows are those of oauthlib, which
knows nothing of Parfocal. Only what a provider decides itself stands here: who its people are, its keys, and the pages
on which a person agrees: tests call `POST /agree`, and a browser shows `/authorize`.
"""

# ruff: noqa: ARG002 - the arguments are those that oauthlib gives

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from oauthlib.oauth2 import (
    AuthorizationEndpoint,
    OAuth2Error,
    RefreshTokenGrant,
    RevocationEndpoint,
    TokenEndpoint,
)
from oauthlib.oauth2.rfc6749.tokens import BearerToken
from oauthlib.oauth2.rfc8628.endpoints.pre_configured import DeviceApplicationServer
from oauthlib.oauth2.rfc8628.grant_types import DeviceCodeGrant
from oauthlib.openid import RequestValidator
from oauthlib.openid.connect.core.grant_types import AuthorizationCodeGrant

CLIENT, AUDIENCE = "parfocal-cli", "parfocal"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
PEOPLE: dict[str, list[str]] = {"ann": ["imaging"], "bob": [], "cid": []}


@dataclass
class Provider(RequestValidator):  # type: ignore[misc]
    """What the provider knows: keys, codes that wait for a person, and refresh tokens."""

    issuer: str
    token_seconds: int
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    key_number: int = 1
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    authorizations: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong_nonce: bool = False
    key_requests: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        bearer = BearerToken(
            self,
            token_generator=self.access_token,
            refresh_token_generator=lambda _: secrets.token_urlsafe(),
            expires_in=self.token_seconds,
        )
        # Refresh tokens are taken only once, as careful providers do.
        refresh = RefreshTokenGrant(self, issue_new_refresh_tokens=True)
        device = DeviceCodeGrant(self)
        code = AuthorizationCodeGrant(self)
        self.authorization = AuthorizationEndpoint("code", bearer, {"code": code})
        grants = {DEVICE_GRANT: device, "refresh_token": refresh, "authorization_code": code}
        self.tokens = TokenEndpoint(DEVICE_GRANT, bearer, grants)
        self.devices = DeviceApplicationServer(self, f"{self.issuer}/agree", interval=1)
        self.revocation = RevocationEndpoint(self)

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        self.key, self.key_number = rsa.generate_private_key(65537, 2048), self.key_number + 1

    def keys(self) -> dict[str, Any]:
        """The public keys (RFC 7517)."""
        self.key_requests += 1
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**public, "kid": f"key-{self.key_number}", "use": "sig", "alg": "RS256"}]}

    def access_token(self, request: Any, refresh_token: bool = False) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": f"id-{request.user}",
            "email": f"{request.user}@example.org",
            "email_verified": True,
            "groups": PEOPLE[request.user],
            "iat": now,
            "exp": now + self.token_seconds,
        }
        return jwt.encode(claims, self.key, "RS256", {"kid": f"key-{self.key_number}"})

    def finalize_id_token(self, id_token: dict[str, Any], token: Any, token_handler: Any, request: Any) -> str:
        now = int(time.time())
        claims = {**id_token, "iss": self.issuer, "sub": f"id-{request.user}", "exp": now + self.token_seconds}
        if self.wrong_nonce:
            claims["nonce"] = "of somebody else"
        return jwt.encode(claims, self.key, "RS256", {"kid": f"key-{self.key_number}"})

    # What oauthlib asks of a provider.
    def is_pkce_required(self, client_id: str, request: Any) -> bool:
        return True

    def validate_redirect_uri(self, client_id: str, redirect_uri: str, request: Any, *_: Any, **__: Any) -> bool:
        return urlsplit(redirect_uri).path == "/sign-in/callback"

    def validate_response_type(self, *_: Any, **__: Any) -> bool:
        return True

    def validate_user_match(self, *_: Any, **__: Any) -> bool:
        return True

    def save_authorization_code(self, client_id: str, code: Any, request: Any, *_: Any, **__: Any) -> None:
        self.authorizations[code["code"]] = {
            "user": request.user,
            "nonce": request.nonce,
            "redirect_uri": request.redirect_uri,
            "challenge": request.code_challenge,
            "method": request.code_challenge_method,
            "scopes": request.scopes,
        }

    def validate_code(self, client_id: str, code: str, client: Any, request: Any, *_: Any, **__: Any) -> bool:
        known = self.authorizations.get(code)
        if known is None:
            return False
        request.user, request.scopes, request.nonce = known["user"], known["scopes"], known["nonce"]
        return True

    def confirm_redirect_uri(self, client_id: str, code: str, redirect_uri: str, *_: Any, **__: Any) -> bool:
        return bool(self.authorizations[code]["redirect_uri"] == redirect_uri)

    def invalidate_authorization_code(self, client_id: str, code: str, *_: Any, **__: Any) -> None:
        self.authorizations.pop(code, None)

    def get_code_challenge(self, code: str, request: Any) -> Any:
        return self.authorizations[code]["challenge"]

    def get_code_challenge_method(self, code: str, request: Any) -> Any:
        return self.authorizations[code]["method"]

    def get_authorization_code_nonce(self, client_id: str, code: str, redirect_uri: str, request: Any) -> Any:
        return self.authorizations[code]["nonce"]

    def get_authorization_code_scopes(self, client_id: str, code: str, redirect_uri: str, request: Any) -> Any:
        return self.authorizations[code]["scopes"]

    def client_authentication_required(self, request: Any, *_: Any, **__: Any) -> bool:
        return False

    def authenticate_client_id(self, client_id: str, request: Any, *_: Any, **__: Any) -> bool:
        request.client_id = client_id
        request.client = type("Client", (), {"client_id": client_id})()
        return client_id == CLIENT

    def validate_client_id(self, client_id: str, *_: Any, **__: Any) -> bool:
        return client_id == CLIENT

    def validate_grant_type(self, *_: Any, **__: Any) -> bool:
        return True

    def validate_scopes(self, *_: Any, **__: Any) -> bool:
        return True

    def get_default_scopes(self, *_: Any, **__: Any) -> list[str]:
        return ["openid"]

    def get_original_scopes(self, *_: Any, **__: Any) -> list[str]:
        return ["openid", "offline_access"]

    def validate_device_code(self, client_id: str, device_code: str, request: Any) -> str:
        known = self.codes.get(device_code, {"state": DeviceCodeGrant.DEVICE_CODE_EXPIRED})
        request.user, request.scopes = known.get("user"), ["openid"]
        return known["state"]

    def invalidate_device_code(self, client_id: str, device_code: str, request: Any) -> None:
        self.codes.pop(device_code, None)

    def validate_refresh_token(self, refresh_token: str, client: Any, request: Any, *_: Any, **__: Any) -> bool:
        request.user = self.refresh_tokens.get(refresh_token)
        return request.user is not None

    def save_bearer_token(self, token: dict[str, Any], request: Any, *_: Any, **__: Any) -> None:
        self.refresh_tokens.pop(getattr(request, "refresh_token", None) or "", None)
        if token.get("refresh_token"):
            self.refresh_tokens[token["refresh_token"]] = request.user

    def revoke_token(self, token: str, *_: Any, **__: Any) -> None:
        self.refresh_tokens.pop(token, None)


class _Pages(BaseHTTPRequestHandler):
    provider: Provider

    def do_GET(self) -> None:
        issuer = self.provider.issuer
        if self.path == "/.well-known/openid-configuration":
            self._answer(
                {
                    "issuer": issuer,
                    "jwks_uri": f"{issuer}/keys",
                    "authorization_endpoint": f"{issuer}/authorize",
                    "end_session_endpoint": f"{issuer}/end",
                    "token_endpoint": f"{issuer}/token",
                    "device_authorization_endpoint": f"{issuer}/device",
                    "revocation_endpoint": f"{issuer}/revoke",
                }
            )
        elif self.path.startswith("/authorize?"):
            # Who sits in front of the browser chooses themselves; a real provider asks for a password here.
            names = "".join(f'<button name="user" value="{name}">{name}</button>' for name in [*PEOPLE, "nobody"])
            self._page(f'<form method="post">{names}</form>')
        elif self.path.startswith("/end"):
            self._page("<h1>Signed out</h1>")
        elif self.path == "/keys":
            self._answer(self.provider.keys())
        elif self.path == "/key-requests":
            self._answer({"count": self.provider.key_requests})
        else:
            self._answer({}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        headers = dict(self.headers.items())
        provider = self.provider
        if self.path == "/device":
            _, answer, status = provider.devices.create_device_authorization_response(self.path, "POST", body, headers)
            if status == 200:
                waiting = {"state": DeviceCodeGrant.DEVICE_CODE_PENDING, "user_code": answer["user_code"]}
                provider.codes[answer["device_code"]] = waiting
            self._answer(answer, status)
        elif self.path == "/token":
            _, answer, status = provider.tokens.create_token_response(self.path, "POST", body, headers)
            self._answer(json.loads(answer), status)
        elif self.path == "/revoke":
            _, _, status = provider.revocation.create_revocation_response(self.path, "POST", body, headers)
            self._answer({}, status)
        elif self.path == "/agree":
            # What a person does in the browser: they have logged in there and type the code.
            form = {name: values[0] for name, values in parse_qs(body).items()}
            for code in provider.codes.values():
                if form["user_code"] in {code["user_code"], "*"}:
                    code["user"] = form["user"]
                    agreed = form.get("agree", "yes") == "yes"
                    code["state"] = (
                        DeviceCodeGrant.DEVICE_CODE_AUTHORIZED if agreed else DeviceCodeGrant.DEVICE_CODE_DENIED
                    )
            self._answer({})
        elif self.path.startswith("/authorize?"):
            self._authorize(parse_qs(body)["user"][0])
        elif self.path == "/wrong-nonce":
            provider.wrong_nonce = body == "yes"
            self._answer({})
        elif self.path == "/rotate":
            provider.rotate()
            self._answer({})
        else:
            self._answer({}, 404)

    def _authorize(self, user: str) -> None:
        """Send the browser back with a code for a person, or with a refusal."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if user not in PEOPLE:
            self._go(f"{query['redirect_uri']}?error=access_denied&state={query['state']}")
            return
        try:
            headers, _, _ = self.provider.authorization.create_authorization_response(
                self.path, "POST", "", {}, ["openid"], {"user": user, "nonce": query["nonce"]}
            )
        except OAuth2Error as error:
            self._answer({"error": error.error}, 400)
            return
        self._go(headers["Location"])

    def _go(self, url: str) -> None:
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _page(self, text: str) -> None:
        data = f"<!doctype html><title>Provider</title>{text}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing: codes and tokens would be in it."""


def main(port: int, token_seconds: int, ready: Path) -> None:
    """Serve until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Pages)
    _Pages.provider = Provider(f"http://127.0.0.1:{server.server_address[1]}", token_seconds)
    ready.write_text(_Pages.provider.issuer)
    threading.Thread(target=server.serve_forever, daemon=False).start()


if __name__ == "__main__":
    import os

    # The issuer is an http URL on loopback.
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
