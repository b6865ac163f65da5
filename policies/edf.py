"""What to run next: earliest deadline first, batched per network, as deep as everybody's mandatory work allows.

Role: the first policy. At every boundary it takes the most urgent pool, forms a batch of its earliest requests, and
lets them go deeper than they must only by time that no mandatory work with a deadline needs. So under overload requests
leave earlier instead of late, in the order of the profile's ladder, and with the load gone depth returns.

Three classes: requests with a deadline come first; those with other bounds run when they are due earlier, or when
nothing with a deadline waits, and never at the price of a deadline; once they are overdue, nobody gets optional depth
until they have run. Best effort runs only when nothing bounded waits, and yields at its next exit.
Does not: rebalance between tenants, hold batches back, or plan beyond the next run (later policies).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import load
from .view import NEVER_US, Row, Run, Served, View, Waiting

# Of the slack, how much one run may spend on more than it must. All of it would leave a queue that a single stall of
# some milliseconds makes late as a whole: in the demo's burst 0.1-1.0 % of answers instead of none (profiles/LOG.md).
SPARE_SHARE = 0.5


# Work without a deadline yields at exits, so it may hold the device for one segment: no longer than this, if batches
# of more than one row can help it.
BLOCK_US_MAX = 2_000


class Choice(NamedTuple):
    """A run, and the requests in it, in the order of its rows."""

    run: Run
    members: tuple[Waiting, ...]


def choose(view: View, now_us: int, run_id: int) -> Choice | None:
    """Pick the next run, or None when nothing waits.

    Args:
        view: the queue as it stands; never changed.
        now_us: monotonic microseconds, the same for the whole turn.
        run_id: what the run will be called.
    Source: DESIGN.md 7, as a first policy; differs: requests without deadlines are ordered by age.
    Cost: O(queued / batch) for requests with deadlines.
    """
    timed = [pool for pool in view.timed.values() if pool]
    untimed = _first(view.untimed.values())
    if not timed:
        pool = untimed or _first(view.best_effort.values())
        if pool is None or len(pool) == 1:
            return None if pool is None else _lone(pool[0], now_us, run_id)
        return _compose(pool, now_us, run_id, spare_us=NEVER_US)
    if untimed is None and len(timed) == 1 and len(timed[0]) == 1:
        return _lone(timed[0][0], now_us, run_id)
    urgent = min(timed, key=_due)
    spare_us = int(SPARE_SHARE * load.slack_us(load.chunks(timed), now_us))
    if untimed is not None and _due(untimed) < _due(urgent):
        choice = _compose(untimed, now_us, run_id, spare_us=spare_us)
        if choice.run.predicted_us <= spare_us:
            return choice
    overdue = untimed is not None and _due(untimed) < now_us
    return _compose(urgent, now_us, run_id, spare_us=0 if overdue else spare_us)


def _first(pools: Iterable[Sequence[Waiting]]) -> Sequence[Waiting] | None:
    """The pool whose head is due first."""
    return min((pool for pool in pools if pool), key=_due, default=None)


def _due(pool: Sequence[Waiting]) -> int:
    return pool[0].due_us


def _lone(member: Waiting, now_us: int, run_id: int) -> Choice:
    """Nobody else waits for anything bounded: as deep as it wants and its deadline allows."""
    served, takes_us, stop = member.served, 0, 0
    for limit in reversed(served.ladder):
        stop = _stop(member, limit)
        takes_us = served.time_us(member.stage, stop, 1)
        if now_us + takes_us <= member.deadline_us or stop == member.expected:
            break
    return _choice(run_id, (member,), (stop,), takes_us)


def _compose(pool: Sequence[Waiting], now_us: int, run_id: int, *, spare_us: int) -> Choice:
    """Deepest first: the first depth limit whose batch meets its deadlines and leaves the rest of the queue in time."""
    served, stage = pool[0].served, pool[0].stage
    least = _members(pool, served, pool[0].expected, now_us)
    must_us = _run_us(served, stage, [_stop(member, pool[0].expected) for member in least])
    # Work with a deadline is in `spare_us` with its mandatory cost already; other work has no place reserved.
    reserved_us = must_us if pool[0].deadline_us < NEVER_US else 0
    for limit in reversed([exit_index for exit_index in served.ladder if exit_index > pool[0].expected]):
        members = _members(pool, served, limit, now_us)
        stops = [_stop(member, limit) for member in members]
        takes_us = _run_us(served, stage, stops)
        # Members left behind need their mandatory time again later.
        behind_us = max(0, len(least) - len(members)) * reserved_us // len(least)
        if takes_us + behind_us - reserved_us <= spare_us and now_us + takes_us <= _earliest(members):
            return _choice(run_id, members, stops, takes_us)
    return _choice(run_id, least, [_stop(member, pool[0].expected) for member in least], must_us)


def _members(pool: Sequence[Waiting], served: Served, limit: int, now_us: int) -> list[Waiting]:
    """The earliest requests of a pool, as many as pay off and still finish together in time; at least one."""
    members = [pool[0]]
    if pool[0].alone:
        return members
    deadline = pool[0].deadline_us
    deepest = _stop(pool[0], limit)
    for candidate in pool[1 : _batch_max(pool[0], limit)]:
        deepest = max(deepest, _stop(candidate, limit))
        deadline = min(deadline, candidate.deadline_us)
        takes_us = served.time_us(pool[0].stage, deepest, len(members) + 1)
        if candidate.alone or now_us + takes_us > deadline:
            break
        members.append(candidate)
    return members


def _batch_max(first: Waiting, limit: int) -> int:
    """How many rows pay off; without a deadline of their own, no more than leave the device free again soon."""
    served = first.served
    useful = served.batch_useful[limit]
    if first.deadline_us < NEVER_US:
        return useful
    within = (size for size in range(useful, 1, -1) if served.blocks_us(first.stage, limit, size) <= BLOCK_US_MAX)
    return next(within, 1)


def _stop(member: Waiting, limit: int) -> int:
    """Where it leaves when optional depth ends at `limit`."""
    if member.staged:
        return member.stage
    return max(member.expected, min(member.target, limit))


def _earliest(members: Sequence[Waiting]) -> int:
    return min(member.deadline_us for member in members)


def _run_us(served: Served, stage: int, stops: Sequence[int]) -> int:
    """Time until the last row has left, rows leaving where they stop."""
    trunk, done = 0.0, stage
    for stop in sorted(set(stops)):
        staying = sum(1 for other in stops if other >= stop)
        if stop >= done:
            trunk += sum(served.costs.segment_us[index][staying] for index in range(done, stop + 1))
            done = stop + 1
        trunk += served.costs.head_us[stop][sum(1 for other in stops if other == stop)]
    return int(served.hop_us + trunk * served.correction.factor) + 1


def _choice(run_id: int, members: Sequence[Waiting], stops: Sequence[int], takes_us: int) -> Choice:
    served, stage = members[0].served, members[0].stage
    rows = tuple(_row(member, stop) for member, stop in zip(members, stops, strict=True))
    stop_by_us = _earliest(members)
    if stop_by_us >= NEVER_US:
        return Choice(Run(run_id, served.name, stage, rows, 0, (), takes_us), tuple(members))
    costs, factor, batch = served.costs, served.correction.factor, len(members)
    segments_us = tuple(
        int((costs.segment_us[index][batch] + costs.head_us[index][batch]) * factor) + 1
        for index in range(max(stops) + 1)
    )
    return Choice(Run(run_id, served.name, stage, rows, stop_by_us, segments_us, takes_us), tuple(members))


def _row(member: Waiting, stop: int) -> Row:
    exits: tuple[int, ...] = ()
    if member.gate is not None:
        exits = tuple(exit_index for exit_index in member.served.ladder if member.stage <= exit_index < stop)
    return Row(member.ticket, stop, exits, member.gate, member.staged and stop < member.target)
