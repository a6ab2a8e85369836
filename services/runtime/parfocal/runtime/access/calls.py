"""The call that is being answered: who makes it, and what it is about."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parfocal.runtime.access.identity import Identity
from parfocal.runtime.errors import UnauthenticatedError

if TYPE_CHECKING:
    from parfocal.runtime.access.gate import Gate


@dataclass
class Call:
    """One call.

    Attributes
    ----------
    rpc
        Full name, e.g. "/parfocal.v1.JobService/StartJob".
    gate
        Who decides about it.
    identity
        Who makes it.
    acts_for
        Whom they say they act for; empty: for themselves.
    peer
        Where it comes from.
    forwarded
        Metadata for a call that is made on behalf of this one: the token is in it, so it is never shown.
    project, target
        What it is about, once it has been authorised.
    shared
        Addresses that it reads because another project shares them, for the audit log.
    authorised
        Whether somebody has asked whether it is allowed. What was not is not answered.
    """

    rpc: str
    gate: Gate
    identity: Identity
    acts_for: str = ""
    peer: str = ""
    forwarded: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    project: str = ""
    target: str = ""
    shared: list[str] = field(default_factory=list)
    authorised: bool = False

    @property
    def author(self) -> str:
        """Who is named as the maker of what the call makes."""
        return self.acts_for or self.identity.name

    def require_current(self) -> None:
        """Raise UnauthenticatedError when the caller's token has expired meanwhile."""
        if time.time() >= self.identity.expires_at:
            raise UnauthenticatedError("The token has expired meanwhile. Log in again: `parfocal login`.")


_CURRENT: ContextVar[Call] = ContextVar("parfocal_call")


def enter(call: Call) -> None:
    """Let `call` be the one that the present task answers."""
    _CURRENT.set(call)


def note_shared(uri: str) -> None:
    """Note that something is read because another project shares it; outside of calls nothing is noted."""
    call = _CURRENT.get(None)
    if call is not None and uri not in call.shared:
        call.shared.append(uri)


def current() -> Call:
    """Return the call that the present task answers; raise LookupError outside of calls."""
    return _CURRENT.get()
