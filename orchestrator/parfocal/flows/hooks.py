"""What happens to the jobs of a flow run that is cancelled, and to a flow run whose process died.

Both run in the runner: a flow that is cancelled cannot tell that from being killed, and a killed one can do nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from parfocal.flows._jobs import CREATOR_LABEL, Run
from parfocal.flows._work import cancel_jobs, connect
from parfocal.flows.notices import Notice, notices_path, tell
from parfocal.runtime.settings import Settings

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

_log = logging.getLogger("prefect.parfocal.flows")
MAX_ATTEMPTS = 5
# How a batch begins its last words that found no image to predict.
NOTHING_NEW = "0 images predicted"


def run_of(flow_run: FlowRun) -> Run:
    """Return what the jobs need to know of a flow run of Prefect."""
    return Run(
        str(flow_run.id),
        max(flow_run.run_count or 1, 1),
        creator=str(flow_run.labels.get(CREATOR_LABEL) or ""),
        training=str(flow_run.parameters.get("training") or "").strip(),
    )


def cancel_jobs_of_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """Cancel the jobs of a flow run that was cancelled. Prefect passes these arguments by name."""
    with connect(str(flow_run.parameters.get("project") or "")) as client:
        for job in cancel_jobs(client, run_of(flow_run), "the flow run was cancelled in Prefect"):
            _log.info("cancelled job %s of flow run %s", job.id, flow_run.name)


def take_up_again(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """Start the process of a flow run anew that died without a word; its jobs go on and are found again."""
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry

    with get_client(sync_client=True) as client:
        current = client.read_flow_run(flow_run.id)
        # Not the run count: a process that dies before the flow begins is none of it.
        died = sum(each.is_crashed() for each in client.read_flow_run_states(flow_run.id))
        if died >= MAX_ATTEMPTS:
            _log.error("the process of flow run %s died %d times; giving up", current.name, died)
            _tell(current, f"Its process died {died} times; it is not taken up again.", failed=True)
            return
        message = "The process that followed this run died; its jobs go on, and it is taken up again."
        client.set_flow_run_state(flow_run.id, AwaitingRetry(message=message), force=True)
        _log.warning("flow run %s: %s", current.name, message)


def tell_of_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """Tell those who want to know how a flow run ended; a run that found nothing to do is not told."""
    failed = not state.is_completed()
    text = state.message or state.name or ""
    if failed or not text.startswith(NOTHING_NEW):
        _tell(flow_run, text, failed=failed)


def _tell(flow_run: FlowRun, text: str, *, failed: bool) -> None:
    from prefect.settings import PREFECT_UI_URL

    pages = str(PREFECT_UI_URL.value() or "")
    page = f"{pages}/runs/flow-run/{flow_run.id}" if pages else ""
    title = f"{flow_run.name} ({project})" if (project := flow_run.parameters.get("project")) else flow_run.name
    tell(
        notices_path(), Notice(title=title, text=text, failed=failed, page=page), Settings().state_folder / "told.json"
    )
