"""Parts of the one-machine stack that work without a server."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError
from support import mentions

from parfocal.runtime.errors import NotFoundError, PreconditionError, UnavailableError
from parfocal.stack import machine
from parfocal.stack.claims import PortClaims
from parfocal.stack.config import SavedConfig, ServiceUnit, StackConfig, load_config, save_config
from parfocal.stack.connection import connection
from parfocal.stack.control import down, status
from parfocal.stack.credentials import credentials_path, ensure_credentials, load_credentials
from parfocal.stack.discover import discover_services, known_services, select_services
from parfocal.stack.doctor import CheckState, doctor
from parfocal.stack.logs import cap_size, last_lines, logs
from parfocal.stack.ports import assign_ports, is_free, listens, stack_ports, store_block
from parfocal.stack.processes import STACK_MARK, ProcessId, end_marked, marked, stack_mark
from parfocal.stack.state import StackStatus, UnitState, UnitStatus, log_path, read_status, write_status
from parfocal.stack.units import Unit, base_environment, build_units, module_exists
from parfocal.stack.watched import Watched


@pytest.fixture
def claims() -> Iterator[PortClaims]:
    with PortClaims() as claims:
        yield claims


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def service(name: str, port: int | None = None) -> ServiceUnit:
    return ServiceUnit(name=name, module=f"parfocal.{name}", python=Path("/nowhere/python"), port=port)


def environment(folder: Path, name: str, *distributions: str) -> Path:
    packages = folder / name / "lib" / "python3.11" / "site-packages"
    for distribution in distributions:
        (packages / f"{distribution}.dist-info").mkdir(parents=True)
    (folder / name / "bin").mkdir(parents=True)
    python = folder / name / "bin" / "python"
    python.symlink_to(sys.executable)
    return python


# Configuration


def test_default_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARFOCAL_HOME", str(tmp_path / "home"))
    assert StackConfig().folder == tmp_path / "home"


@pytest.mark.parametrize("names", [("care", "care"), ("s3",), ("supervisor",)])
def test_names_of_units_are_unique(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="named twice"):
        StackConfig(services=tuple(service(name) for name in names))


def test_configuration_survives_saving(tmp_path: Path) -> None:
    saved = SavedConfig(revision=3, config=StackConfig(folder=tmp_path, services=(service("care", 15051),)))
    save_config(saved)
    assert load_config(tmp_path) == saved


def test_damaged_configuration_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"revision": 1, "config": {"s3_port": "many"}}')
    with pytest.raises(PreconditionError, match=r"config\.json .*config\.s3_port"):
        load_config(tmp_path)


# Ports


def test_every_port_is_decided_and_differs(tmp_path: Path, claims: PortClaims) -> None:
    decided = assign_ports(StackConfig(folder=tmp_path, services=(service("care"), service("qc"))), None, claims)
    first = decided.store_port
    assert first is not None
    ports = [decided.s3_port, decided.prefect_port, decided.portal_port, *(unit.port for unit in decided.services)]
    ports += store_block(first)
    assert None not in ports
    assert len(set(ports)) == len(ports)


def test_ports_of_the_last_time_are_kept(tmp_path: Path, claims: PortClaims) -> None:
    config = StackConfig(folder=tmp_path, services=(service("care"),))
    before = assign_ports(
        config.model_copy(update={"s3_port": 21733, "services": (service("care", 21734),)}), None, claims
    )
    assert assign_ports(config, before, claims) == before


def test_a_port_of_the_last_time_that_is_taken_now_is_replaced(
    tmp_path: Path, taken_port: int, claims: PortClaims
) -> None:
    config = StackConfig(folder=tmp_path)
    before = assign_ports(config, None, claims).model_copy(update={"s3_port": taken_port})
    assert assign_ports(config, before, claims).s3_port not in (None, taken_port)


def test_a_taken_port_is_named_with_its_holder(tmp_path: Path, taken_port: int, claims: PortClaims) -> None:
    with pytest.raises(UnavailableError, match=rf"{taken_port} \(s3_port\) .*{os.getpid()}"):
        assign_ports(StackConfig(folder=tmp_path, s3_port=taken_port), None, claims)


def test_a_port_given_twice_is_refused(tmp_path: Path, claims: PortClaims) -> None:
    with pytest.raises(UnavailableError, match="given twice"):
        assign_ports(StackConfig(folder=tmp_path, s3_port=21733, prefect_port=21733), None, claims)


def test_is_free_tells_a_listening_port(taken_port: int) -> None:
    assert not is_free(taken_port)


def test_it_is_known_which_process_listens(taken_port: int) -> None:
    assert listens(os.getpid(), taken_port)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert not listens(other.pid, taken_port)
        other.communicate(b"\n")


def test_two_stacks_that_start_together_choose_different_ports(tmp_path: Path, claims: PortClaims) -> None:
    config = StackConfig(folder=tmp_path, services=(service("care"),))
    with PortClaims() as other_claims:
        mine, other = assign_ports(config, None, claims), assign_ports(config, None, other_claims)
        assert stack_ports(mine).isdisjoint(stack_ports(other))
        with pytest.raises(UnavailableError, match="another Parfocal stack"):
            assign_ports(StackConfig(folder=tmp_path, s3_port=other.s3_port), None, claims)


def test_a_claim_outlives_the_start_in_the_supervisor(claims: PortClaims) -> None:
    with PortClaims() as of_up, PortClaims() as of_supervisor:
        assert of_up.take(21735)
        of_supervisor.join({21735})
        of_up.close()
        assert not claims.take(21735)
        of_supervisor.join(set())
        assert claims.take(21735)


# Installed services


def test_the_services_of_the_repository_are_known_without_being_installed() -> None:
    assert {"care", "fnet", "qc", "stardist"} <= set(known_services())
    assert "runtime" not in known_services()


def test_services_are_found_in_environments_of_their_name(tmp_path: Path) -> None:
    python = environment(tmp_path, "care", "parfocal_care-0.1.0", "parfocal_runtime-0.1.0", "numpy-2.4.6")
    environment(tmp_path, "orchestrator", "parfocal-0.1.0", "parfocal_runtime-0.1.0")
    environment(tmp_path, "deep_storm", "parfocal_deep_storm-0.2.0")
    environment(tmp_path, "dev", "parfocal_care-0.1.0")
    found = discover_services(tmp_path)
    assert list(found) == ["care", "deep-storm"]
    assert found["care"] == ServiceUnit(name="care", module="parfocal.care", python=python)
    assert found["deep-storm"].module == "parfocal.deep_storm"


def test_a_missing_service_is_named_with_the_way_to_add_it(tmp_path: Path) -> None:
    environment(tmp_path, "care", "parfocal_care-0.1.0")
    with pytest.raises(NotFoundError, match=r"service qc in .*: care\..*`make envs`"):
        select_services(["care", "qc"], tmp_path)


def test_environments_folder_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(tmp_path, "care", "parfocal_care-0.1.0")
    monkeypatch.setenv("PARFOCAL_ENVS", str(tmp_path))
    assert [unit.name for unit in select_services()] == ["care"]


# Units


def test_one_entry_more_is_one_unit_more(tmp_path: Path) -> None:
    config = StackConfig(folder=tmp_path, services=(service("care", 15051), service("qc", 15052)), prefect=False)
    units = {unit.name: unit for unit in build_units(config, ensure_credentials(tmp_path))}
    assert list(units) == ["s3", "care", "qc"]
    assert units["qc"].needs == ("s3",)
    assert units["qc"].env["PARFOCAL_LISTEN"] == "127.0.0.1:15052"
    assert units["qc"].argv[-3:] == ("-m", "parfocal.runtime.server", "parfocal.qc")


def test_the_runner_waits_for_services_but_starts_without_one_that_failed(tmp_path: Path) -> None:
    # Any module that can be run does for this test.
    config = StackConfig(folder=tmp_path, services=(service("care", 15051),), runner_module="parfocal.stack.guard")
    runner = build_units(config, ensure_credentials(tmp_path))[-1]
    assert (runner.name, runner.needs, runner.after) == ("runner", ("s3", "prefect"), ("care",))
    assert runner.env["PARFOCAL_SERVICES"] == "127.0.0.1:15051"


def test_neither_runner_nor_portal_has_a_key_of_the_store(tmp_path: Path) -> None:
    config = StackConfig(
        folder=tmp_path, services=(service("care", 15051),), runner_module="parfocal.stack.guard", portal_port=18600
    )
    credentials = ensure_credentials(tmp_path)
    units = {unit.name: unit.env for unit in build_units(config, credentials)}
    keys = {credentials.access_key, credentials.services.access_key, credentials.catalog.access_key}
    assert keys & set(units["care"].values())
    for name in ("runner", "portal"):
        assert not keys & set(units[name].values()), name
        assert not [key for key in units[name] if key.startswith("PARFOCAL_S3_")], name


def test_the_portal_listens_on_its_own_port_and_knows_the_services(tmp_path: Path) -> None:
    config = StackConfig(folder=tmp_path, services=(service("care", 15051),), prefect=False, portal_port=18600)
    portal = build_units(config, ensure_credentials(tmp_path))[-1]
    assert (portal.name, portal.needs, portal.address) == ("portal", ("s3",), "http://127.0.0.1:18600")
    assert portal.env["PARFOCAL_SERVICES"] == "127.0.0.1:15051"
    assert portal.argv[-2:] == ("--listen", "127.0.0.1:18600")


def test_the_portal_reaches_the_schedules_and_has_no_key_or_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StackConfig(folder=tmp_path, services=(service("care", 15051),), portal_port=18600, prefect_port=14200)
    credentials = ensure_credentials(tmp_path)
    monkeypatch.setenv("PARFOCAL_ACCESS_FILE", str(tmp_path / "access.toml"))
    monkeypatch.setenv("PARFOCAL_TOKEN", "of-whoever-starts-it")
    portal = build_units(config, credentials)[-1].env
    assert portal["PREFECT_API_URL"] == "http://127.0.0.1:14200/api"
    assert portal["PREFECT_API_AUTH_STRING"] == credentials.prefect_auth
    assert portal["PARFOCAL_ACCESS_FILE"] == str(tmp_path / "access.toml")
    assert not {"of-whoever-starts-it", credentials.services.secret_key} & set(portal.values())


def test_prefect_asks_for_a_password_that_only_the_runner_and_the_portal_get(tmp_path: Path) -> None:
    config = StackConfig(
        folder=tmp_path, services=(service("care", 15051),), runner_module="parfocal.stack.guard", portal_port=18600
    )
    ensure_credentials(tmp_path)
    path = credentials_path(tmp_path)
    # As a Parfocal without that password wrote it.
    content = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key != "prefect_key"}
    path.write_text(json.dumps(content))
    credentials = ensure_credentials(tmp_path)
    assert credentials == load_credentials(tmp_path), "made once"
    assert len(credentials.prefect_key) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = {unit.name: unit.env for unit in build_units(config, credentials)}
    assert found["prefect"]["PREFECT_SERVER_API_AUTH_STRING"] == credentials.prefect_auth
    assert found["runner"]["PREFECT_API_AUTH_STRING"] == credentials.prefect_auth
    knowing = {name for name, env in found.items() if credentials.prefect_key in " ".join(env.values())}
    assert knowing == {"prefect", "runner", "portal"}
    assert not [unit for unit in build_units(config, credentials) if credentials.prefect_key in " ".join(unit.argv)]
    assert credentials.prefect_key not in repr(credentials)


def test_only_the_runner_gets_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = StackConfig(folder=tmp_path, services=(service("care", 15051),), runner_module="parfocal.stack.guard")
    monkeypatch.setenv("PARFOCAL_TOKEN", "of-whoever-starts-it")
    monkeypatch.setenv("PARFOCAL_RUNNER_TOKEN_FILE", "/run/runner")
    found = {unit.name: unit.env for unit in build_units(config, ensure_credentials(tmp_path))}
    assert found["runner"]["PARFOCAL_TOKEN_FILE"] == "/run/runner"
    assert "PARFOCAL_TOKEN_FILE" not in found["care"]
    assert not [name for name, env in found.items() if "of-whoever-starts-it" in env.values()]


def test_settings_of_another_prefect_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://elsewhere.example/api")
    monkeypatch.setenv("no_proxy", "intranet")
    environment = base_environment()
    assert "PREFECT_API_URL" not in environment
    assert environment["no_proxy"] == "intranet,127.0.0.1,localhost"


@pytest.mark.parametrize(
    ("module", "exists"),
    [("parfocal.stack.guard", True), ("parfocal.nowhere.serve", False), ("nowhere_at_all", False), ("json", True)],
)
def test_modules_are_found_without_importing_them(module: str, exists: bool) -> None:
    assert module_exists(module) is exists


# Keys


def test_keys_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    first = ensure_credentials(tmp_path)
    assert ensure_credentials(tmp_path) == first == load_credentials(tmp_path)
    for name in ("credentials.json", "s3.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_each_unit_has_a_key_for_what_it_does(tmp_path: Path) -> None:
    credentials = ensure_credentials(tmp_path)
    path = credentials_path(tmp_path)
    content = json.loads(path.read_text("utf-8"))
    # As an older Parfocal wrote it.
    path.write_text(json.dumps({key: content[key] for key in ("access_key", "secret_key", "filer_key")}))
    again = ensure_credentials(tmp_path)
    assert again.access_key == credentials.access_key
    identities = json.loads((tmp_path / "s3.json").read_text("utf-8"))["identities"]
    keys = {each["name"]: each["credentials"][0]["accessKey"] for each in identities}
    assert keys["services"] == again.services.access_key
    assert len(set(keys.values())) == 3
    actions = {each["name"]: set(each["actions"]) for each in identities}
    assert "Admin" not in actions["services"] | actions["catalog"]
    assert "Write:parfocal-datasets" not in actions["services"]
    assert {"Write:parfocal-datasets", "Read:parfocal-derived"} <= actions["catalog"]


def test_keys_are_not_shown(tmp_path: Path) -> None:
    credentials = ensure_credentials(tmp_path)
    assert credentials.secret_key not in repr(credentials)
    credentials_path(tmp_path).write_text(f'{{"secret_key": "{credentials.secret_key}"}}')
    with pytest.raises(PreconditionError) as caught:
        load_credentials(tmp_path)
    assert credentials.secret_key not in str(caught.value)


# Logs


def test_last_lines_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "unit.log"
    path.write_text("".join(f"line {number} {'x' * 80}\n" for number in range(5000)))
    assert [line.split()[1] for line in last_lines(path, 3)] == ["4997", "4998", "4999"]


def test_a_log_beyond_its_limit_is_moved_aside_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "unit.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"a" * 1000 + b"end of the old\n")
        assert cap_size(path, 500)
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    older = path.with_name("unit.log.1").read_bytes()
    assert len(older) == 500
    assert older.endswith(b"end of the old\n")


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "unit.log"
    path.write_bytes(b"short\n")
    assert not cap_size(path, 500)
    assert path.read_bytes() == b"short\n"


def test_logs_of_a_stack_that_never_ran(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No stack"):
        logs(tmp_path)


# Processes


def test_marked_processes_are_found_and_ended(tmp_path: Path) -> None:
    environment = {**os.environ, STACK_MARK: stack_mark(tmp_path, "run")}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment) as child:
        assert [process.pid for process in marked(stack_mark(tmp_path))] == [child.pid]
        assert marked(stack_mark(tmp_path, "other run")) == []
        assert end_marked(stack_mark(tmp_path), grace=5.0) == 1
        assert child.poll() is not None


def test_the_caller_is_never_among_the_marked(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from parfocal.stack.processes import *;"
        "sys.exit(len(marked(stack_mark(pathlib.Path(sys.argv[1])))))"
    )
    environment = {**os.environ, STACK_MARK: stack_mark(tmp_path, "run")}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False).returncode == 0


def test_a_process_number_used_again_is_not_the_same_process() -> None:
    own = ProcessId.of(os.getpid())
    assert own is not None
    assert own.find() is not None
    assert ProcessId(own.pid, own.created - 3600).find() is None


# A stack that does not run


def test_nothing_runs_where_nothing_was_started(tmp_path: Path) -> None:
    assert not status(tmp_path).running
    assert not down(tmp_path / "missing").running
    with pytest.raises(PreconditionError, match=r"not run.*`parfocal up`"):
        connection(tmp_path)


def test_the_state_of_a_machine_that_lost_power_is_recognised(tmp_path: Path) -> None:
    # As after a restart: the file says running, and the numbers belong to other processes.
    own = ProcessId.of(os.getpid())
    unit = UnitStatus(
        name="s3", state=UnitState.READY, process=own, since=datetime.now(UTC), log=log_path(tmp_path, "s3")
    )
    write_status(StackStatus(folder=tmp_path, running=True, supervisor=own, units=(unit,)))
    assert not status(tmp_path).running
    assert down(tmp_path).units[0].state is UnitState.STOPPED
    stored = read_status(tmp_path)
    assert stored is not None
    assert (stored.running, stored.supervisor, stored.units[0].process) == (False, None, None)


# A unit under watch


def test_a_unit_is_not_ready_when_another_program_answers_on_its_port(tmp_path: Path, taken_port: int) -> None:
    unit = Unit(
        name="impostor",
        argv=(sys.executable, "-c", "import time; time.sleep(60)"),
        env=dict(os.environ),
        cwd=tmp_path,
        ready=lambda _since: "",
        port=taken_port,
        ready_timeout=0.5,
    )
    with ThreadPoolExecutor(1) as checks:
        watched = Watched(unit, tmp_path / "impostor.log", stack_mark(tmp_path, "run"), 0, checks)
        deadline = time.monotonic() + 20
        while watched.state is UnitState.STARTING and time.monotonic() < deadline:
            watched.step([], [])
            time.sleep(0.05)
    assert watched.state is UnitState.FAILED
    assert f"port {taken_port} is answered by" in watched.status().detail
    assert watched.status().process is None


def test_the_runner_does_not_start_when_no_service_did(tmp_path: Path) -> None:
    def unit(name: str, *after: str) -> Unit:
        argv = (sys.executable, "-c", "raise SystemExit(3)")
        return Unit(name=name, argv=argv, env=dict(os.environ), cwd=tmp_path, ready=lambda _since: "no", after=after)

    with ThreadPoolExecutor(1) as checks:
        mark = stack_mark(tmp_path, "run")
        care = Watched(unit("care"), tmp_path / "care.log", mark, 0, checks)
        runner = Watched(unit("runner", "care"), tmp_path / "runner.log", mark, 0, checks)
        deadline = time.monotonic() + 20
        while UnitState.STARTING in (care.state, runner.state) and time.monotonic() < deadline:
            care.step([], [])
            runner.step([], [care])
            time.sleep(0.05)
    assert mentions(care.status().detail, "exit code 3", "2. time")
    assert mentions(runner.status().detail, "care", "none of which")
    assert not (tmp_path / "runner.log").exists()


# The doctor


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"avx2", "avx512f", "avx512_bf16", "amx_bf16"}, ("AMX found", "bfloat16")),
        (
            {"avx2", "avx512f", "avx512_bf16"},
            ("AVX512-BF16 but no AMX", "TensorFlow", "bfloat16"),
        ),
        ({"avx2", "avx512f"}, ("AVX512, AVX2", "no AMX or AVX512-BF16", "float32")),
        ({"avx2"}, (": AVX2", "no AMX or AVX512-BF16", "float32")),
    ],
)
def test_doctor_says_which_precision_and_why(
    flags: set[str], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags))
    found = {check.name: check for check in doctor(tmp_path)}["processor"]
    assert mentions(found.found, *words)


def test_doctor_says_what_the_services_keep(tmp_path: Path) -> None:
    for name, mebibytes in (("cache/ab/abcd.tif", 1536), ("logs/default/job-1.log", 512)):
        path = tmp_path / "state" / name
        path.parent.mkdir(parents=True)
        path.touch()
        os.truncate(path, mebibytes * 2**20)
    found = {check.name: check for check in doctor(tmp_path)}["clean-up"]
    assert mentions(found.found, "1.5 GB in their cache", "0.5 GB of")


def test_doctor_reports_what_is_missing_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = tmp_path / "envs"
    environment(environments, "care", "parfocal_care-0.1.0", "tensorflow_cpu-2.21.0")
    asked = environments / "care/lib/python3.11/site-packages/parfocal_care-0.1.0.dist-info/METADATA"
    asked.write_text("Name: parfocal-care\nRequires-Dist: parfocal-runtime\nRequires-Dist: tensorflow_cpu==2.21.0\n\n")
    (environments / "qc" / "bin").mkdir(parents=True)
    (environments / "qc" / "bin" / "python").symlink_to(tmp_path / "gone")
    monkeypatch.setenv("PARFOCAL_ENVS", str(environments))
    ensure_credentials(tmp_path)
    credentials_path(tmp_path).chmod(0o644)
    checks = {check.name: check for check in doctor(tmp_path)}
    assert "parfocal-care 0.1.0, tensorflow-cpu 2.21.0" in checks["service care"].found
    assert checks["service qc"].state is CheckState.PROBLEM
    assert checks["keys"].state is CheckState.PROBLEM
    assert all(check.advice for check in checks.values() if check.state is not CheckState.OK)
