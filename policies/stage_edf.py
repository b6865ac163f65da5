"""What to run next: stage-level earliest deadline first, batched across tenants, re-batched at exits.

Role: the default policy. What a request needs for its bounds is mandatory and goes by deadline; deeper exits are
optional and run in slack, by accuracy gained per microsecond. A fresh batch waits while there is something optional to
run and time to wait, so that batches fill.

Flow of a decision: slack of all mandatory work -> the best optional run that fits into it -> the mandatory batch if it
is full, time is short, or there is nothing better. A run goes on through exits where nothing is gained by stopping.
What gains less than device time is worth just now (`scarcity.py`) is left out, whatever slack there is.

Work without a deadline runs when it is due earlier and fits into the slack; overdue, it takes the place of everything
optional. Source: imprecise computation (Liu et al. 1991) on batches; differs: depth by value per time, across networks.
Does not: hold the device idle for a fuller batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import NamedTuple

import msgspec

from . import batches, load
from .policy_options import expect_within
from .pools import Chunk, Pool, View
from .scarcity import rate_at_best
from .view import NEVER_US, Choice, Served, Waiting

# A tenant counts as ahead of another below this part of its level: two `fairness.LEAD_US` in front.
LEVEL_MIN = 0.25


class StageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed about the default policy, each to be measured on its own.

    `spare_share`: how much of the slack one optional run may spend; all of it would leave a queue that a single stall
    makes late as a whole. `rebatch`: requests of different batches merge at exits. `fill`: fresh batches wait to fill
    up while something optional can run. `preempt`: runs are asked to give way at exits. `scarcity`: what gains less
    than time is worth is left out (scenario e11 at 1,500/s: 93.4 % effective accuracy instead of 93.0).
    """

    spare_share: float = 0.5
    rebatch: bool = True
    fill: bool = True
    preempt: bool = True
    scarcity: bool = True

    def __post_init__(self) -> None:
        expect_within(self, ("spare_share",), 0, 1)


class Free(NamedTuple):
    """A run that nobody needs, and how much accuracy it gains per microsecond."""

    rate: float
    members: list[Waiting]
    stops: list[int]
    takes_us: int


class Limits(NamedTuple):
    """What optional work may take just now: so much time, and only if it gains accuracy at a rate that is worth it.

    `price`: what time is worth, per microsecond. `rate_min`: what a run elsewhere that takes `free_us` would gain, as
    tenants are due; it counts where there is no time for both.
    """

    spare_us: int
    price: float = 0.0
    rate_min: float = 0.0
    free_us: int = 0


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
        if len(view.homes) == 1:
            [pool] = view.homes.values()
            if not _needed(pool.members[0]):
                return _undisturbed(pool.members[0], now_us, run_id)
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
        free = best_free(view, now_us, spare_us)
        if urgent is None:
            if untimed is not None:
                return self._must(view, untimed, now_us, run_id, Limits(NEVER_US))
            return None if free is None else self._spare(view, free, now_us, run_id)
        if untimed is not None and untimed.members[0].due_us < urgent.members[0].due_us:
            chosen = self._must(view, untimed, now_us, run_id, Limits(0))
            if chosen.run is not None and chosen.run.predicted_us <= spare_us:
                return chosen
        price = view.scarcity.price(now_us) if self.options.scarcity else 0.0
        if free is not None and self.options.fill and not _pressing(urgent, free, spare_us, price):
            return batches.choice(run_id, free.members, free.stops, free.takes_us)
        return self._must(view, urgent, now_us, run_id, _limits(spare_us, price, free, urgent.members[0]))

    def _must(self, view: View, pool: Pool, now_us: int, run_id: int, limits: Limits) -> Choice:
        """The earliest requests of a pool to where they must go, and on from there while that is the best there is."""
        served, stage = pool.members[0].served, pool.members[0].stage
        members = batches.prefix(pool.members, served, pool.members[0].expected, now_us)
        leaves = self.options.rebatch and _leaves_early(view, members)
        nearest = members[0].nearest
        stops = [nearest if leaves and member.gates is not None else member.expected for member in members]
        mergeable = self.options.rebatch and _mergeable(view, members, max(stops) + 1)
        if limits.spare_us > 0 and not mergeable and not any(member.gates or member.staged for member in members):
            # Nobody could join at the exits ahead, so leaving there gains nothing while going on is the best there is.
            stops = _onward(members, stops, now_us, limits)
        return batches.choice(run_id, members, stops, batches.run_us(served, stage, stops))

    def _spare(self, view: View, free: Free, now_us: int, run_id: int) -> Choice:
        """A run that nobody needs on a device nobody else wants: as deep as it likes, if nobody waits beside it."""
        stops = free.stops
        if len(view.homes) == len(free.members):
            stops = _onward(free.members, stops, now_us, Limits(NEVER_US))
        served, stage = free.members[0].served, free.members[0].stage
        return batches.choice(run_id, free.members, stops, batches.run_us(served, stage, stops))


def _needed(first: Waiting) -> bool:
    """Whether it has bounds, within its tenant's share, that no answer keeps yet."""
    return first.bounded and not first.spare and not first.optional


def _undisturbed(first: Waiting, now_us: int, run_id: int) -> Choice | None:
    """A run that nobody needs where nobody else waits: to the deepest exit in time, as `best_free` and `_onward` would.

    There is nothing to weigh it against; on an idle device, where tenants wait for nothing but this, it takes a quarter
    of the time. None where there is no time for any exit.
    """
    served, stage = first.served, first.stage
    nearest = served.next_exit[max(stage, first.expected)]
    stop = max(first.expected, min(nearest, first.target))
    takes_us = served.time_us(stage, stop, 1)
    latest_us = first.deadline_us - now_us
    if takes_us > latest_us or served.time_us(stage, nearest, 1) > latest_us:
        return None
    for deeper in served.ladder:
        if stop < deeper <= first.target:
            longer_us = served.time_us(stage, deeper, 1)
            if longer_us > latest_us:
                break
            stop, takes_us = deeper, longer_us
    return batches.choice(run_id, (first,), (stop,), takes_us)


def _limits(spare_us: int, price: float, free: Free | None, urgent: Waiting) -> Limits:
    """What depth of an urgent batch may take beside the best run that nobody needs."""
    if free is None:
        return Limits(spare_us, price)
    other = free.members[0]
    # An answer for somebody beyond their share was promised in time nobody needs, and depth is not a need. And whose
    # tenant had more than the other's has no claim to time for both: the other's turn would never come.
    waits = other.spare or urgent.share.level < other.share.level * LEVEL_MIN
    return Limits(spare_us, price, free.rate, NEVER_US if waits else free.takes_us)


def _onward(members: Sequence[Waiting], stops: list[int], now_us: int, limits: Limits) -> list[int]:
    """Where they leave a run that goes on from these exits while that is worth its time."""
    served, stage = members[0].served, members[0].stage
    takes_us = must_us = batches.run_us(served, stage, stops)
    earliest_us = min([member.deadline_us for member in members])
    mostly = served.correction.mu / served.correction.factor
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
        if now_us + longer_us > earliest_us:
            break
        # Its own deadlines hold against the worst; of everybody's slack, and of what it could gain elsewhere, it takes
        # what it mostly takes.
        more_us, beyond_us = (longer_us - takes_us) * mostly, (longer_us - must_us) * mostly
        if beyond_us > limits.spare_us or _gain(members, stops, deeper) < limits.price * more_us:
            break
        both = beyond_us + limits.free_us <= limits.spare_us
        if not both and _worth(members, stops, deeper) < limits.rate_min * more_us:
            break
        stops, takes_us = deeper, longer_us
    return stops


def first_due(pools: Iterable[Pool]) -> Pool | None:
    """The pool whose first request is due first."""
    found: Pool | None = None
    for pool in pools:
        if pool.members and (found is None or pool.members[0].due_us < found.members[0].due_us):
            found = pool
    return found


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


def best_free(view: View, now_us: int, spare_us: int) -> Free | None:
    """Of the work nobody needs, the run that gains most accuracy per microsecond and takes no more than `spare_us`."""
    if spare_us <= 0:
        return None
    found = [_rate(pool) for pools in (view.optional, view.best_effort) for pool in pools.values() if pool.members]
    found += [_rate(pool, now_us + _least_us(pool)) for pool in view.spare.values() if pool.members]
    if len(found) > 1:
        found.sort(key=_first)
    for rate, company in found:
        free = _free(rate, company, now_us, spare_us)
        if free is not None:
            return free
    return None


def _first(rated: tuple[float, Sequence[Waiting]]) -> float:
    return -rated[0]


def _least_us(pool: Pool) -> int:
    """What a batch of useful size takes to where its first must go: who has less time left would make it smaller."""
    first = pool.members[0]
    size = min(len(pool.members), first.served.batch_useful[first.expected])
    return first.served.time_us(first.stage, first.expected, size)


def _rate(pool: Pool, from_us: int = 0) -> tuple[float, Sequence[Waiting]]:
    """What the best way on gains per microsecond, for what its tenants are due; and who may go."""
    first, count = pool.members[0], len(pool.members)
    served = first.served
    count = min(count, served.batch_max)
    step = served.step(first.stage, count)
    company = pool.fair(count, step.path_us / count, from_us)
    count = min(count, served.batch_useful[step.stop])
    per_us = step.gain / (served.hop_us + step.path_us * served.correction.mu)
    worth = fsum([member.share.worth for member in company[:count]])
    return worth * per_us, company


def _free(rate: float, company: Sequence[Waiting], now_us: int, spare_us: int) -> Free | None:
    """Their run as deep as pays best, or only to the next exit; None if neither is in time."""
    first = company[0]
    served, stage = first.served, first.stage
    best = served.step(stage, min(len(company), served.batch_max)).stop
    nearest = served.next_exit[max(stage, first.expected)]
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


def _pressing(urgent: Pool, free: Free, spare_us: int, price: float) -> bool:
    """Whether the mandatory batch should run now.

    It is full, or after the optional run there would be no time left, or time is worth more than that run could gain
    in its best batch: what is lost is counted so too.
    """
    first, other = urgent.members[0], free.members[0]
    served = first.served
    if other.spare or other.share.level < first.share.level * LEVEL_MIN:
        # What is beyond its tenant's share, or whose tenant had more than others, keeps nobody waiting.
        return True
    if first.alone or len(urgent.members) >= served.batch_useful[first.expected]:
        return True
    if price and rate_at_best(other, max(free.stops)) < price:
        return True
    # As many may come meanwhile as wait now.
    later = min(2 * len(urgent.members), served.batch_useful[first.expected])
    return spare_us < free.takes_us + served.time_us(first.stage, first.expected, later)


def _mergeable(view: View, members: Sequence[Waiting], stage: int) -> bool:
    """Whether a batch saves time by leaving before this stage, to go on with those who wait there for more depth."""
    first, count = members[0], len(members)
    served, pool = first.served, view.optional.get((first.served.key, stage))
    if pool is None or not pool.members or stage > first.target:
        return False
    # The head that is not run if it goes on.
    head_us = served.costs.head_us[stage - 1][count] * served.correction.mu
    return _merging_saves(served, (stage, served.next_exit[stage]), count, len(pool.members), head_us)


def _leaves_early(view: View, members: Sequence[Waiting]) -> bool:
    """Whether a batch under gates saves time by leaving at the next of them, where most have their answer.

    Who stays would be a small batch from there on. Where others wait, too, there will soon be enough for a useful one.
    """
    first, count, nearest = members[0], len(members), members[0].nearest
    if first.gates is None or nearest >= first.mandatory or _waiting_for(view, first.served.key) <= count:
        return False
    staying = max(1, round(fsum([member.stays for member in members])))
    useful = first.served.batch_useful[first.mandatory]
    return _merging_saves(first.served, (nearest + 1, first.mandatory), staying, useful, 0.0)


def _waiting_for(view: View, network: str) -> int:
    """How many requests of this network wait with a deadline or for more depth."""
    return sum(
        len(pool.members)
        for pools in (view.timed, view.optional)
        for (name, _), pool in pools.items()
        if name == network
    )


def _merging_saves(served: Served, way: tuple[int, int], count: int, partners: int, head_us: float) -> bool:
    """Whether so many and their partners go on in less time together than in batches of so many.

    Together they take another hop, and `head_us` for every such batch. `way`: from that stage to that exit.
    """
    together = min(count + partners, served.batch_max)
    if together <= count:
        return False
    costs, mu = served.costs, served.correction.mu
    apart_us = costs.path_us(*way, count) * mu - head_us
    return together * apart_us > count * (served.hop_us + costs.path_us(*way, together) * mu)


def _gain(members: Sequence[Waiting], stops: Sequence[int], deeper: Sequence[int]) -> float:
    """The accuracy gained from these exits to deeper ones."""
    accuracy = members[0].served.costs.accuracy
    return fsum([accuracy[deep] for deep in deeper]) - fsum([accuracy[stop] for stop in stops])


def _worth(members: Sequence[Waiting], stops: Sequence[int], deeper: Sequence[int]) -> float:
    """The same, each as much as its tenant is due."""
    accuracy = members[0].served.costs.accuracy
    return fsum(
        [
            (accuracy[deep] - accuracy[stop]) * member.share.worth
            for member, stop, deep in zip(members, stops, deeper, strict=True)
        ]
    )
