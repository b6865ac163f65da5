"""Exits and clocks together against exits alone and against the best there could be, on published figures of a TX2.

Role: `bench_clocks` runs the scenario `clocks` at each load under each policy and seed, adds up energy over the whole
run, idle time included, and sets it beside the offline oracle (`policies/clock_oracle.py`) for the same requests.

The figures have no idle power and no rest of the board, so it is stated and swept, in both ways it may be meant.
`always`: it is drawn all the time, whatever the clock; energies saved are the same, and a smaller part of the whole.
`awake`: it is drawn until the work is done, and then the board sleeps; going slower keeps it awake for longer, and the
policy is told so. (As power of the GPU's rail without work it could not be above 0.49 W: at work, at the lowest clock,
the rail draws no more than that.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum
from typing import Literal, NamedTuple

import msgspec

from ..clients.bounds import Bounds
from ..clients.wire import Answer
from ..policies.clock import MJ_PER_US_OF_A_MW
from ..policies.clock_oracle import Job, least_cost
from ..policies.exits import Misfit, asked, plan
from ..policies.view import Served
from .outcomes import Interval, interval
from .scenario import Case, PolicySpec, Scenario, load_scenario, prepare, requests
from .simulate import Simulation

Meant = Literal["always", "awake"]
# W that the figures do not have: none, and what small and large boards may draw.
REST_W = (0.0, 1.0, 3.0)
ALONE = PolicySpec(name="stage-edf")
# The clock that takes least energy for every exit.
FIXED = "jetson-tx2@726MHz"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load under one reading of `rest_w`: energies of the whole run over seeds, and how they compare, percent.

    `use_pct`: of the device with exits alone at the highest clock. `saved_pct`: how much less exits and clock together
    take than those; `fixed_saved_pct`: exits alone at 726.75 MHz always. `over_oracle_pct`: how much more than the
    oracle. `missed_pct`: requests late, refused or cut short; `more_missed_pct`: points beyond exits alone.
    """

    load: float
    meant: Meant
    rest_w: float
    use_pct: float
    alone_j: Interval
    together_j: Interval
    saved_pct: Interval
    fixed_saved_pct: Interval
    over_oracle_pct: Interval
    missed_pct: Interval
    more_missed_pct: Interval
    fixed_more_missed_pct: Interval
    switches_hz: float


def bench_clocks(
    seeds: int, *, duration_s: float | None = None, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Point]:
    """Every load of the scenario under every reading of the power at rest. A seed gives everybody the same requests."""
    scenario = load_scenario("clocks")
    if duration_s is not None:
        scenario = msgspec.structs.replace(scenario, duration_s=duration_s)
    total = len(scenario.cases) * len(REST_W) * seeds
    points: list[Point] = []
    done = 0
    for case in scenario.cases:
        alone = [_run(scenario, case, ALONE, seed) for seed in range(seeds)]
        fixed = [_run(scenario, _at_clock(case, FIXED), ALONE, seed) for seed in range(seeds)]
        for rest_w in REST_W:
            runs = []
            for seed in range(seeds):
                runs.append(_Runs(alone[seed], fixed[seed], *_compared(scenario, case, seed, rest_w)))
                done += 1
                on_progress(done, total)
            if not rest_w:
                unpriced = runs
            else:
                points.append(_point(scenario, case, ("always", rest_w), unpriced))
            points.append(_point(scenario, case, ("awake", rest_w), runs))
    return points


def _at_clock(case: Case, device: str) -> Case:
    return msgspec.structs.replace(case, networks={"resnet50": {"device": device}})


class _Ran(msgspec.Struct, frozen=True):
    """A run's own figures: energy of what ran, mJ, time at work, time from start to end, us; requests missed."""

    energy_mj: float
    busy_us: float
    span_us: float
    missed_pct: float
    switches: int


class _Runs(NamedTuple):
    alone: _Ran
    fixed: _Ran
    together: _Ran
    oracle: _Ran


def _compared(scenario: Scenario, case: Case, seed: int, rest_w: float) -> tuple[_Ran, _Ran]:
    """Exits and clock together, and the oracle, where the rest of the board sleeps without work."""
    together = _run(scenario, case, PolicySpec(name="clock", options={"awake_mw": 1000 * rest_w}), seed)
    sent = requests(scenario, case, seed)
    served = _served(scenario, case)
    jobs = [job for when_us, _, bounds in sent if (job := _job(served, when_us, bounds)) is not None]
    price = MJ_PER_US_OF_A_MW * 1000 * rest_w
    best = least_cost(jobs, scenario.clock_switch_us, price, max(served.at_khz))
    late_pct = 100 * (best.late + len(sent) - len(jobs)) / max(1, len(sent))
    return together, _Ran(best.energy_mj, best.busy_us, together.span_us, late_pct, 0)


def _served(scenario: Scenario, case: Case) -> Served:
    simulation = prepare(scenario, case, PolicySpec(name="clock"), 0)
    [served] = simulation.server.networks.values()
    return served


def _job(served: Served, when_us: int, bounds: Bounds) -> Job | None:
    """The request as the oracle knows it: the same exit, at every clock; None where no exit keeps its bounds."""
    wanted = asked(bounds)
    chosen = plan(wanted, served)
    if isinstance(chosen, Misfit) or wanted.latency_ms is None:
        return None
    ways = {}
    for khz, costs in served.at_khz.items():
        energy_mj = costs.energy_mj(chosen.target, 1)
        assert energy_mj is not None
        ways[khz] = costs.path_us(0, chosen.target, 1), energy_mj
    return Job(when_us, when_us + served.guard.usable_us(wanted.latency_ms), ways)


def _run(scenario: Scenario, case: Case, spec: PolicySpec, seed: int) -> _Ran:
    simulation = prepare(scenario, case, spec, seed, check=False)
    simulation.run()
    return _ran(simulation, scenario)


def _ran(simulation: Simulation, scenario: Scenario) -> _Ran:
    tenants = {outcome.tenant for outcome in simulation.outcomes}
    accounts = [simulation.server.ledger.account(tenant) for tenant in tenants]
    energy_mj = sum(account.energy_mj for account in accounts)
    busy_us = float(sum(account.device_us for account in accounts))
    switches, clock = simulation.clock.switches, simulation.server.view().clock
    if clock is not None and switches:
        # While it changes it draws what it draws at work.
        switch_us = float(switches * clock.switch_us)
        energy_mj += energy_mj / busy_us * switch_us
        busy_us += switch_us
    missed = sum(1 for outcome in simulation.outcomes if not isinstance(outcome.reply, Answer) or outcome.reply.broken)
    span_us = max(scenario.duration_s * 1e6, float(simulation.now_us))
    return _Ran(energy_mj, busy_us, span_us, 100 * missed / max(1, len(simulation.outcomes)), switches)


def _whole_j(ran: _Ran, meant: Meant, rest_w: float) -> float:
    """Energy of the whole run, joules."""
    rest_us = ran.span_us if meant == "always" else ran.busy_us
    return ran.energy_mj / 1000 + rest_w * rest_us / 1e6


def _point(scenario: Scenario, case: Case, reading: tuple[Meant, float], runs: Sequence[_Runs]) -> Point:
    wholes = [tuple(_whole_j(ran, *reading) for ran in each) for each in runs]
    return Point(
        load=case.load,
        meant=reading[0],
        rest_w=reading[1],
        use_pct=100 * fsum(each.alone.busy_us / each.alone.span_us for each in runs) / len(runs),
        alone_j=_of([alone for alone, _, _, _ in wholes]),
        together_j=_of([together for _, _, together, _ in wholes]),
        saved_pct=_of([100 * (1 - together / alone) for alone, _, together, _ in wholes]),
        fixed_saved_pct=_of([100 * (1 - fixed / alone) for alone, fixed, _, _ in wholes]),
        over_oracle_pct=_of([100 * (together / oracle - 1) for _, _, together, oracle in wholes]),
        missed_pct=_of([each.together.missed_pct for each in runs]),
        more_missed_pct=_of([each.together.missed_pct - each.alone.missed_pct for each in runs]),
        fixed_more_missed_pct=_of([each.fixed.missed_pct - each.alone.missed_pct for each in runs]),
        switches_hz=sum(each.together.switches for each in runs) / len(runs) / scenario.duration_s,
    )


def _of(values: Sequence[float]) -> Interval:
    found = interval(values)
    assert found is not None
    return found
