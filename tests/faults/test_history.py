"""The history checker finds what it is there for: each planted fault, and nothing in an honest history."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from delen.clients.wire import VERSION, Answer, Failure, Refusal, TensorSpec
from delen.tests.faults.history import History

ANSWER = Answer(
    version=VERSION,
    id=b"1",
    network="digits",
    network_version="1",
    tensors=(TensorSpec("float32", (10,)),),
    label=3,
    exit=1,
    confidence=0.9,
    expected_accuracy=0.9,
    certificate="none",
    queue_us=5,
    compute_us=10,
    total_us=20,
    batches=(1, 1),
    energy_mj=None,
    energy_source="unknown",
    broken=(),
    stop="gate",
)
AGAIN = replace(ANSWER, replayed=True)


def refusal(code: str) -> Refusal:
    return Refusal(VERSION, b"1", code, "")


def failure(code: str) -> Failure:
    return Failure(VERSION, b"1", code, "")


@pytest.fixture
def history() -> History:
    return History(settled_max=2)


def test_an_honest_history_has_no_faults(history: History) -> None:
    # Answered, fetched from another connection, and said again on the first.
    history.asked(1, 1)
    assert history.told(1, 1, ANSWER)
    history.asked(2, 1)
    assert not history.told(2, 1, AGAIN)
    history.asked(1, 1)
    assert not history.told(1, 1, AGAIN)
    # Two connections wait for the same, which is taken back by a third.
    for connection in (1, 2, 3):
        history.asked(connection, 2)
    assert [history.told(connection, 2, failure("cancelled")) for connection in (1, 2, 3)] == [True, False, False]
    # Asked for too early, turned away, let in at the second try; and once under a different header.
    history.asked(1, 3)
    assert not history.told(1, 3, refusal("unknown_id"))
    history.asked(1, 3)
    assert history.told(1, 3, refusal("queue_full"))
    history.asked(1, 3)
    history.asked(1, 3, other=True)
    assert not history.told(1, 3, refusal("id_reused"))
    assert not history.told(1, 3, ANSWER)
    # Turned away for good.
    history.asked(1, 4)
    assert history.told(1, 4, refusal("queue_full"))
    history.refused(4)
    # Tried once more, later.
    history.asked(1, 4)
    assert history.told(1, 4, refusal("quota"))
    history.refused(4)
    history.finish(answered=2, failed=1)
    assert history.faults == []
    assert +history.ends == {"answer": 2, "cancelled": 1, "refused: quota": 1}


def test_a_lost_request_is_found(history: History) -> None:
    history.asked(1, 1)
    history.finish(0, 0)
    assert history.faults == ["request 1 never ended"]


def test_a_request_that_was_run_twice_is_found(history: History) -> None:
    history.asked(1, 1)
    history.told(1, 1, ANSWER)
    history.asked(2, 1)
    history.told(2, 1, replace(AGAIN, total_us=21))
    [fault] = history.faults
    assert "two ends" in fault
    history.finish(answered=2, failed=0)
    assert "(1, 0) answers and errors were told, (2, 0) are in the daemon's books" in history.faults[-1]


@pytest.mark.parametrize(
    ("replies", "fault"),
    [
        ([ANSWER, ANSWER], "told 2 times on one connection"),
        ([ANSWER, failure("engine")], "told 2 times on one connection"),
        ([refusal("id_reused")], "said to be another request's id"),
    ],
)
def test_a_reply_too_many_is_found(history: History, replies: list[Answer | Failure | Refusal], fault: str) -> None:
    history.asked(1, 1)
    for reply in replies:
        history.told(1, 1, reply)
    assert fault in history.faults[0]


def test_an_answer_sent_afresh_though_it_was_given_is_found(history: History) -> None:
    history.asked(1, 1)
    history.asked(1, 1)
    history.told(1, 1, ANSWER)
    history.told(1, 1, ANSWER)
    assert history.faults == ["request 1 answered afresh twice on one connection"]


def test_an_end_that_is_taken_back_is_found(history: History) -> None:
    for code in ("unknown_id", "queue_full"):
        history.asked(1, 1)
        history.told(1, 1, ANSWER if code == "unknown_id" else AGAIN)
        history.asked(1, 1)
        history.told(1, 1, refusal(code))
    assert [fault.split("(")[1] for fault in history.faults] == [
        "unknown_id) after it had ended",
        "queue_full) after it had ended",
    ]


def test_a_connection_that_is_overtaken_may_still_hear_that_there_was_nothing(history: History) -> None:
    history.asked(1, 1)
    history.asked(2, 1)
    history.told(2, 1, ANSWER)
    history.told(1, 1, refusal("unknown_id"))
    assert history.faults == []


def test_a_wrong_id_is_found(history: History) -> None:
    history.asked(1, 1)
    history.told(1, 2, ANSWER)
    history.told(2, 1, ANSWER)
    assert history.faults == [
        "request 2 Answer came though nobody asked",
        "request 1 told on a connection that never asked for it",
    ]


def test_an_answer_long_after_the_end_is_found(history: History) -> None:
    for number in (1, 2, 3):
        history.asked(1, number)
        history.told(1, number, ANSWER)
    history.told(1, 1, ANSWER)
    assert history.faults == ["request 1 Answer came long after its end"]
