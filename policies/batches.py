"""Forming runs: which requests of one pool go together, how long that takes, and the command it becomes.

Role: what every policy needs once it has picked a pool and a depth. Does not: pick either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace
from math import fsum
from operator import attrgetter

from .load import KEPT_SHARE, mandatory
from .view import NEVER_US, Choice, Row, Run, Served, Waiting

# Work without a deadline yields at exits, so it may hold the device for one segment: no longer than this or so many
# hops, if batches of more than one row can help it. Where hops are long, single rows would waste more than they spare.
BLOCK_US_MAX, BLOCK_HOPS = 2_000, 4

_alone = attrgetter("alone")


def prefix(members: Sequence[Waiting], served: Served, depth: int, now_us: int) -> list[Waiting]:
    """The earliest requests, as many as pay off and still finish `depth` together in time; at least one."""
    first = members[0]
    if first.alone or len(members) == 1:
        return [first]
    stage, deadline_us = first.stage, first.deadline_us
    deepest = max(depth, first.expected)
    # Under gates most leave at the next one: what pays off there counts.
    nearest = deepest if first.gates is None else first.nearest
    wanted = list(members[: batch_max(first, nearest)])
    if not any(map(_alone, wanted)):
        # Mostly there is time for all of them, and then for each on the way.
        all_us = served.time_us(stage, max(deepest, max([member.expected for member in wanted])), len(wanted))
        if now_us + all_us <= min([member.deadline_us for member in wanted]):
            return wanted
    chosen = [first]
    for candidate in wanted[1:]:
        deepest = max(deepest, candidate.expected)
        deadline_us = min(deadline_us, candidate.deadline_us)
        if candidate.alone or now_us + served.time_us(stage, deepest, len(chosen) + 1) > deadline_us:
            break
        chosen.append(candidate)
    return chosen


def late_when_run(queues: Sequence[Sequence[Waiting]], start_us: int) -> int | None:
    """Run mandatory work batch by batch, earliest deadline first: the first deadline that would be missed, or None.

    Args:
        queues: requests of one network and stage each, by due time.
    Cost: some microseconds per batch.
    """
    heads = [(queue[0].due_us, index, 0) for index, queue in enumerate(queues) if queue]
    heapify(heads)
    mean_us, variance = float(start_us), 0.0
    while heads:
        _, index, position = heads[0]
        queue = queues[index]
        first = queue[position]
        rest = queue[position : position + first.served.batch_useful[first.expected]]
        members = prefix(rest, first.served, first.expected, int(mean_us))
        depth = max([member.expected for member in members])
        cost = mandatory(first.served, first.stage, depth, len(members))
        mean_us += cost.mean_us
        variance += cost.spread_us**2
        kept_us = KEPT_SHARE * (mean_us - cost.mean_us - start_us)
        if mean_us + math.sqrt(variance) + kept_us > first.deadline_us:
            return first.deadline_us
        position += len(members)
        if position < len(queue):
            heapreplace(heads, (queue[position].due_us, index, position))
        else:
            heappop(heads)
    return None


def batch_max(first: Waiting, depth: int) -> int:
    """How many rows pay off; without a deadline of their own, no more than leave the device free again soon."""
    served = first.served
    useful = served.batch_useful[depth]
    if first.deadline_us < NEVER_US or useful == 1:
        return useful
    limit_us = max(BLOCK_US_MAX, BLOCK_HOPS * served.hop_us)
    return min(useful, served.batch_within(first.stage, depth, limit_us))


def run_us(served: Served, stage: int, stops: Sequence[int], clock_khz: int = 0) -> int:
    """Time until the last row has left, rows leaving where they stop."""
    if stops.count(stops[0]) == len(stops):
        return served.time_us(stage, stops[0], len(stops), clock_khz)
    costs, trunk, done = served.costs_at(clock_khz), 0.0, stage
    for stop in sorted(set(stops)):
        staying = sum(1 for other in stops if other >= stop)
        trunk += fsum([costs.segment_us[index][staying] for index in range(done, stop + 1)])
        done = stop + 1
        trunk += costs.head_us[stop][sum(1 for other in stops if other == stop)]
    return int(served.hop_us + trunk * served.correction.factor) + 1


def choice(
    run_id: int,
    members: Sequence[Waiting],
    stops: Sequence[int],
    takes_us: int,
    *,
    keeps: bool = True,
    anytime: bool = True,
) -> Choice:
    """The run of these requests, each to its own stop.

    `anytime`: at an exit they leave with what they have if the next segment would end too late. `keeps`: hold the
    features of those that have the answer they must have, for they may go on later.
    """
    served, stage = members[0].served, members[0].stage
    rows = tuple([_row(member, stop, keeps) for member, stop in zip(members, stops, strict=True)])
    deepest, stop_by_us = max(stops), 0
    segments_us: tuple[int, ...] = ()
    if anytime and deepest > stage:
        # With one segment there is nothing to leave before.
        stop_by_us = min([member.deadline_us for member in members])
        stop_by_us = 0 if stop_by_us >= NEVER_US else stop_by_us
        segments_us = _segments_us(served, deepest, len(members)) if stop_by_us else ()
    run = Run(run_id, served.key, stage, rows, stop_by_us, segments_us, takes_us)
    return Choice(run, tuple(members))


def _segments_us(served: Served, deepest: int, batch: int) -> tuple[int, ...]:
    factor = served.correction.factor
    return tuple([int(block_us * factor) + 1 for block_us in served.costs.block_us[batch][: deepest + 1]])


def _row(member: Waiting, stop: int, keeps: bool) -> Row:
    keep = stop < member.target and (keeps or member.staged or stop < member.mandatory)
    if member.gates is None:
        return Row(member.ticket, stop, (), (), keep)
    end, gates = stop + 1 if keep else stop, member.gates
    exits = tuple([exit_index for exit_index in range(member.stage, end) if gates[exit_index] < math.inf])
    return Row(member.ticket, stop, exits, tuple([gates[exit_index] for exit_index in exits]), keep, member.audit)
