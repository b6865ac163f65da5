"""A board whose mode or clock changes while the daemon runs: seen at the next look, costs follow, people are told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer
from delen.daemon import hosting
from delen.daemon.aside import Aside
from delen.daemon.clock_watch import EVERY_US, ClockWatch, Fitted, fitted_to
from delen.daemon.config import Limits
from delen.daemon.recorded import Recorded
from delen.daemon.replay import replay
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS
from delen.exits.bundle import Bundle, find_bundle, load_bundle, shipped_directory
from delen.policies.exits import asked
from delen.policies.policy import make_policy
from delen.policies.view import NEVER_US, Run
from delen.profiles.board_clocks import Setting
from delen.profiles.clocked import gpu_khz
from delen.profiles.store import write_profile
from delen.tests.jetson_tree import GPU, put
from delen.tests.slow_driver import SlowDriver
from delen.tests.watched_clock import LOW_KHZ, SECOND_US, TOP_KHZ, Watched, taken


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(find_bundle("digits", [shipped_directory()]))


def test_while_nothing_changes_nothing_is_told(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    served, costs = watched.server.networks["digits"], watched.server.networks["digits"].costs
    for _ in range(3):
        watched.look()
    assert served.costs is costs
    assert not watched.notes
    watched.watch.close()


def test_between_looks_it_has_nothing_to_do_and_says_until_when(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    watch = watched.watch
    assert watch.wake_at() == 0
    watched.turn()
    # Who looks says when it is done: there is nothing to wait for meanwhile.
    assert watch.wake_at() == NEVER_US
    assert watch._reading is not None
    watch._reading.result(5)
    watched.turn()
    assert watch.wake_at() == EVERY_US
    watched.now_us = EVERY_US - 1
    watched.turn()
    assert watch.wake_at() == EVERY_US
    watched.now_us = EVERY_US
    watched.turn()
    assert watch.wake_at() == NEVER_US
    watch.close()


def test_a_lower_clock_is_seen_within_two_seconds_and_costs_are_scaled(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    watched.look()
    before_us, since_us = watched.path_us(), watched.now_us
    served = watched.server.networks["digits"]
    for _ in range(30):
        served.correction.observe(100.0, 100.0)
    assert served.correction.margin < 0.1
    watched.limit(LOW_KHZ)
    watched.look()
    watched.look()
    assert watched.now_us - since_us <= 2_000_000
    assert watched.path_us() == pytest.approx(before_us * TOP_KHZ / LOW_KHZ)
    assert served.correction.margin == pytest.approx(0.3)
    assert "stale: taken power mode MAXN, GPU at 1300.5 MHz, now power mode MAXN, GPU at 420.75 MHz" in (
        watched.told["digits"].profile
    )
    assert any("setting has changed" in note for note in watched.notes)
    assert any("measure it there with `delen profile digits`" in note for note in watched.notes)
    watched.watch.close()


def test_back_at_its_own_clock_it_is_as_it_was(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    watched.look()
    before_us, told = watched.path_us(), watched.told["digits"].profile
    for khz in (LOW_KHZ, TOP_KHZ):
        watched.limit(khz)
        watched.look()
        watched.look()
    assert watched.path_us() == pytest.approx(before_us)
    assert watched.told["digits"].profile == told
    watched.watch.close()


def test_a_profile_taken_there_is_used_and_not_called_stale(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    there = taken(bundle, LOW_KHZ)
    write_profile(watched.state, there)
    watched.look()
    watched.limit(LOW_KHZ)
    watched.look()
    watched.look()
    assert watched.path_us() == pytest.approx(hosting.costs_of(bundle, there, 8).path_us(0, 2, 1))
    assert "stale" not in watched.told["digits"].profile
    watched.watch.close()


def test_after_a_hot_swap_the_new_one_is_watched_and_the_old_one_forgotten(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    watched.look()
    watched.limit(LOW_KHZ)
    watched.look()
    assert "; stale: " in watched.told["digits"].profile
    watched.swap(watched.profile)
    watched.look()
    new = watched.server.networks["digits#2"]
    loaded_us = hosting.costs_of(bundle, watched.profile, 8).path_us(0, 2, 1)
    assert new.costs.path_us(0, 2, 1) == pytest.approx(loaded_us * TOP_KHZ / LOW_KHZ)
    assert "; stale: " in watched.told["digits"].profile
    # The old one has nothing to do any more, and then the board changes again.
    watched.server.forget(["digits"])
    watched.profiles.pop("digits")
    watched.limit(TOP_KHZ)
    watched.look()
    assert new.costs.path_us(0, 2, 1) == loaded_us
    assert "stale" not in watched.told["digits"].profile
    assert set(watched.watch._fitted) == {"digits#2"}
    assert "digits#2" not in "".join(watched.notes), "operators know names"
    watched.watch.close()


def test_while_both_serve_tenants_are_told_of_the_new_one(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    watched.look()
    # Measured where the board will be; the old one was not.
    watched.swap(taken(bundle, LOW_KHZ))
    watched.limit(LOW_KHZ)
    watched.look()
    assert "stale" not in watched.told["digits"].profile
    assert watched.path_us() > watched.server.networks["digits#2"].costs.path_us(0, 2, 1) * 0.99
    watched.watch.close()


def test_a_copy_made_at_another_clock_costs_what_it_was_loaded_with_once_that_is_set(
    tmp_path: Path, bundle: Bundle
) -> None:
    watched = Watched(tmp_path, bundle)
    watched.look()
    watched.limit(LOW_KHZ)
    watched.look()
    slow = watched.server.networks["digits"].costs
    watched.limit(TOP_KHZ)
    watched.look()
    watched.swap(watched.profile)
    # As it was copied from the one that served, before the board changed back.
    copy, loaded_us = watched.server.networks["digits#2"], watched.path_us()
    copy.costs = slow
    watched.look()
    assert copy.costs.path_us(0, 2, 1) == loaded_us
    watched.watch.close()


def test_heat_counts_as_a_change(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    watched.look()
    put(watched.root, "sys/class/thermal/cooling_device0/type", "gpu-throttle-alert")
    put(watched.root, "sys/class/thermal/cooling_device0/cur_state", "1")
    put(watched.root, f"{GPU}/cur_freq", str(1000 * LOW_KHZ))
    watched.look()
    watched.look()
    assert "held down by gpu-throttle-alert" in watched.told["digits"].profile
    watched.watch.close()


def test_a_request_admitted_at_the_old_clock_still_ends(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle)
    watched.look()
    infer = Infer(VERSION, b"1", "digits", TENSORS, Bounds(latency_ms=50.0))
    watched.server.submit(watched.now_us, "a", infer, asked(Bounds(latency_ms=50.0)), b"x")
    watched.limit(LOW_KHZ)
    watched.look()
    watched.look()
    assert watched.server.next(watched.now_us) is not None or watched.server.expire(watched.now_us)
    watched.watch.close()


def test_a_change_is_part_of_the_journal(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle, policy="clock", clocks="may-set", journal=True)
    write_profile(watched.state, taken(bundle, LOW_KHZ))
    assert isinstance(watched.server, Recorded)
    watched.look()
    bounds = Bounds(latency_ms=500.0, accuracy=0.5)
    infer = Infer(VERSION, b"1", "digits", TENSORS, bounds)
    assert isinstance(watched.server.submit(watched.now_us, "a", infer, asked(bounds), b"x")[0], int)
    run = watched.server.next(watched.now_us)
    assert run is not None
    assert run.clock_khz
    assert watched.journal is not None
    watched.journal.close()
    replayed = replay(watched.path)
    assert replayed.difference is None
    assert replayed.server.networks["digits"].at_khz.keys() == watched.server.networks["digits"].at_khz.keys()
    watched.watch.close()


def test_the_policy_gets_the_clocks_that_may_be_set_and_its_runs_set_them(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle, policy="clock", clocks="may-set")
    write_profile(watched.state, taken(bundle, LOW_KHZ))
    watched.look()
    clock = watched.server.view().clock
    assert clock is not None
    assert clock.steps_khz == (LOW_KHZ, 726_750, TOP_KHZ)
    watched.hold(LOW_KHZ)
    assert (watched.root / GPU / "max_freq").read_text().strip() == str(1000 * LOW_KHZ)
    watched.look()
    watched.look()
    assert not any("setting has changed" in note for note in watched.notes)
    watched.watch.close()
    assert (watched.root / GPU / "max_freq").read_text().strip() == str(1000 * TOP_KHZ)


def _clocked(tmp_path: Path, bundle: Bundle, *, journal: bool = False) -> tuple[Watched, Run]:
    """Asked something that has time; the run for it, at a clock that is not the one in force."""
    watched = Watched(tmp_path, bundle, policy="clock", clocks="may-set", journal=journal)
    write_profile(watched.state, taken(bundle, LOW_KHZ))
    watched.look()
    # The dwell of the first one is over.
    watched.look()
    bounds = Bounds(latency_ms=500.0, accuracy=0.5)
    infer = Infer(VERSION, b"1", "digits", TENSORS, bounds)
    watched.server.submit(watched.now_us, "a", infer, asked(bounds), b"x")
    run = watched.server.next(watched.now_us)
    assert run is not None
    assert run.clock_khz == LOW_KHZ
    return watched, run


def test_a_clock_is_in_force_once_its_write_has_come_back(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = SlowDriver(monkeypatch)
    watched, run = _clocked(tmp_path, bundle, journal=True)
    clock = watched.server.view().clock
    assert clock is not None
    driver.hang()
    # Comes back, though the write does not.
    watched.watch.hold(run)
    driver.asked()
    watched.now_us += 1_000
    watched.turn()
    assert (clock.now_khz, clock.next_khz) == (TOP_KHZ, LOW_KHZ)
    assert clock.dwells(watched.now_us + SECOND_US)
    driver.answer()
    watched.now_us += 20_000
    watched.settle()
    assert (clock.now_khz, clock.since_us) == (LOW_KHZ, watched.now_us)
    assert not clock.dwells(watched.now_us + SECOND_US)
    watched.watch.close()
    assert watched.journal is not None
    watched.journal.close()
    replayed = replay(watched.path)
    assert replayed.difference is None
    again = replayed.server.view().clock
    assert again is not None
    assert (again.now_khz, again.since_us) == (LOW_KHZ, watched.now_us)


def test_while_the_driver_hangs_work_goes_on_at_the_clock_it_has(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = SlowDriver(monkeypatch)
    watched, run = _clocked(tmp_path, bundle)
    top_us = watched.path_us()
    driver.hang()
    watched.watch.hold(run)
    driver.asked()
    watched.turn()
    watched.now_us = watched.watch.wake_at()
    watched.turn()
    assert any("does not answer; its clock stays as it is" in note for note in watched.notes)
    served = watched.server.networks["digits"]
    assert (watched.server.view().clock, served.at_khz) == (None, {})
    assert watched.path_us() == pytest.approx(top_us)
    # What becomes of the clock meanwhile is seen as if another had done it.
    put(watched.root, f"{GPU}/max_freq", str(1000 * LOW_KHZ))
    watched.look()
    assert watched.path_us() > 2 * top_us
    driver.answer()
    watched.settle()
    clock = watched.server.view().clock
    assert clock is not None
    assert clock.now_khz == LOW_KHZ
    assert watched.path_us() == pytest.approx(top_us)
    watched.watch.close()


class Slow(Aside):
    """Reads when it is told to."""

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        self.work, self.future = work, Future[Any]()
        return self.future

    def read(self) -> None:
        self.future.set_result(self.work())


def test_a_clock_set_while_it_looked_is_no_change(tmp_path: Path, bundle: Bundle) -> None:
    watched = Watched(tmp_path, bundle, policy="clock", clocks="may-set")
    write_profile(watched.state, taken(bundle, LOW_KHZ))
    watched.look()
    slow = watched.watch._aside = Slow("slow", lambda: None)
    for khz in (LOW_KHZ, 726_750, TOP_KHZ, LOW_KHZ):
        watched.now_us += 1_000_000
        watched.turn()
        # Between the beginning of a look and what comes of it the clock changes twice; it is read after the first.
        watched.hold(khz)
        slow.read()
        watched.hold(726_750)
        watched.turn()
    assert not any("setting has changed" in note for note in watched.notes)
    put(watched.root, "var/lib/nvpmodel/status", "pmode:0001")
    watched.now_us += 1_000_000
    watched.turn()
    slow.read()
    watched.turn()
    assert any("setting has changed" in note and "MAXQ" in note for note in watched.notes)
    watched.watch.close()


def test_without_leave_or_rights_the_clock_stays_and_it_says_why(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, bundle, policy="clock")
    assert 'policy clock: clocks = "read"' in watched.notes[0]
    watched.look()
    assert watched.server.view().clock is None

    def denied(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", denied)
    notes: list[str] = []
    config = replace(watched.config, clocks="may-set")
    ClockWatch(config, watched.state, lambda text, **_: notes.append(text), root=watched.root)  # type: ignore[arg-type]
    assert "the clock stays as it is: no right to set the GPU's clock" in notes[0]
    watched.watch.close()


def test_figures_of_another_mode_are_scaled_by_the_clock_and_said_to_be(bundle: Bundle) -> None:
    profile = taken(bundle, TOP_KHZ)
    found = fitted_to(Setting("MAXQ", 726_750), profile, [profile])
    assert gpu_khz(found.profile.device) == 726_750
    assert "taken power mode MAXN" in found.stale
    found = fitted_to(Setting("MAXQ", TOP_KHZ), profile, [profile])
    assert found.profile is profile
    assert "used as it is, with wide margins" in found.stale
    there = taken(bundle, 726_750, "MAXQ")
    assert fitted_to(Setting("MAXQ", 726_750), profile, [profile, there]) == Fitted(there, "")


def test_where_clocks_are_unknown_a_changed_mode_is_said(bundle: Bundle) -> None:
    profile = taken(bundle, TOP_KHZ)
    profile = replace(profile, device=replace(profile.device, clocks_khz={}))
    found = fitted_to(Setting("MAXQ", 726_750), profile, [profile])
    assert found.profile is profile
    assert "used as it is, with wide margins" in found.stale
    assert fitted_to(Setting(None, None), profile, [profile]) == Fitted(profile, "")


def test_a_core_of_the_policy_alone_has_no_clock() -> None:
    assert Server(Limits(), make_policy("clock")).view().clock is None
