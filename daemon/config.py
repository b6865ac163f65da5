"""What the operator decides: the configuration file, its defaults, and every limit delend enforces.

Role: `load_config` turns flags, `DELEN_*` variables, a TOML file and defaults, in that order of precedence, into one
frozen `Config`. Unknown keys are errors. Limits are in `Limits`, one name each; the refusal that enforces one names it.
Does not: open sockets or look at bundles.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import structs

from ..clients.places import name_fault, runtime_directories
from ..policies.correction_rivals import correction
from ..policies.policy import PolicyError, make_policy
from ..policies.rates import Terms, terms_fault

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Engine = Literal["onnx", "torch", "replay"]
# Longest path a Unix socket can have on Linux (sun_path), terminating zero included.
SOCKET_PATH_BYTES_MAX = 108
SPIN_US_MAX, AHEAD_US_MAX = 10_000, 1_000_000


class ConfigError(ValueError):
    """The configuration cannot be used: which file and key, what was expected."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Limits(_Section, frozen=True):
    """Every queue, message, batch, buffer, retry and wait has its bound here.

    Requests with bounds but no deadline are due after `patience_ms`. If none has its turn for as long again, newcomers
    with a deadline are let in only behind the next batch of them; behind all that are due for `wait_ms_max`.
    """

    tenants_max: int = 64
    sessions_max: int = 256
    queued_max: int = 1024
    queued_bytes_max: int = 64 * 1024**2
    payload_bytes_max: int = 8 * 1024**2
    batch_max: int = 32
    receive_count_max: int = 16
    answers_kept_max: int = 1024
    answers_kept_bytes_max: int = 16 * 1024**2
    answer_window_ms: int = 60_000
    session_kept_ms: int = 60_000
    retries_max: int = 1
    patience_ms: int = 100
    wait_ms_max: int = 10_000
    hold_ms: int = 1000
    held_max: int = 1024
    start_ms_max: int = 60_000
    run_ms_min: int = 250
    run_factor_max: float = 20.0
    backoff_ms_min: int = 100
    backoff_ms_max: int = 10_000
    send_queue_max: int = 1024
    connections_backlog: int = 64
    journal_bytes_max: int = 256 * 1024**2


class TenantConfig(Terms, frozen=True):
    """One tenant and its endpoint; what it is promised is in `Terms`.

    `networks`: the only ones it may use; None: all. `sees_all`: its `stats` show every tenant (all do with --dev).
    """

    name: str
    networks: tuple[str, ...] | None = None
    sees_all: bool = False


class Config(_Section, frozen=True, kw_only=True):
    """Everything delend is told at start.

    `networks`: names of shipped bundles, or paths. `watts`: what one busy core is taken to draw where no meter is
    found. `spin_us`: how long front and worker look for each other's next message before they sleep, since being woken
    takes longer than most messages do; 0 saves that power. `profile`: `quick` measures a network that has no profile
    here, `require` refuses it.

    `policy`, `policy_options`: what decides the next run. `ahead_us`: how long before a run's likely end the next one
    may be posted; 0: only to an idle device. `correction`: how predictions follow the device;
    a share of `miss_target` of all runs should take longer than predicted.

    `journal`: a file for everything the core is told, to be played again with `delen simulate --journal`; empty: none.
    It ends at `limits.journal_bytes_max`, or where it cannot be written, and the daemon goes on; the one before it is
    kept as `<file>.before`.
    """

    dev: bool = False
    runtime_dir: str = ""
    state_dir: str = ""
    networks: tuple[str, ...] = ("fashion", "digits")
    tenants: tuple[TenantConfig, ...] = ()
    engine: Engine = "onnx"
    device: str = "auto"
    threads: int = 1
    watts: float | None = None
    spin_us: int = 500
    profile: Literal["quick", "require"] = "quick"
    replay_profiles: tuple[str, ...] = ()
    policy: str = "stage-edf"
    policy_options: Mapping[str, Any] = {}
    ahead_us: int = 1_000
    correction: str = "conformal"
    miss_target: float = 0.01
    journal: str = ""
    limits: Limits = Limits()


def load_config(path: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str], uid: int) -> Config:
    """Flag > DELEN_* > file > default.

    Args:
        path: a TOML file, or None.
        overrides: what flags said, by field name; None values are ignored.
        environ, uid: of this process, for DELEN_* and the user's directories.
    Raises:
        ConfigError: with file and key.
    """
    values: dict[str, Any] = _read(path) if path is not None else {}
    for name in ("runtime_dir", "state_dir", "engine", "device", "threads", "watts", "spin_us", "policy", "journal"):
        said = environ.get(f"DELEN_{name.upper()}")
        if said:
            values[name] = said
    values.update({name: value for name, value in overrides.items() if value is not None})
    try:
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        source = f"{path}: " if path is not None else ""
        raise ConfigError(f"{source}{error}; `delen serve --check --json` shows every setting there is") from None
    config = _with_directories(config, environ, uid)
    if config.dev:
        config = structs.replace(config, tenants=tuple(structs.replace(t, sees_all=True) for t in config.tenants))
    fault = config_fault(config)
    if fault:
        raise ConfigError(f"{path}: {fault}" if path is not None else fault)
    return config


def config_fault(config: Config) -> str | None:
    """What cannot be right, in words; None when nothing is."""
    names = [tenant.name for tenant in config.tenants]
    if not names:
        return "no tenants; name at least one ([[tenants]] in the file, or --dev --tenant NAME)"
    if len(names) > config.limits.tenants_max:
        return f"{len(names)} tenants; limits.tenants_max is {config.limits.tenants_max}"
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        return f"tenant {repeated!r} is named twice"
    for name in names:
        fault = name_fault("tenant", name)
        if fault:
            return fault
        size = len(str(Path(config.runtime_dir) / "t" / name / "sock").encode())
        if size >= SOCKET_PATH_BYTES_MAX:
            limit = SOCKET_PATH_BYTES_MAX - 1
            return f"tenant {name!r}: its socket path has {size} bytes, at most {limit} work; use a shorter runtime_dir"
    fault = terms_fault({tenant.name: tenant for tenant in config.tenants})
    if fault:
        return fault
    if not config.networks:
        return "no networks; name at least one bundle"
    if config.threads < 1:
        return f"threads is {config.threads}; expected at least 1"
    if not 0 <= config.spin_us <= SPIN_US_MAX:
        return f"spin_us is {config.spin_us}; expected 0 to {SPIN_US_MAX}"
    if not 0 <= config.ahead_us <= AHEAD_US_MAX:
        return f"ahead_us is {config.ahead_us}; expected 0 to {AHEAD_US_MAX}"
    if config.watts is not None and not (math.isfinite(config.watts) and config.watts > 0):
        return f"watts is {config.watts}; expected a finite number above 0"
    for field in Limits.__struct_fields__:
        value = getattr(config.limits, field)
        if field == "retries_max" and value == 0:
            continue
        if not (math.isfinite(value) and value > 0):
            return f"limits.{field} is {value}; expected a finite number above 0"
    return _scheduling_fault(config)


def _scheduling_fault(config: Config) -> str | None:
    """A policy, its options or a correction that do not exist."""
    try:
        make_policy(config.policy, config.policy_options)
        correction(config.correction, miss_target=config.miss_target)
    except (PolicyError, ValueError) as error:
        return str(error)
    return None


def _with_directories(config: Config, environ: Mapping[str, str], uid: int) -> Config:
    """Development mode lives in the user's own runtime directory, a service in the system's."""
    if config.runtime_dir:
        return config
    user, *system = runtime_directories(environ, uid)
    chosen = user if config.dev or uid != 0 or not system else system[-1]
    return structs.replace(config, runtime_dir=str(chosen))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from error
