"""What the daemon tells of itself: rows of who may see them, within one header, refusals and failures by their code."""

from __future__ import annotations

import pytest

from delen.clients.asking import whole
from delen.clients.bounds import Bounds
from delen.clients.info import StepTrace
from delen.clients.wire import (
    HEADER_BYTES_MAX,
    VERSION,
    Answer,
    Cancel,
    Hello,
    Infer,
    Refusal,
    Stats,
    StatsReply,
    TraceList,
    Traces,
    Welcome,
    encode,
)
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.desk import Desk
from delen.daemon.records import ExitDone, RowDone, StepDone
from delen.daemon.server import Server
from delen.daemon.tally import Tally
from delen.tests.test_desk import INPUT, SPEC, Counter
from delen.tests.test_traces import PARENT


@pytest.fixture
def counter() -> Counter:
    made = Counter()
    made.hello()
    made.hello(tenant="b")
    return made


def test_ends_are_counted_by_code_bound_and_time(counter: Counter) -> None:
    counter.infer(b"1", bounds=Bounds(latency_ms=1000))
    counter.now_us += 3_000
    counter.run()
    counter.infer(b"2")
    counter.send(Cancel(VERSION, b"2"))
    counter.infer(b"3", network="nothing")
    counter.infer(b"4", bounds=Bounds(accuracy=1.0))
    row = counter.ask(StatsReply, Stats(VERSION, b"s")).tenants[0]
    assert (row.answered, row.failed, row.refused) == (1, 1, 2)
    assert row.refusals == {"unknown_network": 1, "infeasible": 1}
    assert row.failures == {"cancelled": 1}
    assert row.latency["net"].sum_us == 3_000
    assert sum(row.latency["net"].counts) == sum(row.queue["net"].counts) == 1


def test_bounds_that_broke_are_counted_by_name(counter: Counter) -> None:
    [refused] = counter.send(Infer(VERSION, b"0", "net", (SPEC,), Bounds(latency_ms=-1.0)), tensor=INPUT)
    assert isinstance(refused.reply, Refusal)
    counter.infer(b"1", bounds=Bounds(latency_ms=50))
    counter.now_us += 90_000
    counter.run()
    row = counter.ask(StatsReply, Stats(VERSION, b"s")).tenants[0]
    assert row.refusals == {"bounds": 1}
    assert row.broken == {"latency_ms": 1}


def test_what_the_device_did_is_told_to_those_who_see_all(counter: Counter) -> None:
    counter.infer(b"1")
    counter.infer(b"2", tenant="b")
    counter.run()
    mine = counter.ask(StatsReply, Stats(VERSION, b"s"))
    assert ([row.tenant for row in mine.tenants], mine.networks) == (["a"], ())
    alls = counter.ask(StatsReply, Stats(VERSION, b"s"), tenant="b")
    assert [row.tenant for row in alls.tenants] == ["a", "b"]
    (network,) = alls.networks
    assert network.name == "net"
    assert sum(sum(each.counts) for each in network.segments) == sum(network.batches) > 0


def test_many_tenants_are_told_page_by_page() -> None:
    names = [f"tenant-{index:03}-{'x' * 40}" for index in range(100)]
    limits = Limits(tenants_max=200)
    server = Server(limits)
    desk = Desk(server, [TenantConfig(name, sees_all=True) for name in names], limits, "boot")
    desk.handle(0, names[0], b"r", encode(Hello(VERSION, b"h", "client", Bounds())))
    for name in names:
        # As if every one had used many networks.
        account = server.ledger.account(name)
        account.exits = {f"network-{index:02}-{'y' * 20}": [10**6] * 4 for index in range(40)}
        account.latency = dict.fromkeys(account.exits, Tally())
    pages: list[StatsReply] = []
    while not pages or pages[-1].next:
        message = Stats(VERSION, b"s", pages[-1].next if pages else 0)
        [[outgoing], _] = desk.handle(0, names[0], b"r", encode(message))
        assert isinstance(outgoing.reply, StatsReply)
        assert len(encode(outgoing.reply)[0]) <= HEADER_BYTES_MAX
        pages.append(outgoing.reply)
    assert len(pages) > 1
    assert [row.tenant for row in whole(pages).tenants] == names
    assert whole(pages).next == 0


def test_a_request_can_be_looked_at_by_its_tenant_and_those_who_see_all(counter: Counter) -> None:
    counter.infer(b"1")
    counter.now_us += 2_000
    [answered] = counter.run()
    counter.infer(b"2")
    counter.send(Cancel(VERSION, b"2"))
    told = counter.ask(TraceList, Traces(VERSION, b"t"))
    assert [(one.id, one.outcome, one.total_us) for one in told.requests] == [
        (b"1", "answered", 2_000),
        (b"2", "cancelled", 0),
    ]
    assert isinstance(answered.reply, Answer)
    first = told.requests[0]
    assert (first.exit, first.stop) == (answered.reply.exit, answered.reply.stop)
    # Every segment down to the exit, with nothing in between.
    assert [step.index for step in first.steps] == list(range(answered.reply.exit + 1))
    assert all(a.start_us + a.took_us == b.start_us for a, b in zip(first.steps, first.steps[1:], strict=False))
    assert first.steps[-1].start_us + first.steps[-1].took_us == first.total_us
    assert counter.ask(TraceList, Traces(VERSION, b"t", "a", told.next), tenant="b").requests == ()
    assert counter.ask(TraceList, Traces(VERSION, b"t", "a"), tenant="b").requests == told.requests
    assert counter.ask(Refusal, Traces(VERSION, b"t", "b")).code == "unknown_tenant"
    absent = counter.ask(Refusal, Traces(VERSION, b"t", "c"))
    assert absent.message.replace("'c'", "'b'") == counter.ask(Refusal, Traces(VERSION, b"t", "b")).message


def test_a_head_is_told_to_those_it_looked_at(counter: Counter) -> None:
    counter.infer(b"1")
    counter.infer(b"2")
    run = counter.server.next(0)
    assert run is not None
    looked, other = run.rows
    counter.now_us = 500
    last = max(row.stop for row in run.rows)
    steps = StepDone(False, 0, 2, 100), StepDone(True, 0, 1, 20)
    reports = (
        ExitDone(run.id, 0, (RowDone(looked.ticket, 7, 0.9, left=True, gated=True),), steps, bytes(40), finished=False),
        ExitDone(
            run.id,
            last,
            (RowDone(other.ticket, 7, 0.9, left=True, gated=False),),
            (StepDone(False, 1, 1, 60), StepDone(True, 1, 1, 30)),
            bytes(40),
            finished=True,
        ),
    )
    for report in reports:
        counter.desk.settle(counter.now_us, counter.server.advance(counter.now_us, report))
        counter.now_us += 200
    first, second = counter.ask(TraceList, Traces(VERSION, b"t")).requests
    assert first.steps == (StepTrace(False, 0, 2, 380, 100), StepTrace(True, 0, 1, 480, 20))
    assert second.steps == (
        StepTrace(False, 0, 2, 380, 100),
        StepTrace(False, 1, 1, 610, 60),
        StepTrace(True, 1, 1, 670, 30),
    )


def test_no_traces_are_kept_where_none_are_wanted() -> None:
    counter = Counter(traces_max=0)
    counter.hello()
    counter.infer(b"1")
    counter.run()
    told = counter.ask(TraceList, Traces(VERSION, b"t"))
    assert (told.requests, told.lost, told.next, told.more) == ((), 1, 1, False)


def test_the_callers_trace_goes_through_to_answer_and_trace(counter: Counter) -> None:
    for request_id, parent in ((b"1", PARENT), (b"2", "nonsense"), (b"3", "")):
        counter.send(Infer(VERSION, request_id, "net", (SPEC,), Bounds(), parent), tensor=INPUT)
    found = {told.reply.id: told.reply for told in counter.run()}
    kinds = [reply.traceparent for reply in found.values() if isinstance(reply, Answer)]
    assert len(kinds) == 3
    first = found[b"1"]
    assert isinstance(first, Answer)
    assert first.traceparent.split("-")[1] == PARENT.split("-")[1]
    assert sorted(kinds)[:2] == ["", ""]
    told = counter.ask(TraceList, Traces(VERSION, b"t"))
    assert {one.id: one.traceparent for one in told.requests}[b"1"] == first.traceparent


def test_before_hello_nothing_is_told() -> None:
    counter = Counter()
    assert counter.ask(Refusal, Traces(VERSION, b"t")).code == "hello_required"
    assert isinstance(counter.hello(), Welcome)
