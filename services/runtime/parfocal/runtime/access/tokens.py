"""Verifies bearer tokens: signed ones of issuers, and static ones of machines."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from parfocal.runtime.access.identity import EVERYONE, GROUP, MACHINE, Identity
from parfocal.runtime.access.keys import IssuerKeys
from parfocal.runtime.access.policy import Issuer, Machines
from parfocal.runtime.errors import UnauthenticatedError

#: Static tokens begin with this, so that a search for leaked secrets finds them.
STATIC_PREFIX: Final = "parfocal_"
#: Clocks of issuer and server may differ by so much.
LEEWAY_SECONDS: Final = 60
_LONGEST = 16_384
_LONGEST_NAME = 200
_AGAIN = "Log in again: `parfocal login`."


def new_static_token() -> str:
    """Return a fresh static token of 256 random bits."""
    return f"{STATIC_PREFIX}{secrets.token_urlsafe(32)}"


def static_digest(token: str) -> str:
    """Return what the file of static tokens holds of a token. It needs no salt: the token itself is random."""
    return hashlib.sha256(token.encode()).hexdigest()


class Verifier:
    """Tells who a bearer token belongs to. Safe to use from several threads.

    Parameters
    ----------
    issuers
        Whose signed tokens are accepted.
    machines
        The static tokens that are accepted.
    before
        The verifier that this one replaces; the keys of issuers that have not changed are kept.
    """

    def __init__(self, issuers: tuple[Issuer, ...], machines: Machines, before: Verifier | None = None) -> None:
        known = before._issuers if before is not None else {}
        self._issuers: dict[str, tuple[Issuer, IssuerKeys]] = {
            issuer.issuer: known[issuer.issuer]
            if issuer.issuer in known and known[issuer.issuer][0] == issuer
            else (issuer, IssuerKeys(issuer))
            for issuer in issuers
        }
        self._machines = {machine.sha256: (name, machine) for name, machine in machines.machines.items()}

    def verify(self, token: str) -> Identity:
        """Return who a token belongs to.

        Raises
        ------
        UnauthenticatedError
            It is not accepted; the message says why, and never repeats it.
        UnavailableError
            Its issuer does not tell its keys at the moment.
        """
        if token.startswith(STATIC_PREFIX):
            return self._static(token)
        return self._signed(token)

    def _static(self, token: str) -> Identity:
        name, machine = self._machines.get(static_digest(token), ("", None))
        if machine is None:
            raise UnauthenticatedError("The token is not known here: it is mistyped, or was withdrawn.")
        if time.time() >= machine.expires_at:
            raise UnauthenticatedError(f"The token of the machine {name!r} was valid until {machine.expires}.")
        return Identity(f"{MACHINE}{name}", machine.groups, machine.expires_at)

    def _signed(self, token: str) -> Identity:
        # Imported late: where there is no issuer, nobody pays for it.
        import jwt
        from jwt import exceptions

        if len(token) > _LONGEST:
            raise UnauthenticatedError(f"The token is longer than {_LONGEST} characters.")
        try:
            # Only to find the keys; nothing of it is believed before the signature has been verified.
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
            header, named = unverified["header"], unverified["payload"].get("iss")
        except exceptions.PyJWTError:
            raise UnauthenticatedError(
                f"The token is damaged, or of a kind that Parfocal does not know. {_AGAIN}"
            ) from None
        issuer, keys = self._issuers.get(named, (None, None)) if isinstance(named, str) else (None, None)
        if issuer is None or keys is None:
            raise UnauthenticatedError(f"The token comes from an issuer that is not accepted here. {_AGAIN}")
        if header.get("alg") not in issuer.algorithms:
            raise UnauthenticatedError(f"The token is not signed by {' or '.join(issuer.algorithms)}.")
        key_id = header.get("kid")
        key = keys.find(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise UnauthenticatedError(f"The token is signed by a key that {issuer.issuer} does not name. {_AGAIN}")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(issuer.algorithms),
                audience=list(issuer.audience),
                issuer=issuer.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except exceptions.ExpiredSignatureError:
            raise UnauthenticatedError(f"The token has expired. {_AGAIN}") from None
        except exceptions.InvalidAudienceError:
            raise UnauthenticatedError("The token was issued for something else than Parfocal (claim `aud`).") from None
        except exceptions.PyJWTError as error:
            raise UnauthenticatedError(f"The token is not valid: {type(error).__name__}. {_AGAIN}") from None
        # Longer ones than its own: what begins with them is said by another issuer.
        own = len(issuer.prefix)
        foreign = tuple(each.prefix for each, _ in self._issuers.values() if len(each.prefix) > own)
        return _identity(issuer, claims, foreign)


def _identity(issuer: Issuer, claims: Mapping[str, Any], foreign: tuple[str, ...]) -> Identity:
    name = claims.get(issuer.name_claim)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise UnauthenticatedError(f"The token does not say who you are: the claim {issuer.name_claim!r} is missing.")
    if issuer.name_claim == "email" and claims.get("email_verified") is False:
        raise UnauthenticatedError("The token names an e-mail address that its issuer has not verified.")
    name = f"{issuer.prefix}{name}"
    if name.startswith((MACHINE, GROUP, *foreign)) or name == EVERYONE:
        # The claim may be chosen by the person themselves.
        raise UnauthenticatedError(f"Nobody may be called {name!r}: the access file means something else by it.")
    found: Any = claims
    for part in issuer.groups_claim.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    listed = found if isinstance(found, list) else []
    groups = {f"{issuer.prefix}{group}" for group in listed if isinstance(group, str)}
    own = frozenset(group for group in groups if not group.startswith(foreign))
    return Identity(name, own, float(claims["exp"]) + LEEWAY_SECONDS)
