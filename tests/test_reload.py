"""Reloading: what changes at once, what waits for a restart, and that a fault anywhere leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Failure, Hello, Infer, Manage, Refusal, TensorSpec, Welcome, encode
from delen.daemon.config import Config, Limits, load_config
from delen.daemon.desk import Desk
from delen.daemon.log_writer import Log
from delen.daemon.records import Effect, Ended
from delen.daemon.reload import LIVE_LIMITS, Parts, Reloader
from delen.daemon.rights import TenantConfig
from delen.daemon.server import Server
from delen.daemon.socket_modes import EndpointError
from delen.daemon.sockets import Endpoints, Listener
from delen.policies.policy import make_policy
from delen.tests.desk_simulation import info
from delen.tests.simulation import served

FILE = """
networks = ["net"]
{settings}
[limits]
queued_max = {queued_max}
{limits}
[[tenants]]
name = "a"
uids = [1000]
{a}
[[tenants]]
name = "{other}"
uids = [1001]
{policy}
"""
INPUT = b"\0\0\0\0"


class FakeEndpoints:
    """Stands for the sockets: remembers whom it serves, and refuses one name."""

    def __init__(self) -> None:
        self.served: tuple[str, ...] = ("a", "b")
        self.broken = ""
        self.tcp: Listener | None = None

    def change(self, tenants: Sequence[TenantConfig], _limits: Limits, _wall_s: float) -> None:
        names = tuple(tenant.name for tenant in tenants)
        if self.broken in names:
            raise EndpointError(f"cannot bind {self.broken}")
        self.served = names

    def notes(self) -> list[str]:
        return []


class Daemon:
    """A core, a desk and a reloader on a file that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "delen.toml"
        self.write()
        self.config = self.read()
        self.server = Server(self.config.limits, make_policy(self.config.policy), tenants={})
        self.server.networks["net"] = served(gates=False)
        self.server.worker_ready(0)
        self.desk = Desk(self.server, self.config.tenants, self.config.limits, "boot")
        self.desk.networks["net"] = info(self.server.networks["net"])
        self.endpoints = FakeEndpoints()
        self.said: list[str] = []
        self.reloader = self.reloading(self.read)
        self.ended: list[Effect] = []
        for tenant in ("a", "b"):
            self.ask(tenant, Hello(VERSION, b"h", "cam"))

    def reloading(self, read: Callable[[], Config] | None) -> Reloader:
        def note(text: str, **_: Any) -> None:
            self.said.append(text)

        return Reloader(self.config, read, cast(Log, note))

    def read(self) -> Config:
        return load_config(self.path, {}, {}, 1000)

    def write(self, **said: object) -> None:
        values = {"settings": "", "queued_max": 8, "limits": "", "a": "", "other": "b", "policy": "", **said}
        self.path.write_text(FILE.format(**values))

    def reload(self, **said: object) -> bool:
        self.write(**said)
        endpoints = cast(Endpoints, self.endpoints)
        parts = Parts(self.server, self.desk, endpoints, self.server.networks)

        def act(effects: Sequence[Effect]) -> None:
            self.ended += effects
            self.desk.settle(0, effects)

        told = self.reloader.reload(0.0, parts, act)
        self.said.append(told.said)
        return told.taken

    def ask(self, tenant: str, message: Hello | Infer | Manage) -> Any:
        tensors = (INPUT,) if isinstance(message, Infer) else ()
        outgoing, _ = self.desk.handle(0, tenant, b"r", list(encode(message, tensors)))
        return outgoing[0].reply if outgoing else None

    def infer(self, tenant: str, request_id: bytes) -> Any:
        return self.ask(tenant, Infer(VERSION, request_id, "net", (TensorSpec("float32", (1,)),), Bounds()))


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def test_development_mode_begins_and_ends_with_the_daemon(daemon: Daemon) -> None:
    assert not daemon.reload(settings="dev = true")
    assert "dev cannot change" in daemon.said[-1]
    assert isinstance(daemon.ask("a", Manage(VERSION, b"m", "remove", "net")), Refusal)


def test_more_tenants_than_sockets_were_made_for_wait_for_a_restart(daemon: Daemon) -> None:
    many = "".join(f'[[tenants]]\nname = "t{number}"\n' for number in range(64))
    assert not daemon.reload(limits="tenants_max = 200", policy=many)
    assert "limits.tenants_max was 64 at the start" in daemon.said[-1]
    assert daemon.endpoints.served == ("a", "b")


def test_a_new_tenant_is_served_and_one_that_stays_keeps_its_session(daemon: Daemon) -> None:
    assert daemon.infer("a", b"1") is None, "accepted"
    assert daemon.reload(other="c")
    assert daemon.endpoints.served == ("a", "c")
    assert isinstance(daemon.ask("c", Hello(VERSION, b"h", "cam")), Welcome)
    # No hello again: the connection was not touched, and what was asked before is still the same request.
    assert daemon.infer("a", b"2") is None
    assert daemon.server.ledger.account("a").pending == 2
    assert daemon.said == ["configuration reloaded; 2 tenants"]


def test_requests_of_a_tenant_that_goes_end_with_a_typed_error(daemon: Daemon) -> None:
    daemon.infer("b", b"1")
    daemon.infer("a", b"2")
    assert daemon.reload(other="c")
    (ended,) = [effect for effect in daemon.ended if isinstance(effect, Ended)]
    assert (ended.tenant, ended.id) == ("b", b"1")
    assert isinstance(ended.reply, Failure)
    assert (ended.reply.code, ended.reply.message) == ("cancelled", "this tenant is no longer served")
    accounts = daemon.server.ledger.accounts
    assert sum(account.pending for account in accounts.values()) == daemon.server.pending_count == 1


def test_limits_are_in_force_at_once_and_for_everybody_who_reads_them(daemon: Daemon) -> None:
    assert daemon.reload(queued_max=1)
    assert daemon.infer("a", b"1") is None
    refused = daemon.infer("a", b"2")
    assert isinstance(refused, Refusal)
    assert (refused.code, "limits.queued_max is 1" in refused.message) == ("queue_full", True)
    assert daemon.config.limits.queued_max == 1


def test_what_a_tenant_may_use_and_is_promised_changes_with_it(daemon: Daemon) -> None:
    assert daemon.reload(a="networks = []\nrate_hz = 3.0\nweight = 4.0")
    refused = daemon.infer("a", b"1")
    assert isinstance(refused, Refusal)
    assert refused.code == "unknown_network"
    promise = daemon.server.ledger.promises.of("a")
    assert promise is not None
    assert promise.terms.rate_hz == 3.0
    assert promise.share == pytest.approx(4 / 5)


def test_options_of_the_policy_change_where_the_core_was_not_built_around_them(daemon: Daemon) -> None:
    policy = daemon.server.policy
    assert daemon.reload(policy="[policy_options]\nspare_share = 0.25")
    assert daemon.server.policy is policy, "the one that everybody has"
    assert policy.options.spare_share == 0.25  # type: ignore[attr-defined]
    assert daemon.reload(policy="[policy_options]\npreempt = false")
    assert policy.preempts
    assert "policy_options: waiting for a restart" in daemon.said[-1]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"settings": "threads = 2"}, "threads"),
        ({"settings": 'engine = "replay"'}, "engine"),
        ({"settings": 'policy = "latency-first"'}, "policy"),
        ({"limits": "batch_max = 4"}, "limits.batch_max"),
    ],
)
def test_what_was_used_up_at_the_start_waits_for_a_restart_and_is_named(
    daemon: Daemon, said: dict[str, object], named: str
) -> None:
    assert daemon.reload(queued_max=1, **said)
    assert daemon.said == [f"configuration reloaded; 2 tenants; {named}: waiting for a restart"]
    assert daemon.config.limits.queued_max == 1, "the rest is in force"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"settings": "threads = 0"}, "threads is 0"),
        ({"settings": "thread = 1"}, "thread"),
        ({"settings": "= = ="}, "line 3"),
        ({"a": 'networks = ["strange"]'}, "'strange', which is not served; served: net"),
        ({"a": "weight = -1.0"}, "weight is -1.0"),
        ({"other": "a"}, "named twice"),
        ({"other": "c/../d"}, "is not a name"),
        ({"policy": "[policy_options]\nspare = 1"}, "spare"),
        ({"limits": "queued_bytes_max = 0"}, "queued_bytes_max is 0"),
    ],
)
def test_a_fault_leaves_everything_as_it_was_and_names_the_file(
    daemon: Daemon, said: dict[str, object], why: str
) -> None:
    assert not daemon.reload(queued_max=1, **said)
    (line,) = daemon.said
    assert line.startswith("configuration not reloaded, all stays as it was: ")
    assert str(daemon.path) in line or "strange" in line
    assert why in line
    assert daemon.config.limits.queued_max == 8
    assert daemon.endpoints.served == ("a", "b")
    assert daemon.infer("b", b"1") is None
    # The next one that is right is taken.
    assert daemon.reload()


# Of every setting and every limit, what it cannot be; and the file cut off after every so many bytes.
NAMES = {
    "engine": '"fast"',
    "profile": '"none"',
    "policy": '"fifo"',
    "correction": '"x"',
    "log": '"x"',
    "worker": '"x"',
}
WRONG = [
    *(
        f"settings:{name} = {value}"
        for name in ("threads", "spin_us", "ahead_us")
        for value in ("-1", '"x"', "1.5", "[]")
    ),
    *(f"settings:{name} = {value}" for name, value in NAMES.items()),
    *(f"settings:{name} = nan" for name in ("watts", "miss_target")),
    *(f"limits:{name} = {value}" for name in Limits.__struct_fields__ for value in ("-1", '"x"', "nan")),
    *(
        f"a:{name} = {value}"
        for name in ("weight", "rate_hz", "burst", "device_share")
        for value in ("-1", '"x"', "{}")
    ),
    *(f"a:{name} = {value}" for name in ("uids", "networks", "keys", "firm") for value in ("3", '"x"', "[-1]")),
    *(f"settings:{word} = 1" for word in ("thread", "limit", "tenant", "Networks", "spin-us", "uids")),
]


@pytest.mark.slow
def test_two_hundred_wrong_files_leave_everything_as_it_was(daemon: Daemon) -> None:
    before = (daemon.endpoints.served, daemon.config)
    for wrong in WRONG:
        where, _, line = wrong.partition(":")
        daemon.said.clear()
        assert not daemon.reload(**{where: line}), line
        assert str(daemon.path) in daemon.said[0], line
    daemon.write(a="weight = 2.0")
    whole = daemon.path.read_bytes()
    cut = 0
    for size in range(1, len(whole), 3):
        daemon.path.write_bytes(whole[:size])
        parts = Parts(daemon.server, daemon.desk, cast(Endpoints, daemon.endpoints), daemon.server.networks)
        try:
            daemon.read()
        except ValueError:
            cut += 1
            assert not daemon.reloader.reload(0.0, parts, lambda _effects: None)
    assert len(WRONG) + cut >= 200
    assert (daemon.endpoints.served, daemon.config) == before
    assert daemon.infer("a", b"1") is None


def test_a_worker_of_its_own_is_nothing_a_reload_can_give(daemon: Daemon) -> None:
    assert not daemon.reload(a='isolation = "tenant"')
    assert "isolation cannot change" in daemon.said[0]


def test_who_has_a_worker_of_its_own_is_not_served_what_that_does_not_have_by_everybodys(daemon: Daemon) -> None:
    daemon.server.networks["other"] = served(gates=False)
    daemon.write(a='isolation = "tenant"\nnetworks = ["net"]')
    daemon.config = daemon.read()
    daemon.reloader = daemon.reloading(daemon.read)
    assert not daemon.reload(a='isolation = "tenant"\nnetworks = ["net", "other"]')
    assert not daemon.reload(a='isolation = "tenant"')
    assert all("cannot be given more networks" in text for text in daemon.said)
    assert daemon.reload(a='isolation = "tenant"\nnetworks = []')


def test_a_file_that_is_gone_is_a_fault_too(daemon: Daemon) -> None:
    daemon.path.unlink()
    daemon.path.mkdir()
    endpoints = cast(Endpoints, daemon.endpoints)
    parts = Parts(daemon.server, daemon.desk, endpoints, daemon.server.networks)
    told = daemon.reloader.reload(0.0, parts, lambda _effects: None)
    assert not told
    assert "all stays as it was" in told.said


def test_an_endpoint_that_cannot_be_bound_takes_the_new_ones_back(daemon: Daemon) -> None:
    daemon.endpoints.broken = "c"
    daemon.infer("b", b"1")
    assert not daemon.reload(other="c", queued_max=1)
    assert daemon.endpoints.served == ("a", "b")
    assert daemon.config.limits.queued_max == 8
    assert not daemon.ended, "nobody was cut off for a tenant that cannot be served"


def test_a_journal_ends_what_may_change(daemon: Daemon, tmp_path: Path) -> None:
    settings = f'journal = "{tmp_path / "journal"}"'
    daemon.write(settings=settings)
    daemon.config = daemon.read()
    daemon.reloader = daemon.reloading(daemon.read)
    assert daemon.reload(settings=settings)
    assert not daemon.reload(settings=settings, queued_max=1)
    assert "could not be played again" in daemon.said[-1]


def test_a_daemon_without_a_file_says_so(daemon: Daemon) -> None:
    daemon.reloader = daemon.reloading(None)
    assert not daemon.reload()
    assert "without a file" in daemon.said[0]


def test_limits_that_change_are_limits() -> None:
    assert set(LIVE_LIMITS) <= set(Limits.__struct_fields__)
