"""Who may use which tenant's endpoint, and what an operator may write of a tenant.

Role: `TenantConfig` is one tenant as configured; `Rights` says at a handshake who is there (`judge`) and for every
message whether that still holds (`allows`), so that what is revoked ends with the next message. Identity is the
endpoint together with the kernel's word on the peer's uid (ipc) or its public key (tcp); nothing a message says counts.
Whoever is not named is denied; in development mode the daemon's own uid is named for every tenant.

Does not: read a clock (wall time is passed in), touch sockets or files.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from ..clients.adaptation import Adaptation, adaptation_fault
from ..clients.key_text import fingerprint, key_fault, key_text
from ..clients.places import name_fault
from ..policies.rates import Terms

# The last value is the kernel's (uid_t)-1, which is nobody.
UID_MAX = 2**32 - 2
KEYS_MAX = 256
PORT_MAX = 65_535
IPC, TCP = "ipc", "tcp"


class PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key of which the tenant holds the secret half, valid from `not_before` until just before `not_after`."""

    public: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    note: str = ""

    def fault(self) -> str | None:
        """What cannot be right, in words; None when nothing is."""
        fault = key_fault(self.public)
        if fault:
            return fault
        for name in ("not_before", "not_after"):
            said = getattr(self, name)
            if said is not None and said.tzinfo is None:
                return f"{name} {said.isoformat()} has no time zone; write it as {said.isoformat()}Z"
        if self.not_before and self.not_after and self.not_before >= self.not_after:
            return "not_before is not before not_after"
        return None

    def span_s(self) -> tuple[float, float]:
        """From when until when it is valid, seconds of wall time."""
        after = -math.inf if self.not_before is None else self.not_before.timestamp()
        until = math.inf if self.not_after is None else self.not_after.timestamp()
        return after, until


class TenantConfig(Terms, frozen=True):
    """One tenant and its endpoint; what it is promised and held to is in `Terms`.

    `networks`: the only ones it may use; None: all. `deepest_exit`: per network, the deepest exit it may use.
    `sees_all`: its `stats` show every tenant (all do with --dev). `uids`: local users who may ask as this tenant;
    `keys`: public keys that may do so over tcp, at `tcp_port`; at `next_tcp_port` the daemon shows its next key, while
    it has one. `payload_bytes_max`, `connections_max`: in place of the limits of the same name, where smaller.
    `isolation`: `tenant` gives it a worker and batches of its own, for the memory of another. `manages`: it may change
    what is served (all may with --dev). `adaptation`: how its requests adapt until it says otherwise; `energy_until`:
    until when that one's `energy_j` is to last, in place of `for_s`.
    """

    name: str
    networks: tuple[str, ...] | None = None
    sees_all: bool = False
    uids: tuple[int, ...] = ()
    keys: tuple[PublicKey, ...] = ()
    deepest_exit: Mapping[str, int] = {}
    tcp_port: int | None = None
    next_tcp_port: int | None = None
    payload_bytes_max: int | None = None
    connections_max: int | None = None
    isolation: Literal["shared", "tenant"] = "shared"
    manages: bool = False
    adaptation: Adaptation = Adaptation()
    energy_until: datetime | None = None

    def adapted(self, wall_s: float) -> Adaptation:
        """How its requests adapt, at this time; what was to last until a time that has passed is nothing."""
        if self.energy_until is None:
            return self.adaptation
        return replace(self.adaptation, for_s=max(1e-6, self.energy_until.timestamp() - wall_s))

    def adaptation_fault(self, wall_s: float) -> str | None:
        """What cannot be right of its adaptation at this time; None when nothing is."""
        until = self.energy_until
        if until is not None:
            if self.adaptation.energy_j is None or self.adaptation.for_s is not None:
                return "energy_until needs adaptation.energy_j beside it, and no for_s"
            if until.timestamp() <= wall_s:
                return f"energy_until {until.isoformat()} has passed; say a later time, or take it away"
        fault = adaptation_fault(self.adapted(wall_s))
        return None if fault is None else f"adaptation: {fault}"

    def rights_fault(self) -> str | None:
        """What cannot be right of who it is and what it may use; None when nothing is."""
        fault = name_fault("tenant", self.name)
        if fault:
            return fault
        wrong = next((uid for uid in self.uids if not 0 <= uid <= UID_MAX), None)
        if wrong is not None:
            return f"uids has {wrong}; expected 0 to {UID_MAX}"
        if len(self.keys) > KEYS_MAX:
            return f"keys has {len(self.keys)} entries; at most {KEYS_MAX} are kept"
        for position, key in enumerate(self.keys):
            fault = key.fault()
            if fault:
                return f"keys[{position}]: {fault}"
        # Which of its times would count? And who revokes it once would leave it valid.
        public = [key.public for key in self.keys]
        twice = next((key for key in public if public.count(key) > 1), None)
        if twice is not None:
            return f"keys has {fingerprint(twice)} twice; leave one of them"
        for name in ("tcp_port", "next_tcp_port"):
            port = getattr(self, name)
            if port is not None and not 1 <= port <= PORT_MAX:
                return f"{name} is {port}; expected 1 to {PORT_MAX}"
        for network, exit_index in self.deepest_exit.items():
            if exit_index < 0:
                return f"deepest_exit of {network!r:.80} is {exit_index}; expected 0 or more"
        if self.energy_until is not None and self.energy_until.tzinfo is None:
            said = self.energy_until.isoformat()
            return f"energy_until {said} has no time zone; write it as {said}Z"
        # Whether its time has passed is another question: a daemon must start all the same.
        until = self.energy_until
        fault = self.adaptation_fault(0.0 if until is None else until.timestamp() - 1)
        if fault:
            return fault
        for name in ("payload_bytes_max", "connections_max"):
            value = getattr(self, name)
            if value is not None and value < 1:
                return f"{name} is {value}; expected at least 1"
        return None


def rights_fault(tenants: Sequence[TenantConfig]) -> str | None:
    """What cannot be right in these tenants, alone or together; None when nothing is."""
    owners: dict[str, str] = {}
    ports: dict[int, str] = {}
    for tenant in tenants:
        fault = tenant.rights_fault()
        if fault:
            return f"tenant {tenant.name!r}: {fault}"
        for key in tenant.keys:
            if owners.setdefault(key.public, tenant.name) != tenant.name:
                return f"tenant {tenant.name!r}: key {fingerprint(key.public)} is {owners[key.public]!r}'s already"
        for name in ("tcp_port", "next_tcp_port"):
            port = getattr(tenant, name)
            if port in ports:
                return f"tenant {tenant.name!r}: {name} {port} is {ports[port]!r}'s already"
            if port is not None:
                ports[port] = tenant.name
    return None


def rights_notes(tenants: Sequence[TenantConfig], *, own_uid: int | None, tcp: bool) -> list[str]:
    """What an operator should be told loudly. `own_uid`: of development mode, else None."""
    if own_uid is not None:
        # One line, first: whoever reads only that knows.
        notes = [f"DEVELOPMENT MODE: uid {own_uid} alone may ask, as any tenant, and see all counts"]
    else:
        notes = [
            f"tenant {tenant.name} has neither uids nor keys: nobody may ask as it"
            for tenant in tenants
            if not tenant.uids and not tenant.keys
        ]
    for tenant in tenants:
        if tenant.networks == ():
            notes.append(f"tenant {tenant.name} may use no network: name some in `networks`")
        if tenant.keys and not (tcp and tenant.tcp_port):
            missing = "tcp_port" if tcp else "tcp in the configuration"
            notes.append(f"tenant {tenant.name} has keys, which count only over tcp: {missing} is not set")
    return notes


class Verdict(NamedTuple):
    """Who somebody is, by the name their messages will carry; "" for nobody, and then why."""

    user: str
    reason: str = ""


class Rights:
    """Tenants' users, valid as of the last `refresh`."""

    def __init__(self, tenants: Sequence[TenantConfig], *, own_uid: int | None, wall_s: float) -> None:
        """`own_uid`: whom development mode admits everywhere, None without it. `wall_s`: the time, seconds."""
        self._own_uid = own_uid
        # Goes up with every change of who is allowed what.
        self.generation = 0
        self._users: dict[str, frozenset[str]] = {}
        self._known: dict[str, frozenset[str]] = {}
        self.change(tenants, wall_s)

    def change(self, tenants: Sequence[TenantConfig], wall_s: float) -> None:
        """Other tenants, or the same with other users, from now on."""
        self._tenants = tuple(tenants)
        moments = {moment for tenant in tenants for key in tenant.keys for moment in key.span_s()}
        self._moments_s = sorted({-math.inf, *moments, math.inf})
        self._span_s = (math.inf, math.inf)
        self.refresh(wall_s)

    def refresh(self, wall_s: float) -> None:
        """Let keys begin and end. Due once a second or so; the wall clock may jump as it likes."""
        if self._span_s[0] <= wall_s < self._span_s[1]:
            return
        place = bisect_right(self._moments_s, wall_s)
        self._span_s = self._moments_s[place - 1], self._moments_s[place]
        before, self._users, self._known = self._users, {}, {}
        for tenant in self._tenants:
            uids = (*tenant.uids, *(() if self._own_uid is None else (self._own_uid,)))
            names = {user_of_uid(uid) for uid in uids}
            spans = {user_of_key(key.public): key.span_s() for key in tenant.keys}
            valid = {user for user, (after, until) in spans.items() if after <= wall_s < until}
            self._users[tenant.name] = frozenset(names | valid)
            self._known[tenant.name] = frozenset(spans)
        self.generation += self._users != before

    def allows(self, tenant: str, user: str) -> bool:
        """Whether a message of this user may be read, on the endpoint of this tenant."""
        users = self._users.get(tenant)
        return users is not None and user in users

    def judge(self, domain: str, address: str, mechanism: str, credentials: bytes) -> Verdict:
        """Who wants to connect to the endpoint of `domain`, by what the library and the kernel say of them.

        Args:
            domain: `ipc/TENANT` or `tcp/TENANT`, as the socket was told.
            address: for ipc `localhost:UID:GID:PID`, from SO_PEERCRED; for tcp the peer's IP address.
            mechanism: `NULL` or `CURVE`. credentials: the 32 bytes of the public key, proved to be theirs.
        """
        transport, _, tenant = domain.partition("/")
        if tenant not in self._users:
            return Verdict("", "no such tenant")
        if transport == IPC and mechanism == "NULL":
            uid = _uid_of(address)
            if uid is None:
                return Verdict("", f"the kernel does not say who it is: {address!r:.60}")
            user = user_of_uid(uid)
        elif transport == TCP and mechanism == "CURVE" and len(credentials) == 32:
            user = user_of_key(key_text(credentials))
        else:
            return Verdict("", f"mechanism {mechanism!r:.20} over {transport!r:.20}")
        if user in self._users[tenant]:
            return Verdict(user)
        return Verdict("", f"{shown(user)} is {'not valid now' if user in self._known[tenant] else 'not its user'}")


def domain_of(tenant: str, transport: str) -> str:
    """What a socket tells its handshakes to be judged as; tenants' names have no slash."""
    return f"{transport}/{tenant}"


def user_of_uid(uid: int) -> str:
    return f"uid:{uid}"


def user_of_key(public: str) -> str:
    return f"key:{public}"


def shown(user: str) -> str:
    """A user for logs: keys by their fingerprint."""
    kind, _, rest = user.partition(":")
    return f"key {fingerprint(rest)}" if kind == "key" else f"uid {rest}"


def _uid_of(address: str) -> int | None:
    """libzmq's way of writing SO_PEERCRED: a host name it makes up, then uid, gid and pid."""
    parts = address.rsplit(":", 3)
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts[1:]):
        return None
    return int(parts[1])
