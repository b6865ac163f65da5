"""What to run next: stage-level earliest deadline first, batched across tenants, re-batched at exits.

Role: the default policy. What a request needs for its bounds is mandatory and goes by deadline; deeper exits are
optional and run in slack, by accuracy gained per microsecond. A fresh batch waits while there is something optional to
run and time to wait, so that batches fill.

Flow of a decision: slack of all mandatory work -> the best optional run that fits into it -> the mandatory batch if it
is full, time is short, or there is nothing better. A run goes on through exits where nothing is gained by stopping.

Work without a deadline runs when it is due earlier and fits into the slack; overdue, it takes the place of everything
optional. Source: imprecise computation (Liu et al. 1991) on batches; differs: depth by value per time, across networks.
Does not: hold the device idle for a fuller batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from . import batches, load
from .policy_options import expect_within
from .pools import Chunk, Pool, View
from .view import NEVER_US, Choice, Waiting

# A tenant counts as ahead of another below this part of its level: two `fairness.LEAD_US` in front.
LEVEL_MIN = 0.25


class StageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed about the default policy, each to be measured on its own.

    `spare_share`: how much of the slack one optional run may spend; all of it would leave a queue that a single stall
    makes late as a whole. `rebatch`: requests of different batches merge at exits. `fill`: fresh batches wait to fill
    up while something optional can run. `preempt`: runs are asked to give way at exits. `delay_price`: of requests
    beyond the next batch, each that waits as long as a first answer takes alone costs so much accuracy; what is
    optional must gain more. Near capacity that fills batches (scenario e9 at capacity: 4 % refused instead of 8.4).
    """

    spare_share: float = 0.5
    rebatch: bool = True
    fill: bool = True
    preempt: bool = True
    delay_price: float = 0.008

    def __post_init__(self) -> None:
        expect_within(self, ("spare_share",), 0, 1)
        expect_within(self, ("delay_price",), 0)


class Free(NamedTuple):
    """A run that nobody needs, and how much accuracy it gains per microsecond."""

    rate: float
    members: list[Waiting]
    stops: list[int]
    takes_us: int


class Limits(NamedTuple):
    """What optional work may take just now: so much time, and only if it gains accuracy at a rate that is worth it.

    `rate_min`: what the time could gain elsewhere, per microsecond; `price`: what each urgent request is worth.
    """

    spare_us: int
    rate_min: float = 0.0
    price: float = 0.0


class StageEdf:
    """The default policy, by these options."""

    name = "stage-edf"
    admits = True
    demotes = True
    by_arrival = False
    reactive = False

    def __init__(self, options: StageOptions | None = None) -> None:
        self.options = StageOptions() if options is None else options
        self.preempts = self.options.preempt

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits.

        Cost: O(queued / batch) for requests with deadlines; measured by `delen bench decision`.
        """
        timed = [pool for pool in view.timed.values() if pool.members]
        work = load.in_order([pool.chunks for pool in timed])
        slack_us = load.slack_us(work, now_us)
        spare_us = slack_us if slack_us >= NEVER_US else int(self.options.spare_share * slack_us)
        if now_us < view.refused_until_us and timed:
            # What is optional would take the time of those who are refused.
            spare_us = min(spare_us, 0)
        untimed = first_due(view.untimed.values())
        urgent = first_due(timed)
        if untimed is not None and untimed.members[0].due_us < now_us:
            if urgent is None:
                return self._must(view, untimed, now_us, run_id, Limits(0))
            chosen = overdue_run(untimed, work, now_us, run_id)
            return self._must(view, urgent, now_us, run_id, Limits(0)) if chosen is None else chosen
        price = 0.0 if urgent is None else self._price(urgent)
        free = best_free(view, now_us, spare_us, price)
        if urgent is None:
            if untimed is not None:
                return self._must(view, untimed, now_us, run_id, Limits(NEVER_US, 0.0 if free is None else free.rate))
            return None if free is None else self._spare(view, free, now_us, run_id)
        if untimed is not None and untimed.members[0].due_us < urgent.members[0].due_us:
            chosen = self._must(view, untimed, now_us, run_id, Limits(0))
            if chosen.run is not None and chosen.run.predicted_us <= spare_us:
                return chosen
        if free is not None and self.options.fill and not _pressing(urgent, free, spare_us):
            return batches.choice(run_id, free.members, free.stops, free.takes_us)
        limits = Limits(spare_us, 0.0 if free is None else free.rate, price)
        return self._must(view, urgent, now_us, run_id, limits)

    def _price(self, urgent: Pool) -> float:
        """The accuracy per microsecond that each who waits for a first answer is worth."""
        served = urgent.members[0].served
        return self.options.delay_price / (served.hop_us + served.costs.path_us(0, served.ladder[0], 1))

    def _must(self, view: View, pool: Pool, now_us: int, run_id: int, limits: Limits) -> Choice:
        """The earliest requests of a pool to where they must go, and on from there while that is the best there is."""
        served, stage = pool.members[0].served, pool.members[0].stage
        members = batches.prefix(pool.members, served, pool.members[0].expected, now_us)
        others = _waiting_for(view, served.name) - len(members)
        stops = [self._first_stop(member, others) for member in members]
        mergeable = self.options.rebatch and _partners(view, members[0], max(stops) + 1, len(members))
        if limits.spare_us > 0 and not mergeable and not any(member.gate or member.staged for member in members):
            # Nobody could join at the exits ahead, so leaving there gains nothing while going on is the best there is.
            stops = _onward(members, stops, now_us, limits)
        return batches.choice(run_id, members, stops, batches.run_us(served, stage, stops))

    def _spare(self, view: View, free: Free, now_us: int, run_id: int) -> Choice:
        """A run that nobody needs on a device nobody else wants: as deep as it likes, if nobody waits beside it."""
        stops = free.stops
        if sum(len(pool.members) for pool in view.pools()) == len(free.members):
            stops = _onward(free.members, stops, now_us, Limits(NEVER_US))
        served, stage = free.members[0].served, free.members[0].stage
        return batches.choice(run_id, free.members, stops, batches.run_us(served, stage, stops))

    def _first_stop(self, member: Waiting, others: int) -> int:
        """Where it leaves the run: at the exit it must reach; under a gate at the next, if others may join there."""
        if member.gate is None or not self.options.rebatch or others <= 0:
            return member.expected
        return next((exit_index for exit_index in member.served.ladder if exit_index >= member.stage), member.expected)


def _onward(members: Sequence[Waiting], stops: list[int], now_us: int, limits: Limits) -> list[int]:
    """Where they leave a run that goes on from these exits while that is worth its time."""
    served, stage = members[0].served, members[0].stage
    takes_us = must_us = batches.run_us(served, stage, stops)
    price = limits.price * _urgent(members)
    earliest_us = min([member.deadline_us for member in members])
    # Whose tenant had more than its part leaves here, and goes on when it is its turn.
    level_min = max([member.share.level for member in members]) * LEVEL_MIN
    for depth in [exit_index for exit_index in served.ladder if exit_index > max(stops)]:
        deeper = [
            max(stop, min(depth, member.target)) if member.share.level >= level_min else stop
            for stop, member in zip(stops, members, strict=True)
        ]
        if deeper == stops:
            break
        longer_us = batches.run_us(served, stage, deeper)
        more_us = longer_us - takes_us
        if longer_us - must_us > limits.spare_us or now_us + longer_us > earliest_us:
            break
        if (
            _gain(members, stops, deeper) < price * more_us
            or _worth(members, stops, deeper) < limits.rate_min * more_us
        ):
            break
        stops, takes_us = deeper, longer_us
    return stops


def first_due(pools: Iterable[Pool]) -> Pool | None:
    """The pool whose first request is due first."""
    return min((pool for pool in pools if pool.members), key=lambda pool: pool.members[0].due_us, default=None)


def overdue_run(pool: Pool, work: Sequence[Chunk], now_us: int, run_id: int) -> Choice | None:
    """Those due longest without a deadline, to where they must go: as many as make nobody late, as admission counts."""
    served, stage = pool.members[0].served, pool.members[0].stage
    members = batches.prefix(pool.members, served, pool.members[0].expected, now_us)
    while members:
        stops = [member.expected for member in members]
        path_us = served.costs.path_us(stage, max(stops), len(members))
        if load.slack_us([Chunk(now_us, NEVER_US, path_us, served), *work], now_us) >= 0:
            return batches.choice(run_id, members, stops, batches.run_us(served, stage, stops))
        members = members[: len(members) // 2]
    return None


def best_free(view: View, now_us: int, spare_us: int, price: float) -> Free | None:
    """Of the work nobody needs, the run that gains most accuracy per microsecond and takes no more than `spare_us`.

    `price`: what it must gain per microsecond for each urgent request of its own tenants.
    """
    if spare_us <= 0:
        return None
    found = [_rate(pool) for pools in (view.optional, view.best_effort) for pool in pools.values() if pool.members]
    found += [_rate(pool, now_us + _least_us(pool)) for pool in view.spare.values() if pool.members]
    if len(found) > 1:
        found.sort(key=_first)
    for rate, at_best, company in found:
        if price and at_best < price * _urgent(company):
            # Mostly told without forming the run.
            continue
        free = _free(rate, company, now_us, spare_us)
        if free is not None and (not price or _gain_rate(free) >= price * _urgent(free.members)):
            return free
    return None


def _first(rated: tuple[float, float, Sequence[Waiting]]) -> float:
    return -rated[0]


def _least_us(pool: Pool) -> int:
    """What a batch of useful size takes to where its first must go: who has less time left would make it smaller."""
    first = pool.members[0]
    size = min(len(pool.members), first.served.batch_useful[first.expected])
    return first.served.time_us(first.stage, first.expected, size)


def _rate(pool: Pool, from_us: int = 0) -> tuple[float, float, Sequence[Waiting]]:
    """What the best way on gains per microsecond, for what its tenants are due and at most; and who may go."""
    first, count = pool.members[0], len(pool.members)
    served = first.served
    count = min(count, served.batch_max)
    step = served.steps[first.stage][count]
    company = pool.fair(count, step.path_us / count, from_us)
    count = min(count, served.batch_useful[step.stop])
    per_us = step.gain / (served.hop_us + step.path_us * served.correction.mu)
    worth = sum([member.share.worth for member in company[:count]])
    return worth * per_us, count * per_us if not first.spare else worth * per_us, company


def _free(rate: float, company: Sequence[Waiting], now_us: int, spare_us: int) -> Free | None:
    """Their run as deep as pays best, or only to the next exit; None if neither is in time."""
    first = company[0]
    served, stage = first.served, first.stage
    best = served.steps[stage][min(len(company), served.batch_max)].stop
    nearest = next(exit_index for exit_index in served.ladder if exit_index >= max(stage, first.expected))
    least_us = served.time_us(stage, nearest, 1)
    if least_us > spare_us or now_us + least_us > first.deadline_us:
        # Not even the first of them alone: most candidates end here while slack is short.
        return None
    for depth in (best, nearest) if best > nearest else (nearest,):
        members = batches.prefix(company, served, min(depth, first.target), now_us)
        while members:
            stops = [max(member.expected, min(depth, member.target)) for member in members]
            takes_us = batches.run_us(served, stage, stops)
            if takes_us <= spare_us and now_us + takes_us <= min([member.deadline_us for member in members]):
                return Free(rate, members, stops, takes_us)
            members = members[: len(members) // 2]
    return None


def _pressing(urgent: Pool, free: Free, spare_us: int) -> bool:
    """Whether the mandatory batch should run now: it is full, or after the optional run there would be no time left."""
    first, other = urgent.members[0], free.members[0]
    served = first.served
    if other.spare or other.share.level < first.share.level * LEVEL_MIN:
        # What is beyond its tenant's share, or whose tenant had more than others, keeps nobody waiting.
        return True
    if first.alone or len(urgent.members) >= served.batch_useful[first.expected]:
        return True
    return spare_us < free.takes_us + served.time_us(first.stage, first.expected, served.batch_useful[first.expected])


def _partners(view: View, first: Waiting, stage: int, count: int) -> bool:
    """Whether others wait at this stage whom a batch of so many could join there, and is small enough to gain by it.

    Half of a useful batch: beyond that, stopping costs more in batches that never fill than merging gains (measured on
    scenario e2 at 280/s: 76.5 % effective accuracy instead of 76.1).
    """
    pool = view.optional.get((first.served.name, stage))
    return pool is not None and bool(pool.members) and 2 * count <= first.served.batch_useful[min(stage, first.target)]


def _waiting_for(view: View, network: str) -> int:
    """How many requests of this network wait with a deadline or for more depth."""
    return sum(
        len(pool.members)
        for pools in (view.timed, view.optional)
        for (name, _), pool in pools.items()
        if name == network
    )


def _urgent(members: Sequence[Waiting]) -> int:
    """How many more than a batch wait for a first answer, of the tenant among theirs that has fewest.

    Their own tenants', for nobody's queue costs others depth; more than a batch, for that goes next anyway.
    """
    served = members[0].served
    return max(0, min([member.share.urgent for member in members]) - served.batch_useful[served.ladder[0]])


def _gain_rate(free: Free) -> float:
    """What it gains per microsecond; of work beyond its tenant's share, only as much as that tenant is due."""
    return free.rate if free.members[0].spare else _gain(free.members, None, free.stops) / free.takes_us


def _gain(members: Sequence[Waiting], stops: Sequence[int] | None, deeper: Sequence[int]) -> float:
    """The accuracy gained from these exits, or from what they have, to deeper ones."""
    accuracy = members[0].served.costs.accuracy
    if stops is None:
        had = sum([accuracy[member.last_reached] for member in members if member.last_reached >= 0])
    else:
        had = sum([accuracy[stop] for stop in stops])
    return sum([accuracy[deep] for deep in deeper]) - had


def _worth(members: Sequence[Waiting], stops: Sequence[int], deeper: Sequence[int]) -> float:
    """The same, each as much as its tenant is due."""
    accuracy = members[0].served.costs.accuracy
    return sum(
        [
            (accuracy[deep] - accuracy[stop]) * member.share.worth
            for member, stop, deep in zip(members, stops, deeper, strict=True)
        ]
    )
