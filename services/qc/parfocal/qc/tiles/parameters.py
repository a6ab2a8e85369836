"""Parameters of the making of tiles."""

from __future__ import annotations

from pydantic import Field

from parfocal.runtime.methods.service import Parameters


class TilesParameters(Parameters):
    """Parameters of a job that makes tiles."""

    again: bool = Field(
        default=False,
        title="Make all tiles again",
        description="Also make tiles again that exist already, for example after files of the store were lost.",
    )
