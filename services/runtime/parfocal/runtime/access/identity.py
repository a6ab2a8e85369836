"""Who somebody is, once their token has been verified."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

# What the names of machines and groups begin with in the access file; no name of a person does.
MACHINE: Final = "machine:"
GROUP: Final = "group:"
EVERYONE: Final = "*"


class Role(IntEnum):
    """What somebody may do in a project; each role includes those before it."""

    VIEWER = 1
    USER = 2
    OPERATOR = 3

    @property
    def title(self) -> str:
        """The role as people write it, e.g. "operator"."""
        return self.name.lower()


@dataclass(frozen=True)
class Identity:
    """A person or machine.

    Attributes
    ----------
    name
        What jobs, models and the audit log call them: a claim of the token, or "machine:NAME".
    groups
        The groups that they belong to, without "group:".
    expires_at
        Time in seconds since 1970 from which their token is refused, the leeway included.
    """

    name: str
    groups: frozenset[str] = frozenset()
    expires_at: float = math.inf

    @property
    def subjects(self) -> frozenset[str]:
        """All by which the access file can mean them."""
        return frozenset({self.name, EVERYONE, *(f"{GROUP}{group}" for group in self.groups)})


#: The caller where there are no identities.
UNVERIFIED: Final = Identity("unverified")
