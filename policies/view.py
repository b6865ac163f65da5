"""What policies look at and what they decide: networks as served, waiting requests, and the next run.

Role: the vocabulary of this room. `Served` never changes after load; `Waiting` belongs to the core and is read-only
here; `Run` is the one thing a policy returns. Times are int microseconds on the core's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from ..clients.bounds import Objective
from ..profiles.costs import Costs
from .correction import Correction
from .gates import GateTable

NEVER_US = 2**62
# A batch is large enough when one more row would save less than this share of the cost per row.
BATCH_SAVING_MIN = 0.10


@dataclass
class Served:
    """One network as this device serves it: costs, gates, and how its times run against the profile just now.

    `hop_us`: what a run costs beside the engine's own time (to the worker and back), so that small runs are not
    mistaken for free ones. `gmac`: cumulative multiply-adds per exit where known, for conditions on computation.
    """

    name: str
    version: str
    costs: Costs
    gates: GateTable | None
    batch_max: int
    hop_us: float
    gmac: tuple[float, ...] | None = None
    correction: Correction = field(default_factory=Correction)

    @property
    def ladder(self) -> tuple[int, ...]:
        """The exits that may be chosen: each more accurate than all shallower ones."""
        return self.costs.ladder

    @property
    def exit_last(self) -> int:
        return self.ladder[-1]

    @cached_property
    def batch_useful(self) -> tuple[int, ...]:
        """Per exit, the smallest batch whose cost per row is within BATCH_SAVING_MIN of the best."""
        return tuple(self._batch_useful(exit_index) for exit_index in range(len(self.costs.accuracy)))

    def _batch_useful(self, exit_index: int) -> int:
        per_row = [
            (self.hop_us + self.costs.path_us(0, exit_index, batch)) / batch for batch in range(1, self.batch_max + 1)
        ]
        enough = min(per_row) * (1 + BATCH_SAVING_MIN)
        return next(batch for batch, cost in enumerate(per_row, start=1) if cost <= enough)

    def time_us(self, first: int, last: int, batch: int) -> int:
        """How long a run of segments first..last and head last takes, in all but a few cases, hop included."""
        return int(self.hop_us + self.costs.path_us(first, last, batch) * self.correction.factor) + 1

    def blocks_us(self, first: int, last: int, batch: int) -> int:
        """How long such a run holds the device at most before it can yield: its longest segment, with its head."""
        costs = self.costs
        longest = max(costs.segment_us[k][batch] + costs.head_us[k][batch] for k in range(first, last + 1))
        return int(self.hop_us + longest * self.correction.factor) + 1


@dataclass(eq=False, slots=True)
class Waiting:
    """An accepted request that has not ended, as policies see it.

    `deadline_us`: when its run must be over, guard for the way back already taken off; NEVER_US without a bound.
    `due_us`: the order in which it is served: its deadline, or for requests without one an age they should not pass.
    `mandatory`: the shallowest exit that keeps its bounds. `target`: the deepest it wants. `gate`: leave earlier where
    confidence exceeds it. `stage`: segments finished. `last_reached`: deepest exit it has an answer of, -1 for none.
    `expected`: the exit to plan for, `mandatory` or the next one where that is deeper.
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
    gate: float | None = None
    staged: bool = False
    alone: bool = False
    stage: int = 0
    last_reached: int = -1
    expected: int = field(init=False)

    def __post_init__(self) -> None:
        self.expected = max(self.mandatory, self.stage)

    def move_to(self, stage: int) -> None:
        """Note how many segments are finished; the exit to plan for is then at least that one."""
        self.stage = stage
        self.expected = max(self.mandatory, stage)


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One request's part of a run.

    `stop`: where it leaves the run at the latest; the head there is run. `gate`: leave earlier, at any of `exits`,
    where confidence exceeds it. `keep`: hold its features after `stop`, it may go on later.
    """

    ticket: int
    stop: int
    exits: tuple[int, ...]
    gate: float | None
    keep: bool


class Run(msgspec.Struct, frozen=True, array_like=True):
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


Pools = Mapping[tuple[str, int], Sequence[Waiting]]


@dataclass(frozen=True)
class View:
    """The queue at one boundary: `pools[(network, stage)]`, each by `due_us`.

    `timed`: requests with a deadline. `untimed`: with other bounds, or late already. `best_effort`: without any.
    """

    timed: Pools
    untimed: Pools
    best_effort: Pools
