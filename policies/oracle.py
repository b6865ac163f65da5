"""What the best plan would have got: the exact optimum of a small instance, knowing every arrival and every cost.

Role: offline, the figure that policies are held against; `oracle_bound.py` bounds long traces, `oracle_instances.py`
has the records and the instances that ship. Flow: `Instance` -> `solve` -> `Optimum` with a plan that reaches it.

The model allows all that a device can do, and a little more, so that no policy can be better:
- one device; segments run one after another and are not broken off; any idle time, also to wait for a fuller batch;
- requests of one network that have finished the same segments may share a run, whatever runs brought them there;
- a run takes its profiled time, with no noise, no way to the worker and back, and no time to decide;
- heads cost nothing, so a deeper exit counts with the best accuracy on the way to it;
- a request counts with that accuracy if the segment ends by its deadline, and otherwise with 0. So this bounds what is
  counted by the accuracy of the exit that answered, not by labels: gates that let easy samples go may look better.
A plan's worth then depends only on which segments each request has finished by its deadline (rows that could only be
late are left out of runs, which makes them no longer), and of two plans that finish the same the one that frees the
device earlier is never worse. So the search keeps one time per state, the segments finished by each request.

Does not: decide anything for the daemon, or look at energy, accuracy bounds or what single samples would be answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from .oracle_bound import Hulls, Job, best_use, rows_max
from .oracle_instances import Instance, Optimum, Step
from .view import NEVER_US

# Accuracies are added up in different orders; sums closer than this are equal.
TOLERANCE = 1e-9
# States kept per level of the search, one width after another until nothing that was dropped could have been better.
WIDTHS = (30, 300, 3_000, 30_000)
# Bits per request in a state's code.
BITS = 3
SEGMENTS_MAX = (1 << BITS) - 1


class Reached(NamedTuple):
    """The earliest that a state frees the device, and by which run from which state."""

    free_us: int
    before: int
    step: Step | None


def solve(instance: Instance, *, widths: Sequence[int] = WIDTHS) -> Optimum:
    """The best plan, and whether it is proven to be the best.

    Args:
        widths: how many states a level of the search may keep, tried in turn: the limit on time and memory, counted in
            states so that the result is the same on every machine.
    Raises:
        ValueError: a network with more than 7 segments.
    Cost: exponential in the requests at worst. The 200 instances that ship take 62 s on one core, all of them proven:
        median 0.09 s, longest 15 s.
    """
    if any(len(network.segments_us) > SEGMENTS_MAX for network in instance.networks):
        raise ValueError(f"a network has more than {SEGMENTS_MAX} segments; expected at most that many: merge some")
    search = _Search(instance)
    for width in widths:
        search.beam(width)
        if search.upper <= search.best + TOLERANCE:
            return Optimum(search.best, search.best, "optimal", search.plan)
    return Optimum(search.best, search.upper, "bound", search.plan)


class _Search:
    """States by the number of segments finished in all: their level. A run of b rows leads b levels on.

    A state's code has BITS bits per request, the count of its finished segments. `best`: worth of the best plan found;
    `upper`: no plan is worth more.
    """

    def __init__(self, instance: Instance) -> None:
        requests, networks = instance.requests, instance.networks
        self._tables = [network.segments_us for network in networks]
        self._held = [(0.0, *accumulate(network.accuracy, max)) for network in networks]
        self._network = [asked.network for asked in requests]
        self._arrival = [asked.arrival_us for asked in requests]
        self._deadline = [asked.deadline_us for asked in requests]
        self._depth = [len(networks[asked.network].segments_us) for asked in requests]
        rows = rows_max(requests, networks)
        self._hulls = [
            [Hulls(networks[n], rows=limit, first=k, heads=False) for k in range(len(networks[n].segments_us))]
            for n, limit in zip(self._network, rows, strict=True)
        ]
        self.best, self.upper = 0.0, sum(self._held[n][-1] for n in self._network)
        self.plan: tuple[Step, ...] = ()

    def beam(self, width: int) -> None:
        """Keep the `width` most promising states per level; improve `best` and `upper`."""
        levels: list[dict[int, Reached]] = [{} for _ in range(sum(self._depth) + 1)]
        levels[0][0] = Reached(0, 0, None)
        dropped = 0.0
        for level, states in enumerate(levels):
            open_states = []
            for code, reached in states.items():
                stages = self._stages(code)
                worth = self._worth(stages)
                if worth > self.best:
                    self.best, self.plan = worth, _plan(levels, level, code)
                upper = worth + self._still(stages, reached.free_us)
                if upper > self.best + TOLERANCE:
                    open_states.append((-upper, reached.free_us, code))
            open_states.sort()
            if len(open_states) > width:
                dropped = max(dropped, -open_states[width][0])
            for upper, _, code in open_states[:width]:
                if -upper > self.best + TOLERANCE:
                    self._expand(levels, level, code)
        self.upper = min(self.upper, max(self.best, dropped))

    def _stages(self, code: int) -> list[int]:
        return [code >> BITS * index & SEGMENTS_MAX for index in range(len(self._depth))]

    def _worth(self, stages: Sequence[int]) -> float:
        return sum(self._held[n][stage] for n, stage in zip(self._network, stages, strict=True))

    def _still(self, stages: Sequence[int], free_us: int) -> float:
        """No plan gains more than this from here on."""
        jobs = []
        for index, stage in enumerate(stages):
            if stage < self._depth[index]:
                release_us = max(free_us, self._arrival[index])
                hull = self._hulls[index][stage].of(self._deadline[index] - release_us)
                if hull:
                    jobs.append(Job(release_us, self._deadline[index], hull))
        jobs.sort()
        return best_use(jobs)

    def _expand(self, levels: list[dict[int, Reached]], level: int, code: int) -> None:
        """Enter every state that one run leads to."""
        free_us = levels[level][code].free_us
        stages = self._stages(code)
        pools: dict[tuple[int, int], list[int]] = {}
        soonest_us = min(self._alone_us(index, stage, free_us) for index, stage in enumerate(stages))
        for index, stage in enumerate(stages):
            if stage < self._depth[index]:
                pools.setdefault((self._network[index], stage), []).append(index)
        for (n, stage), pool in pools.items():
            for start_us, members in self._batches(pool, self._tables[n][stage], free_us):
                # While waiting one more segment could be finished: a plan that does so is no worse, and comes up too.
                if start_us > free_us and start_us >= soonest_us:
                    continue
                reached = Reached(start_us + self._tables[n][stage][len(members)], code, Step(start_us, stage, members))
                after = code + sum(1 << BITS * index for index in members)
                states = levels[level + len(members)]
                if after not in states or reached.free_us < states[after].free_us:
                    states[after] = reached

    def _alone_us(self, index: int, stage: int, free_us: int) -> float:
        """When a request's next segment would end, run alone and at once."""
        if stage == self._depth[index]:
            return float("inf")
        end_us = max(free_us, self._arrival[index]) + self._tables[self._network[index]][stage][1]
        return end_us if end_us <= self._deadline[index] else float("inf")

    def _batches(
        self, pool: Sequence[int], times_us: Sequence[int], free_us: int
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Start and members of every run of some of the pool in which nobody is late."""
        found: list[tuple[int, int, tuple[int, ...]]] = [(free_us, NEVER_US, ())]
        for index in pool:
            arrival_us, deadline_us = self._arrival[index], self._deadline[index]
            for start_us, last_us, members in found[:]:
                rows = len(members) + 1
                if rows == len(times_us):
                    continue
                start_us, last_us = max(start_us, arrival_us), min(last_us, deadline_us)
                # One more row makes a run no earlier, no shorter and no less urgent.
                if start_us + times_us[rows] <= last_us:
                    found.append((start_us, last_us, (*members, index)))
        return ((start_us, members) for start_us, _, members in found[1:])


def _plan(levels: Sequence[dict[int, Reached]], level: int, code: int) -> tuple[Step, ...]:
    """The runs that led to a state, in order."""
    steps = []
    while (reached := levels[level][code]).step is not None:
        steps.append(reached.step)
        level, code = level - len(reached.step.members), reached.before
    return tuple(reversed(steps))
