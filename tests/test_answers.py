"""The window of kept ends: what can be fetched again, and until when."""

from __future__ import annotations

import random

import pytest

from delen.clients.wire import VERSION, Failure, Infer, TensorSpec
from delen.daemon.answers import Answers, mark_of
from delen.daemon.config import Limits

WINDOW_US = 1_000_000


def answers(**limits: int) -> Answers:
    return Answers(Limits(answer_window_ms=WINDOW_US // 1000, **limits))


def ask(window: Answers, request_id: bytes, route: bytes = b"r") -> None:
    window.begin(Infer(VERSION, request_id, "net", (TensorSpec("uint8", (1,)),)), b"\0", 1, route)


def end(window: Answers, request_id: bytes, now_us: int, tensor: bytes = b"0123") -> list[bytes]:
    routes = window.end(request_id, Failure(VERSION, request_id, "engine", "no"), tensor, now_us)
    window.tidy(now_us)
    return routes


def test_everybody_who_asked_for_a_request_is_told_its_end_once() -> None:
    window = answers()
    ask(window, b"1", b"first")
    kept = window.find(b"1", 0)
    assert kept is not None
    assert kept.join(b"second", 16) == []
    assert kept.join(b"second", 16) == []
    assert end(window, b"1", 10) == [b"first", b"second"]
    assert kept.routes == []


def test_who_asks_on_one_new_connection_after_another_takes_no_more_room() -> None:
    window = answers()
    ask(window, b"1", b"0")
    kept = window.find(b"1", 0)
    assert kept is not None
    gone = [kept.join(b"%d" % number, 16) for number in range(1, 1000)]
    assert [route for routes in gone for route in routes] == [b"%d" % number for number in range(1000 - 16)]
    assert end(window, b"1", 10) == [b"%d" % number for number in range(1000 - 16, 1000)]


def test_an_end_can_be_fetched_until_the_window_closes() -> None:
    window = answers()
    ask(window, b"1")
    end(window, b"1", 10)
    last = window.find(b"1", 10 + WINDOW_US - 1)
    assert last is not None
    assert last.tensor == b"0123"
    assert window.find(b"1", 10 + WINDOW_US) is None


def test_what_still_runs_is_known_however_long_it_takes() -> None:
    window = answers()
    ask(window, b"1")
    running = window.find(b"1", 100 * WINDOW_US)
    assert running is not None
    assert running.reply is None


def test_the_oldest_ends_give_way_when_there_are_too_many() -> None:
    window = answers(answers_kept_max=2)
    for number in range(4):
        ask(window, bytes([number]))
        end(window, bytes([number]), number)
    assert [window.find(bytes([number]), 5) is not None for number in range(4)] == [False, False, True, True]


def test_the_oldest_ends_give_way_when_they_hold_too_many_bytes() -> None:
    window = answers(answers_kept_bytes_max=100)
    for number in range(3):
        ask(window, bytes([number]))
        end(window, bytes([number]), number, bytes(50))
    assert [window.find(bytes([number]), 5) is not None for number in range(3)] == [False, True, True]


def test_an_id_used_again_after_the_window_does_not_count_twice() -> None:
    window = answers(answers_kept_bytes_max=100)
    for round_ in range(5):
        ask(window, b"same")
        end(window, b"same", round_ * 2 * WINDOW_US, bytes(60))
    late_us = 8 * WINDOW_US + 1
    ask(window, b"other")
    end(window, b"other", late_us, bytes(40))
    assert window.find(b"same", late_us) is not None
    assert window.find(b"other", late_us) is not None


@pytest.mark.parametrize("size", [0, 1, 3072, 64 * 1024, 64 * 1024 + 1, 602_112])
def test_inputs_of_different_requests_have_different_marks(size: int) -> None:
    rng = random.Random(size)
    one, other = rng.randbytes(size), rng.randbytes(size)
    assert mark_of(one) == mark_of(memoryview(one))
    assert size == 0 or mark_of(one) != mark_of(other)
    assert mark_of(bytes(size)) != mark_of(bytes(size + 1))


@pytest.mark.parametrize("size", [3072, 602_112])
def test_the_same_numbers_in_other_places_are_another_input(size: int) -> None:
    one, other = bytearray(size), bytearray(size)
    one[8] = other[16] = 1
    assert mark_of(bytes(one)) != mark_of(bytes(other))


def test_an_input_is_let_go_once_its_mark_is_kept() -> None:
    window, memory = answers(), bytearray(1000)
    infer = Infer(VERSION, b"1", "net", (TensorSpec("uint8", (1000,)),))
    kept = window.begin(infer, memoryview(memory), 1, b"route")
    assert (kept.keep_mark(), kept.keep_mark()) == (mark_of(bytes(memory)), mark_of(bytes(memory)))
    # It could not grow while anybody looks at it.
    memory.append(1)
