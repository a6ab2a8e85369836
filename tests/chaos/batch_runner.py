"""One flow runner's part of a batch, as a process that can be killed.

`python -m chaos.batch_runner SOURCE OUTPUT MODEL`

It runs the batch again and again, as a schedule does, until it is killed; its environment has no key of the store.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

from parfocal.client import Client
from parfocal.flows.batch import Batch, Step
from parfocal.flows.batches import BatchRun
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location

PAUSE_SECONDS = 1.0


def main(source: str, output: str, model_uri: str) -> NoReturn:
    """Run the batch for ever."""
    assert not [name for name in os.environ if name.startswith("PARFOCAL_S3_")]
    batch = Batch(Location.parse(source), Location.parse(output), (Step(model_uri),))
    with Client(Settings(), patience=120.0) as client:
        while True:
            try:
                progress = BatchRun(client, batch, settle_seconds=0, unlike="ignore").run()
            except ParfocalError as error:
                print(f"{type(error).__name__}: {error.message}", flush=True)
            else:
                print(progress.sentence, flush=True)
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
