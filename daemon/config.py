"""What the operator decides: the configuration file, and its defaults.

Role: `load_config` turns flags, `DELEN_*` variables, a TOML file and defaults, in that order of precedence, into one
frozen `Config`. Unknown keys are errors. Limits are in `limits.py`.
Does not: open sockets or look at bundles.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import structs

from ..clients.places import name_fault, runtime_directories
from ..policies.correction_rivals import correction
from ..policies.policy import PolicyError, make_policy
from ..policies.rates import terms_fault
from ..profiles.meters import meter_fault
from .battery_config import BatteryConfig
from .limits import Limits as Limits
from .limits import limits_fault
from .log_lines import Form, Level
from .rights import TenantConfig as TenantConfig
from .rights import rights_fault
from .server_key import read_secret, secret_path
from .tenant_files import DIRECTORY_NAME, read_tenants
from .toml_file import ConfigError as ConfigError
from .toml_file import ConfigMissing as ConfigMissing
from .toml_file import line_of, read_toml

Engine = Literal["onnx", "torch", "tensorrt", "replay"]
# Longest path a Unix socket can have on Linux (sun_path), terminating zero included.
SOCKET_PATH_BYTES_MAX = 108
SPIN_US_MAX, AHEAD_US_MAX, CLOCK_MOST = 10_000, 1_000_000, 1_000_000


# What DELEN_* variables set, each under its own name; and those that are read elsewhere.
FROM_SHELL = (
    *("runtime_dir", "state_dir", "engine", "device", "threads", "watts", "spin_us", "policy", "journal"),
    *("log", "log_level", "worker", "worker_socket", "worker_user"),
)
READ_ELSEWHERE = (
    *("DELEN_CONFIG", "DELEN_TENANT", "DELEN_DEBUG", "DELEN_DATA", "DELEN_KEY_FILE", "DELEN_SERVER_KEY"),
    "DELEN_CACHE_DIR",
)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything delend is told at start.

    `networks`: names of shipped bundles, or paths. `watts`: what one busy core is taken to draw where no meter is
    found. `spin_us`: how long front and worker look for each other's next message before they sleep, since being woken
    takes longer than most messages do; 0 saves that power. `spare`: keep a second worker loaded, which takes over at
    once where the first dies, for as much memory again. `profile`: `quick` measures a network that has no profile here,
    `require` refuses it. `memory_bytes_max`: what all engine processes may take together, by estimate before they load.

    `clocks`: `may-set` lets the policy `clock` set the GPU's; `read` leaves it alone. `clock_switch_us`: how long a
    change keeps it from work; `clock_dwell_ms`: how long a clock is kept before a lower one.

    `meter`: what says how much power is drawn: `auto` takes the best that is there, `none` none; `ina3221`, `jtop`,
    `nvml`, `rapl`, `command: ARGV` or `mqtt://HOST[:PORT]/TOPIC` one alone. `unmetered`: while it does not read, energy
    bounds are kept by the profile's `model`, and said to be, or `refuse`d.

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
    clocks: Literal["read", "may-set"] = "read"
    clock_switch_us: int = 1_000
    clock_dwell_ms: int = 50
    meter: str = "auto"
    unmetered: Literal["model", "refuse"] = "model"
    spin_us: int = 500
    spare: bool = False
    worker: Literal["spawn", "socket"] = "spawn"
    worker_socket: str = "/run/delen-engine/ctl"
    worker_user: str = ""
    profile: Literal["quick", "require"] = "quick"
    memory_bytes_max: int | None = None
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
    battery: BatteryConfig = BatteryConfig()


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
        return f"{error}{_choices(str(error))}; `delen serve --dev --check --json` shows every setting there is"
    config = _with_directories(config, environ, uid)
    config = structs.replace(config, tenants=config.tenants + from_files)
    if config.dev:
        config = structs.replace(
            config, tenants=tuple(structs.replace(t, sees_all=True, manages=True) for t in config.tenants)
        )
    return config_fault(config) or config


def _choices(said: str) -> str:
    """What may stand where msgspec found something else, if that is one of a few words."""
    found = re.search(r"`\$\.([^`]+)`$", said)
    kind: Any = Config if found else None
    for name in re.findall(r"[a-z]\w*", found[1]) if found else ():
        kind = get_type_hints(kind).get(name) if isinstance(kind, type) else None
        kind = get_args(kind)[0] if get_origin(kind) is tuple else kind
    named = [word for word in get_args(kind) if isinstance(word, str)]
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
    if (fault := _device_fault(config.engine, config.device)) is not None:
        return fault
    if config.threads < 1:
        return f"threads is {config.threads}; expected at least 1"
    if not 0 <= config.spin_us <= SPIN_US_MAX:
        return f"spin_us is {config.spin_us}; expected 0 to {SPIN_US_MAX}"
    if not 0 <= config.ahead_us <= AHEAD_US_MAX:
        return f"ahead_us is {config.ahead_us}; expected 0 to {AHEAD_US_MAX}"
    if config.watts is not None and not (math.isfinite(config.watts) and config.watts > 0):
        return f"watts is {config.watts}; expected a finite number above 0"
    if (fault := meter_fault(config.meter) or config.battery.fault()) is not None:
        return fault
    for name, value in (("clock_switch_us", config.clock_switch_us), ("clock_dwell_ms", config.clock_dwell_ms)):
        if not 0 <= value <= CLOCK_MOST:
            return f"{name} is {value}; expected 0 to {CLOCK_MOST}"
    if config.memory_bytes_max is not None and config.memory_bytes_max < 1:
        return f"memory_bytes_max is {config.memory_bytes_max}; expected bytes, above 0"
    return limits_fault(config.limits) or _scheduling_fault(config)


def _device_fault(engine: Engine, device: str) -> str | None:
    """A device that no engine has, or not this one. Whether it is there is known when the engine starts."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        return f"device is {device!r:.80}; expected auto, cpu, cuda, or cuda:1 for the second GPU"
    if engine == "onnx" and device.startswith("cuda"):
        return f"device is {device!r:.80}, but engine onnx runs on the processor; for the GPU take torch or tensorrt"
    if engine == "tensorrt" and device == "cpu":
        return "device is 'cpu', but engine tensorrt runs on a GPU; for the processor take onnx or torch"
    return None


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
