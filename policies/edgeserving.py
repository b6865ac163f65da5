"""EdgeServing: the network whose turn leaves the queue most stable, as deep as its oldest request still allows.

Role: the closest rival's rule. Per network the batch is the first of its queue, its exit the deepest that is in time
for all of them, else the shallowest. Served is the network whose run leaves the least urgency behind: the sum over all
other requests of exp((waited + run) / bound - 1), clipped.

Source: EdgeServing (arXiv 2605.05527). Its p95 is the profile's median times the correction's factor, `static-p95` in
scenarios. Differs: dominated exits are left out, and a request's own bound takes the place of one for all, unless
`per_request` is off. The other options are ours, to tune it for honesty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from . import rival_runs
from .policy_options import WAIT_MS_MAX, expect, expect_within
from .pools import View
from .view import NEVER_US, Choice, Waiting


class EdgeServingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`batch_max` and `clip` as published. `slo_ms`: the bound of requests that have none, or of all.

    `per_request`: each request's own bound counts. `demotes`: late requests wait behind all others. `by_deadline`:
    queues are ordered by deadline, not by arrival.
    """

    batch_max: int = 10
    clip: float = 10.0
    slo_ms: float = 50.0
    per_request: bool = True
    demotes: bool = False
    by_deadline: bool = False

    def __post_init__(self) -> None:
        expect_within(self, ("batch_max",), 1)
        expect_within(self, ("slo_ms",), 0.001, WAIT_MS_MAX)
        expect("clip", self.clip, 0 < self.clip < math.inf, "more than 0")


class Plan(NamedTuple):
    """What one network would run: where its queue begins among all, and how long the run would take."""

    start: int
    members: list[Waiting]
    depth: int
    takes_us: int


class EdgeServing(rival_runs.AsPublished):
    """The rule by these options."""

    name = "edgeserving"

    def __init__(self, options: EdgeServingOptions | None = None) -> None:
        self.options = EdgeServingOptions() if options is None else options
        self.demotes = self.options.demotes
        self.by_arrival = not self.options.by_deadline
        self._slo_us = int(self.options.slo_ms * 1000)

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits. Cost: O(networks x queued)."""
        queues = rival_runs.queues(view)
        if not queues:
            return None
        plans: list[Plan] = []
        start = 0
        for queue in queues:
            plans.append(self._plan(start, queue, now_us))
            start += len(queue)
        best = plans[0] if len(plans) == 1 else self._stablest(plans, queues, now_us)
        return rival_runs.run_to(best.members, best.depth, run_id)

    def _plan(self, start: int, queue: Sequence[Waiting], now_us: int) -> Plan:
        members = rival_runs.head(queue, self.options.batch_max)
        served, stage, count = members[0].served, members[0].stage, len(members)
        left_us = min([self._deadline_us(member) for member in members]) - now_us
        exits = [exit_index for exit_index in served.ladder if exit_index >= stage]
        for depth in reversed(exits):
            takes_us = served.time_us(stage, depth, count)
            if takes_us <= left_us:
                break
        return Plan(start, members, depth, takes_us)

    def _deadline_us(self, waiting: Waiting) -> int:
        if self.options.per_request and waiting.deadline_us < NEVER_US:
            return waiting.deadline_us
        return waiting.arrival_us + self._slo_us

    def _stablest(self, plans: Sequence[Plan], queues: Sequence[Sequence[Waiting]], now_us: int) -> Plan:
        """The plan after which the rest is least urgent."""
        everybody = [waiting for queue in queues for waiting in queue]
        arrivals_us = np.array([waiting.arrival_us for waiting in everybody], np.float64)
        if self.options.per_request:
            # The guard may leave nothing of a very short bound.
            bounds_us = np.array([waiting.deadline_us for waiting in everybody], np.float64) - arrivals_us
            bounds_us = np.where(bounds_us > NEVER_US / 2, float(self._slo_us), np.maximum(bounds_us, 1.0))
        else:
            bounds_us = np.full(len(everybody), float(self._slo_us))
        waited = (now_us - arrivals_us) / bounds_us - 1.0
        # Beyond the clip's logarithm the exponential need not be taken: nothing overflows.
        most = float(np.log(self.options.clip))
        left: list[float] = []
        for plan in plans:
            urgency = np.exp(np.minimum(waited + plan.takes_us / bounds_us, most))
            end = plan.start + len(plan.members)
            left.append(float(urgency[: plan.start].sum() + urgency[end:].sum()))
        return plans[left.index(min(left))]
