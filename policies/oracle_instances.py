"""Scheduling problems as plain tables: the records, how small ones are drawn, and the 200 that ship with their optima.

Role: what `oracle.py` solves and what policies are tried on; self-contained, so that a test or a benchmark needs no
profile and no search. Flow: `draw` makes them from a seed, `oracle.solve` solves them, `dump` writes both,
`load_instances` reads them back. The file is made by
`dump([(problem, solve(problem)) for problem in draw_all(numpy.random.default_rng(SEED))])`.
Does not: solve, simulate, or make a generator (one is passed in).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from ..profiles.costs import Costs

if TYPE_CHECKING:
    import numpy as np

FILE = Path(__file__).parent / "instances" / "small.jsonl"
SEED = 3
# Share of the device's time asked for, and how many instances of each ship.
LOADS = ((0.5, 67), (1.0, 67), (1.5, 66))
REQUESTS = (6, 10)
DEADLINES_US = (15_000, 50_000, 200_000)
BATCH_MAX = 10
# The batch at which published latencies are taken, and at which the load of an instance is counted.
BATCH_USEFUL = 5


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`segments_us[k][b]`, `heads_us[k][b]`: time for a batch of b, us; index 0 unused. `accuracy[k]`: of exit k."""

    segments_us: tuple[tuple[int, ...], ...]
    heads_us: tuple[tuple[int, ...], ...]
    accuracy: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(us > more for row in (*self.segments_us, *self.heads_us) for us, more in pairwise(row)):
            raise ValueError("a larger batch takes less time; expected never: lift the times that fall, as Costs does")

    @classmethod
    def of(cls, costs: Costs) -> Network:
        """A profiled network: medians rounded down, so never dearer than the device's."""
        return cls(
            segments_us=tuple(tuple(int(us) for us in row) for row in costs.segment_us),
            heads_us=tuple(tuple(int(us) for us in row) for row in costs.head_us),
            accuracy=tuple(costs.accuracy),
        )


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """A request: the index of its network, when it comes, and when its answer must be out; absolute, us."""

    network: int
    arrival_us: int
    deadline_us: int


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`load`: time all requests need at their deepest exit in batches of 5, over the time in which they arrive."""

    load: float
    networks: tuple[Network, ...]
    requests: tuple[Asked, ...]


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One run of a plan: `members` are indices of requests, and all have finished the segments before this one."""

    start_us: int
    segment: int
    members: tuple[int, ...]


class Optimum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`accuracy_sum` over all requests, reached by `plan`; no plan exceeds `upper`. "optimal": they are equal."""

    accuracy_sum: float
    upper: float
    status: Literal["optimal", "bound"]
    plan: tuple[Step, ...]


class Solved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file."""

    instance: Instance
    optimum: Optimum


def draw(load: float, rng: np.random.Generator) -> Instance:
    """6-10 requests of 1-3 networks, each with 3 or 4 exits, arriving uniformly over the time that gives this load.

    Deadlines are 15, 50 or 200 ms after arrival with equal chance, whatever the network: the bounds of scenario E2.
    """
    networks = tuple(_draw_network(rng) for _ in range(int(rng.integers(1, 4))))
    count = int(rng.integers(REQUESTS[0], REQUESTS[1] + 1))
    chosen = [int(rng.integers(len(networks))) for _ in range(count)]
    work_us = sum(sum(row[BATCH_USEFUL] for row in networks[network].segments_us) for network in chosen) / BATCH_USEFUL
    arrivals = sorted(int(rng.integers(0, int(work_us / load))) for _ in range(count))
    requests = tuple(
        Asked(network, arrival_us, arrival_us + DEADLINES_US[int(rng.integers(len(DEADLINES_US)))])
        for network, arrival_us in zip(chosen, arrivals, strict=True)
    )
    return Instance(load, networks, requests)


def draw_all(rng: np.random.Generator) -> list[Instance]:
    """As many instances of each load as ship."""
    return [draw(load, rng) for load, count in LOADS for _ in range(count)]


def _draw_network(rng: np.random.Generator) -> Network:
    """Segments and accuracies like the multi-exit ResNet-50, -101 and -152 that EdgeServing (2605.05527) publishes.

    Theirs take 5.1-13.5 ms to the last exit at batch 5, on a desktop GPU, where 6-10 requests with these deadlines
    always fit whole; here it is 10-40 ms, as on a small board, and half of the instances do not. Batching curve:
    l(B) = l(5) * (alpha + (1 - alpha) * B / 5), alpha 0.2-0.6, 0.4 being what scenario E1 assumes. Heads are part of
    their segments. Along the exits time and accuracy rise, so no exit is dominated.
    """
    exits = int(rng.integers(3, 5))
    alpha = int(rng.integers(20, 61)) / 100
    whole_us = int(rng.integers(10_000, 40_001))
    shares = [int(rng.integers(10, 41)) for _ in range(exits)]
    batched = [alpha + (1 - alpha) * batch / BATCH_USEFUL for batch in range(1, BATCH_MAX + 1)]
    segments_us = tuple((0, *(int(whole_us * share / sum(shares) * factor) for factor in batched)) for share in shares)
    accuracy = [int(rng.integers(550, 621))]
    for lowest, highest in ((130, 190), (30, 70), (5, 20))[: exits - 1]:
        accuracy.append(accuracy[-1] + int(rng.integers(lowest, highest + 1)))
    no_heads = tuple((0,) * (BATCH_MAX + 1) for _ in range(exits))
    return Network(segments_us, no_heads, tuple(value / 1000 for value in accuracy))


def dump(solved: list[tuple[Instance, Optimum]]) -> bytes:
    """One JSON object per line, as `load_instances` reads them."""
    return b"".join(msgspec.json.encode(Solved(instance, optimum)) + b"\n" for instance, optimum in solved)


def load_instances() -> list[tuple[Instance, Optimum]]:
    """The instances that ship, with their optima: 67 at load 0.5, 67 at 1.0, 66 at 1.5."""
    lines = FILE.read_bytes().splitlines()
    return [(solved.instance, solved.optimum) for solved in map(msgspec.json.Decoder(Solved).decode, lines)]
