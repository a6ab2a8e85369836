"""Logging in at an OpenID Connect provider with a browser on any device (RFC 8628), and keeping the token current."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import urllib3

from parfocal.client.contexts import Context, ContextFolder, LoginTokens
from parfocal.runtime.errors import PreconditionError, UnauthenticatedError, UnavailableError

_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
# A token is renewed so long before its end that no call arrives after it.
_EARLY_SECONDS = 30.0
_DEFAULT_SECONDS = 300.0
_MOST_BYTES = 2**20


@dataclass(frozen=True)
class DeviceCode:
    """What a person must do to log in.

    Attributes
    ----------
    url, code
        The page to open, on any device, and the code to type there.
    url_with_code
        The same page with the code filled in; empty where the provider has none.
    seconds
        How long there is time.
    """

    url: str
    code: str
    url_with_code: str
    seconds: float


class Provider:
    """An OpenID Connect provider, as its discovery document describes it.

    Parameters
    ----------
    context
        Where and as which client to log in.
    secret
        Of the client; empty: a public one.

    Raises
    ------
    PreconditionError
        The provider has no device flow, or is not what it should be.
    UnavailableError
        It does not answer.
    """

    def __init__(self, context: Context, secret: str = "") -> None:
        self._context = context
        self._secret = secret
        verified: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED"}
        if context.issuer_ca:
            verified["ca_certs"] = context.issuer_ca
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=5.0, read=20.0), retries=False, **verified)
        status, self._document = self._ask("GET", f"{context.issuer.rstrip('/')}/.well-known/openid-configuration")
        if status != 200 or self._document.get("issuer") != context.issuer:
            raise PreconditionError(
                f"{context.issuer} is not an OpenID Connect provider of this name (status {status}, it calls itself "
                f"{self._document.get('issuer')!r}). Check --issuer."
            )

    def log_in(self, show: Callable[[DeviceCode], None], *, pause: Callable[[float], None] = time.sleep) -> LoginTokens:
        """Return the tokens once the person has agreed on the provider's page.

        Parameters
        ----------
        show
            Tells the person what to do.
        pause
            Waits for so many seconds.

        Raises
        ------
        UnauthenticatedError
            They refused, or the time was over.
        """
        status, answer = self._post(
            "device_authorization_endpoint",
            {"client_id": self._context.client_id, "scope": " ".join(self._context.scopes)},
        )
        if status != 200:
            raise PreconditionError(f"{self._context.issuer} refuses the login: {_reason(answer)}.")
        seconds = float(answer.get("expires_in", 600))
        show(
            DeviceCode(
                str(answer["verification_uri"]),
                str(answer["user_code"]),
                str(answer.get("verification_uri_complete", "")),
                seconds,
            )
        )
        interval, deadline = float(answer.get("interval", 5)), time.monotonic() + seconds
        while time.monotonic() < deadline:
            pause(interval)
            status, granted = self._post(
                "token_endpoint",
                {
                    "grant_type": _DEVICE_GRANT,
                    "device_code": str(answer["device_code"]),
                    "client_id": self._context.client_id,
                },
            )
            if status == 200:
                return self._tokens(granted, "")
            match granted.get("error"):
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval += 5.0
                case "access_denied":
                    raise UnauthenticatedError("The login was refused on the provider's page.")
                case "expired_token":
                    break
                case _:
                    raise PreconditionError(f"{self._context.issuer} refuses the login: {_reason(granted)}.")
        raise UnauthenticatedError("Nobody logged in in time. Try again: `parfocal login`.")

    def renew(self, refresh_token: str) -> LoginTokens:
        """Return new tokens for a refresh token; raise UnauthenticatedError if it is not taken any more."""
        status, granted = self._post(
            "token_endpoint",
            {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": self._context.client_id},
        )
        if status != 200:
            raise UnauthenticatedError(f"Your login has ended ({_reason(granted)}). Log in again: `parfocal login`.")
        return self._tokens(granted, refresh_token)

    def revoke(self, refresh_token: str) -> bool:
        """Have a refresh token forgotten (RFC 7009); return False where the provider cannot."""
        if not self._document.get("revocation_endpoint"):
            return False
        form = {"token": refresh_token, "token_type_hint": "refresh_token", "client_id": self._context.client_id}
        return self._post("revocation_endpoint", form)[0] == 200

    def _tokens(self, granted: Mapping[str, Any], refresh_token: str) -> LoginTokens:
        token = granted.get(self._context.login_token)
        if not isinstance(token, str) or not token:
            raise PreconditionError(f"{self._context.issuer} gave no {self._context.login_token}: check the scopes.")
        return LoginTokens(
            token=token,
            expires_at=time.time() + float(granted.get("expires_in", _DEFAULT_SECONDS)),
            refresh_token=str(granted.get("refresh_token") or refresh_token),
        )

    def _post(self, endpoint: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        url = self._document.get(endpoint)
        if not isinstance(url, str):
            raise PreconditionError(f"{self._context.issuer} has no {endpoint}: it does not offer this way to log in.")
        return self._ask("POST", url, {**form, **self._authentication(form)})

    def _authentication(self, form: Mapping[str, str]) -> dict[str, str]:
        """Return what a form says of the client's secret, where it has one and the provider wants it there."""
        known = self._document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        in_form = "client_id" in form and isinstance(known, list) and "client_secret_basic" not in known
        return {"client_secret": self._secret} if self._secret and in_form else {}

    def _ask(self, method: str, url: str, form: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise PreconditionError(f"{url} is not an https URL: a login there could be read on its way.")
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if self._secret and form is not None and "client_secret" not in form:
            pair = f"{quote(self._context.client_id, safe='')}:{quote(self._secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        try:
            answer = self._http.request(
                method,
                url,
                body=urlencode(form) if form is not None else None,
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            try:
                data = answer.read(_MOST_BYTES)
            finally:
                answer.release_conn()
            content = json.loads(data or b"{}")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnavailableError(f"{self._context.issuer} does not answer: {error}. Try again.") from error
        except ValueError as error:
            raise UnavailableError(f"{url} does not answer as an OpenID Connect provider should. Try again.") from error
        return answer.status, content if isinstance(content, dict) else {}


class ContextTokens:
    """The token of a context's login, renewed before it expires. Safe to use from several threads and processes."""

    def __init__(self, folder: ContextFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._known: LoginTokens | None = None
        self._lock = threading.Lock()

    def token(self) -> str:
        """Return a token that is valid now; empty if nobody has logged in.

        Raises
        ------
        UnauthenticatedError
            It has expired, and the provider does not renew it.
        """
        with self._lock:
            if not _is_good(self._known):
                self._known = self._folder.tokens(self._name)
            if self._known is None or _is_good(self._known):
                return self._known.token if self._known is not None else ""
            with self._folder.renewing():
                # Another process may have renewed it while this one waited.
                self._known = self._folder.tokens(self._name)
                if self._known is not None and not _is_good(self._known):
                    self._known = self._renewed(self._known)
                    self._folder.keep_tokens(self._name, self._known)
            return self._known.token if self._known is not None else ""

    def _renewed(self, tokens: LoginTokens) -> LoginTokens:
        if not tokens.refresh_token:
            raise UnauthenticatedError("Your login has expired. Log in again: `parfocal login`.")
        return Provider(self._folder.read().named(self._name)).renew(tokens.refresh_token)


def _is_good(tokens: LoginTokens | None) -> bool:
    return tokens is not None and time.time() < tokens.expires_at - _EARLY_SECONDS


def _reason(answer: Mapping[str, Any]) -> str:
    return str(answer.get("error_description") or answer.get("error") or "without saying why")[:300]
