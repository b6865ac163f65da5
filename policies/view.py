"""What policies look at and what they decide: networks as served, waiting requests, and the next run.

Role: the vocabulary of this room. `Served` is made at load and follows the device from then on; `Waiting` belongs to
the core and is read-only here; `Choice` is what a policy returns. Times are int microseconds on the core's clock. The
queue: `pools.py`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from ..clients.bounds import Objective
from ..profiles.costs import Costs
from .budgets import Worth, worth_of
from .certificates import Certifier
from .correction import Correction, Corrects
from .device_clock import DeviceClock
from .fairness import Share
from .likely import gated_path

NEVER_US = 2**62
# How fast the estimate of a run's overhead follows: one part in twenty per run. One run counts as so much at most, or
# as so many times what is expected: a stall is not overhead, but on a machine that others keep busy every run has it
# (10 to 40 ms with eight busy loops on two cores, where 0.4 ms is usual).
HOP_GAIN, HOP_US_MAX, HOP_GROWTH = 0.05, 2_000.0, 4.0
# Beyond the first of these it falls faster: few runs are let in then that could show that it is over.
HOP_FALL = 0.25
# What is derived from it is worked out again when it has moved by so much.
HOP_MOVED = 1.5
# Tenants may ask for any accuracy; what is remembered of their gates is bounded.
LIKELY_MAX = 4096
# A batch is large enough when one more row would save less than this share of the cost per row.
BATCH_SAVING_MIN = 0.03


class Guard(NamedTuple):
    """What the way back to the tenant and a busy processor may take beside the run, taken off every latency bound.

    Half a millisecond covers reply and wake-up on a busy two-core machine; a tenth, jitter that grows with the bound.
    `hold_share`: of the time a request came with, how much an answer at hand may wait for a deeper one. With all of it
    the first stall of some milliseconds makes every held answer late: in the demo's burst 15 to 22 % of them, with half
    of it 1 to 2 %. A third costs less than 0.1 points of accuracy (scenario e11).
    """

    fixed_us: int = 500
    share: float = 0.10
    hold_share: float = 0.33

    def usable_us(self, latency_ms: float) -> int:
        """What of a latency bound may be spent on waiting and running."""
        return int(latency_ms * 1000 * (1 - self.share)) - self.fixed_us

    def latency_ms_for(self, usable_us: int) -> float:
        """The smallest bound, rounded up to 0.01 ms, whose usable part is at least `usable_us`."""
        return rounded_up((usable_us + self.fixed_us + 1) / (1 - self.share) / 1000)


GUARD = Guard()


def rounded_up(value: float) -> float:
    """Up to the next multiple of 0.01, and never just below what was asked for."""
    return float(-(-value * 100 // 1) + 1) / 100


class Step(NamedTuple):
    """From one stage to an exit: what the answer gains in accuracy, and the profiled time of the way, us."""

    stop: int
    gain: float
    path_us: float


@dataclass
class Served:
    """One network as this device serves it: costs, certificates, and how its times run against the profile just now.

    `hop_us`: what a run costs beside the engine's own time (to the worker and back), so that small runs are not
    mistaken for free ones. `gmac`: cumulative multiply-adds per exit where known, for conditions on computation.
    `ran_us`: when it last ran, or was tried. `plans`: exits already chosen for bounds without time, by those bounds
    (`exits.plan`). `key`: what the core and the worker call it, where several are served under one name: another
    version of it, or a tenant's own; else its name. `away_until_us`: when its worker is expected back; 0 while it is
    there, or while all networks share its fate. `at_khz`: what it costs at each GPU clock that may be set; `costs` are
    then those of the highest, since what cannot be done there cannot be done.
    """

    name: str
    version: str
    costs: Costs
    gates: Certifier | None
    batch_max: int
    hop_us: float
    gmac: tuple[float, ...] | None = None
    correction: Corrects = field(default_factory=Correction)
    guard: Guard = GUARD
    ran_us: int = 0
    plans: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)
    key: str = ""
    away_until_us: int = 0
    at_khz: Mapping[int, Costs] = field(default_factory=dict, repr=False)
    _hop_used_us: float = field(init=False, repr=False)
    _steps: dict[tuple[int, int], Step] = field(default_factory=dict, init=False, repr=False)
    _blocks: dict[tuple[int, int], list[float]] = field(default_factory=dict, init=False, repr=False)
    _likely: dict[tuple[Any, ...], tuple[float, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.key = self.key or self.name
        self._hop_used_us = max(self.hop_us, 1.0)

    def ran(self, overhead_us: float) -> None:
        """Take note of what a run just took beside the engine's time."""
        counted_us = min(max(HOP_US_MAX, HOP_GROWTH * self.hop_us), max(0.0, overhead_us))
        falls = HOP_US_MAX < self.hop_us > counted_us
        self.hop_us += (HOP_FALL if falls else HOP_GAIN) * (counted_us - self.hop_us)
        moved = max(self.hop_us, 1.0) / self._hop_used_us
        if not 1 / HOP_MOVED < moved < HOP_MOVED:
            self._hop_used_us = max(self.hop_us, 1.0)
            self.__dict__.pop("batch_useful", None)
            self._steps.clear()

    def costs_at(self, clock_khz: int) -> Costs:
        """What it costs at this GPU clock; 0: as it is."""
        return self.at_khz.get(clock_khz, self.costs) if clock_khz else self.costs

    def renew(self, costs: Costs, at_khz: Mapping[int, Costs], correction: Corrects) -> None:
        """From now on it costs this: its device's clock has changed. Certificates and who waits stay as they are."""
        self.costs, self.at_khz, self.correction = costs, at_khz, correction
        for derived in ("ladder", "exit_last", "next_exit", "batch_useful", "worth"):
            self.__dict__.pop(derived, None)
        for known in (self._steps, self._blocks, self._likely, self.plans):
            known.clear()

    def recost(self, costs: Costs, at_khz: Mapping[int, Costs]) -> None:
        """From now on its energies are these; its times are as they were."""
        self.costs, self.at_khz = costs, at_khz
        self.__dict__.pop("worth", None)
        self.plans.clear()

    @cached_property
    def worth(self) -> Worth | None:
        """What its exits give for their energy; None where that is not known."""
        return worth_of(self.costs)

    @cached_property
    def ladder(self) -> tuple[int, ...]:
        """The exits that may be chosen: each more accurate than all shallower ones."""
        return self.costs.ladder

    @cached_property
    def exit_last(self) -> int:
        return self.ladder[-1]

    @cached_property
    def next_exit(self) -> tuple[int, ...]:
        """Per number of finished segments, the next exit that may be chosen; that number itself where none is left."""
        return tuple(
            next((exit_index for exit_index in self.ladder if exit_index >= stage), stage)
            for stage in range(len(self.costs.accuracy) + 1)
        )

    @cached_property
    def batch_useful(self) -> tuple[int, ...]:
        """Per exit, the smallest batch whose cost per row is within BATCH_SAVING_MIN of the best."""
        return tuple(self._batch_useful(exit_index) for exit_index in range(len(self.costs.accuracy)))

    def _batch_useful(self, exit_index: int) -> int:
        hop_us, path_us = self.hop_us, self.costs.paths_us[0][exit_index]
        per_row = [(hop_us + path_us[batch]) / batch for batch in range(1, self.batch_max + 1)]
        enough = min(per_row) * (1 + BATCH_SAVING_MIN)
        return next(batch for batch, cost in enumerate(per_row, start=1) if cost <= enough)

    def step(self, stage: int, batch: int) -> Step:
        """The way on that gains most accuracy per microsecond for a batch of so many, 1 or more.

        `stage` counts finished segments; what the answer at hand is worth is the best the ladder has up to there.
        """
        found = self._steps.get((stage, batch))
        if found is None:
            found = self._steps[stage, batch] = self._best_step(stage, batch)
        return found

    def _best_step(self, stage: int, batch: int) -> Step:
        accuracy = self.costs.accuracy
        at_hand = max((accuracy[exit_index] for exit_index in self.ladder if exit_index < stage), default=0.0)
        found = [
            Step(exit_index, accuracy[exit_index] - at_hand, self.costs.path_us(stage, exit_index, batch))
            for exit_index in self.ladder
            if exit_index >= stage
        ]
        return max(found, key=lambda step: step.gain / (self.hop_us + step.path_us))

    def likely(
        self, first: int, last: int, batch: int, gated: tuple[tuple[float, ...], tuple[float, ...]]
    ) -> tuple[float, float]:
        """Mean and spread of such a run where `gated`, gates and the shares beyond them, let rows go (`likely.py`)."""
        key = first, last, batch, gated
        found = self._likely.get(key)
        if found is None:
            if len(self._likely) >= LIKELY_MAX:
                self._likely.clear()
            found = self._likely[key] = gated_path(self.costs, (first, last), batch, *gated)
        return found

    def row_us(self, exit_index: int) -> float:
        """Profiled device time of one request to this exit in a batch of useful size."""
        batch = self.batch_useful[exit_index]
        return (self.hop_us + self.costs.path_us(0, exit_index, batch)) / batch

    def time_us(self, first: int, last: int, batch: int, clock_khz: int = 0) -> int:
        """How long a run of segments first..last and head last takes, in all but a few cases, hop included."""
        costs = self.costs_at(clock_khz) if clock_khz else self.costs
        return int(self.hop_us + costs.paths_us[first][last - first][batch] * self.correction.factor) + 1

    def batch_within(self, first: int, last: int, limit_us: float) -> int:
        """The largest batch whose run to this exit holds the device no longer than `limit_us` before it can yield."""
        longest_us = (limit_us - self.hop_us) / self.correction.factor
        return max(1, bisect_right(self._longest_us(first, last), longest_us))

    def _longest_us(self, first: int, last: int) -> list[float]:
        """Per batch size from 1, rising, the profiled time of the longest segment on the way, with its head."""
        found = self._blocks.get((first, last))
        if found is None:
            found = [max(block_us[first : last + 1]) for block_us in self.costs.block_us[1 : self.batch_max + 1]]
            self._blocks[first, last] = found
        return found


@dataclass(eq=False, slots=True)
class Waiting:
    """An accepted request that has not ended, as policies see it.

    `deadline_us`: when its run must be over, guard for the way back already taken off; NEVER_US without a bound.
    `due_us`: the order in which it is served: its deadline, or for requests without one an age they should not pass.
    `mandatory`: the shallowest exit that keeps its bounds. `target`: the deepest it wants. `gates`: leave earlier,
    where confidence exceeds the exit's, infinite where it has none; `beyond`: per exit, how many of such requests go
    beyond it. `audit`: hold its features when a gate lets it go, to see later whether that was right. `stage`:
    segments finished. `last_reached`: deepest exit it has an answer of, -1 for none. `expected`: the exit to plan for,
    `mandatory` or the next one where that is deeper. `nearest`: the next exit with a gate, else `expected`. `spare`:
    beyond its tenant's share of the device, so it runs only in time nobody within theirs needs. `owed_us`: device time
    its mandatory part is counted with until it ends. `most_us`: the same to `target` in a batch of its own, where its
    tenant has a quota; `most_mj`: the most it may be charged, where its tenant's energy is capped. `doubtful`: it may
    end the worker, and others would suffer, so it is out of sight until that costs them least.
    """

    ticket: int
    served: Served
    arrival_us: int
    deadline_us: int
    due_us: int
    mandatory: int
    target: int
    bounded: bool
    objective: Objective
    share: Share
    gates: tuple[float, ...] | None = None
    beyond: tuple[float, ...] = ()
    audit: bool = False
    staged: bool = False
    alone: bool = False
    doubtful: bool = False
    spare: bool = False
    stage: int = 0
    last_reached: int = -1
    owed_us: float = 0.0
    most_us: float = 0.0
    most_mj: float = 0.0
    expected: int = field(init=False)
    nearest: int = field(init=False)

    def __post_init__(self) -> None:
        self.move_to(self.stage)

    @property
    def optional(self) -> bool:
        """Whether it has the answer it must have, and anything deeper is a gift."""
        return self.last_reached >= self.mandatory and not self.staged

    @property
    def owed_to(self) -> int:
        """The last segment that its bounds need, within its tenant's share; -1 where it is owed none."""
        if not self.bounded or self.spare:
            return -1
        return len(self.served.costs.accuracy) - 1 if self.staged else self.mandatory

    def demote(self, now_us: int) -> None:
        """It is late already: its first exit still runs, marked, as soon as nobody becomes late by it."""
        self.deadline_us, self.due_us = NEVER_US, now_us
        self.mandatory = self.target = self.served.ladder[0]
        self.move_to(self.stage)
        self.gates, self.staged = None, False

    def move_to(self, stage: int) -> None:
        """Note how many segments are finished; the exit to plan for is then at least that one."""
        self.stage = stage
        if stage <= self.mandatory:
            self.expected = self.mandatory
        else:
            # Conditions are asked at every exit; otherwise a dominated one is not worth stopping at.
            self.expected = stage if self.staged else self.served.next_exit[stage]
        self.nearest = self.expected
        if self.gates is not None:
            gates = enumerate(self.gates[stage : self.expected], start=stage)
            self.nearest = next((exit_index for exit_index, gate in gates if gate < math.inf), self.expected)

    @property
    def stays(self) -> float:
        """How likely it goes on beyond `nearest`."""
        if self.gates is None:
            return 1.0
        come = self.beyond[self.stage - 1] if self.stage else 1.0
        return self.beyond[self.nearest] / come if come else 1.0


class Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One request's part of a run.

    `stop`: where it leaves the run at the latest; the head there is run. `exits`, `gates`: leave earlier, at any of
    these, where confidence exceeds that exit's gate. `keep`: hold its features after `stop`, it may go on later;
    `audit`: also where a gate lets it go.
    """

    ticket: int
    stop: int
    exits: tuple[int, ...]
    gates: tuple[float, ...]
    keep: bool
    audit: bool = False

    def is_held(self, *, gated: bool, early: bool) -> bool:
        """Whether its features are wanted again when it leaves: by a gate, or `early`, before where it must."""
        return self.audit if gated else self.keep or early

    def lets_go(self, exit_index: int, confidence: float) -> bool:
        """Whether one of its gates lets it leave there."""
        return exit_index in self.exits and confidence > self.gates[self.exits.index(exit_index)]


class Run(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One command to a device: these rows of one network, from segment `first`, each to its own `stop`.

    `stop_by_us`: at an exit, rows leave with what they have if the next segment would end later than this; 0: never.
    `segments_us`: predicted time of each segment with its head, from segment 0, for that decision; else empty.
    """

    id: int
    network: str
    first: int
    rows: tuple[Row, ...]
    stop_by_us: int
    segments_us: tuple[int, ...]
    predicted_us: int
    clock_khz: int = 0


class Choice(NamedTuple):
    """What a policy decided: a run and the requests in it, in the order of its rows; and requests it gives up on.

    `wake_us`: without a run, when to ask again though nothing has happened. `clock`: where the run sets it.
    """

    run: Run | None
    members: tuple[Waiting, ...]
    dropped: tuple[Waiting, ...] = ()
    wake_us: int = NEVER_US
    clock: DeviceClock | None = None
