"""A battery to last until midnight under clouds: pacing against spending, and against a fixed exit chosen in hindsight.

Role: `bench_battery` plays days on the real core: a tenant's requests to ResNet-50 on a Jetson Nano (published
figures), a battery, sun behind clouds that come and go as a Markov chain. Everybody gets the same requests and the same
sky. Nobody is told the sky: the forecast is a clear one, times what clouds leave on average.

The battery is for what requests draw; what the board draws idle would be taken off both sides before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from ..clients.adaptation import Adaptation
from ..clients.bounds import Bounds
from ..clients.wire import Answer
from ..policies.horizon import Harvest, Horizon
from ..policies.view import Served
from ..profiles.boards import parse_spec, replayed
from ..profiles.costs import Costs
from .config import Limits
from .outcomes import Interval, interval
from .simulate import Simulation

DAY_S, STEP_S = 86_400, 300
# The sky: what clouds leave of the sun, and how likely it changes in a step: spells of 100 and 67 minutes on average.
CLOUDED, TO_CLOUDS, TO_CLEAR = 0.25, 0.05, 0.075
SUNRISE_H, SUNSET_H = 6.0, 18.0
# One request in so many seconds on average.
GAP_S = 40.0
# Energy at midnight and expected from the sun, as shares of what all requests at the deepest exit would take.
STORED = 0.4
TENANT = "lodge"
# What may be left of the energy given.
UNUSED_PCT = 2.0


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One day under one policy. `worth`: the accuracies of all answers added up. `unused_pct`: of the energy given.

    `last_gap_s`: from the last answer to midnight; `best_pct`: `worth` of the most that any choice of exits could have
    got from that energy, even if it had all been there at once.
    """

    policy: str
    scarcity: float
    day: int
    requests: int
    answered: int
    worth: float
    given_j: float
    unused_pct: float
    last_gap_s: float
    best_pct: float


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """All days with so much energy for what all requests at the deepest exit would take: means with 95 % intervals.

    `more_pct`: accuracy-weighted answers beyond the policy's in percent: of greedy, and of the fixed exit that was
    best for that day. `within_days`: on which no more than 2 % of the energy given was left.
    """

    scarcity: float
    days: int
    more_than_greedy_pct: Interval
    more_than_fixed_pct: Interval
    of_best_pct: Interval
    unused_pct: Interval
    unused_pct_max: float
    within_days: int
    last_gap_s_max: float
    answered_pct: Interval
    greedy_answered_pct: Interval


def bench_battery(
    days: int,
    scarcities: Sequence[float] = (0.4, 0.55, 0.7, 0.85),
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Compared]:
    """Every scarcity: energy given over energy wanted, on average over skies."""
    found = []
    for position, scarcity in enumerate(scarcities):
        rows = []
        for day in range(days):
            rows.append(play_day(day, scarcity))
            on_progress(position * days + day + 1, len(scarcities) * days)
        found.append(_compared(scarcity, rows))
    return found


def play_day(day: int, scarcity: float) -> dict[str, Day]:
    """One day under every policy."""
    costs = _costs()
    ways = {"battery": Adaptation("battery"), "greedy": Adaptation()}
    ways |= {f"fixed {index}": Adaptation("fixed", exit=index) for index in costs.ladder[:-1]}
    return {name: _play(name, way, day, scarcity, costs) for name, way in ways.items()}


def sky(day: int) -> list[float]:
    """What clouds leave of the sun in each step of the day."""
    random = Random(f"sky {day}")
    clouded = random.random() < TO_CLOUDS / (TO_CLOUDS + TO_CLEAR)
    left = []
    for _ in range(DAY_S // STEP_S):
        clouded = clouded != (random.random() < (TO_CLEAR if clouded else TO_CLOUDS))
        left.append(CLOUDED if clouded else 1.0)
    return left


def _clear_mw(step: int, whole_mj: float) -> float:
    """Power of a clear sky in this step, `whole_mj` over the day."""
    hour = (step + 0.5) * STEP_S / 3600
    day_h = SUNSET_H - SUNRISE_H
    if not SUNRISE_H < hour < SUNSET_H:
        return 0.0
    return whole_mj * math.pi / (2 * day_h * 3600) * math.sin(math.pi * (hour - SUNRISE_H) / day_h)


def _costs() -> Costs:
    return Costs.of(replayed(parse_spec("jetson-nano"), "resnet50"), 8)


class _World:
    """Battery and sun beside a simulation."""

    def __init__(self, simulation: Simulation, day: int, stored_mj: float, sun_mj: float) -> None:
        clear = TO_CLEAR / (TO_CLOUDS + TO_CLEAR)
        self._mean_left = clear + (1 - clear) * CLOUDED
        self._simulation = simulation
        # So much that with average clouds `sun_mj` comes in.
        self._whole_mj = sun_mj / self._mean_left
        self._left = sky(day)
        self.energy_mj = self.given_mj = stored_mj
        self._spent_mj = 0.0
        self._tell(0)
        for step in range(1, DAY_S // STEP_S):
            simulation.at(step * STEP_S * 1_000_000, self._tell, step)

    def _tell(self, step: int) -> None:
        now_us = self._simulation.now_us
        ledger = self._simulation.server.ledger
        if step:
            came_mj = _clear_mw(step - 1, self._whole_mj) * self._left[step - 1] * STEP_S
            self.energy_mj += came_mj
            self.given_mj += came_mj
        self.take()
        harvest = tuple(
            Harvest((later + 1) * STEP_S * 1_000_000, _clear_mw(later, self._whole_mj) * self._mean_left)
            for later in range(step, DAY_S // STEP_S)
        )
        ledger.budgets.battery(now_us, Horizon(self.energy_mj, DAY_S * 1_000_000), harvest)

    def take(self) -> None:
        """What requests have drawn since the last time leaves the battery."""
        spent_mj = self._simulation.server.ledger.account(TENANT).energy_mj
        self.energy_mj -= spent_mj - self._spent_mj
        self._spent_mj = spent_mj


def _play(name: str, way: Adaptation, day: int, scarcity: float, costs: Costs) -> Day:
    served = Served("resnet50", "1", costs, None, 8, 0.0)
    simulation = Simulation([served], seed=day, limits=Limits(queued_max=10_000), check=False)
    wanted_mj = DAY_S / GAP_S * (costs.energy_mj(costs.ladder[-1], 1) or 0.0)
    world = _World(simulation, day, STORED * scarcity * wanted_mj, (1 - STORED) * scarcity * wanted_mj)
    simulation.server.ledger.budgets.adapt(0, TENANT, way)
    arrivals = Random(f"requests {day}")
    when_s, asked = arrivals.expovariate(1 / GAP_S), 0
    while when_s < DAY_S - 1:
        simulation.ask(int(when_s * 1e6), TENANT, Bounds(), "resnet50")
        when_s, asked = when_s + arrivals.expovariate(1 / GAP_S), asked + 1
    simulation.run()
    world.take()
    answers = [(outcome, outcome.reply) for outcome in simulation.outcomes if isinstance(outcome.reply, Answer)]
    worth = math.fsum(costs.accuracy[reply.exit] for _, reply in answers)
    last_us = max((outcome.ended_us for outcome, _ in answers), default=0)
    return Day(
        policy=name,
        scarcity=scarcity,
        day=day,
        requests=asked,
        answered=len(answers),
        worth=worth,
        given_j=world.given_mj / 1000,
        unused_pct=100 * world.energy_mj / world.given_mj,
        last_gap_s=DAY_S - last_us / 1e6,
        best_pct=100 * worth / _most(costs, asked, world.given_mj),
    )


def _most(costs: Costs, requests: int, given_mj: float) -> float:
    """The most accuracy that so many requests can get from so much energy: along the hull of the exits."""
    points = [(0.0, 0.0), *((costs.energy_mj(index, 1) or 0.0, costs.accuracy[index]) for index in costs.ladder)]
    each_mj = given_mj / max(1, requests)
    best = 0.0
    for low_mj, low in points:
        for high_mj, high in points:
            if low_mj <= each_mj < high_mj:
                best = max(best, low + (high - low) * (each_mj - low_mj) / (high_mj - low_mj))
    top_mj, top = points[-1]
    return max(1, requests) * (top if each_mj >= top_mj else best)


def _compared(scarcity: float, rows: Sequence[dict[str, Day]]) -> Compared:
    paced, greedy = [row["battery"] for row in rows], [row["greedy"] for row in rows]
    fixed = [max(day.worth for name, day in row.items() if name != "battery") for row in rows]
    return Compared(
        scarcity=scarcity,
        days=len(rows),
        more_than_greedy_pct=_of(
            [100 * (own.worth / other.worth - 1) for own, other in zip(paced, greedy, strict=True)]
        ),
        more_than_fixed_pct=_of([100 * (own.worth / other - 1) for own, other in zip(paced, fixed, strict=True)]),
        of_best_pct=_of([day.best_pct for day in paced]),
        unused_pct=_of([day.unused_pct for day in paced]),
        unused_pct_max=max(day.unused_pct for day in paced),
        within_days=sum(day.unused_pct <= UNUSED_PCT for day in paced),
        last_gap_s_max=max(day.last_gap_s for day in paced),
        answered_pct=_of([100 * day.answered / day.requests for day in paced]),
        greedy_answered_pct=_of([100 * day.answered / day.requests for day in greedy]),
    )


def _of(values: Sequence[float]) -> Interval:
    found = interval(values)
    assert found is not None
    return found
