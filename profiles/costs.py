"""A profile made ready for deciding: the cost of every segment, head and path at every batch size, by indexing.

Role: `Costs.of(profile, batch_max)` once per loaded network; the scheduler then reads plain lists, thousands of times a
second. Also says which exits are worth choosing (`ladder`). Flow: `schema.Profile` -> `Costs` -> policies.

Does not: correct for how the device runs just now (policies do), or read files. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy

import msgspec

from ..clients.info import EnergySource, ExitInfo
from .monotone import dense
from .schema import Cost, Profile

# One row per segment or head; a row's index is the batch size, its index 0 unused.
Table = list[list[float]]


class CostTables(msgspec.Struct, frozen=True, array_like=True):
    """All that `Costs` is made from, as a journal keeps it: fields as there, every batch size already filled in."""

    segment_us: Table
    head_us: Table
    segment_p99_us: Table
    head_p99_us: Table
    segment_mj: Table | None
    head_mj: Table | None
    energy_source: EnergySource
    accuracy: list[float]


class Costs:
    """Dense costs of one network on one device, for batch sizes 1..batch_max; never changed after `of`.

    `segment_us[k][b]`, `head_us[k][b]`: medians, us. `segment_p99_us`, `head_p99_us`: alike. `segment_mj`, `head_mj`:
    mJ for the whole batch, or None where the profile has no energy. `paths_us[k][l - k][b]`: medians of segments k..l
    and head l; `block_us[b][k]`: of one segment and its head. `accuracy[k]`: share of labels right at exit k.

    `dominated[k]`: exit k is never worth choosing: a shallower exit is at least as accurate (its answer is already at
    hand when k's comes), or a deeper one is more accurate and takes no more time at batch 1 (k's head is dearer than
    the way on). `ladder`: the others, shallow to deep; along it accuracy and time at batch 1 rise strictly.
    """

    segment_us: Table
    head_us: Table
    segment_p99_us: Table
    head_p99_us: Table
    segment_mj: Table | None
    head_mj: Table | None
    energy_source: EnergySource
    accuracy: list[float]
    exit_count: int
    batch_max: int
    dominated: list[bool]
    ladder: tuple[int, ...]
    paths_us: list[Table]
    block_us: list[list[float]]
    _path_p99_us: list[Table]
    _energy_mj: Table | None

    @classmethod
    def of(cls, profile: Profile, batch_max: int) -> Costs:
        """Interpolate a checked profile at every batch size up to `batch_max` (monotone.dense says how).

        Raises:
            ValueError: `batch_max` is below 1.
        Cost: O(exits^2 x batch_max), once at load.
        """
        if batch_max < 1:
            raise ValueError(f"batch_max is {batch_max}; expected at least 1")
        segment_us, segment_p99_us, segment_mj = _tables(profile.segments, profile.batches, batch_max)
        head_us, head_p99_us, head_mj = _tables(profile.heads, profile.batches, batch_max)
        if profile.energy_source == "modelled":
            segment_mj, head_mj = _no_dearer_together(segment_mj), _no_dearer_together(head_mj)
        return cls.of_tables(
            CostTables(
                segment_us,
                head_us,
                segment_p99_us,
                head_p99_us,
                segment_mj,
                head_mj,
                profile.energy_source,
                [quality.accuracy for quality in profile.exits],
            )
        )

    @classmethod
    def of_tables(cls, tables: CostTables) -> Costs:
        """The same costs again, to the last bit, from what `tables` gave."""
        costs = cls()
        costs.segment_us, costs.head_us = tables.segment_us, tables.head_us
        costs.segment_p99_us, costs.head_p99_us = tables.segment_p99_us, tables.head_p99_us
        costs.segment_mj, costs.head_mj = tables.segment_mj, tables.head_mj
        costs.energy_source, costs.accuracy = tables.energy_source, tables.accuracy
        costs.batch_max = len(tables.segment_us[0]) - 1
        costs.exit_count = len(tables.accuracy)
        costs.paths_us, costs._path_p99_us = _paths(costs)
        costs._energy_mj = _energies(costs.segment_mj, costs.head_mj)
        costs.block_us = [
            [segment[batch] + head[batch] for segment, head in zip(tables.segment_us, tables.head_us, strict=True)]
            for batch in range(costs.batch_max + 1)
        ]
        costs.dominated = _dominated(costs.accuracy, [costs.path_us(0, k, 1) for k in range(costs.exit_count)])
        costs.ladder = tuple(k for k in range(costs.exit_count) if not costs.dominated[k])
        return costs

    def tables(self) -> CostTables:
        """What to write down so that `of_tables` makes the same costs."""
        return CostTables(**{name: getattr(self, name) for name in CostTables.__struct_fields__})

    def with_energies(self, segment_mj: Table, head_mj: Table) -> Costs:
        """The same but for its energies; some dozens of microseconds, for times stay as they are."""
        costs = copy(self)
        costs.segment_mj, costs.head_mj = segment_mj, head_mj
        costs._energy_mj = _energies(segment_mj, head_mj)
        return costs

    @property
    def charged_source(self) -> EnergySource:
        """Of what a request is charged by these: a model, also where a meter took them, since it took other runs."""
        return "unknown" if self._energy_mj is None or self.energy_source == "unknown" else "modelled"

    def path_us(self, first: int, last: int, batch: int) -> float:
        """Median time of segments first..last and head last at one batch size, us."""
        return self.paths_us[first][last - first][batch]

    def path_p99_us(self, first: int, last: int, batch: int) -> float:
        """Time that segments first..last and head last keep in about 99 of 100 runs, us.

        Medians add; what steps take beyond them is taken as independent, so excesses (p99 - p50) add as the root of
        their sum of squares: exact for normal noise, never below the largest single excess (one rare stall), never
        above the sum of all p99 (every step stalling in the same run).
        """
        return self._path_p99_us[first][last - first][batch]

    def energy_mj(self, index: int, batch: int) -> float | None:
        """Energy of the whole batch from the input to the answer of exit `index`, one head, mJ; None where unknown."""
        return None if self._energy_mj is None else self._energy_mj[index][batch]

    def most_mj(self, index: int) -> float | None:
        """The most one request to this exit may be charged, mJ: alone, with the head of every exit it may stop at."""
        if self._energy_mj is None or self.head_mj is None:
            return None
        return self._energy_mj[index][1] + sum([self.head_mj[k][1] for k in self.ladder if k < index])

    def exit_infos(self) -> tuple[ExitInfo, ...]:
        """The exits as tenants are told of them: cumulative, batch 1, the most it may be charged. Unknown is None.

        `gmac` is None: no profile has it, a bundle may.
        """
        return tuple(self._exit_info(index) for index in range(self.exit_count))

    def _exit_info(self, index: int) -> ExitInfo:
        return ExitInfo(
            index=index,
            accuracy=self.accuracy[index],
            latency_p50_us=math.ceil(self.path_us(0, index, 1)),
            latency_p99_us=math.ceil(self.path_p99_us(0, index, 1)),
            energy_mj=self.most_mj(index),
            energy_source=self.energy_source,
            dominated=self.dominated[index],
            gmac=None,
        )


def _tables(
    rows: Sequence[Sequence[Cost]], batches: Sequence[int], batch_max: int
) -> tuple[Table, Table, Table | None]:
    """p50, p99 and energy of each row at every batch size."""
    p50 = [dense(batches, [cost.p50_us for cost in row], batch_max) for row in rows]
    p99 = [dense(batches, [cost.p99_us for cost in row], batch_max) for row in rows]
    energies = [[cost.energy_mj for cost in row if cost.energy_mj is not None] for row in rows]
    if any(len(known) != len(batches) for known in energies):
        return p50, p99, None
    return p50, p99, [dense(batches, known, batch_max) for known in energies]


def _no_dearer_together(energies: Table | None) -> Table | None:
    """Energies of whole batches, none more than so many times that of one row.

    A model's: in a profile of some seconds one stalled batch would make all who share such a batch break their caps.
    """
    if energies is None:
        return None
    return [[min(mj, batch * row[1]) for batch, mj in enumerate(row)] for row in energies]


def _paths(costs: Costs) -> tuple[list[Table], list[Table]]:
    """p50 and p99 of every path, indexed [first][last - first][batch]."""
    p50: list[Table] = []
    p99: list[Table] = []
    for first in range(costs.exit_count):
        sums = [0.0] * (costs.batch_max + 1)
        squares = [0.0] * (costs.batch_max + 1)
        p50.append([])
        p99.append([])
        for last in range(first, costs.exit_count):
            segment = list(_excesses(costs.segment_us[last], costs.segment_p99_us[last]))
            head = list(_excesses(costs.head_us[last], costs.head_p99_us[last]))
            sums = [total + us for total, us in zip(sums, costs.segment_us[last], strict=True)]
            squares = [total + excess * excess for total, excess in zip(squares, segment, strict=True)]
            path = [total + us for total, us in zip(sums, costs.head_us[last], strict=True)]
            p50[-1].append(path)
            p99[-1].append(
                [
                    us + math.sqrt(square + excess * excess)
                    for us, square, excess in zip(path, squares, head, strict=True)
                ]
            )
    return p50, p99


def _excesses(p50: Sequence[float], p99: Sequence[float]) -> Iterator[float]:
    # Lifting each curve where it falls may bring p50 above p99 by a hair; an excess is never negative.
    return (max(0.0, high - low) for low, high in zip(p50, p99, strict=True))


def _energies(segments: Table | None, heads: Table | None) -> Table | None:
    if segments is None or heads is None:
        return None
    table: Table = []
    sums = [0.0] * len(segments[0])
    for segment, head in zip(segments, heads, strict=True):
        sums = [total + mj for total, mj in zip(sums, segment, strict=True)]
        table.append([total + mj for total, mj in zip(sums, head, strict=True)])
    return table


def _dominated(accuracy: Sequence[float], time_us: Sequence[float]) -> list[bool]:
    count = len(accuracy)
    return [
        any(accuracy[other] >= accuracy[k] for other in range(k))
        or any(accuracy[other] > accuracy[k] and time_us[other] <= time_us[k] for other in range(k + 1, count))
        for k in range(count)
    ]
