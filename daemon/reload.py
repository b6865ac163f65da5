"""Another configuration for a daemon that runs: all of it that can be changed at run time, or none of it.

Role: `Reloader.reload` reads the configuration as at the start, checks it, and only then changes anything: tenants
(their rights, endpoints, promises), limits that are read when they are enforced, options of the policy. A fault
anywhere keeps all of the old and says `file:line: why`. What needs a restart is named and waits for one; nothing is
dropped, and connections of tenants that stay are not touched.
Flow: read -> judge -> open new endpoints, the only step that may yet fail and is taken back then -> end what tenants
that go still wait for -> change the rest, which cannot fail.

Does not: read signals, or load networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias

from msgspec import structs

from ..policies.policy import adopt_options, depth_fault, make_policy
from .access import change_endpoints
from .config import Config, Limits
from .desk import Desk
from .listener import renewed
from .log_writer import Log
from .records import Effect
from .server import Server
from .socket_modes import EndpointError
from .sockets import Endpoints
from .toml_file import ConfigError

# Read each time they are enforced. The others have sized something at the start: a socket, an arena, a window.
LIVE_LIMITS = (
    *("sessions_max", "queued_max", "queued_bytes_max", "receive_count_max", "answers_kept_max"),
    *("answers_kept_bytes_max", "answer_window_ms", "session_kept_ms", "retries_max", "held_max", "start_ms_max"),
    *(
        "run_ms_min",
        "run_factor_max",
        "restart_ms_min",
        "backoff_ms_min",
        "backoff_ms_max",
        "drain_ms_max",
        "abandon_ms",
    ),
    *("connections_max", "connections_total_max", "descriptors_spare_min", "resident_bytes_max"),
    *("waiting_routes_max", "session_routes_max", "unwelcome_max"),
)
LIVE = ("tenants", "tenants_dir", "policy_options", "limits")
# Gives the configuration as it stands now.
Reread: TypeAlias = Callable[[], Config]


class Parts(NamedTuple):
    """What of the daemon a configuration reaches at run time."""

    server: Server
    desk: Desk
    endpoints: Endpoints
    networks: Collection[str]


class Reloaded(NamedTuple):
    """How it went, and what to tell the operator of it, as news under `key`; true where it was taken in."""

    taken: bool
    said: str
    key: str

    def __bool__(self) -> bool:
        return self.taken


class Reloader:
    """The configuration in force, and how it is read again."""

    def __init__(self, config: Config, read: Reread | None, note: Log) -> None:
        """`read`: as at the start, with the same flags; raises ConfigError. None: there is nothing to read again."""
        self._config = config
        # One for everybody who enforces them, so that they change everywhere at once.
        self._limits = config.limits
        self._read = read
        self._note = note
        self._count = 0

    def reload(self, wall_s: float, parts: Parts, act: Callable[[Sequence[Effect]], None]) -> Reloaded:
        """Read and take in, or leave the old configuration as it stands. Whoever calls tells the operator.

        Args:
            wall_s: the time, for keys that begin and end.
            act: settles the core's effects and tells who must know, before an endpoint is closed.
        """
        # Each is news, also where it says the same as the last.
        self._count += 1
        key = f"reload {self._count}"
        try:
            new = self._judged(parts)
            self._open(new, wall_s, parts.endpoints)
        except (ConfigError, EndpointError) as error:
            return Reloaded(False, f"configuration not reloaded, all stays as it was: {error}", key)
        old = self._config
        names = {tenant.name for tenant in new.tenants}
        gone = [tenant.name for tenant in old.tenants if tenant.name not in names]
        act(parts.desk.cut_off("cancelled", "this tenant is no longer served", gone))
        for field in LIVE_LIMITS:
            # Frozen for everybody but its owner: a copy each would be as many chances to forget one.
            structs.force_setattr(self._limits, field, getattr(new.limits, field))
        change_endpoints(parts.endpoints, structs.replace(new, limits=self._limits), wall_s, self._note)
        parts.desk.change(new.tenants)
        parts.server.ledger.change({tenant.name: tenant.plain() for tenant in new.tenants})
        later = _needs_restart(old, new)
        if old.policy_options != new.policy_options and "policy" not in later:
            fits = adopt_options(parts.server.policy, new.policy_options)
            later += () if fits else ("policy_options",)
        self._config = structs.replace(old, tenants=new.tenants, policy_options=new.policy_options)
        said = f"configuration reloaded; {len(new.tenants)} tenants"
        said = f"{said}; {', '.join(later)}: waiting for a restart" if later else said
        return Reloaded(True, said, key)

    def _judged(self, parts: Parts) -> Config:
        """The new configuration. Raises ConfigError: it cannot be used, or not by a daemon that runs."""
        if self._read is None:
            raise ConfigError("the daemon was started without a file to read again")
        new, old = self._read(), self._config
        if new.dev != old.dev:
            # Half of it would be in force at once: that every tenant may see and change everything.
            raise ConfigError("dev cannot change while the daemon runs; restart it")
        if len(new.tenants) > old.limits.tenants_max:
            said = f"limits.tenants_max was {old.limits.tenants_max} at the start, and sockets are for so many"
            raise ConfigError(f"{len(new.tenants)} tenants; {said}; restart the daemon")
        for tenant in new.tenants:
            strange = next((name for name in tenant.networks or () if name not in parts.networks), None)
            if strange is not None:
                served = ", ".join(parts.networks)
                raise ConfigError(f"tenant {tenant.name!r} may use {strange!r}, which is not served; served: {served}")
        isolated = {tenant.name: tenant.isolation for tenant in old.tenants}
        own = {
            tenant.name: {*parts.networks} if tenant.networks is None else {*tenant.networks}
            for tenant in old.tenants
            if tenant.isolation == "tenant"
        }
        for tenant in new.tenants:
            if isolated.get(tenant.name, "shared") != tenant.isolation:
                raise ConfigError(f"tenant {tenant.name!r}: isolation cannot change while the daemon runs; restart it")
            before = own.get(tenant.name)
            if before is not None and not set(parts.networks if tenant.networks is None else tenant.networks) <= before:
                said = "has a worker of its own, which cannot be given more networks while the daemon runs; restart it"
                raise ConfigError(f"tenant {tenant.name!r} {said}")
        if old.policy == new.policy:
            exits = {name: len(served.costs.accuracy) for name, served in parts.server.networks.items()}
            fault = depth_fault(make_policy(new.policy, new.policy_options), exits)
            if fault is not None:
                raise ConfigError(fault)
        if old.journal and _terms(old) != _terms(new):
            raise ConfigError(
                "a journal is being written, which could not be played again across other promises, limits or options; "
                "restart the daemon, or do without the journal"
            )
        return new

    def _open(self, new: Config, wall_s: float, endpoints: Endpoints) -> None:
        """Bind what is new beside what is there. Raises ConfigError, EndpointError, with nothing changed."""
        old, before = self._config, endpoints.tcp
        # A key for tcp that is being changed is read again; whether there is tcp at all waits for a restart.
        endpoints.tcp = renewed(before, new)
        names = {tenant.name for tenant in new.tenants}
        staying = tuple(tenant for tenant in old.tenants if tenant.name not in names)
        try:
            endpoints.change((*new.tenants, *staying), self._limits, wall_s)
        except EndpointError:
            endpoints.tcp = before
            endpoints.change(old.tenants, self._limits, wall_s)
            raise


def _terms(config: Config) -> tuple[object, ...]:
    """What the core decides by."""
    limits = tuple(getattr(config.limits, field) for field in LIVE_LIMITS)
    return limits, config.policy_options, {tenant.name: tenant.plain() for tenant in config.tenants}


def _needs_restart(old: Config, new: Config) -> tuple[str, ...]:
    """Settings that differ and were used up at the start, as they are called in the file."""
    fields = [name for name in Config.__struct_fields__ if name not in LIVE]
    found = [name for name in fields if getattr(old, name) != getattr(new, name)]
    limits = [name for name in Limits.__struct_fields__ if name not in LIVE_LIMITS]
    found += [f"limits.{name}" for name in limits if getattr(old.limits, name) != getattr(new.limits, name)]
    return tuple(found)
