"""Prefect with the libraries that are locked beside it: schedules give runs, which nobody else would start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# In a process of its own: Prefect reads its settings once.
_SCRIPT = """
import asyncio, datetime
from prefect.server import models, schemas
from prefect.server.database import provide_database_interface
from prefect.server.schemas.schedules import IntervalSchedule

async def main():
    database = provide_database_interface()
    await database.create_db()
    schedule = IntervalSchedule(interval=datetime.timedelta(minutes=15))
    async with database.session_context(begin_transaction=True) as session:
        flow = await models.flows.create_flow(session=session, flow=schemas.core.Flow(name="predict-new"))
        made = schemas.core.Deployment(
            name="nightly",
            flow_id=flow.id,
            schedules=[schemas.core.DeploymentSchedule(schedule=schedule, active=True)],
        )
        deployment = await models.deployments.create_deployment(session=session, deployment=made)
        print(len(await models.deployments.schedule_runs(session=session, deployment_id=deployment.id)))

asyncio.run(main())
"""


def test_a_schedule_gives_runs(tmp_path: Path) -> None:
    settings = {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert int(done.stdout.split()[-1]) > 0
