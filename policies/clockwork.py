"""Clockwork-style: one fixed exit, predictable times, the largest batch the earliest deadline allows, no hopeless work.

Role: what predictable serving without exits does. Each network offers the largest batch that is in time for its most
urgent request; the one whose latest start comes first runs. Requests that cannot be in time any more are dropped.

Source: Clockwork (OSDI'20). Its estimates are the correction's, `last-10-p99` in scenarios. Differs: a network is
served at one of its exits; models are never loaded and unloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import rival_runs
from .pools import View
from .view import Choice, Waiting


class ClockworkOptions(rival_runs.FixedDepth, frozen=True, forbid_unknown_fields=True):
    """Nothing beside what it runs to."""


class Offered(NamedTuple):
    """A network's run, and when it must start at the latest."""

    latest_us: int
    ticket: int
    members: list[Waiting]
    depth: int


class Clockwork(rival_runs.AsPublished):
    """The rule by these options. Queues are ordered by deadline."""

    name = "clockwork"
    by_arrival = False

    def __init__(self, options: ClockworkOptions | None = None) -> None:
        self.options = ClockworkOptions() if options is None else options

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run, or None when nothing waits. Cost: O(pools x batch_max + dropped)."""
        offers: list[Offered] = []
        dropped: list[Waiting] = []
        for queue in rival_runs.queues(view):
            depth = max(queue[0].stage, rival_runs.fixed_exit(queue[0].served, self.options))
            alone_us = now_us + queue[0].served.time_us(queue[0].stage, depth, 1)
            hopeless = next((n for n, waiting in enumerate(queue) if waiting.deadline_us >= alone_us), len(queue))
            dropped += queue[:hopeless]
            if hopeless < len(queue):
                offers.append(self._offered(queue[hopeless : hopeless + self.options.batch_max], depth, now_us))
        if not offers:
            return Choice(None, (), tuple(dropped)) if dropped else None
        best = min(offers)
        return rival_runs.run_to(best.members, best.depth, run_id)._replace(dropped=tuple(dropped))

    def _offered(self, queue: Sequence[Waiting], depth: int, now_us: int) -> Offered:
        members = rival_runs.head(queue, self.options.batch_max)
        first = members[0]
        while True:
            takes_us = first.served.time_us(first.stage, depth, len(members))
            if len(members) == 1 or now_us + takes_us <= first.deadline_us:
                return Offered(first.deadline_us - takes_us, first.ticket, members, depth)
            members = members[:-1]
