"""What the operator decides: the configuration file, its defaults, and every limit delend enforces.

Role: `load_config` turns flags, `DELEN_*` variables, a TOML file and defaults, in that order of precedence, into one
frozen `Config`. Unknown keys are errors. Limits are in `Limits`, one name each; the refusal that enforces one names it.
Does not: open sockets or look at bundles.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import structs

from ..clients.places import name_fault, runtime_directories
from ..policies.correction_rivals import correction
from ..policies.policy import PolicyError, make_policy
from ..policies.rates import terms_fault
from .log_lines import Form, Level
from .rights import TenantConfig as TenantConfig
from .rights import rights_fault
from .server_key import read_secret, secret_path
from .tenant_files import DIRECTORY_NAME, read_tenants
from .toml_file import ConfigError as ConfigError
from .toml_file import ConfigMissing as ConfigMissing
from .toml_file import line_of, read_toml

Engine = Literal["onnx", "torch", "replay"]
# Longest path a Unix socket can have on Linux (sun_path), terminating zero included.
SOCKET_PATH_BYTES_MAX = 108
# The largest limits: what the library's options, the kernel's and a few sockets for each tenant have room for.
TENANTS_MOST, COUNT_MOST, BYTES_MOST = 1_000, 10**9, 2**40
SPIN_US_MAX, AHEAD_US_MAX = 10_000, 1_000_000


# What DELEN_* variables set, each under its own name; and those that are read elsewhere.
FROM_SHELL = (
    *("runtime_dir", "state_dir", "engine", "device", "threads", "watts", "spin_us", "policy", "journal"),
    *("log", "log_level", "worker", "worker_socket", "worker_user"),
)
READ_ELSEWHERE = ("DELEN_CONFIG", "DELEN_TENANT", "DELEN_DEBUG", "DELEN_DATA", "DELEN_KEY_FILE", "DELEN_SERVER_KEY")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Limits(_Section, frozen=True):
    """Every queue, message, batch, buffer, retry and wait has its bound here.

    Requests with bounds but no deadline are due after `patience_ms`. If none has its turn for as long again, newcomers
    with a deadline are let in only behind the next batch of them; behind all that are due for `wait_ms_max`.

    An endpoint with more than `connections_max` connections, or the fullest when there are `connections_total_max`, is
    closed for a while; so is one that takes in no whole message while memory grows by `memory_growth_bytes_max`. Who
    sends `malformed_max` malformed messages within `malformed_window_ms` is not read for `cool_ms`.

    A worker has `start_ms_max` to get ready. One that is started again has `run_factor_max` times what the one before
    it took, and `restart_ms_min` at least; the next has twice that, as long as none has done anything.

    A daemon told to end finishes what it has accepted, for at most `drain_ms_max`. One that comes near
    `resident_bytes_max` of memory takes in nothing new until it has less; 0: near what its control group may have.

    `audit_share`: of the answers that gates let go, how many are run again to the last exit in idle time; `audits_max`:
    how many may wait for it with features on the device.

    `traces_max`: of each tenant's last requests, how many can be looked at in detail; 0: none. `log_lines_max`: in ten
    seconds; `log_queue_max`: lines that may wait for who reads them.

    An input that runs in `poison_deaths` deaths of a worker is refused for `poison_ms`, and so are all of a tenant to a
    network that `poison_inputs_max` of its inputs killed, or where workers died `suspect_deaths_max` times of nobody
    else's inputs, none of them answered since: many, for accidents look the same. `suspects_max` inputs are remembered
    for each. One that ran in a death is held back for `suspect_ms` at most, while others would suffer from a second:
    until a spare is loaded, or nobody else with a deadline waits.

    A network on which the engine fails `faults_max` times within `fault_window_ms` is refused until it answers its
    canary, which every network does once in `canary_ms` of idleness. A worker that outlives its kill by `abandon_ms` is
    waited for no more.

    A file of a bundle has at most `bundle_file_bytes_max`: the front has it in memory while it is checked, and must not
    be killed for that. Whoever needs more gives the front's unit more too (MemoryMax).
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
    restart_ms_min: int = 5_000
    run_ms_min: int = 250
    run_factor_max: float = 10.0
    backoff_ms_min: int = 100
    backoff_ms_max: int = 30_000
    send_queue_max: int = 1024
    connections_backlog: int = 64
    connections_max: int = 256
    connections_total_max: int = 1024
    malformed_max: int = 100
    malformed_window_ms: int = 10_000
    cool_ms: int = 1000
    memory_growth_bytes_max: int = 32 * 1024**2
    journal_bytes_max: int = 256 * 1024**2
    drain_ms_max: int = 25_000
    audit_share: float = 0.05
    audits_max: int = 64
    traces_max: int = 256
    log_lines_max: int = 1000
    log_queue_max: int = 1024
    poison_deaths: int = 2
    poison_ms: int = 600_000
    poison_inputs_max: int = 8
    suspects_max: int = 256
    suspect_ms: int = 30_000
    suspect_deaths_max: int = 128
    faults_max: int = 3
    fault_window_ms: int = 60_000
    canary_ms: int = 5_000
    abandon_ms: int = 2_000
    resident_bytes_max: int = 0
    bundle_file_bytes_max: int = 256 * 1024**2


class Config(_Section, frozen=True, kw_only=True):
    """Everything delend is told at start.

    `networks`: names of shipped bundles, or paths. `watts`: what one busy core is taken to draw where no meter is
    found. `spin_us`: how long front and worker look for each other's next message before they sleep, since being woken
    takes longer than most messages do; 0 saves that power. `spare`: keep a second worker loaded, which takes over at
    once where the first dies, for as much memory again. `profile`: `quick` measures a network that has no profile here,
    `require` refuses it.

    `policy`, `policy_options`: what decides the next run. `ahead_us`: how long before a run's likely end the next one
    may be posted; 0: only to an idle device. `correction`: how predictions follow the device;
    a share of `miss_target` of all runs should take longer than predicted.

    `journal`: a file for everything the core is told, to be played again with `delen simulate --journal`; empty: none.
    It ends at `limits.journal_bytes_max`, or where it cannot be written, and the daemon goes on; the one before it is
    kept as `<file>.before`.

    `worker`: `spawn` starts the engine's process; `socket` waits for one that systemd started to come to
    `worker_socket`, as `worker_user`, by name or number; empty: as this daemon's own.

    `require_signature`: serve only bundles signed by one of `trusted_keys`, files of public keys; a signature that is
    there must hold by one of them in any case.

    `tenants_dir`: a directory of tenants' files, `tenants.d` beside the configuration where there is one. `tcp`:
    `tcp://HOST` for tenants with keys, each at its own port; `server_key_file`: the daemon's key for it.

    `log`: what lines for the operator look like, `log_level`: the least important that are written.
    """

    dev: bool = False
    runtime_dir: str = ""
    state_dir: str = ""
    networks: tuple[str, ...] = ("fashion", "digits")
    tenants: tuple[TenantConfig, ...] = ()
    tenants_dir: str = ""
    tcp: str = ""
    server_key_file: str = ""
    engine: Engine = "onnx"
    device: str = "auto"
    threads: int = 1
    watts: float | None = None
    spin_us: int = 500
    spare: bool = False
    worker: Literal["spawn", "socket"] = "spawn"
    worker_socket: str = "/run/delen-engine/ctl"
    worker_user: str = ""
    profile: Literal["quick", "require"] = "quick"
    replay_profiles: tuple[str, ...] = ()
    policy: str = "stage-edf"
    policy_options: Mapping[str, Any] = {}
    ahead_us: int = 1_000
    correction: str = "conformal"
    miss_target: float = 0.01
    journal: str = ""
    require_signature: bool = False
    trusted_keys: tuple[str, ...] = ()
    log: Form = "text"
    log_level: Level = "info"
    limits: Limits = Limits()


def load_config(path: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str], uid: int) -> Config:
    """Flag > DELEN_* > file > default.

    Args:
        path: a TOML file, or None.
        overrides: what flags said, by field name; None values are ignored.
        environ, uid: of this process, for DELEN_* and the user's directories.
    Raises:
        ConfigError: with the file or variable, and the key. ConfigMissing: the file is not there.
    """
    layers = {
        "file": read_toml(path) if path is not None else {},
        **{variable: {name: environ[variable]} for name, variable in _variables() if environ.get(variable)},
        "flags": {name: value for name, value in overrides.items() if value is not None},
    }

    from_files = () if "tenants" in layers["flags"] else _tenants_beside(path, layers["file"].get("tenants_dir"))

    def made(*left_out: str) -> Config | str:
        values: dict[str, Any] = {}
        for source, said in layers.items():
            values |= said if source not in left_out else {}
        return _made(values, from_files, {name: said for name, said in environ.items() if name not in left_out}, uid)

    config = made()
    if isinstance(config, Config):
        secret = secret_path(config.server_key_file, None if path is None else path.parent, environ)
        if config.tcp:
            # Now, not when everything else has been loaded for nothing.
            read_secret(secret)
        return structs.replace(config, server_key_file=str(secret))
    # Whose fault it is: of the one layer without which this would not be said.
    guilty = [source for source in reversed(layers) if layers[source] and made(source) != config]
    if guilty and guilty[0] not in ("file", "flags"):
        raise ConfigError(f"{guilty[0]}={environ[guilty[0]]!r}: {config}")
    raise ConfigError(config if path is None or guilty[:1] == ["flags"] else f"{_place(path, config)}: {config}")


def _place(path: Path, fault: str) -> str:
    """File and line of what a fault speaks of, as far as that can be told."""
    try:
        line = line_of(path.read_text(encoding="utf-8", errors="replace"), fault)
    except OSError:
        line = None
    return str(path) if line is None else f"{path}:{line}"


def unread_variables(environ: Mapping[str, str]) -> list[str]:
    """A line for each DELEN_* variable that looks like a setting and is none."""
    known = [*(variable for _, variable in _variables()), *READ_ELSEWHERE]
    strangers = sorted(name for name in environ if name.startswith("DELEN_") and name not in known)
    return [f"{name} is not read; variables that are: {', '.join(_like(name, known))}" for name in strangers]


def _like(name: str, known: list[str]) -> list[str]:
    return get_close_matches(name, known, n=1) or known


def _variables() -> list[tuple[str, str]]:
    return [(name, f"DELEN_{name.upper()}") for name in FROM_SHELL]


def _tenants_beside(path: Path | None, said: object) -> tuple[TenantConfig, ...]:
    """Those of `tenants.d`, which must be there only if the configuration names it."""
    if path is None:
        return ()
    if isinstance(said, str) and said:
        return read_tenants(path.parent / said)
    directory = path.parent / DIRECTORY_NAME
    return read_tenants(directory) if directory.is_dir() else ()


def _made(
    values: dict[str, Any], from_files: tuple[TenantConfig, ...], environ: Mapping[str, str], uid: int
) -> Config | str:
    """The configuration these values make, or what is wrong with them."""
    try:
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        return f"{error}{_choices(str(error))}; `delen serve --check --json` shows every setting there is"
    config = _with_directories(config, environ, uid)
    config = structs.replace(config, tenants=config.tenants + from_files)
    if config.dev:
        config = structs.replace(
            config, tenants=tuple(structs.replace(t, sees_all=True, manages=True) for t in config.tenants)
        )
    return config_fault(config) or config


def _choices(said: str) -> str:
    """What may stand where msgspec found something else, if that is one of a few words."""
    found = re.search(r"`\$\.(\w+)`$", said)
    words = get_args(get_type_hints(Config).get(found[1])) if found else ()
    named = [word for word in words if isinstance(word, str)]
    return f", expected one of {', '.join(named)}" if named else ""


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
    fault = rights_fault(config.tenants) or _tcp_fault(config.tcp)
    if fault:
        return fault
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
        if field in ("retries_max", "traces_max", "resident_bytes_max") and value == 0:
            continue
        if not (math.isfinite(value) and value > 0):
            return f"limits.{field} is {value}; expected a finite number above 0"
        most = TENANTS_MOST if field == "tenants_max" else BYTES_MOST if "bytes" in field else COUNT_MOST
        if value > most:
            return f"limits.{field} is {value:.4g}; expected at most {most}"
    return _scheduling_fault(config)


def _tcp_fault(said: str) -> str | None:
    if not said or re.fullmatch(r"tcp://([A-Za-z0-9._-]+|\*|\[[0-9A-Fa-f:.%a-z]+\])", said):
        return None
    return f"tcp is {said!r:.80}; expected tcp://HOST without a port, which each tenant has as its tcp_port"


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
