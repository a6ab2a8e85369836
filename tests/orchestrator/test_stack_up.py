"""The one-machine stack with real processes: SeaweedFS, Prefect, gRPC services, kill -9."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import psutil
import pytest
from minio import Minio
from support import mentions, search_path

from parfocal.cli import main
from parfocal.flows._api import PrefectApi
from parfocal.runtime.errors import PreconditionError, UnavailableError
from parfocal.stack import probes
from parfocal.stack.config import ServiceUnit, StackConfig, load_config
from parfocal.stack.connection import StackConnection, connection
from parfocal.stack.control import down, status, up
from parfocal.stack.credentials import load_credentials
from parfocal.stack.doctor import CheckState, doctor
from parfocal.stack.logs import logs
from parfocal.stack.processes import marked, stack_mark
from parfocal.stack.state import StackEvent, StackStatus, UnitState

# A gRPC server with the standard health service; its mode says how it misbehaves.
SERVICE = """
import os, signal, subprocess, sys, time
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

mode = sys.argv[1]
print("this is", mode, "with", os.environ["PARFOCAL_S3_ENDPOINT"], flush=True)
if mode == "broken":
    sys.exit("cannot find my model zoo")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "parent":  # a child that has left the process group and heeds no SIGTERM
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
server = grpc.server(futures.ThreadPoolExecutor(2))
answer = health.HealthServicer()
serving = health_pb2.HealthCheckResponse.SERVING
answer.set("", health_pb2.HealthCheckResponse.NOT_SERVING if mode == "never" else serving)
health_pb2_grpc.add_HealthServicer_to_server(answer, server)
assert server.add_insecure_port(os.environ["PARFOCAL_LISTEN"])
server.start()
server.wait_for_termination()
"""

RUNNER = """
from prefect import flow, serve

@flow
def hello() -> None:
    pass

if __name__ == "__main__":
    serve(hello.to_deployment("hello"))
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    (folder / "tiny_service.py").write_text(SERVICE)
    (folder / "tiny_runner.py").write_text(textwrap.dedent(RUNNER))
    return folder


@pytest.fixture(scope="session")
def service(programs: Path) -> Callable[[str], ServiceUnit]:
    def make(mode: str) -> ServiceUnit:
        command = (sys.executable, str(programs / "tiny_service.py"), mode)
        return ServiceUnit(name=mode, module="none", python=Path(sys.executable), command=command)

    return make


@pytest.fixture(scope="session")
def stack(
    programs: Path, service: Callable[[str], ServiceUnit], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StackStatus]:
    """A stack with everything: store, Prefect, a service, a flow runner and the portal."""
    folder = tmp_path_factory.mktemp("full")
    config = StackConfig(folder=folder, services=(service("tiny"),), runner_module="tiny_runner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", search_path(programs))
        try:
            yield up(config)
        finally:
            down(folder)
    assert marked(stack_mark(folder)) == []


@pytest.fixture
def light(tmp_path: Path) -> Iterator[StackConfig]:
    """Configuration of a stack without Prefect and portal, which starts quickly; stopped after the test."""
    yield StackConfig(folder=tmp_path, prefect=False, portal=False)
    down(tmp_path)
    assert marked(stack_mark(tmp_path)) == []


def client_of(reach: StackConnection) -> Minio:
    host = reach.s3_endpoint.removeprefix("http://")
    return Minio(host, reach.s3_access_key, reach.s3_secret_key, secure=False, region="us-east-1")


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def pid_of(folder: Path, name: str) -> int:
    unit = status(folder).unit(name)
    assert unit is not None
    assert unit.pid is not None
    return unit.pid


def supervisor_of(current: StackStatus) -> psutil.Process:
    assert current.supervisor is not None
    return psutil.Process(current.supervisor.pid)


def guards_of(supervisor: psutil.Process) -> list[psutil.Process]:
    def is_guard(process: psutil.Process) -> bool:
        try:
            return "parfocal.stack.guard" in process.cmdline()
        except psutil.NoSuchProcess:  # ended, or dead and not yet reaped
            return False

    return [each for each in supervisor.children() if is_guard(each)]


# A running stack


def test_all_units_become_ready(stack: StackStatus) -> None:
    assert stack.ready
    assert [unit.name for unit in stack.units] == ["s3", "prefect", "tiny", "runner", "portal"]
    assert all(unit.start_seconds and unit.memory_mb for unit in stack.units)


def test_the_store_has_its_buckets_and_takes_objects(stack: StackStatus) -> None:
    client = client_of(connection(stack.folder))
    names = {bucket.name for bucket in client.list_buckets()}
    assert names == {f"parfocal-{name}" for name in ("datasets", "models", "results", "jobs", "derived")}
    client.put_object("parfocal-results", "a/b.tif", io.BytesIO(b"pixels"), 6)
    with client.get_object("parfocal-results", "a/b.tif") as response:
        assert response.read() == b"pixels"


def test_a_connection_reaches_service_and_prefect(stack: StackStatus) -> None:
    reach = connection(stack.folder)
    assert probes.service_ready(reach.services["tiny"]) == ""
    assert reach.prefect_api_url is not None
    assert probes.prefect_ready(reach.prefect_api_url) == ""
    assert reach.environment["PARFOCAL_SERVICES"] == reach.services["tiny"]


def test_secrets_stay_out_of_state_configuration_and_logs(stack: StackStatus) -> None:
    credentials = load_credentials(stack.folder)
    files = [stack.folder / "stack.json", stack.folder / "config.json", *(stack.folder / "logs").iterdir()]
    text = "".join(path.read_text("utf-8", "replace") for path in files)
    for secret in (credentials.secret_key, credentials.filer_key, credentials.prefect_key):
        assert secret not in text
    assert credentials.secret_key not in repr(connection(stack.folder))


def test_everything_listens_on_loopback_only(stack: StackStatus) -> None:
    processes = [psutil.Process(pid_of(stack.folder, unit.name)) for unit in stack.units]
    listening = {
        each.laddr.ip
        for process in processes
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    # gRPC listens with a dual-stack socket and shows the same address in its IPv6 form.
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_the_inside_of_the_store_is_closed(stack: StackStatus) -> None:
    saved = load_config(stack.folder)
    assert saved is not None
    assert saved.config.store_port is not None
    filer = f"http://127.0.0.1:{saved.config.store_port + 2}/buckets/"
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(filer):
        pass
    caught.value.close()
    assert caught.value.code == 401


def test_prefect_asks_everybody_on_this_computer_for_its_password(stack: StackStatus) -> None:
    reach = connection(stack.folder)
    api = str(reach.prefect_api_url)
    for auth in ("", "parfocal:guessed"):
        with pytest.raises(UnavailableError, match="401"):
            PrefectApi(api, auth).call("POST", "/deployments/filter", {})
    names = [each["name"] for each in PrefectApi(api, reach.prefect_auth).call("POST", "/deployments/filter", {})]
    # The flow runner has it as well, or it could not have made one.
    assert names == ["hello"]
    assert reach.prefect_auth == reach.environment["PREFECT_API_AUTH_STRING"]
    assert reach.prefect_auth not in repr(reach)
    # Pages of another address of this computer ask without it whether they may show it.
    asking = {"Origin": stack.prefect_url.replace("127.0.0.1", "localhost"), "Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization"
    request = urllib.request.Request(f"{api}/deployments/filter", headers=asking, method="OPTIONS")
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == asking["Origin"]


def test_the_owner_of_a_stack_sees_its_password(stack: StackStatus, capfd: pytest.CaptureFixture[str]) -> None:
    auth = connection(stack.folder).prefect_auth
    shown = {}
    for arguments in ((), ("--password",), ("--password", "--json")):
        assert main(["--home", str(stack.folder), "status", *arguments]) == 0
        shown[arguments] = capfd.readouterr().out
    assert auth not in shown[()]
    assert "parfocal status --password" in shown[()]
    assert shown[("--password",)] == f"{auth}\n"
    assert json.loads(shown[("--password", "--json")]) == {"password": auth}


def test_a_foreign_page_in_the_browser_may_not_call_prefect(stack: StackStatus) -> None:
    def allowed(origin: str) -> str | None:
        request = urllib.request.Request(f"{stack.prefect_url}/api/health", headers={"Origin": origin})
        with urllib.request.urlopen(request) as response:
            header: str | None = response.headers.get("Access-Control-Allow-Origin")
            return header

    assert allowed(stack.prefect_url) == stack.prefect_url
    assert allowed("https://elsewhere.example") is None


def test_up_again_is_harmless(stack: StackStatus) -> None:
    again = up(StackConfig(folder=stack.folder))
    assert again.ready
    assert again.supervisor == stack.supervisor
    assert [unit.name for unit in again.units] == [unit.name for unit in stack.units]


def test_up_with_another_port_is_refused_while_it_runs(stack: StackStatus) -> None:
    with pytest.raises(PreconditionError, match=r"already running with s3_port \d+, not 21777"):
        up(StackConfig(folder=stack.folder, s3_port=21777))


def test_up_in_the_foreground_is_refused_while_it_runs(stack: StackStatus) -> None:
    assert stack.supervisor is not None
    with pytest.raises(PreconditionError, match=rf"already running \(process {stack.supervisor.pid}\)"):
        up(StackConfig(folder=stack.folder), foreground=True)


def test_logs_of_one_unit_and_of_all(stack: StackStatus) -> None:
    line = f"this is tiny with {stack.s3_endpoint}"
    assert line in list(logs(stack.folder, "tiny"))
    assert f"tiny       | {line}" in list(logs(stack.folder))


def test_a_followed_log_yields_new_lines(stack: StackStatus) -> None:
    following = logs(stack.folder, "tiny", lines=1, follow=True)
    next(following)
    path = stack.folder / "logs" / "tiny.log"

    def append(text: str) -> None:
        with path.open("a") as log:
            log.write(text)

    append("half a line")
    rest = threading.Timer(0.5, append, [" and its end\n"])
    rest.start()
    assert list(islice(following, 1)) == ["half a line and its end"]
    rest.join()


def test_doctor_finds_a_running_stack_healthy(stack: StackStatus) -> None:
    checks = {check.name: check for check in doctor(stack.folder)}
    for name in ("stack", "store", "conditional writes", "prefect", "tiny answers", "leftover processes"):
        assert checks[name].state is CheckState.OK, checks[name]
    assert checks["trash"].found.startswith("0 records")


def test_a_killed_unit_is_started_again(stack: StackStatus) -> None:
    before = pid_of(stack.folder, "tiny")
    os.kill(before, signal.SIGKILL)
    assert wait_until(lambda: status(stack.folder).unit("tiny").restarts == 1)  # type: ignore[union-attr]
    again = up(StackConfig(folder=stack.folder)).unit("tiny")
    assert again is not None
    assert again.pid != before
    assert mentions(again.detail, "started again once", "SIGKILL")
    assert connection(stack.folder).services["tiny"] == again.address


def test_a_killed_guard_is_replaced(stack: StackStatus) -> None:
    supervisor = supervisor_of(stack)
    (before,) = guards_of(supervisor)
    before.kill()
    assert wait_until(lambda: len(guards_of(supervisor)) == 1 and guards_of(supervisor) != [before], 5)


# Starting


def test_two_at_once_share_one_stack(light: StackConfig) -> None:
    results: list[StackStatus] = []
    threads = [threading.Thread(target=lambda: results.append(up(light))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0].supervisor == results[1].supervisor
    assert all(result.ready for result in results)


def test_a_service_is_added_without_disturbing_the_rest(
    light: StackConfig, service: Callable[[str], ServiceUnit]
) -> None:
    first = up(light.model_copy(update={"services": (service("tiny"),)}))
    events: list[StackEvent] = []
    second = up(light.model_copy(update={"services": (service("more"),)}), on_event=events.append)
    assert [unit.name for unit in second.units] == ["s3", "tiny", "more"]
    assert [unit.process for unit in second.units[:2]] == [unit.process for unit in first.units]
    assert ("more", UnitState.READY) in [(event.unit, event.state) for event in events]


def test_a_service_that_fails_is_reported_with_the_end_of_its_log(
    light: StackConfig, service: Callable[[str], ServiceUnit]
) -> None:
    services = (service("broken"), service("never"), service("tiny"))
    with pytest.raises(UnavailableError) as caught:
        up(light.model_copy(update={"services": services, "start_timeout": 6.0}))
    assert mentions(caught.value.message, "broken did not start", "exit code 1", "cannot find my model zoo")
    assert mentions(caught.value.message, "never did not start", "6 seconds")
    states = {unit.name: unit.state for unit in status(light.folder).units}
    assert states["s3"] is states["tiny"] is UnitState.READY
    assert states["broken"] is states["never"] is UnitState.FAILED


def test_a_taken_port_is_reported_before_anything_starts(light: StackConfig, stack: StackStatus) -> None:
    port = int(stack.s3_endpoint.rpartition(":")[2])
    with pytest.raises(UnavailableError, match=rf"{port} \(s3_port\) .*weed"):
        up(light.model_copy(update={"s3_port": port}))
    assert not status(light.folder).running


# Stopping and dying


def test_down_leaves_nothing_and_may_be_repeated(light: StackConfig, service: Callable[[str], ServiceUnit]) -> None:
    up(light.model_copy(update={"services": (service("parent"),)}))
    assert len(marked(stack_mark(light.folder))) == 3
    events: list[StackEvent] = []
    stopped = down(light.folder, events.append)
    assert marked(stack_mark(light.folder)) == []
    assert [event.unit for event in events if event.state is UnitState.STOPPED] == ["parent", "s3"]
    assert [unit.state for unit in stopped.units] == [UnitState.STOPPED, UnitState.STOPPED]
    assert down(light.folder) == stopped == status(light.folder)


def test_a_killed_supervisor_leaves_nothing_and_the_data_stay(
    light: StackConfig, service: Callable[[str], ServiceUnit]
) -> None:
    config = light.model_copy(update={"services": (service("parent"),)})
    first = up(config)
    client_of(connection(light.folder)).put_object("parfocal-models", "kept", io.BytesIO(b"kept"), 4)
    supervisor_of(first).kill()
    assert wait_until(lambda: marked(stack_mark(light.folder)) == [])
    assert all("supervisor ended" in unit.detail for unit in status(light.folder).units)
    second = up(config)
    assert second.s3_endpoint == first.s3_endpoint
    with client_of(connection(light.folder)).get_object("parfocal-models", "kept") as response:
        assert response.read() == b"kept"


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is a call of Linux")
def test_units_end_even_when_supervisor_and_guard_are_killed(
    light: StackConfig, service: Callable[[str], ServiceUnit]
) -> None:
    current = up(light.model_copy(update={"services": (service("tiny"),)}))
    supervisor = supervisor_of(current)
    (guard,) = guards_of(supervisor)
    supervisor.suspend()  # so that it starts no other guard
    guard.kill()
    supervisor.kill()
    assert wait_until(lambda: marked(stack_mark(light.folder)) == [])


def test_ctrl_c_in_the_foreground_stops_the_stack(light: StackConfig, service: Callable[[str], ServiceUnit]) -> None:
    # A second Ctrl-C does not wait for a service that heeds no SIGTERM.
    config = light.model_copy(update={"services": (service("stubborn"),)})
    code = (
        "import sys; from parfocal.stack.control import up; from parfocal.stack.config import StackConfig;"
        "up(StackConfig.model_validate_json(sys.argv[1]), foreground=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, config.model_dump_json()]) as process:
        assert wait_until(lambda: bool(status(light.folder).units) and status(light.folder).ready)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(12) == 0
    assert marked(stack_mark(light.folder)) == []
