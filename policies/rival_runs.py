"""What the rivals' rules share: one queue per network whatever the class of request, and runs as they were published.

Role: so that each rule's file holds that rule alone. A batch is the head of a queue; it runs to one depth and nobody
leaves it earlier for want of time. A request with an accuracy bound, a gate or an energy cap keeps those: it goes at
least to its mandatory exit and at most to its target. Does not: choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import merge
from operator import attrgetter

import msgspec

from . import batches
from .policy_options import expect, expect_within
from .pools import View
from .view import Choice, Served, Waiting

_due = attrgetter("due_us")


class AsPublished:
    """What the core does for a rival: nothing is refused, put back, or asked to give way."""

    admits = False
    demotes = False
    preempts = False
    by_arrival = True
    reactive = False


def queues(view: View) -> list[list[Waiting]]:
    """All that wait, per network and stage, as they are queued; nobody may change the lists."""
    found: dict[tuple[str, int], list[Waiting]] = {}
    for pools in (view.timed, view.untimed, view.spare, view.best_effort, view.optional):
        for key, pool in pools.items():
            if pool.members:
                before = found.get(key)
                found[key] = pool.members if before is None else list(merge(before, pool.members, key=_due))
    return list(found.values())


def head(queue: Sequence[Waiting], size: int) -> list[Waiting]:
    """The first of a queue, at most `size` and what a run may hold; requests that run alone do."""
    members = list(queue[: min(size, queue[0].served.batch_max)])
    if members[0].alone:
        return members[:1]
    alone = next((place for place, member in enumerate(members) if member.alone), len(members))
    return members[:alone]


class FixedDepth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`exit`: what networks are served at, at most; the deepest worth choosing if left out. `exits`: by network.

    `batch_max`: no run has more rows.
    """

    exit: int | None = None
    exits: Mapping[str, int] = {}
    batch_max: int = 32

    def __post_init__(self) -> None:
        expect_within(self, ("batch_max",), 1)
        expect("exit", self.exit, self.exit is None or self.exit >= 0, "0 or more")
        for network, exit_index in self.exits.items():
            expect(f"exits.{network}", exit_index, exit_index >= 0, "0 or more")


def fixed_exit(served: Served, options: FixedDepth) -> int:
    """The exit a network is served at by these options."""
    wanted = options.exits.get(served.name, options.exit)
    if wanted is None:
        return served.exit_last
    return max((exit_index for exit_index in served.ladder if exit_index <= wanted), default=served.ladder[0])


def run_to(members: Sequence[Waiting], depth: int, run_id: int) -> Choice:
    """The run of this batch to one depth, to the end; to the next exit for those with conditions to be tested there."""
    stops = [_stop(member, depth) for member in members]
    takes_us = batches.run_us(members[0].served, members[0].stage, stops)
    return batches.choice(run_id, members, stops, takes_us, keeps=False, anytime=False)


def _stop(member: Waiting, depth: int) -> int:
    if member.staged:
        return next(exit_index for exit_index in member.served.ladder if exit_index >= member.stage)
    return max(member.expected, min(depth, member.target))
