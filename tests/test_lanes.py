"""Several workers and several networks of one name: each loss is its own, and each request ends once all the same.

A machine of rules plays tenants, the workers' loop and an operator who changes networks; the desk and the core are the
real ones. After every step the books balance, and in the end everybody who asked has been told once.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.wire import VERSION, Answer, Cancel, Failure, Fetch, Hello, Infer, Refusal, encode
from delen.daemon.config import Limits
from delen.daemon.desk import Desk, Outgoing
from delen.daemon.records import Effect, Ended, ExitDone, Restart, RowDone, RunFailed, RunReturned, StepDone
from delen.daemon.rights import TenantConfig
from delen.daemon.routes import Routes
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS
from delen.daemon.watchdog import books_fault
from delen.policies.exits import asked
from delen.policies.view import NEVER_US, Run, Served
from delen.tests.desk_simulation import info
from delen.tests.exact import exact

FREE = Bounds()
# Its requests run alone, so that a second run is posted behind the first; and to the last exit.
LAST = (ConditionSet(all_of=(Condition("exit", "equal", 2.0),)),) * 3


def named(key: str, version: str = "1") -> Served:
    served = exact("net")
    served.key, served.version = key, version
    return served


def core(*keys: str) -> Server:
    server = Server(Limits(), ahead_us=1_000_000)
    for key in keys or ("net",):
        server.networks[key] = named(key)
        server.worker_ready(0, [key])
    return server


def submit(server: Server, now_us: int, request_id: bytes, tenant: str = "a", **bounds: Any) -> Refusal | int:
    said = Bounds(**bounds)
    infer = Infer(VERSION, request_id, "net", TENSORS, said)
    verdict, _ = server.submit(now_us, tenant, infer, asked(said), request_id.rjust(4, b"\0"))
    return verdict


def finished(run: Run, exit_index: int = 2) -> ExitDone:
    steps = tuple(StepDone(False, index, len(run.rows), 10) for index in range(run.first, exit_index + 1))
    rows = tuple(RowDone(row.ticket, 1, 0.5, left=True, gated=False) for row in run.rows)
    return ExitDone(
        run.id, exit_index, rows, (*steps, StepDone(True, exit_index, len(rows), 5)), bytes(16 * len(rows)), True
    )


def ends(effects: list[Effect]) -> dict[bytes, Answer | Failure]:
    return {effect.id: effect.reply for effect in effects if isinstance(effect, Ended)}


# ---- routes


def test_a_name_is_its_own_key_until_there_are_more() -> None:
    routes = Routes()
    assert routes.key("a", "net") == "net"
    routes.lead("net", "net#2")
    routes.lead("net", "net@b", "b")
    assert [routes.key(tenant, "net") for tenant in "ab"] == ["net#2", "net@b"]
    routes.close("net", "b")
    assert routes.key("b", "net") == "net#2"
    routes.close("net")
    assert routes.key("a", "net") == "net"


# ---- one worker of several


def test_a_tenant_with_its_own_worker_shares_no_batch() -> None:
    server = core("net", "net@b")
    server.routes.lead("net", "net@b", "b")
    for number in range(4):
        submit(server, 0, b"%d" % number, "ab"[number % 2])
    first = server.next(0)
    assert first is not None
    server.advance(1_000, finished(first))
    second = server.next(1_000)
    assert second is not None
    assert {first.network, second.network} == {"net", "net@b"}
    assert [len(run.rows) for run in (first, second)] == [2, 2]


def test_the_death_of_one_worker_leaves_the_others_run_alone() -> None:
    server = core("net", "net@b")
    server.routes.lead("net", "net@b", "b")
    submit(server, 0, b"a", "a", conditions=LAST)
    submit(server, 0, b"b", "b", conditions=LAST)
    runs = {run.network: run for run in (server.next(0), server.next(0)) if run is not None}
    assert server.worker_lost(100, 50_000, ["net"]) == []
    [ended] = ends(server.advance(200, finished(runs["net@b"]))).values()
    assert isinstance(ended, Answer)
    assert server.next(300) is None, "the other has no worker yet"
    assert server.parked_count == 1
    server.worker_ready(50_000, ["net"])
    again = server.next(50_000)
    assert again is not None
    assert again.network == "net"
    assert ends(server.advance(51_000, finished(again))).keys() == {b"a"}
    assert server.pending_count == 0


def test_what_was_posted_behind_a_lost_run_of_another_worker_is_running_now() -> None:
    server = core("net", "net@b")
    server.routes.lead("net", "net@b", "b")
    submit(server, 0, b"a", "a", conditions=LAST)
    first = server.next(0)
    submit(server, 0, b"b", "b", conditions=LAST)
    second = server.next(0)
    assert first is not None
    assert second is not None
    server.worker_lost(100, 50_000, [second.network])
    assert server.running(second.id) is None
    assert server.running(first.id) == first.network
    server.worker_lost(100, 50_000, [first.network])
    assert not server.busy


def test_who_asks_a_worker_that_is_away_is_told_when_it_is_back() -> None:
    server = core("net", "net@b")
    server.routes.lead("net", "net@b", "b")
    server.worker_lost(0, 40_000, ["net@b"])
    refused = submit(server, 0, b"b", "b", latency_ms=10.0)
    assert isinstance(refused, Refusal)
    assert refused.code == "not_ready"
    assert refused.offer is not None
    assert refused.offer.latency_ms is not None
    assert refused.offer.latency_ms >= 40
    assert isinstance(submit(server, 0, b"a", "a", latency_ms=10.0), int)
    assert isinstance(submit(server, 0, b"c", "b", latency_ms=200.0), int)
    assert server.wake_at() < NEVER_US


def test_a_deadline_passes_while_its_worker_is_away() -> None:
    server = core("net", "net@b")
    submit(server, 0, b"1", latency_ms=20.0, on_miss="drop")
    submit(server, 0, b"2", latency_ms=20.0)
    server.worker_lost(10, 10_000, ["net"])
    told = ends(server.expire(20_000))
    assert told.keys() == {b"1"}
    server.worker_ready(30_000, ["net"])
    run = server.next(30_000)
    assert run is not None
    [late] = ends(server.advance(31_000, finished(run, run.rows[0].stop))).values()
    assert isinstance(late, Answer)
    assert late.broken == ("latency_ms",)


def test_an_old_version_answers_what_it_was_asked_and_is_forgotten_then() -> None:
    server = core("net")
    submit(server, 0, b"old")
    server.networks["net#2"] = named("net#2", "2")
    server.routes.lead("net", "net#2")
    server.worker_ready(0, ["net#2"])
    submit(server, 0, b"new")
    assert [len(server.open_of([key])[1]) for key in ("net", "net#2")] == [1, 1]
    versions = {}
    while (run := server.next(0)) is not None:
        for request_id, reply in ends(server.advance(1_000, finished(run))).items():
            assert isinstance(reply, Answer)
            versions[request_id] = (reply.network, reply.network_version)
    assert versions == {b"old": ("net", "1"), b"new": ("net", "2")}
    assert server.open_of(["net"]) == (0, [])
    server.forget(["net"])
    assert list(server.networks) == ["net#2"]


# ---- everything at once


class Play(RuleBasedStateMachine):
    """Tenants a and b, of whom b may have a worker of its own; two connections each."""

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(queued_max=8, retries_max=1, answers_kept_max=64)
        self.server = Server(limits, ahead_us=1_000_000)
        self.desk = Desk(self.server, [TenantConfig("a"), TenantConfig("b")], limits, "boot")
        self.now_us = 0
        self.up: set[str] = set()
        self.runs: dict[int, tuple[Run, int, list[int]]] = {}
        self.waiting: Counter[tuple[str, bytes, bytes]] = Counter()
        self.generation = 0
        for tenant in "ab":
            for route in (b"r", b"s"):
                self.desk.handle(0, tenant, route, encode(Hello(VERSION, b"h", "client", FREE)))
        self.bring("net")
        self.desk.networks["net"] = info(self.server.networks["net"])

    def bring(self, key: str) -> None:
        self.server.networks[key] = named(key, key)
        self.server.worker_ready(self.now_us, [key])
        self.up.add(key)

    def told(self, outgoing: list[Outgoing]) -> None:
        for tenant, route, reply, _ in outgoing:
            self.waiting[tenant, reply.id, route] -= 1
            assert self.waiting[tenant, reply.id, route] >= 0, f"{tenant} on {route!r} did not wait for {reply}"

    def act(self, effects: list[Effect]) -> None:
        self.told(self.desk.settle(self.now_us, effects))
        for effect in effects:
            if isinstance(effect, Restart):
                self.lose(effect.key)

    def say(self, tenant: str, route: bytes, message: Infer | Cancel | Fetch, *tensors: bytes) -> None:
        before = self.waiting[tenant, message.id, route]
        # A connection that asks for an id it waits for already is told once.
        self.waiting[tenant, message.id, route] = 1
        outgoing, effects = self.desk.handle(self.now_us, tenant, route, encode(message, tensors))
        self.told(outgoing)
        if before and any(isinstance(told.reply, Refusal) for told in outgoing):
            self.waiting[tenant, message.id, route] = 1
        self.act(effects)

    ids = st.sampled_from([b"1", b"2", b"3", b"4", b"5", b"6"])
    tenants = st.sampled_from("ab")
    routes = st.sampled_from([b"r", b"s"])
    bounds = st.sampled_from(
        [FREE, Bounds(latency_ms=3.0), Bounds(latency_ms=30.0, on_miss="drop"), Bounds(accuracy=0.9)]
    )

    @rule(request_id=ids, tenant=tenants, route=routes, said=bounds)
    def infer(self, request_id: bytes, tenant: str, route: bytes, said: Bounds) -> None:
        self.say(tenant, route, Infer(VERSION, request_id, "net", TENSORS, said), request_id.rjust(4, b"\0"))

    @rule(request_id=ids, tenant=tenants, route=routes)
    def cancel(self, request_id: bytes, tenant: str, route: bytes) -> None:
        self.say(tenant, route, Cancel(VERSION, request_id))

    @rule(request_id=ids, tenant=tenants, route=routes)
    def fetch(self, request_id: bytes, tenant: str, route: bytes) -> None:
        self.say(tenant, route, Fetch(VERSION, request_id))

    @rule()
    def post(self) -> None:
        run = self.server.next(self.now_us)
        if run is not None:
            assert run.network in self.up, "its worker is away"
            self.runs[run.id] = run, run.first, [row.ticket for row in run.rows]

    def report(self, done: ExitDone | RunFailed | RunReturned) -> None:
        known = self.server.running(done.run) is not None
        effects = self.server.advance(self.now_us, done)
        assert known or effects == [], "a run long lost"
        self.act(effects)

    @precondition(lambda self: self.runs)
    @rule(early=st.booleans())
    def leave(self, early: bool) -> None:
        """The oldest run comes to its next exit; all leave there that stop there, or everybody."""
        run_id = min(self.runs)
        run, index, tickets = self.runs[run_id]
        rows = [row for row in run.rows if row.ticket in tickets]
        stop = index if early else min(row.stop for row in rows)
        leaving = [row for row in rows if early or row.stop == stop]
        finished_ = len(leaving) == len(rows)
        steps = tuple(StepDone(False, at, len(rows), 10) for at in range(index, stop + 1))
        done = tuple(RowDone(row.ticket, 1, 0.5, left=True, gated=False) for row in leaving)
        head = StepDone(True, stop, len(leaving), 5)
        self.runs[run_id] = run, stop + 1, [row.ticket for row in rows if row not in leaving]
        if finished_:
            del self.runs[run_id]
        self.report(ExitDone(run_id, stop, done, (*steps, head), bytes(16 * len(done)), finished_))

    @precondition(lambda self: self.runs)
    @rule(kind=st.sampled_from(["output", "memory", "returned"]))
    def fail(self, kind: str) -> None:
        run_id = min(self.runs)
        run, index, _ = self.runs[run_id]
        if index > run.first:
            return
        del self.runs[run_id]
        self.report(RunReturned(run_id) if kind == "returned" else RunFailed(run_id, kind, "no"))

    def lose(self, key: str) -> None:
        if key not in self.up:
            return
        self.up.discard(key)
        self.runs = {number: known for number, known in self.runs.items() if known[0].network != key}
        self.act(self.server.worker_lost(self.now_us, self.now_us + 5_000, [key]))

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.lose(data.draw(st.sampled_from(sorted(self.up))))

    @rule()
    def back(self) -> None:
        for key in sorted(self.server.networks.keys() - self.up):
            self.server.worker_ready(self.now_us, [key])
            self.up.add(key)

    @rule(by_us=st.sampled_from([1, 300, 5_000, 50_000, 300_000]))
    def time(self, by_us: int) -> None:
        self.now_us += by_us
        self.act(self.server.expire(self.now_us))

    @rule(own=st.booleans())
    def swap(self, own: bool) -> None:
        self.generation += 1
        key = f"net#{self.generation}"
        self.bring(key)
        self.server.routes.lead("net", key, "b" if own else None)

    @rule()
    def retire(self) -> None:
        current = {self.server.routes.key(tenant, "net") for tenant in "ab"}
        for key in sorted(self.server.networks.keys() - current):
            if self.server.open_of([key]) == (0, []):
                self.server.forget([key])
                self.up.discard(key)

    @invariant()
    def the_books_balance(self) -> None:
        assert books_fault(self.server) is None
        waits = sum(len(pool.members) for pool in self.server.view().pools()) + self.server.parked_count
        runs = sum(
            len(flight.rows.keys() & self.server._requests.open.keys()) for flight in self.server._device.flights()
        )
        dropped = sum(request.dropped for request in self.server._requests.open.values())
        assert waits + runs + dropped == self.server.pending_count

    def teardown(self) -> None:
        """Nothing more comes: everybody is told."""
        for _ in range(1_000):
            self.back()
            self.post()
            while self.runs:
                self.leave(early=False)
            if not self.server.pending_count:
                break
            self.time(max(1, min(self.server.wake_at(), self.now_us + 300_000) - self.now_us))
        assert self.server.pending_count == 0
        assert not +self.waiting, +self.waiting


TestPlay = Play.TestCase
TestPlay.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestPlay = pytest.mark.slow(TestPlay)
