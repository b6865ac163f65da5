"""The GPU's clock is set by a thread: nobody waits for it, and what was found is given back whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest

from delen.daemon import clock_hold
from delen.daemon.clock_hold import AGAIN_US, SET_US_MAX, ClockHold, Turned
from delen.daemon.clock_limits import limits_path
from delen.policies.view import NEVER_US
from delen.tests.jetson_tree import GPU, jetson_tree, put
from delen.tests.slow_driver import SlowDriver

LEAST_KHZ, LOW_KHZ, MIDDLE_KHZ, TOP_KHZ = 114_750, 420_750, 726_750, 1_300_500


class Held:
    """A made-up board and who holds its GPU's clock."""

    def __init__(self, tmp_path: Path) -> None:
        self.root, self.state = tmp_path / "root", tmp_path / "state"
        jetson_tree(self.root)
        put(self.root, "proc/sys/kernel/random/boot_id", "one")
        self.holds: list[ClockHold] = []
        self.hold = self.start()

    def start(self, *, may_set: bool = True) -> ClockHold:
        """As a daemon does; one before it is not ended but killed."""
        self.hold = ClockHold(self.root, self.state, may_set=may_set, wake=lambda: None)
        self.holds.append(self.hold)
        self.first = self.hold.turn(0)
        return self.hold

    def over(self, now_us: int = 0) -> Turned:
        """What is under way comes back, and is seen."""
        job = self.hold._under_way
        assert job is not None
        wait([job], 5)
        return self.hold.turn(now_us)

    def ready(self) -> bool:
        """Whether its clock can be picked."""
        return self.hold.gpu is not None

    def limits_khz(self) -> tuple[int, int]:
        low, high = (int((self.root / GPU / name).read_text()) // 1000 for name in ("min_freq", "max_freq"))
        return low, high


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDriver]:
    driver = SlowDriver(monkeypatch)
    yield driver
    driver.answer()


@pytest.fixture
def held(tmp_path: Path, driver: SlowDriver) -> Iterator[Held]:
    held = Held(tmp_path)
    driver.written.clear()
    yield held
    driver.answer()
    for hold in held.holds:
        hold._aside.close()


def test_a_write_that_hangs_is_waited_for_by_nobody(held: Held, driver: SlowDriver) -> None:
    driver.hang()
    held.hold.wish(LOW_KHZ)
    driver.asked()
    assert held.hold.turn(1_000) == Turned()
    assert held.ready()
    assert held.hold.wake_at() == 1_000 + SET_US_MAX
    late = held.hold.turn(1_000 + SET_US_MAX)
    assert late.changed
    assert "was asked to set 420.75 MHz and does not answer; its clock stays as it is until it does" in late.notes[0]
    assert not held.ready()
    # Said once, and nothing more is asked of it.
    held.hold.wish(TOP_KHZ)
    assert held.hold.turn(10 * SET_US_MAX) == Turned()
    assert held.hold.wake_at() == NEVER_US
    driver.answer()
    assert held.over() == Turned(LOW_KHZ, changed=True)
    assert held.ready()
    assert held.limits_khz() == (LOW_KHZ, LOW_KHZ)


def test_of_wishes_that_come_meanwhile_the_last_is_set(held: Held, driver: SlowDriver) -> None:
    driver.hang()
    held.hold.wish(LOW_KHZ)
    driver.asked()
    for khz in (MIDDLE_KHZ, TOP_KHZ, TOP_KHZ):
        held.hold.wish(khz)
    assert held.hold.recent_khz >= {LOW_KHZ}
    driver.answer()
    assert held.over().confirmed_khz == LOW_KHZ
    assert held.over().confirmed_khz == TOP_KHZ
    assert not held.hold.busy
    assert MIDDLE_KHZ not in {khz for _, khz in driver.written}
    # It has that already.
    held.hold.wish(TOP_KHZ)
    assert not held.hold.busy


def test_after_a_write_that_fails_the_clock_is_left_alone_for_a_while(held: Held, driver: SlowDriver) -> None:
    held.hold.wish(LOW_KHZ)
    held.over()
    driver.fails = True
    held.hold.wish(TOP_KHZ)
    failed = held.over(5)
    assert (failed.confirmed_khz, failed.changed) == (0, True)
    assert "the clock is not set, and stays as it is for a while: busy" in failed.notes[0]
    driver.fails = False
    held.hold.wish(TOP_KHZ)
    assert held.limits_khz() == (LOW_KHZ, LOW_KHZ)
    assert held.hold.wake_at() == 5 + AGAIN_US
    assert held.hold.turn(5 + AGAIN_US) == Turned(changed=True)
    held.hold.wish(TOP_KHZ)
    assert held.over().confirmed_khz == TOP_KHZ


def test_what_somebody_else_has_changed_is_set_again(held: Held) -> None:
    held.hold.wish(LOW_KHZ)
    held.over()
    put(held.root, f"{GPU}/max_freq", str(1000 * TOP_KHZ))
    held.hold.lost()
    held.hold.wish(LOW_KHZ)
    assert held.over().confirmed_khz == LOW_KHZ
    assert held.limits_khz() == (LOW_KHZ, LOW_KHZ)


def test_after_a_kill_the_next_start_gives_back_what_was_found_before_it_sets_anything(
    held: Held, driver: SlowDriver
) -> None:
    for khz in (LOW_KHZ, MIDDLE_KHZ):
        held.hold.wish(khz)
        held.over()
    assert held.limits_khz() == (MIDDLE_KHZ, MIDDLE_KHZ)
    driver.written.clear()
    held.start()
    assert "the GPU has its limits back, 114.75 to 1300.5 MHz" in held.first.notes[0]
    assert driver.written[:2] == [("max_freq", TOP_KHZ), ("min_freq", LEAST_KHZ)]
    assert held.limits_khz() == (LEAST_KHZ, TOP_KHZ)
    assert not limits_path(held.state).exists()
    held.hold.wish(LOW_KHZ)
    held.over()
    assert limits_path(held.state).exists()
    assert held.hold.close() == ""
    assert held.limits_khz() == (LEAST_KHZ, TOP_KHZ)
    assert not limits_path(held.state).exists()


def test_what_was_left_is_given_back_also_where_clocks_are_only_read_now(held: Held) -> None:
    held.hold.wish(LOW_KHZ)
    held.over()
    held.start(may_set=False)
    assert held.limits_khz() == (LEAST_KHZ, TOP_KHZ)
    assert not held.ready()
    assert held.hold.close() == ""


def test_limits_that_cannot_be_given_back_at_once_are_not_forgotten(held: Held, driver: SlowDriver) -> None:
    held.hold.wish(LOW_KHZ)
    held.over()
    driver.fails = True
    held.start()
    assert "are not given back: busy" in held.first.notes[0]
    driver.fails = False
    held.start()
    assert held.limits_khz() == (LEAST_KHZ, TOP_KHZ)


def test_limits_of_before_the_system_s_start_hold_no_more(held: Held, driver: SlowDriver) -> None:
    held.hold.wish(LOW_KHZ)
    held.over()
    put(held.root, "proc/sys/kernel/random/boot_id", "two")
    put(held.root, f"{GPU}/min_freq", str(1000 * LEAST_KHZ))
    put(held.root, f"{GPU}/max_freq", str(1000 * MIDDLE_KHZ))
    held.start()
    assert held.first.notes == ()
    assert held.limits_khz() == (LEAST_KHZ, MIDDLE_KHZ)
    assert not limits_path(held.state).exists()


def test_what_cannot_be_remembered_is_not_changed(held: Held, driver: SlowDriver) -> None:
    held.state.write_text("a file in the directory's place")
    held.hold.wish(LOW_KHZ)
    assert "so its clock is not set: make room" in held.over().notes[0]
    assert driver.written == []


def test_the_end_does_not_wait_for_a_driver_that_hangs(
    held: Held, driver: SlowDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.hold.wish(LOW_KHZ)
    held.over()
    driver.hang()
    held.hold.wish(TOP_KHZ)
    driver.asked()
    monkeypatch.setattr(clock_hold, "WAIT_S_MAX", 0)
    assert "its driver does not answer; the next start gives back" in held.hold.close()
    assert limits_path(held.state).exists()
    driver.answer()


def test_a_driver_that_hangs_at_the_start_is_waited_for_a_moment_only(
    held: Held, driver: SlowDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.hang()
    monkeypatch.setattr(clock_hold, "WAIT_S_MAX", 0)
    held.start()
    driver.asked()
    assert not held.ready()
    assert "was asked to be looked at and does not answer" in held.hold.turn(SET_US_MAX).notes[0]
    driver.answer()
    assert held.over() == Turned(changed=True)
    assert held.ready()
