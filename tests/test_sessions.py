"""Sessions: who said hello where, how long their bounds survive, and that there is an end to their number."""

from __future__ import annotations

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.daemon.config import Limits
from delen.daemon.sessions import Sessions, shown
from delen.policies.exits import asked

KEPT_US = 60_000_000
STOP = (ConditionSet(all_of=(Condition("exit", "equal", 0.0),)),)


def sessions(**limits: int) -> Sessions:
    return Sessions(Limits(**limits))


def test_a_connection_without_hello_has_no_session() -> None:
    assert sessions().find(b"route", 0) is None


def test_bounds_survive_a_reconnection_within_the_time_kept_and_no_longer() -> None:
    known = sessions()
    known.open("client", b"old", Bounds(latency_ms=5), 0)
    again = known.open("client", b"new", Bounds(), KEPT_US)
    assert again is not None
    assert again.bounds.latency_ms == 5
    later = known.open("client", b"newer", Bounds(), 2 * KEPT_US + 1)
    assert later is not None
    assert later.bounds == Bounds()


def test_using_a_session_keeps_it() -> None:
    known = sessions()
    known.open("client", b"route", Bounds(latency_ms=5), 0)
    known.find(b"route", KEPT_US - 1)
    again = known.open("client", b"new", Bounds(), KEPT_US + 10)
    assert again is not None
    assert again.bounds.latency_ms == 5


def test_hello_changes_only_the_bounds_that_it_names() -> None:
    known = sessions()
    known.open("client", b"1", Bounds(latency_ms=5, on_miss="drop"), 0)
    again = known.open("client", b"2", Bounds(latency_ms=9), 1)
    assert again is not None
    assert again.bounds == Bounds(latency_ms=9, on_miss="drop")


def test_one_session_too_many_costs_the_one_silent_for_longest() -> None:
    known = sessions(sessions_max=2)
    known.open("a", b"a", Bounds(latency_ms=1), 0)
    known.open("b", b"b", Bounds(latency_ms=2), 10)
    known.find(b"a", 15)
    known.open("c", b"c", Bounds(), 20)
    assert known.open("a", b"a2", Bounds(), 30).bounds == Bounds(latency_ms=1), "a spoke after b"
    assert known.open("b", b"b2", Bounds(), 40).bounds == Bounds(), "b was forgotten, and starts anew"


def test_a_client_that_reconnects_for_ever_costs_a_bounded_number_of_routes_and_harms_no_live_connection() -> None:
    known = sessions(sessions_max=2)
    known.open("steady", b"steady", Bounds(), 0)
    for number in range(100):
        known.open("restless", b"%d" % number, Bounds(), number)
        assert known.find(b"steady", number) is not None
    found = [number for number in range(100) if known.find(b"%d" % number, 100) is not None]
    assert found == list(range(100 - (2 * 4 - 1), 100))


def test_a_request_overrides_the_session_and_conditions_stand_for_accuracy_and_energy() -> None:
    session = sessions().open("client", b"1", Bounds(latency_ms=5, accuracy=0.9), 0)
    assert session is not None
    assert session.asked_for("net", Bounds(latency_ms=7)) == asked(Bounds(latency_ms=7, accuracy=0.9))
    session.conditions["net"] = STOP
    assert session.asked_for("net", Bounds()) == asked(Bounds(latency_ms=5, conditions=STOP))
    assert session.asked_for("other", Bounds()) == asked(Bounds(latency_ms=5, accuracy=0.9))
    assert session.asked_for("net", Bounds(accuracy=0.8)) == asked(Bounds(latency_ms=5, accuracy=0.8))


def test_a_request_like_the_one_before_is_held_to_the_session_as_it_stands_now() -> None:
    session = sessions().open("client", b"1", Bounds(latency_ms=5), 0)
    again = Bounds(accuracy=0.5)
    assert session.asked_for("net", again) is session.asked_for("net", Bounds(accuracy=0.5)), "nothing has changed"
    session.bounds = Bounds(latency_ms=6)
    assert session.asked_for("net", again).latency_ms == 6
    session.conditions["net"] = STOP
    assert session.asked_for("net", Bounds()).conditions == STOP
    del session.conditions["net"]
    assert session.asked_for("net", Bounds()).conditions is None


def test_an_acknowledgement_shows_what_is_set_and_nothing_else() -> None:
    assert shown(Bounds(latency_ms=5, accuracy=None)) == Bounds(latency_ms=5)
