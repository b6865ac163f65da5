"""Traces of requests: the ring keeps the last ones, pages fit into a reply, cursors miss and repeat nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.clients.bounds import Bounds
from delen.clients.info import StepTrace
from delen.clients.wire import HEADER_BYTES_MAX, VERSION, Failure, Infer, TensorSpec, TraceList
from delen.daemon.records import Ran, StepDone, Trail
from delen.daemon.traces import TraceRing, child

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STEPS = (StepDone(False, 0, 4, 30), StepDone(True, 0, 2, 10), StepDone(False, 1, 4, 50))


def trail(request_id: bytes = b"id", *, ran: tuple[Ran, ...] = (), parent: str = "", started: bool = True) -> Trail:
    infer = Infer(VERSION, request_id, "net", (TensorSpec("float32", (1,)),), Bounds(), parent)
    return Trail(infer, 1_000, 1_200 if started else None, ran)


def failed(request_id: bytes = b"id") -> Failure:
    return Failure(VERSION, request_id, "deadline", "too late")


def filled(count: int, count_max: int, steps: int = 0) -> TraceRing:
    ring = TraceRing(count_max)
    for number in range(1, count + 1):
        request_id = b"%d" % number
        ring.add(2_000, failed(request_id), trail(request_id, ran=tuple([Ran(1_900, True, STEPS)] * steps)))
    return ring


def test_a_request_is_told_with_its_steps_reckoned_back_from_their_reports() -> None:
    ring = TraceRing(4)
    ran = Ran(1_500, True, STEPS), Ran(1_800, False, STEPS)
    ring.add(2_000, failed(), trail(ran=ran))
    (told,) = ring.page(0).requests
    assert (told.number, told.outcome, told.arrival_us, told.total_us, told.queue_us) == (
        1,
        "deadline",
        1000,
        1000,
        200,
    )
    assert told.steps == (
        StepTrace(False, 0, 4, 410, 30),
        StepTrace(True, 0, 2, 440, 10),
        StepTrace(False, 1, 4, 450, 50),
        # Its own head was not run the second time, but time passed.
        StepTrace(False, 0, 4, 710, 30),
        StepTrace(False, 1, 4, 750, 50),
    )
    assert TraceRing(4).page(0).requests == ()


def test_what_never_ran_has_no_time_in_the_queue() -> None:
    ring = TraceRing(1)
    ring.add(2_000, failed(), trail(started=False))
    assert ring.page(0).requests[0].queue_us is None


@given(count=st.integers(0, 60), count_max=st.integers(0, 40), after=st.integers(-5, 80))
def test_a_cursor_neither_misses_nor_repeats(count: int, count_max: int, after: int) -> None:
    ring = filled(count, count_max)
    page = ring.page(after)
    begun = after if 0 <= after <= count else 0
    kept = range(max(begun, count - count_max) + 1, count + 1)
    assert [one.number for one in page.requests] == list(kept)
    assert [one.id for one in page.requests] == [b"%d" % number for number in kept]
    assert page.next == count
    assert not page.more
    assert page.lost == max(0, count - count_max - begun)


def test_pages_fit_into_a_header_and_lead_on_to_the_end() -> None:
    ring = filled(300, 256, steps=16)
    after, found = 0, []
    while True:
        page = ring.page(after)
        reply = TraceList(VERSION, b"i" * 64, 2**62, page.next, page.more, page.lost, page.requests)
        assert len(msgspec.msgpack.encode(reply)) <= HEADER_BYTES_MAX
        found += [one.number for one in page.requests]
        after = page.next
        if not page.more:
            break
    assert found == list(range(45, 301))


def test_one_request_of_endless_steps_is_told_alone() -> None:
    assert len(filled(2, 4, steps=700).page(0).requests) == 1


def test_the_daemons_place_in_a_trace_is_a_child_of_the_callers_and_always_the_same() -> None:
    found = child(PARENT, b"id")
    assert found == child(PARENT, b"id")
    version, trace, span, flags = found.split("-")
    assert (version, trace, flags) == ("00", PARENT.split("-")[1], "01")
    assert len(span) == 16
    assert span != PARENT.split("-")[2]
    assert child(PARENT, b"other") != found
    assert TraceRing(1).page(0).requests == ()
    ring = TraceRing(1)
    ring.add(2_000, failed(), trail(parent=PARENT))
    assert ring.page(0).requests[0].traceparent == found


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        PARENT + "\n",
        PARENT + "-more",
    ],
)
def test_what_is_no_traceparent_is_ignored(wrong: str) -> None:
    assert child(wrong, b"id") == ""
