"""Finish early: depth only where it is worth more than the time it makes everybody wait.

Role: our own mode for those who would rather have an answer soon than a better one late. Requests run in the order
they came while all deadlines allow that, and go on past the exit they must reach only while the accuracy gained is
worth the delay of all who wait, at a price. Nobody is held at an exit. Source: cost of delay, as in c-mu rules.
"""

from __future__ import annotations

from math import fsum

import msgspec

from . import batches, load
from .policy_options import expect_within
from .pools import Pool, Pools, View
from .stage_edf import first_due, overdue_run
from .view import Choice


class LatencyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`delay_price`: the accuracy that one request's waiting for as long as a first answer takes alone is worth.

    In that unit, and not in milliseconds, since one price then suits fast and slow devices alike.
    """

    delay_price: float = 0.01

    def __post_init__(self) -> None:
        expect_within(self, ("delay_price",), 0)


class LatencyFirst:
    """Runs what is due first, as deep as is worth everybody's waiting."""

    name = "latency-first"
    admits = True
    demotes = True
    preempts = True
    by_arrival = False
    reactive = False

    def __init__(self, options: LatencyOptions | None = None) -> None:
        self.options = LatencyOptions() if options is None else options

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits. Cost: O(queued)."""
        timed, untimed = [pool for pool in view.timed.values() if pool.members], first_due(view.untimed.values())
        if timed and untimed is not None and untimed.members[0].due_us < now_us:
            # Behind all deadlines these would wait for ever.
            work = load.in_order([pool.chunks for pool in timed])
            chosen = overdue_run(untimed, work, now_us, run_id)
            if chosen is not None:
                return chosen
        classes = (view.timed, view.untimed, view.spare, view.best_effort, view.optional)
        pool = next((pool for pools in classes if (pool := _longest_waiting(pools, now_us)) is not None), None)
        if pool is None:
            return None
        waiting = sum(len(other.members) for other in view.pools())
        return self._run(pool, waiting, now_us, run_id)

    def _run(self, pool: Pool, waiting: int, now_us: int, run_id: int) -> Choice:
        served, stage = pool.members[0].served, pool.members[0].stage
        accuracy = served.costs.accuracy
        members = batches.prefix(pool.members, served, pool.members[0].expected, now_us)
        stops = [member.expected for member in members]
        takes_us = batches.run_us(served, stage, stops)
        earliest_us = min([member.deadline_us for member in members])
        first_us = served.hop_us + served.costs.path_us(0, served.ladder[0], 1)
        for depth in [exit_index for exit_index in served.ladder if exit_index > max(stops)]:
            deeper = [
                stop if member.staged else max(stop, min(depth, member.target))
                for stop, member in zip(stops, members, strict=True)
            ]
            longer_us = batches.run_us(served, stage, deeper)
            gained = fsum([accuracy[deep] - accuracy[stop] for deep, stop in zip(deeper, stops, strict=True)])
            price = self.options.delay_price * (longer_us - takes_us) / first_us * waiting
            if gained <= price or now_us + longer_us > earliest_us:
                break
            stops, takes_us = deeper, longer_us
        return batches.choice(run_id, members, stops, takes_us, keeps=False)


def _longest_waiting(pools: Pools, now_us: int) -> Pool | None:
    """The pool of the request that has waited longest, unless somebody's deadline could not wait for its batch.

    By age, since that keeps the slowest answers quick: by deadline, whoever has time to spare would always be passed.
    """
    found = [pool for pool in pools.values() if pool.members]
    if len(found) < 2:
        return found[0] if found else None
    oldest = min(found, key=lambda pool: min([member.arrival_us for member in pool.members]))
    first = oldest.members[0]
    served, size = first.served, min(len(oldest.members), first.served.batch_useful[first.expected])
    slack_us = load.slack_us(load.in_order([pool.chunks for pool in found]), now_us)
    return oldest if served.time_us(first.stage, served.exit_last, size) <= slack_us else first_due(found)
