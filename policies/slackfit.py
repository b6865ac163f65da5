"""SlackFit: what the most urgent request has left picks a bucket of run times; in it, the largest batch.

Role: SuperServe's rule. Offline, every (exit, batch) of a network is put into one of equally wide buckets by its time;
online, the queue's earliest deadline picks the bucket, and the largest batch in it that is in time runs, at the deepest
exit that has it. Low slack means low buckets: shallow exits or small batches.

Source: SuperServe (NSDI'25). Differs: exits stand for its subnetworks, dominated ones left out; a network has buckets
of its own, since batches cannot mix networks.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ..profiles.costs import Costs
from . import rival_runs
from .policy_options import expect_within
from .pools import View
from .view import Choice, Served, Waiting

# A list is made of each.
BUCKETS_MAX = 10_000


class SlackFitOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`buckets`: how many. `waiting_only`: batches larger than the queue are no choice, so short queues go deeper."""

    buckets: int = 10
    batch_max: int = 32
    waiting_only: bool = False

    def __post_init__(self) -> None:
        expect_within(self, ("buckets",), 1, BUCKETS_MAX)
        expect_within(self, ("batch_max",), 1)


class Pair(NamedTuple):
    """A batch size at an exit, and its profiled time."""

    batch: int
    depth: int
    path_us: float


class Table(NamedTuple):
    """One network's pairs in buckets, each with the largest batch first, and at the same size the deepest."""

    costs: Costs
    least_us: float
    width_us: float
    buckets: list[list[Pair]]


class SlackFit(rival_runs.AsPublished):
    """The rule by these options. Queues are ordered by deadline, as published."""

    name = "slackfit"
    by_arrival = False

    def __init__(self, options: SlackFitOptions | None = None) -> None:
        self.options = SlackFitOptions() if options is None else options
        self._tables: dict[tuple[str, int], Table] = {}

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits. Cost: O(pools + pairs of one bucket)."""
        queues = rival_runs.queues(view)
        if not queues:
            return None
        queue = min(queues, key=lambda queue: (queue[0].due_us, queue[0].ticket))
        pair = self._pair(queue[0], len(queue), now_us)
        return rival_runs.run_to(rival_runs.head(queue, pair.batch), pair.depth, run_id)

    def _pair(self, first: Waiting, count: int, now_us: int) -> Pair:
        served = first.served
        table = self._table(served, first.stage)
        # In the profile's time, as the device runs just now.
        slack_us = (first.deadline_us - now_us - served.hop_us) / served.correction.factor
        most = count if self.options.waiting_only else self.options.batch_max
        place = int((slack_us - table.least_us) / table.width_us) if slack_us > table.least_us else 0
        for bucket in table.buckets[min(place, len(table.buckets) - 1) :: -1]:
            for pair in bucket:
                if pair.path_us <= slack_us and pair.batch <= most:
                    return pair
        # Nothing is in time: the lowest bucket's largest batch, so that the queue gets shorter.
        return next(pair for pair in table.buckets[0] if pair.batch <= most)

    def _table(self, served: Served, stage: int) -> Table:
        table = self._tables.get((served.key, stage))
        if table is None or table.costs is not served.costs:
            table = self._tables[served.key, stage] = _table(served, stage, self.options)
        return table


def _table(served: Served, stage: int, options: SlackFitOptions) -> Table:
    pairs = [
        Pair(batch, depth, served.costs.path_us(stage, depth, batch))
        for depth in served.ladder
        if depth >= stage
        for batch in range(1, min(options.batch_max, served.batch_max) + 1)
    ]
    least_us, most_us = min(pair.path_us for pair in pairs), max(pair.path_us for pair in pairs)
    width_us = max(1.0, (most_us - least_us) / options.buckets)
    buckets: list[list[Pair]] = [[] for _ in range(options.buckets)]
    for pair in pairs:
        buckets[min(int((pair.path_us - least_us) / width_us), options.buckets - 1)].append(pair)
    for bucket in buckets:
        bucket.sort(key=lambda pair: (-pair.batch, -pair.depth))
    return Table(served.costs, least_us, width_us, buckets)
