"""Fixed exit with a dynamic batcher: what a general inference server does with a network, exits or not.

Role: the usual baseline. Each network is served at one exit; what waits runs as one batch, at most `batch_max`, the
network whose first request is oldest first. With a queue delay, a batch that is not full waits until its first request
has waited that long. Source: NVIDIA Triton's dynamic batcher, whose default delay is 0. Does not: look at deadlines.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import rival_runs
from .policy_options import WAIT_MS_MAX, expect_within
from .pools import View
from .view import Choice, Waiting


class FixedExitOptions(rival_runs.FixedDepth, frozen=True, forbid_unknown_fields=True):
    """`queue_delay_ms`: how long a request waits at most for its batch to fill."""

    queue_delay_ms: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_within(self, ("queue_delay_ms",), 0, WAIT_MS_MAX)


class FixedExit(rival_runs.AsPublished):
    """The batcher by these options."""

    name = "fixed-exit"

    def __init__(self, options: FixedExitOptions | None = None) -> None:
        self.options = FixedExitOptions() if options is None else options
        self._delay_us = int(self.options.queue_delay_ms * 1000)

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits; a Choice without a run to be asked again. Cost: O(pools)."""
        queues = rival_runs.queues(view)
        if not queues:
            return None
        ready = [queue for queue in queues if now_us >= self._ready_us(queue)]
        if not ready:
            return Choice(None, (), wake_us=min(self._ready_us(queue) for queue in queues))
        queue = min(ready, key=lambda queue: queue[0].ticket)
        members = rival_runs.head(queue, self.options.batch_max)
        depth = max(members[0].stage, rival_runs.fixed_exit(members[0].served, self.options))
        return rival_runs.run_to(members, depth, run_id)

    def _ready_us(self, queue: Sequence[Waiting]) -> int:
        """When this queue's batch may run at the latest; long ago if it is full."""
        full = len(queue) >= min(self.options.batch_max, queue[0].served.batch_max)
        return 0 if full or queue[0].alone else queue[0].arrival_us + self._delay_us
