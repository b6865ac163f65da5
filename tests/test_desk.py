"""The desk: every message a tenant can send gets the right reply, on the right connection, and only its own."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
from msgspec import structs

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.info import NetworkInfo, Preprocessing
from delen.clients.wire import (
    VERSION,
    Answer,
    BoundsSet,
    Cancel,
    Failure,
    Fetch,
    Hello,
    Infer,
    NetworkList,
    Networks,
    Ping,
    Pong,
    Refusal,
    Reply,
    SetBounds,
    SetConditions,
    Stats,
    StatsReply,
    TensorSpec,
    Welcome,
    encode,
)
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.desk import Desk, Outgoing
from delen.daemon.records import Effect, ExitDone, Forget, RowDone, StepDone
from delen.daemon.server import Server
from delen.tests.simulation import served

Kind = TypeVar("Kind", bound=Reply)
SPEC = TensorSpec("float32", (1,))
INPUT = b"\0\0\0\0"
NO_BOUNDS = Bounds()
STOP = ConditionSet(all_of=(Condition("exit", "equal", 0.0),))


def info(name: str) -> NetworkInfo:
    return NetworkInfo(
        name=name,
        version="1",
        classes=tuple("0123456789"),
        dtype="float32",
        shape=(1,),
        preprocessing=Preprocessing(),
        exits=served(gates=False).costs.exit_infos(),
        batch_max=8,
        engine="replay",
        profile="full",
    )


class Counter:
    """A desk with tenants `a` (all networks), `b` (only `net`, sees all), and one connection each by default."""

    def __init__(self, **limits: int) -> None:
        self.limits = Limits(**limits)
        self.server = Server(self.limits)
        tenants = [TenantConfig("a"), TenantConfig("b", networks=("net",), sees_all=True, queued_max=7)]
        self.desk = Desk(self.server, tenants, self.limits, "boot1")
        for name in ("net", "other"):
            self.server.networks[name] = served(name, gates=False)
            self.desk.networks[name] = info(name)
        self.server.worker_ready(0)
        self.now_us = 0
        self.effects: list[Effect] = []

    def send(
        self, message: Any, *, tenant: str = "a", route: bytes = b"r", tensor: bytes | None = None
    ) -> list[Outgoing]:
        """Everything that goes out because of this message, at once or by what it caused in the core."""
        frames = encode(message, () if tensor is None else (tensor,))
        outgoing, self.effects = self.desk.handle(self.now_us, tenant, route, frames)
        return outgoing + self.desk.settle(self.now_us, self.effects)

    def ask(self, kind: type[Kind], message: Any, **where: Any) -> Kind:
        """The one reply, which must be of this kind and carry the message's id."""
        [outgoing] = self.send(message, **where)
        assert isinstance(outgoing.reply, kind), outgoing.reply
        assert outgoing.reply.id == message.id
        assert (outgoing.tenant, outgoing.route) == (where.get("tenant", "a"), where.get("route", b"r"))
        return outgoing.reply

    def hello(self, *, bounds: Bounds = NO_BOUNDS, **where: Any) -> Welcome:
        return self.ask(Welcome, Hello(VERSION, b"h", "client", bounds), **where)

    def infer(
        self, request_id: bytes = b"1", network: str = "net", bounds: Bounds = NO_BOUNDS, **where: Any
    ) -> list[Outgoing]:
        return self.send(Infer(VERSION, request_id, network, (SPEC,), bounds), tensor=INPUT, **where)

    def run(self) -> list[Outgoing]:
        """Let the device take every run there is, to the stops of its rows."""
        outgoing: list[Outgoing] = []
        while (run := self.server.next(self.now_us)) is not None:
            stop = max(row.stop for row in run.rows)
            rows = tuple(RowDone(row.ticket, 7, 0.9, left=True, gated=False) for row in run.rows)
            steps = tuple(StepDone(False, index, len(rows), 100) for index in range(run.first, stop + 1))
            done = ExitDone(run.id, stop, rows, steps, bytes(40) * len(rows), finished=True)
            outgoing += self.desk.settle(self.now_us, self.server.advance(self.now_us, done))
        return outgoing


@pytest.fixture
def counter() -> Counter:
    made = Counter()
    made.hello()
    return made


# ---- sessions


def test_hello_tells_who_one_is_and_which_limits_hold() -> None:
    welcome = Counter(queued_max=5).hello(tenant="b", bounds=Bounds(latency_ms=9))
    assert (welcome.tenant, welcome.boot, welcome.queued_max) == ("b", "boot1", 5)
    assert welcome.bounds == Bounds(latency_ms=9)


def test_hello_tells_a_tenants_own_caps_where_they_are_less_than_everybodys() -> None:
    assert Counter().hello(tenant="b").queued_max == 7
    assert Counter().hello(tenant="a").queued_max == Limits().queued_max
    own = TenantConfig("c", payload_bytes_max=5, queued_max=3)
    desk = Desk(Server(Limits()), [own], Limits(), "boot1")
    [told], _ = desk.handle(0, "c", b"r", encode(Hello(VERSION, b"h", "client", NO_BOUNDS)))
    assert isinstance(told.reply, Welcome)
    assert (told.reply.queued_max, told.reply.payload_bytes_max) == (3, 5)


@pytest.mark.parametrize(
    "message",
    [
        Networks(VERSION, b"1"),
        Infer(VERSION, b"1", "net", (SPEC,)),
        SetBounds(VERSION, b"1", Bounds()),
        SetConditions(VERSION, b"1", "net", None),
        Stats(VERSION, b"1"),
    ],
)
def test_before_hello_everything_else_is_refused_and_nothing_runs(message: Any) -> None:
    counter = Counter()
    tensor = INPUT if isinstance(message, Infer) else None
    assert counter.ask(Refusal, message, tensor=tensor).code == "hello_required"
    assert counter.server.pending_count == 0


def test_ping_needs_no_hello() -> None:
    assert Counter().ask(Pong, Ping(VERSION, b"p")) == Pong(VERSION, b"p")


def test_a_client_whose_name_is_no_name_is_refused() -> None:
    assert Counter().ask(Refusal, Hello(VERSION, b"1", "../x")).code == "malformed"


# ---- requests


def test_a_request_is_answered_on_its_connection_with_its_logits(counter: Counter) -> None:
    assert counter.infer() == []
    [outgoing] = counter.run()
    assert isinstance(outgoing.reply, Answer)
    assert (outgoing.reply.id, outgoing.reply.label, outgoing.route) == (b"1", 7, b"r")
    assert outgoing.tensor == bytes(40)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"network": "nope"}, "unknown_network", "net, other"),
        ({"tensors": (TensorSpec("int32", (1,)),)}, "dtype", "float32"),
        ({"tensors": (TensorSpec("float32", (1, 1)),)}, "shape", "[1]"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_and_counted(
    counter: Counter, change: dict[str, Any], code: str, says: str
) -> None:
    message = structs.replace(Infer(VERSION, b"1", "net", (SPEC,)), **change)
    refusal = counter.ask(Refusal, message, tensor=INPUT)
    assert (refusal.code, says in refusal.message) == (code, True)
    account = counter.server.ledger.accounts["a"]
    assert (account.refused, account.accepted) == (1, 0)


def test_a_network_of_others_is_as_unknown_as_one_that_does_not_exist(counter: Counter) -> None:
    counter.hello(tenant="b")
    [outgoing] = counter.infer(network="other", tenant="b")
    assert isinstance(outgoing.reply, Refusal)
    assert outgoing.reply.code == "unknown_network"
    assert "yours are: net" in outgoing.reply.message


def test_what_cannot_be_read_is_refused_with_the_id_if_there_is_one(counter: Counter) -> None:
    for frames, request_id in (([b"\xc1"], b"\0"), ([], b"\0"), ([b"\x94\xa5hello\x63\xc4\x01x\xa1c"], b"x")):
        [outgoing], effects = counter.desk.handle(0, "a", b"r", frames)
        assert isinstance(outgoing.reply, Refusal)
        assert (outgoing.reply.id, effects) == (request_id, [])


def test_a_bound_that_cannot_be_met_is_refused_with_an_offer(counter: Counter) -> None:
    [outgoing] = counter.infer(bounds=Bounds(latency_ms=0.1))
    assert isinstance(outgoing.reply, Refusal)
    assert outgoing.reply.offer is not None
    assert counter.ask(Refusal, Fetch(VERSION, b"1")).code == "unknown_id"


# ---- ids


def test_the_same_request_again_joins_the_first_and_never_runs_twice(counter: Counter) -> None:
    counter.infer()
    assert counter.infer() == []
    counter.hello(route=b"new")
    assert counter.infer(route=b"new") == []
    told = counter.run()
    assert [outgoing.route for outgoing in told] == [b"r", b"new"]
    assert counter.server.ledger.accounts["a"].accepted == 1


def test_after_the_end_the_same_request_gets_the_kept_answer_marked_as_replayed(counter: Counter) -> None:
    counter.infer()
    [first] = counter.run()
    [again] = counter.infer()
    assert isinstance(first.reply, Answer)
    assert again.reply == structs.replace(first.reply, replayed=True)
    assert again.tensor == first.tensor


def test_an_id_used_for_another_request_is_refused_and_harms_neither(counter: Counter) -> None:
    counter.infer()
    [outgoing] = counter.infer(bounds=Bounds(latency_ms=50))
    assert isinstance(outgoing.reply, Refusal)
    assert outgoing.reply.code == "id_reused"
    [told] = counter.run()
    assert isinstance(told.reply, Answer)


@pytest.mark.parametrize("ended", [False, True])
def test_an_id_used_for_another_input_is_refused_and_not_answered_with_the_first_ones_answer(
    counter: Counter, *, ended: bool
) -> None:
    counter.infer()
    if ended:
        counter.run()
    [outgoing] = counter.send(Infer(VERSION, b"1", "net", (SPEC,), NO_BOUNDS), tensor=INPUT[:-1] + b"\x01")
    assert isinstance(outgoing.reply, Refusal)
    assert outgoing.reply.code == "id_reused"


def test_two_tenants_may_use_the_same_id(counter: Counter) -> None:
    counter.hello(tenant="b")
    counter.infer()
    counter.infer(tenant="b")
    assert sorted(outgoing.tenant for outgoing in counter.run()) == ["a", "b"]
    assert counter.ask(Answer, Fetch(VERSION, b"1"), tenant="b").replayed


def test_fetch_waits_for_the_end_and_then_gives_it_until_the_window_closes(counter: Counter) -> None:
    counter.infer()
    assert counter.send(Fetch(VERSION, b"1"), route=b"other") == []
    assert [outgoing.route for outgoing in counter.run()] == [b"r", b"other"]
    assert counter.ask(Answer, Fetch(VERSION, b"1")).replayed
    counter.now_us = counter.limits.answer_window_ms * 1000 + 1
    assert counter.ask(Refusal, Fetch(VERSION, b"1")).code == "unknown_id"


@pytest.mark.parametrize("again", ["infer", "fetch", "cancel"])
def test_every_connection_that_waits_for_one_end_gets_exactly_one_reply(again: str) -> None:
    counter = Counter(waiting_routes_max=3)
    counter.hello(route=b"0")
    told = counter.infer(route=b"0")
    for number in range(1, 10):
        route = b"%d" % number
        if again == "infer":
            counter.hello(route=route)
            told += counter.infer(route=route)
        else:
            told += counter.send(Fetch(VERSION, b"1"), route=route)
    told += counter.send(Cancel(VERSION, b"1"), route=b"last") if again == "cancel" else counter.run()
    assert sorted(one.route for one in told) == sorted([b"%d" % n for n in range(10)] + [b"last"] * (again == "cancel"))
    refused = [one for one in told if isinstance(one.reply, Refusal)]
    assert [one.route for one in refused] == [b"%d" % n for n in range(7 + (again == "cancel"))]
    for one in refused:
        assert isinstance(one.reply, Refusal)
        assert (one.reply.id, one.reply.code) == (b"1", "displaced")
        assert "limits.waiting_routes_max" in one.reply.message
    assert [one.route for one in told if not isinstance(one.reply, Refusal)] == [one.route for one in told[-3:]]


def test_cancel_ends_a_request_once_and_later_gives_the_end_it_had(counter: Counter) -> None:
    counter.infer()
    failure = counter.ask(Failure, Cancel(VERSION, b"1"))
    assert failure.code == "cancelled"
    assert counter.server.next(0) is None
    assert counter.ask(Failure, Cancel(VERSION, b"1")).code == "cancelled"
    assert counter.ask(Refusal, Cancel(VERSION, b"2")).code == "unknown_id"
    counter.infer(b"3")
    counter.run()
    assert counter.ask(Answer, Cancel(VERSION, b"3")).replayed


def test_once_a_turn_is_over_no_more_answers_are_kept_than_may_be() -> None:
    counter = Counter(answers_kept_max=2)
    counter.hello()
    for request_id in (b"1", b"2", b"3"):
        counter.infer(request_id)
    counter.run()
    counter.desk.learn(counter.now_us)
    assert counter.ask(Refusal, Fetch(VERSION, b"1")).code == "unknown_id"
    for request_id in (b"2", b"3"):
        assert counter.ask(Answer, Fetch(VERSION, request_id)).replayed


def test_who_cancels_on_another_connection_learns_the_end_too(counter: Counter) -> None:
    counter.hello(route=b"other")
    counter.infer()
    told = counter.send(Cancel(VERSION, b"1"), route=b"other")
    assert [(message.route, type(message.reply)) for message in told] == [(b"r", Failure), (b"other", Failure)]


def test_the_worker_is_told_to_forget_only_what_it_may_hold(counter: Counter) -> None:
    counter.infer(b"waits")
    counter.send(Cancel(VERSION, b"waits"))
    assert not any(isinstance(effect, Forget) for effect in counter.effects)
    counter.infer(b"runs")
    assert counter.server.next(0) is not None
    counter.send(Cancel(VERSION, b"runs"))
    assert any(isinstance(effect, Forget) for effect in counter.effects)


# ---- defaults of the session


def test_bounds_hold_for_every_request_after_the_acknowledgement_and_replace_the_old_ones(counter: Counter) -> None:
    assert counter.ask(BoundsSet, SetBounds(VERSION, b"b", Bounds(latency_ms=0.1))).bounds == Bounds(latency_ms=0.1)
    assert isinstance(counter.infer()[0].reply, Refusal)
    assert counter.ask(BoundsSet, SetBounds(VERSION, b"b", Bounds(accuracy=0.9))).bounds == Bounds(accuracy=0.9)
    assert counter.infer(b"2") == []


def test_conditions_are_of_one_network_and_can_be_taken_back(counter: Counter) -> None:
    conditions = (STOP, None, None)
    counter.ask(BoundsSet, SetConditions(VERSION, b"c", "net", conditions))

    def exit_of(request_id: bytes) -> int:
        counter.infer(request_id)
        [outgoing] = counter.run()
        assert isinstance(outgoing.reply, Answer)
        return outgoing.reply.exit

    assert exit_of(b"1") == 0
    counter.ask(BoundsSet, SetConditions(VERSION, b"c", "net", None))
    assert exit_of(b"2") == 2
    counter.ask(BoundsSet, SetConditions(VERSION, b"c", "net", conditions))
    counter.ask(BoundsSet, SetBounds(VERSION, b"b", Bounds(latency_ms=50)))
    assert exit_of(b"3") == 0, "a latency bound may stand beside conditions"
    counter.ask(BoundsSet, SetBounds(VERSION, b"b", Bounds(energy_mj=1e6)))
    assert exit_of(b"4") == 2, "whoever spoke last is obeyed: an energy bound takes conditions back"


def test_conditions_for_another_network_or_number_of_exits_are_refused(counter: Counter) -> None:
    assert counter.ask(Refusal, SetConditions(VERSION, b"c", "nope", (STOP,))).code == "unknown_network"
    counter.hello(tenant="b")
    hidden = counter.ask(Refusal, SetConditions(VERSION, b"c", "other", (STOP, None, None)), tenant="b")
    assert hidden.code == "unknown_network"
    refusal = counter.ask(Refusal, SetConditions(VERSION, b"c", "net", (STOP,)))
    assert (refusal.code, "has 3" in refusal.message) == ("bounds", True)


# ---- what one may know


def test_a_tenant_sees_the_networks_it_may_use(counter: Counter) -> None:
    counter.hello(tenant="b")
    seen = [counter.ask(NetworkList, Networks(VERSION, b"n"), tenant=tenant).networks for tenant in ("a", "b")]
    assert [[network.name for network in networks] for networks in seen] == [["net", "other"], ["net"]]


def test_stats_are_of_oneself_or_of_all_for_those_who_may(counter: Counter) -> None:
    counter.hello(tenant="b")
    counter.infer()
    counter.now_us = 500
    own = counter.ask(StatsReply, Stats(VERSION, b"s"))
    assert [row.tenant for row in own.tenants] == ["a"]
    assert (own.tenants[0].accepted, own.queued, own.uptime_us) == (1, 1, 500)
    everybody = counter.ask(StatsReply, Stats(VERSION, b"s"), tenant="b")
    assert [row.tenant for row in everybody.tenants] == ["a", "b"]
