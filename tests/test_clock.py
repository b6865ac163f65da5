"""Exits and clocks together: the cheapest clock there is time for, never at the expense of a bound."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer, Refusal
from delen.daemon.noise import NoiseSpec
from delen.daemon.simulate import Simulation
from delen.policies.clock import ClockOptions, device_clock
from delen.policies.policy import PolicyError, make_policy
from delen.policies.view import Run, Served
from delen.tests.many import many
from delen.tests.tx2 import BEST_KHZ, TOP_KHZ, tx2


@dataclass
class Exact:
    """A correction that believes the profile, so that what fits can be worked out by hand."""

    mu: float = 1.0
    margin: float = 0.0
    factor: float = 1.0

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """Learns nothing."""


def day(
    *networks: Served, options: ClockOptions | None = None, switch_us: int = 1_000, dwell_us: int = 0, seed: int = 0
) -> Simulation:
    served = list(networks) or [tx2()]
    for network in served:
        network.correction = Exact()
    policy = make_policy("clock", {} if options is None else {name: getattr(options, name) for name in OPTIONS})
    simulation = Simulation(served, seed=seed, policy=policy, noise=NoiseSpec())
    simulation.server.view().clock = device_clock(served, switch_us, dwell_us)
    return simulation


OPTIONS = ("idle_mw", "awake_mw", "use_max", "slack_share")


def deep(latency_ms: float) -> Bounds:
    return Bounds(latency_ms=latency_ms, accuracy=0.76, objective="energy")


def clocks(simulation: Simulation) -> list[int]:
    return [run.clock_khz for run in simulation.runs]


def test_with_time_to_spare_it_runs_at_the_clock_that_takes_least() -> None:
    simulation = day()
    simulation.ask(0, "a", deep(250), "resnet50")
    [outcome] = simulation.run()
    assert clocks(simulation) == [BEST_KHZ]
    assert isinstance(outcome.reply, Answer)
    assert outcome.reply.energy_mj == pytest.approx(98.457)
    assert outcome.ended_us - outcome.sent_us == pytest.approx(58_850 + 1_000, abs=3)


# Exit 2 takes 38.4, 42.2, 44.7, 51.4, 58.9 ms at 1300.5, 1122, 1032.75, 854.25, 726.75 MHz; a change takes 1.
@pytest.mark.parametrize(
    ("latency_ms", "khz"), [(38.6, TOP_KHZ), (43.4, 1_122_000), (45.8, 1_032_750), (52.5, 854_250), (60.0, BEST_KHZ)]
)
def test_a_tighter_bound_takes_the_slowest_clock_that_keeps_it(latency_ms: float, khz: int) -> None:
    simulation = day()
    simulation.ask(0, "a", deep(latency_ms), "resnet50")
    [outcome] = simulation.run()
    assert clocks(simulation) == [khz]
    assert isinstance(outcome.reply, Answer)
    assert not outcome.reply.broken


def test_a_queue_is_run_faster_than_one_request_alone() -> None:
    simulation = day()
    for _ in range(6):
        simulation.ask(0, "a", deep(300), "resnet50")
    outcomes = simulation.run()
    assert clocks(simulation)[0] > BEST_KHZ
    assert clocks(simulation)[-1] == BEST_KHZ
    assert all(isinstance(outcome.reply, Answer) and not outcome.reply.broken for outcome in outcomes)


def test_nobody_is_refused_whom_the_highest_clock_would_have_served() -> None:
    simulation = day()
    for _ in range(6):
        simulation.ask(0, "a", deep(260), "resnet50")
    assert not any(isinstance(outcome.reply, Refusal) for outcome in simulation.run())


def test_a_busy_device_goes_faster_before_a_queue_forms() -> None:
    simulation = day()
    for at_us in range(0, 6_000_000, 48_000):
        simulation.ask(at_us, "a", deep(250), "resnet50")
    simulation.run()
    # 38.4 of every 48 ms at the highest clock: at 726.75 MHz there would not be time for all.
    assert min(clocks(simulation)[-20:]) > BEST_KHZ


def test_after_a_change_it_does_not_go_lower_before_its_dwell() -> None:
    simulation = day(dwell_us=200_000)
    for at_us, latency_ms in ((1_000_000, 45.8), (1_100_000, 250), (1_400_000, 250)):
        simulation.ask(at_us, "a", deep(latency_ms), "resnet50")
    simulation.run()
    assert clocks(simulation) == [1_032_750, 1_032_750, BEST_KHZ]


def test_power_that_ends_with_the_work_favours_being_done_soon() -> None:
    found = []
    for awake_mw in (0.0, 1_000.0, 3_000.0, 30_000.0):
        simulation = day(options=ClockOptions(awake_mw=awake_mw))
        simulation.ask(0, "a", deep(500), "resnet50")
        simulation.run()
        found += clocks(simulation)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (BEST_KHZ, TOP_KHZ)


def test_power_that_is_drawn_idling_favours_going_slow() -> None:
    simulation = day(options=ClockOptions(idle_mw=400.0))
    simulation.ask(0, "a", deep(1_000), "resnet50")
    simulation.run()
    assert clocks(simulation)[0] < BEST_KHZ


@pytest.mark.parametrize("idle_mw", [0.0, 400.0, 3_000.0])
@pytest.mark.parametrize("energy_mj", [28.0, 80.0, 160.0])
def test_nobody_pays_more_than_at_the_highest_clock(energy_mj: float, idle_mw: float) -> None:
    simulation = day(options=ClockOptions(idle_mw=idle_mw), dwell_us=300_000)
    simulation.poisson("a", Bounds(energy_mj=energy_mj), 1.5, 0, 20_000_000, network="resnet50")
    answers = [outcome.reply for outcome in simulation.run() if isinstance(outcome.reply, Answer)]
    assert len(answers) > 20
    assert not any(answer.broken for answer in answers)


def test_without_clocks_it_decides_as_the_default_policy() -> None:
    logs = []
    for name in ("clock", "stage-edf"):
        served = tx2()
        served.at_khz = {}
        simulation = Simulation([served], seed=1, policy=make_policy(name))
        simulation.poisson("a", Bounds(latency_ms=150), 15, 0, 2_000_000, network="resnet50")
        simulation.run()
        logs.append((simulation.log_hash, clocks(simulation)))
    assert logs[0] == logs[1]
    assert not any(logs[0][1])


@pytest.mark.parametrize("seed", many(range(12), 2))
def test_books_and_invariants_hold_on_busy_days_with_two_networks(seed: int) -> None:
    simulation = day(tx2(), tx2("resnet18"), seed=seed, dwell_us=20_000)
    for network in ("resnet50", "resnet18"):
        simulation.poisson("a", Bounds(latency_ms=200, accuracy=0.5), 6, 0, 4_000_000, network=network)
        simulation.poisson("b", Bounds(latency_ms=400), 3, 0, 4_000_000, network=network)
        simulation.poisson("c", Bounds(), 1, 0, 4_000_000, network=network)
    simulation.kill_worker(2_000_000)
    assert simulation.run()
    assert simulation.clock.switches


@pytest.mark.parametrize(
    ("bounds", "now_us", "free_us"),
    [
        # What its deadline needs is exit 2, which is 58.9 ms away at this clock, after the change.
        (deep(250), 10_000, 59_850),
        # Nobody needs it, so it gives way at its next exit: at 30.3 ms, exit 0 at 12.5 ms is passed.
        (Bounds(), 14_000, 31_255),
    ],
)
def test_a_slow_run_is_known_to_be_slow(bounds: Bounds, now_us: int, free_us: int) -> None:
    simulation = day()
    simulation.ask(0, "a", bounds, "resnet50")
    simulation.run(until_us=1)
    assert clocks(simulation) == [BEST_KHZ]
    assert simulation.server._device.free_us(now_us) == pytest.approx(free_us, abs=5)


def test_nothing_is_posted_at_another_clock_behind_a_run() -> None:
    served = tx2()
    served.correction = Exact()
    simulation = Simulation(
        [served], seed=3, policy=make_policy("clock"), noise=NoiseSpec(), ahead_us=20_000, hop_us=500
    )
    clock = simulation.server.view().clock = device_clock([served], 1_000, 0)
    assert clock is not None
    server, behind = simulation.server, []
    ask = server.next

    def asked(now_us: int) -> Run | None:
        busy, khz = server.busy, clock.now_khz
        run = ask(now_us)
        if busy and run is not None:
            behind.append((khz, run.clock_khz))
        return run

    server.next = asked  # type: ignore[method-assign]
    simulation.poisson("a", deep(250), 14, 0, 10_000_000, network="resnet50")
    simulation.run()
    assert behind
    assert all(before == after for before, after in behind)


def test_networks_share_the_clocks_that_all_of_them_know() -> None:
    one, other = tx2(), tx2("resnet18")
    other.at_khz = {khz: costs for khz, costs in other.at_khz.items() if khz >= BEST_KHZ}
    clock = device_clock([one, other], 0, 0)
    assert clock is not None
    assert clock.steps_khz[0] == BEST_KHZ
    other.at_khz = {}
    assert device_clock([other], 0, 0) is None


def test_a_network_that_knows_no_clocks_runs_at_the_highest() -> None:
    one, other = tx2(), tx2("resnet18")
    other.at_khz = {}
    simulation = day(one, other)
    for at_us in (0, 1_000_000):
        simulation.ask(at_us, "a", deep(400), "resnet50")
        simulation.ask(at_us + 500_000, "a", Bounds(latency_ms=400), "resnet18")
    simulation.run()
    # As it is, it would be as slow as the run before, and its times are those of the highest.
    assert [(run.network, run.clock_khz) for run in simulation.runs] == [
        ("resnet50", BEST_KHZ),
        ("resnet18", TOP_KHZ),
    ] * 2


def test_options_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(PolicyError, match=r"slack_share is 2\.0; expected 0 to 1"):
        make_policy("clock", {"slack_share": 2.0})
