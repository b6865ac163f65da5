"""Canaries: run when nobody else does, in turn; a network that fails its own is barred until it is well again."""

from __future__ import annotations

from typing import Any

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Infer, Refusal
from delen.daemon.canary import TICKET, Canaries
from delen.daemon.config import Limits
from delen.daemon.journal_records import Setup
from delen.daemon.recorded import core
from delen.daemon.records import Effect, ExitDone, Restart, RowDone, RunFailed, StepDone, Told, Yield
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS, Simulation
from delen.policies.exits import asked
from delen.policies.view import NEVER_US, Run
from delen.tests.exact import exact

EVERY_US = 5_000_000
FREE = Bounds()


def serving(*names: str) -> Server:
    """A core whose device is idle since 0."""
    server = core(Setup(limits=Limits(), canary_ms=5_000), None, lambda _: None, now_us=0, wall="")
    for name in names or ("net",):
        server.networks[name] = exact(name)
    server.worker_ready(0)
    return server


def submit(server: Server, now_us: int, request_id: bytes, **bounds: Any) -> tuple[Refusal | int, list[Effect]]:
    said = Bounds(**bounds)
    return server.submit(now_us, "a", Infer(VERSION, request_id, "net", TENSORS, said), asked(said), bytes(4))


def answered(run: Run, confidence: float = 0.5, label: int = 1) -> ExitDone:
    """What a well device says of a run."""
    steps = tuple(StepDone(False, index, len(run.rows), 10) for index in range(run.first, 3))
    rows = tuple(RowDone(row.ticket, label, confidence, left=True, gated=False) for row in run.rows)
    return ExitDone(run.id, 2, rows, (*steps, StepDone(True, 2, len(run.rows), 10)), bytes(16) * len(rows), True)


def canary(server: Server, now_us: int) -> Run:
    run = server.next(now_us)
    assert run is not None
    assert [row.ticket for row in run.rows] == [TICKET]
    return run


def test_a_canary_runs_after_so_much_idleness_and_not_before() -> None:
    server = serving()
    assert server.wake_at() == EVERY_US
    assert server.next(EVERY_US - 1) is None
    run = canary(server, EVERY_US)
    assert (run.network, run.first, run.rows[0].stop) == ("net", 0, 2)
    assert server.payloads(run) == []
    assert server.advance(EVERY_US + 700, answered(run)) == []
    assert server.wake_at() == 2 * EVERY_US + 700
    assert server.ledger.accounts == {}, "nobody pays for it"


def test_networks_take_turns() -> None:
    server = serving("a", "b", "c")
    said, now_us = [], 0
    for _ in range(6):
        now_us = server.wake_at()
        run = canary(server, now_us)
        server.advance(now_us, answered(run))
        said.append(run.network)
    assert said == ["a", "b", "c"] * 2


def test_without_canaries_an_idle_core_sleeps() -> None:
    server = Server(Limits())
    server.networks["net"] = exact()
    server.worker_ready(0)
    server.quarantine.failed(0, "net")
    assert server.wake_at() == NEVER_US
    assert server.next(10**9) is None


def test_a_device_that_is_not_there_gets_none_and_a_new_one_not_at_once() -> None:
    server = serving()
    server.worker_lost(10, 2_000)
    assert server.wake_at() == NEVER_US
    assert server.next(EVERY_US) is None
    server.worker_ready(EVERY_US)
    assert server.wake_at() == 2 * EVERY_US


def test_a_canary_gives_way_to_whoever_comes_and_is_made_up_for() -> None:
    server = serving()
    run = canary(server, EVERY_US)
    verdict, effects = submit(server, EVERY_US + 50, b"1", latency_ms=20.0)
    assert isinstance(verdict, int)
    assert effects == [Yield(run.id)]
    early = ExitDone(run.id, 0, (RowDone(TICKET, 1, 0.5, left=True, gated=False),), (), bytes(16), True)
    assert server.advance(EVERY_US + 100, early) == []
    served = server.next(EVERY_US + 100)
    assert served is not None
    assert served.rows[0].ticket == verdict
    assert server.quarantine.doubted() == set()


def test_a_canary_that_hangs_costs_the_worker_its_life_and_nobody_else_anything() -> None:
    server = serving()
    canary(server, EVERY_US)
    due_us = server.wake_at()
    assert due_us == EVERY_US + Limits().run_ms_min * 1000
    [effect] = server.expire(due_us)
    assert isinstance(effect, Restart)
    assert server.worker_lost(due_us, due_us + 10) == []
    assert not server.busy


@pytest.mark.parametrize("report", ["fault", "drift"])
def test_a_network_that_fails_its_canary_is_barred_until_it_passes(report: str) -> None:
    server = serving()
    server.advance(EVERY_US, answered(canary(server, EVERY_US)))
    now_us = server.wake_at()
    run = canary(server, now_us)
    bad = RunFailed(run.id, "output", "NaN") if report == "fault" else answered(run, confidence=0.9)
    [told] = server.advance(now_us, bad)
    assert isinstance(told, Told)
    refused, _ = submit(server, now_us, b"1")
    assert isinstance(refused, Refusal)
    assert refused.code == "quarantined"
    again_us = server.wake_at()
    assert again_us - now_us <= 100_000
    [told] = server.advance(again_us, answered(canary(server, again_us)))
    assert isinstance(told, Told)
    assert isinstance(submit(server, again_us + 1, b"2")[0], int)


def test_a_doubted_network_is_tried_under_load_too_and_no_more_than_now_and_then() -> None:
    server = serving("net", "other")
    server.quarantine.failed(0, "other")
    for number in range(20):
        assert isinstance(submit(server, number, b"%d" % number, conditions=None)[0], int)
    first = canary(server, 100)
    assert first.network == "other"
    server.advance(800, RunFailed(first.id, "output", "NaN"))
    mine = server.next(800)
    assert mine is not None
    assert mine.network == "net"


def test_a_network_that_fails_again_and_again_gets_a_fresh_engine_but_not_each_time() -> None:
    server = serving()
    restarts, now_us = [], 0
    for number in range(1, 20):
        now_us = server.wake_at()
        run = canary(server, now_us)
        effects = server.advance(now_us, RunFailed(run.id, "output", "NaN"))
        if any(isinstance(effect, Restart) for effect in effects):
            restarts.append(number)
            server.worker_lost(now_us, now_us + 1)
            server.worker_ready(now_us + 1)
    assert restarts == [2, 8]


def test_three_faults_of_a_tenant_are_looked_into_at_once() -> None:
    server = serving()
    for number in range(3):
        assert isinstance(submit(server, number, b"%d" % number)[0], int)
        run = server.next(number)
        assert run is not None
        server.advance(number, RunFailed(run.id, "output", "NaN"))
    run = canary(server, 10)
    [told] = server.advance(500, answered(run))
    assert isinstance(told, Told)
    assert isinstance(submit(server, 501, b"x")[0], int)


def test_a_network_that_is_gone_is_not_waited_for() -> None:
    canaries = Canaries(EVERY_US)
    canaries.stir(0)
    assert canaries.flight(1, 10, {"net": exact()}, {"gone"}) is None
    assert canaries.due_at(doubt=True) > 10


def test_a_day_with_canaries_is_the_same_as_one_without() -> None:
    def day(canary_ms: int) -> list[object]:
        server = core(Setup(limits=Limits(), canary_ms=canary_ms), None, lambda _: None, now_us=0, wall="")
        simulation = Simulation([exact()], server=server, check=False)
        for number in range(20):
            simulation.ask(number * 3_000_000, "a", Bounds(latency_ms=20.0))
        outcomes = simulation.run(60_000_000)
        assert all(isinstance(outcome.reply, Answer) for outcome in outcomes)
        return [(outcome.sent_us, getattr(outcome.reply, "exit", None)) for outcome in outcomes]

    assert day(2_000) == day(0)


def test_another_label_is_a_fault_where_it_cannot_be_a_matter_of_the_last_digits() -> None:
    for confidence, fault in ((0.4, False), (0.9, True)):
        server = serving()
        for label in (1, 2):
            now_us = server.wake_at()
            effects = server.advance(now_us, answered(canary(server, now_us), confidence, label))
        assert any(isinstance(effect, Told) for effect in effects) == fault


def test_a_network_that_stays_broken_takes_less_and_less_of_the_device() -> None:
    server, now_us, tried = serving("net", "other"), 0, []
    server.quarantine.failed(0, "net")
    while now_us < 30_000_000:
        run = server.next(now_us)
        if run is not None:
            if run.network == "net":
                tried.append(now_us)
                server.advance(now_us, RunFailed(run.id, "output", "NaN"))
            else:
                server.advance(now_us, answered(run))
        now_us += 10_000
    assert tried[:4] == [0, 100_000, 300_000, 700_000]
    assert len(tried) < 16
