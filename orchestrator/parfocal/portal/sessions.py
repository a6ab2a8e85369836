"""Who is signed in in which browser, and what they may do.

Sessions live in the portal's memory: tokens reach neither a disk, a cookie nor a page. A browser holds a random number,
of which only the digest is kept. A portal that is started again asks people to sign in again, which takes a click where
the provider still knows them.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from parfocal.client.contexts import LoginTokens
from parfocal.portal.oidc import BrowserProvider
from parfocal.runtime.access.gate import TOKEN_KEY, Gate
from parfocal.runtime.access.identity import UNVERIFIED, Identity, Role
from parfocal.runtime.errors import ParfocalError, UnauthenticatedError, UnavailableError

ENDED: Final = "Your sign-in has ended. Sign in again; what you have stored and started is not affected."

# A token is renewed so long before its end that no call arrives after it.
_EARLY_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 2 * 3600.0
_MOST: Final = 10_000


class Session:
    """One person in one browser; the source of the token for all calls in their name. Safe for several threads.

    Parameters
    ----------
    provider, tokens
        Where they signed in, and what that gave.
    verify
        Returns who a token belongs to; raises UnauthenticatedError if the services would not accept it.
    seconds
        How long the session lasts at most.
    """

    def __init__(
        self, provider: BrowserProvider, tokens: LoginTokens, verify: Callable[[str], Identity], seconds: float
    ) -> None:
        self.provider = provider
        self._verify = verify
        self.identity = verify(tokens.token)
        self._tokens = tokens
        self._lock = threading.Lock()
        self._ends = time.time() + seconds
        self._ended = False
        self.used = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether it has ended: by signing out, by age, or because the provider does not renew it."""
        return self._ended or time.time() >= self._ends

    @property
    def is_fresh(self) -> bool:
        """Whether its token can be shown as it is."""
        return not self.is_over and time.time() < self._tokens.expires_at - _EARLY_SECONDS

    def token(self) -> str:
        """Return a token that is valid now, renewed if need be.

        Raises
        ------
        UnauthenticatedError
            The session is over.
        UnavailableError
            The token has expired, and the provider does not answer.
        """
        if self.is_fresh:
            return self._tokens.token
        with self._lock:
            if self.is_over:
                raise UnauthenticatedError(ENDED)
            if not self.is_fresh:
                self._renew()
            return self._tokens.token

    def end(self) -> None:
        """End it, and have the provider forget the token by which it was renewed."""
        self._ended = True
        if self._tokens.refresh_token:
            threading.Thread(target=self._revoke, name="sign out", daemon=True).start()

    def _renew(self) -> None:
        if not self._tokens.refresh_token:
            if time.time() >= self._tokens.expires_at:
                self._ended = True
                raise UnauthenticatedError(ENDED)
            return
        try:
            tokens = self.provider.renew(self._tokens.refresh_token)
            # The groups of a person may have changed.
            identity = self._verify(tokens.token)
        except UnavailableError:
            if time.time() >= self._tokens.expires_at:
                raise
            return  # it is good for some seconds yet; the next request asks again
        except ParfocalError as error:
            self._ended = True
            raise UnauthenticatedError(ENDED) from error
        if identity.name != self.identity.name:
            self._ended = True
            raise UnauthenticatedError(ENDED)
        self._tokens, self.identity = tokens, identity

    def _revoke(self) -> None:
        try:
            self.provider.revoke(self._tokens.refresh_token)
        except ParfocalError:
            return  # it ends by itself


class Sessions:
    """All sessions of a portal. Safe for several threads.

    Parameters
    ----------
    gate
        The access file, read again when it changes.
    hours
        How long a session lasts at most; one that nobody used for two hours ends before.
    """

    def __init__(self, gate: Gate, hours: float) -> None:
        self.gate = gate
        self._seconds = 3600.0 * hours
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def open(self, provider: BrowserProvider, tokens: LoginTokens) -> tuple[str, Session]:
        """Begin a session; return the number that the browser shows from now on, and the session."""
        session = Session(provider, tokens, self._verify, self._seconds)
        number = secrets.token_urlsafe(32)
        with self._lock:
            self._sweep()
            self._sessions[_digest(number)] = session
        return number, session

    def find(self, number: str, *, used: bool = True) -> Session | None:
        """Return the session of a browser; None if it has none, or it is over.

        Parameters
        ----------
        used
            Whether a person does something, rather than a page that is open.
        """
        if not number:
            return None
        key = _digest(number)
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if session.is_over or time.monotonic() - session.used > _IDLE_SECONDS:
                del self._sessions[key]
                return None
            if used:
                session.used = time.monotonic()
            return session

    def end(self, number: str) -> None:
        """End the session of a browser, if it has one."""
        with self._lock:
            session = self._sessions.pop(_digest(number), None)
        if session is not None:
            session.end()

    def _verify(self, token: str) -> Identity:
        return self.gate.identify({TOKEN_KEY: f"Bearer {token}"})

    def _sweep(self) -> None:
        for key in [key for key, session in self._sessions.items() if session.is_over]:
            del self._sessions[key]
        while len(self._sessions) >= _MOST:
            oldest = min(self._sessions, key=lambda key: self._sessions[key].used)
            del self._sessions[oldest]


@dataclass(frozen=True)
class Rights:
    """What somebody may do in a project, for the pages: they offer nothing that a service would refuse.

    Attributes
    ----------
    name
        Of the person; "" where there are no identities.
    role
        Their role; None: none, or the page is about no project.
    """

    name: str
    role: Role | None

    @property
    def work(self) -> bool:
        """Whether they may start work and store data."""
        return self.role is not None and self.role >= Role.USER

    @property
    def operate(self) -> bool:
        """Whether they may see the operator's page, and change what others have made."""
        return self.role is not None and self.role >= Role.OPERATOR

    def change(self, made_by: str) -> bool:
        """Return whether they may change what somebody has made."""
        return self.operate or (self.work and made_by == self.name)


def rights_in(gate: Gate, session: Session | None, project: str) -> Rights:
    """Return what the person of a session may do in a project; without identities everybody may do everything."""
    if gate.is_open:
        return Rights("", Role.OPERATOR if project else None)
    identity = session.identity if session is not None else UNVERIFIED
    role = gate.policy.role(identity, project) if project and session is not None else None
    return Rights(identity.name if session is not None else "", role)


def _digest(number: str) -> str:
    return hashlib.sha256(number.encode()).hexdigest()
