"""What connections may do to the daemon: caps, cooling down, and memory that grows while nothing is delivered."""

from __future__ import annotations

from delen.daemon.guard import (
    CLOSED_US_MAX,
    CLOSED_US_MIN,
    FORGIVEN_US,
    QUIET_LOOKS,
    SILENT_LOOKS,
    ConnectionGuard,
    Intake,
    Manners,
    MemoryGuard,
)

MB = 1024**2


def test_one_too_many_is_noticed_and_those_that_go_make_room() -> None:
    guard = ConnectionGuard(3)
    assert [guard.accepted(fd) for fd in (5, 6, 7)] == [False] * 3
    guard.gone(6)
    assert not guard.accepted(8)
    assert guard.accepted(9)


def test_a_closed_door_counts_nothing_and_opens_when_due() -> None:
    guard = ConnectionGuard(1)
    guard.accepted(5)
    guard.close(1000)
    # Events that were on their way when it was closed.
    assert not guard.accepted(6)
    assert not guard.due(1000 + CLOSED_US_MIN - 1)
    assert guard.due(1000 + CLOSED_US_MIN)
    guard.opened(1000 + CLOSED_US_MIN)
    assert guard.open_at_us is None
    assert not guard.fds


def test_a_door_that_fills_up_at_once_stays_closed_ever_longer_until_it_was_calm() -> None:
    guard, now_us, waits = ConnectionGuard(1), 0, []
    for _ in range(8):
        waits.append(guard.close(now_us))
        now_us += waits[-1]
        guard.opened(now_us)
    assert waits[:3] == [CLOSED_US_MIN, 2 * CLOSED_US_MIN, 4 * CLOSED_US_MIN]
    assert waits[-1] == CLOSED_US_MAX
    assert guard.close(now_us + FORGIVEN_US) == CLOSED_US_MIN


def test_too_many_malformed_within_the_window_cool_a_tenant_down_once() -> None:
    manners = Manners(malformed_max=3, window_us=1000, cool_us=500)
    assert [manners.malformed(at) for at in (0, 10, 20)] == [False, False, True]
    assert manners.until_us == 520
    assert not manners.malformed(30), "it cools down already"
    assert manners.cooling(519)
    assert not manners.cooling(520)
    assert manners.until_us is None


def test_a_few_malformed_over_a_long_time_are_forgiven() -> None:
    manners = Manners(malformed_max=3, window_us=1000, cool_us=500)
    assert not any(manners.malformed(at) for at in range(0, 100_000, 600))


def test_who_takes_in_bytes_and_delivers_nothing_while_memory_grows_is_suspected() -> None:
    guard = grown_guard()
    intakes = {"a": Intake({5}, set()), "b": Intake({6, 7, 8}, {6, 7, 8}), "c": Intake(set(), set())}
    looks = [guard.suspects(132 * MB, intakes) for _ in range(SILENT_LOOKS)]
    assert looks == [[]] * (SILENT_LOOKS - 1) + [["a"]]
    assert guard.suspects(132 * MB, intakes) == [], "it was closed, and is judged anew"


def test_messages_of_another_connection_do_not_hide_the_one_that_delivers_nothing() -> None:
    guard = grown_guard()
    looks = [guard.suspects(132 * MB, {"a": Intake({5, 6}, {6})}) for _ in range(SILENT_LOOKS)]
    assert looks[-1] == ["a"]


def test_a_sender_without_end_is_found_though_its_descriptor_is_empty_at_most_looks() -> None:
    guard = grown_guard()
    empty, waiting = {"a": Intake(set(), set())}, {"a": Intake({5}, set())}
    looks = [guard.suspects(200 * MB, intakes) for intakes in ([empty] * 7 + [waiting]) * SILENT_LOOKS]
    assert looks[-1] == ["a"]


def test_a_large_message_that_arrives_in_the_end_is_not_suspicious() -> None:
    guard = grown_guard()
    for _ in range(10):
        assert not any(guard.suspects(132 * MB, {"a": Intake({5}, set())}) for _ in range(SILENT_LOOKS - 1))
        assert guard.suspects(132 * MB, {"a": Intake({5}, {5})}) == []


def test_who_asks_and_does_not_read_is_suspected_before_who_was_only_not_heard() -> None:
    guard = grown_guard()
    intakes = {"a": Intake(set(), {5}, {5}), "b": Intake({6}, set())}
    assert [guard.slow(intakes) for _ in range(SILENT_LOOKS)] == [[]] * (SILENT_LOOKS - 1) + [["a"]]
    assert guard.slow(intakes) == [], "it begins anew"


def test_answers_that_are_taken_now_and_then_are_not_suspicious() -> None:
    guard = grown_guard()
    waiting, taken = {"a": Intake(set(), {5}, {5})}, {"a": Intake(set(), {5}, {7})}
    for _ in range(10):
        assert not any(guard.slow(intakes) for intakes in [waiting] * (SILENT_LOOKS - 1) + [taken])


def test_memory_that_is_in_use_becomes_the_calm_level_once_nobody_sends() -> None:
    guard = grown_guard()
    for _ in range(2 * QUIET_LOOKS):
        assert guard.suspects(200 * MB, {"b": Intake({5}, {5})}) == []
    assert guard.grown(200 * MB), "somebody still sends: not yet calm"
    for _ in range(QUIET_LOOKS):
        assert guard.suspects(200 * MB, {"b": Intake(set(), set())}) == []
    assert not guard.grown(210 * MB)
    assert not guard.grown(90 * MB), "less than before is calm, and counts from there"
    assert guard.grown(122 * MB)


def grown_guard() -> MemoryGuard:
    """One whose process had 100 MB and has grown by the 32 it may."""
    guard = MemoryGuard(32 * MB)
    assert not guard.grown(100 * MB)
    assert not guard.grown(131 * MB)
    assert guard.grown(132 * MB)
    return guard
