"""Verdict of quality control on a model, as everybody reads it: jobs, single images, and pages for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.store.store import Location, Store

_log = logging.getLogger(__name__)

#: What an evaluation leaves with the model it judged, in the folder qc/JOB of the model.
VERDICT_FILE: Final = "verdict.json"


@dataclass(frozen=True)
class Verdict:
    """Newest verdict of quality control on a model.

    Attributes
    ----------
    state
        "passed", "failed", or "unchecked" where quality control has not looked at the model.
    reasons
        Why, in plain sentences.
    next_steps
        Next steps to try with a model that failed.
    job
        The evaluation job; empty for "unchecked".
    uri
        Folder with figure and tables in the store; empty for "unchecked".
    """

    state: str
    reasons: Sequence[str] = ()
    job: str = ""
    uri: str = ""
    next_steps: Sequence[str] = ()

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.state == "unchecked":
            return "This model has not been checked by quality control."
        why = "; ".join(reason.rstrip(".") for reason in self.reasons)
        return f"This model {self.state} quality control" + (f": {why}." if why else ".")


def newest_content(store: Store, model: Location) -> tuple[Location, dict[str, Any]] | None:
    """Return where the newest verdict on a model version lies, and all it says; None if there is none."""
    found = []
    for place in (model / "qc" / job for job in store.folders(model / "qc")):
        try:
            content = store.read_json(place / VERDICT_FILE)
        except NotFoundError:
            continue  # not written yet
        except DamagedError as error:
            _log.warning("a verdict is left out: %s", error.message)
            continue
        if isinstance(content, dict):
            found.append((place, content))
    # Job ids made by Parfocal begin with the time, which decides where a verdict has none.
    return max(found, key=lambda each: (str(each[1].get("created_at", "")), each[0].name), default=None)


def newest_verdict(store: Store, model: Location) -> Verdict:
    """Return what quality control said last about a model version."""
    newest = newest_content(store, model)
    if newest is None:
        return Verdict("unchecked")
    place, content = newest
    return verdict_of(content, place.name, str(place))


def verdict_of(content: Mapping[str, Any], job: str = "", uri: str = "") -> Verdict:
    """Return the verdict stored in a result's manifest or in a verdict's file."""
    reasons, steps = (tuple(map(str, content.get(name) or ())) for name in ("reasons", "next_steps"))
    return Verdict(str(content.get("state") or "unchecked"), reasons, job, uri, steps)
