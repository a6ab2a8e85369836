"""The catalogue: finds, uploads, downloads and deletes datasets, models and results; its clients hold no store key.

`entries` reads what is published, `trash` deletes and restores, `lineage` says what was made from what, `uploads` and
`downloads` sign requests to the store and verify what came of them, `servicer` has the RPCs, `part` what runs beside.
"""

from __future__ import annotations

from parfocal.runtime.methods.service import Service

SERVICE = Service(name="catalog", methods=(), packages=("botocore",), part="parfocal.catalog.part:Catalog")
