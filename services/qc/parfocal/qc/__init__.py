"""Quality control: metrics, error maps, reports and a verdict on any prediction, whoever made it.

Each kind has a room of its own: the methods in its `__init__.py`, what workers run in `job.py`, parameters and figures:
`restoration/` (translation too), `instances/`, `semantic/`, `detection/`, `localisation/` (reconstructions too),
`residuals/`, `unpaired/`, `dataset/` and `comparison/`.
They share `evaluation/`, `report/` and `metrics/`, which are pure functions on arrays. `tiles/` judges nothing: it
makes what a browser shows of images.
"""

from __future__ import annotations

from parfocal.qc.dataset import DATASET
from parfocal.qc.detection import DETECTION
from parfocal.qc.instances import INSTANCES
from parfocal.qc.localisation import LOCALISATION, RECONSTRUCTION
from parfocal.qc.residuals import RESIDUALS
from parfocal.qc.restoration import RESTORATION, TRANSLATION
from parfocal.qc.semantic import SEMANTIC
from parfocal.qc.tiles import TILES
from parfocal.qc.unpaired import UNPAIRED
from parfocal.runtime.methods.service import Service

SERVICE = Service(
    name="qc",
    methods=(
        RESTORATION,
        RESIDUALS,
        TRANSLATION,
        UNPAIRED,
        INSTANCES,
        SEMANTIC,
        DETECTION,
        LOCALISATION,
        RECONSTRUCTION,
        DATASET,
        TILES,
    ),
    packages=("scikit-image", "scipy", "matplotlib"),
)
