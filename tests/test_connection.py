"""The client's protocol state without sockets: hello, repetition after silence, restarts and lost answers, budgets."""

from __future__ import annotations

import numpy as np
import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.calls import Call, result_of
from delen.clients.connection import (
    NEVER_US,
    OVERDUE_US,
    PATIENCE_US,
    REJOINS_MAX,
    TICK_US,
)
from delen.clients.errors import (
    BadReply,
    BoundsInfeasible,
    Cancelled,
    DeadlineExceeded,
    DelenError,
    EngineFailed,
    QueueFull,
    Unreachable,
)
from delen.clients.wire import (
    VERSION,
    Answer,
    Cancel,
    Failure,
    Fetch,
    Hello,
    Infer,
    Offer,
    Ping,
    Pong,
    Refusal,
    SetBounds,
    SetConditions,
    Stats,
    encode,
)
from delen.tests.lossy_wire import TIMEOUT_US, LossyWire


def kinds(messages: list[object]) -> list[type]:
    return [type(message) for message in messages]


def error_of(call: Call) -> DelenError:
    assert call.ended
    assert call.error is not None
    return call.error


def test_the_first_request_follows_a_hello_and_gets_its_answer() -> None:
    line = LossyWire(bounds=Bounds(latency_ms=50.0))
    call = line.infer()
    assert kinds(line.talk()) == [Hello, Infer]
    result = result_of(call)
    assert result.label == 1
    np.testing.assert_array_equal(result.logits, [0, 3, 1])
    assert line.connection.bounds == Bounds(latency_ms=50.0)
    assert line.ended == [call]


def test_later_requests_need_no_hello_and_ids_are_new() -> None:
    line = LossyWire()
    first = line.infer()
    line.talk()
    second = line.infer()
    assert kinds(line.talk()) == [Infer]
    assert first.message.id != second.message.id


def test_a_lost_session_is_told_by_hello_required_and_nothing_runs_twice() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    calls = [line.infer() for _ in range(3)]
    line.peer = b"a new connection"
    line.talk()
    assert all(result_of(call).label == 1 for call in calls)
    assert len(line.daemon.runs) == 3


def test_requests_out_at_a_restart_are_run_by_the_new_daemon() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    calls = [line.infer(), line.infer()]
    line.lose()
    line.daemon.restart()
    later = line.infer()
    line.talk()
    assert [result_of(call).label for call in (*calls, later)] == [1, 1, 1]


def test_after_silence_a_hello_finds_the_restarted_daemon() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    call = line.infer()
    line.lose()
    line.daemon.restart()
    line.passes(PATIENCE_US // 2)
    assert line.talk() == []
    line.passes(PATIENCE_US)
    assert kinds(line.talk()) == [Hello, Infer]
    assert result_of(call).label == 1


def test_a_lost_answer_is_fetched_and_not_run_again() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    call = line.infer()
    line.deaf()
    line.passes(2 * PATIENCE_US)
    assert kinds(line.talk()) == [Hello, Fetch]
    assert result_of(call).label == 1
    assert len(line.daemon.runs) == 1


def test_a_lost_request_is_said_again_when_the_fetch_shows_it_never_came() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    call = line.infer()
    line.lose()
    line.passes(2 * PATIENCE_US)
    assert kinds(line.talk()) == [Hello, Fetch, Infer]
    # Latency counts from the first send, whatever was said again since.
    assert result_of(call).latency_us >= PATIENCE_US


def test_a_lost_answer_is_fetched_although_others_come() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    call = line.infer()
    line.deaf()
    for _ in range(2 * OVERDUE_US // (PATIENCE_US // 4)):
        line.passes(PATIENCE_US // 4)
        line.ping()
        line.talk()
    assert call.ended
    assert Hello not in kinds(line.daemon.log[1:])
    assert len(line.daemon.runs) == 1


def test_silence_is_asked_about_ever_less_often() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    line.open(Ping(VERSION, line.connection.new_id())).give_up_us = NEVER_US
    hellos = []
    for _ in range(100):
        line.passes(TICK_US)
        hellos += [line.now_us for frames in line.sent() if b"hello" in bytes(frames[0])]
    gaps = np.diff(hellos)
    assert 4 <= len(hellos) <= 7
    assert (np.diff(gaps) >= 0).all()


def test_conditions_of_the_session_are_set_again_before_anything_else() -> None:
    line = LossyWire()
    sets = (ConditionSet(all_of=(Condition("response_time", "greater", 0.02),)), None)
    line.open(SetConditions(VERSION, line.connection.new_id(), "toy", sets))
    line.open(SetBounds(VERSION, line.connection.new_id(), Bounds(latency_ms=40.0)))
    line.talk()
    line.daemon.restart()
    line.infer()
    heard = line.talk()
    assert kinds(heard) == [Infer, Hello, SetConditions, Infer]
    hello, again = heard[1:3]
    assert isinstance(hello, Hello)
    assert hello.bounds == Bounds(latency_ms=40.0)
    assert isinstance(again, SetConditions)
    assert again.conditions == sets


def test_conditions_are_set_again_for_a_daemon_found_restarted_after_silence() -> None:
    line = LossyWire()
    sets = (ConditionSet(all_of=(Condition("response_time", "greater", 0.02),)), None)
    line.open(SetConditions(VERSION, line.connection.new_id(), "toy", sets))
    line.talk()
    line.infer()
    line.lose()
    line.daemon.restart()
    line.passes(2 * PATIENCE_US)
    assert kinds(line.talk()) == [Hello, SetConditions, Infer]


def test_a_daemon_that_never_accepts_the_hello_is_not_asked_for_ever() -> None:
    line = LossyWire()
    daemon = line.daemon
    line.ping()
    line.talk()
    call = line.infer()
    for _ in range(REJOINS_MAX + 1):
        daemon.greeted.clear()
        for frames in line.sent():
            reply = daemon.reply(line.peer, frames)
            daemon.greeted.clear()
            assert reply is not None
            line.connection.receive(reply, line.now_us)
    assert error_of(call).code == "hello_required"


def test_a_refused_hello_ends_what_waits_and_is_tried_again_later() -> None:
    line = LossyWire()
    call = line.ping()
    hello = line.sent()[0]
    hello_id = bytes(hello[0]).split(b"\xc4\x10")[1][:16]
    line.connection.receive(encode(Refusal(VERSION, hello_id, "not_ready", "starting")), line.now_us)
    assert error_of(call).code == "not_ready"
    again = line.ping()
    assert kinds(line.talk()) == [Hello, Ping]
    assert again.error is None


def test_a_request_that_waited_asks_for_the_budget_that_remains() -> None:
    line = LossyWire(bounds=Bounds(latency_ms=50.0))
    line.infer()
    line.infer(Bounds(latency_ms=20.0, accuracy=0.9))
    line.now_us += 5_000
    asked = [m.bounds for m in line.talk() if isinstance(m, Infer)]
    assert asked == [Bounds(latency_ms=45.0), Bounds(latency_ms=15.0, accuracy=0.9)]


def test_a_request_sent_at_once_asks_for_exactly_its_bound() -> None:
    line = LossyWire()
    line.infer(Bounds(latency_ms=20.0))
    line.now_us += 50
    (asked,) = [m.bounds for m in line.talk() if isinstance(m, Infer)]
    assert asked == Bounds(latency_ms=20.0)


def test_a_request_without_latency_bound_ages_without_harm() -> None:
    line = LossyWire(bounds=Bounds(latency_ms=50.0))
    call = line.infer(Bounds(latency_ms=None))
    line.now_us += 1_000_000
    line.talk()
    assert result_of(call).label == 1


def test_a_request_whose_bound_passed_before_it_was_sent_is_not_sent() -> None:
    line = LossyWire()
    call = line.infer(Bounds(latency_ms=20.0))
    line.now_us += 21_000
    assert Infer not in kinds(line.talk())
    error = error_of(call)
    assert isinstance(error, DeadlineExceeded)
    assert error.code == "deadline"


def test_a_late_answer_is_still_fetched_after_a_new_connection() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    call = line.infer(Bounds(latency_ms=20.0))
    line.deaf()
    line.peer = b"a new connection"
    line.now_us += 30_000
    line.ping()
    line.talk()
    assert result_of(call).label == 1
    assert len(line.daemon.runs) == 1


def test_a_lost_request_is_said_again_with_what_remains_or_given_up() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    patient = line.infer(Bounds(latency_ms=10_000.0))
    hasty = line.infer(Bounds(latency_ms=100.0))
    line.lose()
    line.passes(2 * PATIENCE_US)
    again = [m for m in line.talk() if isinstance(m, Infer)]
    assert [m.id for m in again] == [patient.message.id]
    assert again[0].bounds.latency_ms == pytest.approx(9_000.0)
    assert result_of(patient).label == 1
    assert error_of(hasty).code == "deadline"


def test_nobody_there_ends_as_unreachable_and_names_the_endpoint() -> None:
    line = LossyWire()
    call = line.infer()
    line.passes(TIMEOUT_US)
    error = error_of(call)
    assert isinstance(error, Unreachable)
    assert error.endpoint == "ipc:///s"
    assert "ipc:///s" in str(error)
    assert "delen serve" in str(error)
    assert line.connection.wake_at_us == NEVER_US or len(line.connection) == 0


def test_a_daemon_that_is_there_but_slow_ends_as_a_time_out_and_is_told() -> None:
    line = LossyWire()
    line.daemon.silent = (Infer, Fetch)
    call = line.infer()
    line.talk()
    line.passes(TIMEOUT_US)
    error = error_of(call)
    assert isinstance(error, DeadlineExceeded)
    assert error.code == "timeout"
    assert Cancel in kinds(line.talk())


def test_a_cancelled_request_ends_at_once_and_the_daemon_is_told() -> None:
    line = LossyWire()
    line.daemon.silent = (Infer,)
    call = line.infer()
    line.talk()
    assert line.connection.cancel(call)
    assert isinstance(error_of(call), Cancelled)
    assert kinds(line.talk()) == [Cancel]
    assert not line.connection.cancel(call)


def test_a_request_cancelled_before_it_was_sent_is_never_sent() -> None:
    line = LossyWire()
    line.connection.cancel(line.infer())
    assert kinds(line.talk()) == [Hello]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (Refusal(VERSION, b"", "infeasible", "no", Offer(latency_ms=9.0)), BoundsInfeasible),
        (Refusal(VERSION, b"", "queue_full", "no", Offer(retry_after_ms=7.0)), QueueFull),
        (Failure(VERSION, b"", "engine", "no"), EngineFailed),
        (Failure(VERSION, b"", "deadline", "no"), DeadlineExceeded),
    ],
)
def test_refusals_and_failures_end_a_call_as_typed_errors(end: Refusal | Failure, kind: type[DelenError]) -> None:
    line = LossyWire()
    if isinstance(end, Refusal):
        line.daemon.refuse = end
    else:
        line.daemon.fail = end
    call = line.infer()
    line.talk()
    error = error_of(call)
    assert type(error) is kind
    assert error.code == end.code
    assert error.request_id == call.message.id
    if isinstance(error, QueueFull):
        assert error.retry_after_ms == 7.0
    if isinstance(error, BoundsInfeasible):
        assert error.offer == Offer(latency_ms=9.0)


def test_replies_that_make_no_sense_end_their_call_or_are_dropped() -> None:
    line = LossyWire()
    line.ping()
    line.talk()
    call, other = line.ping(), line.ping()
    line.sent()
    for nonsense in ([], [b"\xc1"], encode(Pong(VERSION, b"unknown")), encode(Ping(VERSION, b"x"))):
        line.connection.receive(nonsense, line.now_us)
    assert not call.ended
    line.connection.receive(encode(Stats(VERSION, call.message.id)), line.now_us)
    assert isinstance(error_of(call), BadReply)
    line.connection.receive(encode(Refusal(VERSION, other.message.id, "a_new_code", "?")), line.now_us)
    assert error_of(other).code == "a_new_code"


def test_an_answer_that_comes_twice_ends_its_call_once() -> None:
    line = LossyWire()
    call = line.infer()
    frames = line.sent()
    replies = [line.daemon.reply(line.peer, frame) for frame in frames]
    for reply in (*replies, *replies):
        assert reply is not None
        line.connection.receive(reply, line.now_us)
    assert line.connection.take_ended() == [call]
    assert isinstance(call.reply, Answer)
