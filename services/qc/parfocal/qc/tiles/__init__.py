"""What a browser shows of published images: tiles at several zooms. Nothing is judged here.

Quality control has it because every installation runs this service, and because it reads images of all kinds.
"""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.tiles.parameters import TilesParameters
from parfocal.runtime.methods.service import Method, Work

TILES = Method(
    name="tiles",
    title="Image tiles",
    task=v1.TASK_DISPLAY,
    summary="""
        Cuts the images of datasets and results into tiles at several zooms, so that the portal shows any part of them
        at once and in their own grey values. Tiles can be made again at any time and change nothing that is published.
    """,
    axes="YX",
    target=v1.TARGET_KIND_NONE,
    work={
        v1.JOB_KIND_DERIVATION: Work(TilesParameters, "parfocal.qc.tiles.job:derive", needs_device=False),
    },
    data="Published datasets and results, with images of any axes.",
    minimum_images=1,
    recommended_images=1,
    citation="Parfocal's own.",
    licence="BSD-3-Clause",
    documentation="docs/methods/tiles.md",
)
