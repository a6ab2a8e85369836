"""Models that earlier versions made."""

from __future__ import annotations

from kept_models import KeptModelSuite

from parfocal.cellpose import SERVICE


class TestKeptModels(KeptModelSuite):
    service = SERVICE
