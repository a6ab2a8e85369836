"""Signing in at an OpenID Connect provider in the browser: the authorization code flow with PKCE, state and nonce."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from cryptography.fernet import Fernet, InvalidToken

from parfocal.client.contexts import Context, LoginTokens
from parfocal.client.login import Provider
from parfocal.runtime.access.keys import IssuerKeys
from parfocal.runtime.access.policy import Issuer
from parfocal.runtime.access.tokens import LEEWAY_SECONDS
from parfocal.runtime.errors import PreconditionError, UnauthenticatedError

ATTEMPT_SECONDS: Final = 900
"""Time for signing in at the provider."""

_KNOWN_SECONDS: Final = 3600.0


def _random() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Attempt:
    """One way to the provider and back, which the browser keeps, encrypted, meanwhile.

    Attributes
    ----------
    issuer
        The provider.
    redirect_uri
        Where it sends the browser back.
    path
        Page of the portal that is opened afterwards.
    state, nonce, verifier
        Random: they tie the answer, the identity token and the code to this browser.
    """

    issuer: str
    redirect_uri: str
    path: str
    state: str = field(default_factory=_random)
    nonce: str = field(default_factory=_random)
    verifier: str = field(default_factory=_random)

    @property
    def challenge(self) -> str:
        """The verifier as the provider is told it at first (RFC 7636, S256)."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()


class AttemptSeal:
    """Encrypts attempts for the browsers that keep them, with a key of the portal's."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"attempts\0" + key).digest()))

    def close(self, attempt: Attempt) -> str:
        """Return an attempt as the value of a cookie."""
        return self._fernet.encrypt(json.dumps(asdict(attempt)).encode()).decode()

    def open(self, text: str) -> Attempt | None:
        """Return the attempt in a cookie; None if it is too old, or not by this portal."""
        try:
            return Attempt(**json.loads(self._fernet.decrypt(text.encode(), ttl=ATTEMPT_SECONDS)))
        except (InvalidToken, ValueError, TypeError):
            return None


class BrowserProvider(Provider):
    """A provider at which people sign in with the browser that shows the portal.

    Parameters
    ----------
    issuer
        Its entry in the access file.
    client_id, secret
        What the portal calls itself there, and its secret; without one it is a public client.

    Raises
    ------
    PreconditionError, UnavailableError
        As `Provider`.
    """

    def __init__(self, issuer: Issuer, client_id: str, secret: str = "") -> None:
        self.issuer = issuer
        self._client_id = client_id
        context = Context(
            services="",
            issuer=issuer.issuer,
            issuer_ca=str(issuer.ca_file or ""),
            client_id=client_id,
            scopes=issuer.scopes,
            login_token=issuer.login_token,
        )
        super().__init__(context, secret)
        self._keys = IssuerKeys(issuer)

    def address(self, attempt: Attempt) -> str:
        """Return where the browser goes to sign in."""
        endpoint = str(self._document.get("authorization_endpoint", ""))
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and urlsplit(self.issuer.issuer).scheme == "https":
            raise PreconditionError(f"{self.issuer.issuer} names no https page to sign in at ({endpoint!r}).")
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": attempt.redirect_uri,
                "scope": " ".join(self.issuer.scopes),
                "state": attempt.state,
                "nonce": attempt.nonce,
                "code_challenge": attempt.challenge,
                "code_challenge_method": "S256",
            }
        )
        return f"{endpoint}{'&' if parts.query else '?'}{query}"

    def redeem(self, attempt: Attempt, code: str) -> LoginTokens:
        """Return the tokens for the code that the browser brought back.

        Raises
        ------
        UnauthenticatedError
            The code is not accepted, or the tokens are not those of this attempt.
        """
        status, granted = self._post(
            "token_endpoint",
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": attempt.redirect_uri,
                "client_id": self._client_id,
                "code_verifier": attempt.verifier,
            },
        )
        if status != 200:
            why = str(granted.get("error_description") or granted.get("error") or f"status {status}")[:200]
            raise UnauthenticatedError(f"{self.issuer.issuer} did not accept the sign-in ({why}). Sign in again.")
        subject = self._subject(str(granted.get("id_token", "")), attempt.nonce)
        tokens = self._tokens(granted, "")
        if _unverified(tokens.token).get("sub", subject) != subject:
            raise UnauthenticatedError(f"{self.issuer.issuer} sent tokens of two people. Sign in again.")
        return tokens

    def sign_out_address(self, back: str) -> str:
        """Return where the browser signs out at the provider as well; empty where it offers no such page."""
        endpoint = self._document.get("end_session_endpoint")
        if not isinstance(endpoint, str) or urlsplit(endpoint).scheme not in {"http", "https"}:
            return ""
        query = urlencode({"client_id": self._client_id, "post_logout_redirect_uri": back})
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{query}"

    def _subject(self, token: str, nonce: str) -> str:
        """Return whom an identity token is about; raise UnauthenticatedError unless it answers this attempt."""
        import jwt

        problem = f"The identity token of {self.issuer.issuer} cannot be accepted"
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.find(str(header.get("kid", "")))
            if key is None:
                raise UnauthenticatedError(f"{problem}: it is signed by an unknown key. Sign in again.")
            claims = jwt.decode(
                token,
                key,
                algorithms=list(self.issuer.algorithms),
                audience=self._client_id,
                issuer=self.issuer.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise UnauthenticatedError(f"{problem} ({type(error).__name__}). Sign in again.") from None
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise UnauthenticatedError(f"{problem}: it answers another sign-in. Sign in again.")
        if claims.get("azp", self._client_id) != self._client_id:
            raise UnauthenticatedError(f"{problem}: it was issued to another program. Sign in again.")
        return str(claims["sub"])


class Providers:
    """The providers at which people can sign in, each asked for its description at most once an hour.

    Parameters
    ----------
    client_id, secret
        What the portal calls itself; without an id, as the access file says.
    """

    def __init__(self, client_id: str, secret: str) -> None:
        self._client_id, self._secret = client_id, secret
        self._known: dict[str, tuple[float, Issuer, BrowserProvider]] = {}

    def offered(self, issuers: tuple[Issuer, ...]) -> list[Issuer]:
        """Return those issuers of the access file at which people can sign in."""
        return [issuer for issuer in issuers if issuer.client_id]

    def get(self, issuer: Issuer) -> BrowserProvider:
        """Return the provider of an issuer; errors as those of `BrowserProvider`."""
        found = self._known.get(issuer.issuer)
        if found is not None and found[1] == issuer and time.monotonic() - found[0] < _KNOWN_SECONDS:
            return found[2]
        provider = BrowserProvider(issuer, self._client_id or issuer.client_id, self._secret)
        self._known[issuer.issuer] = (time.monotonic(), issuer, provider)
        return provider


def _unverified(token: str) -> dict[str, Any]:
    """Return the claims of a token that the services verify; nothing if it is of a kind of the provider's own."""
    import jwt

    try:
        return dict(jwt.decode(token, options={"verify_signature": False}))
    except jwt.PyJWTError:
        return {}
