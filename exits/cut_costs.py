"""What every possible exit would cost, by multiply-adds and by time, and which to propose.

Flow: `candidates(cuts)` -> shares of the whole by multiply-adds -> `by_time` measures the same here instead ->
`choose_even` picks as many as are wanted, so that each costs about as much more than the one before.

Does not: cut, or measure for scheduling: that is a profile, taken of the exported parts on the device that serves.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from .graph_cuts import Cuts
from .torch_graph import call

# Rounds of measuring: until so many, or so long.
ROUNDS_MIN, ROUNDS_MAX, MEASURE_S_MAX = 3, 25, 5.0
# A whole stage or block is a better place than the middle of one: what a level of nesting costs in shares.
NESTING_PENALTY = 0.015
# A module without children, a convolution before its norm: likewise.
LEAF_PENALTY = 0.04


class CutCost(NamedTuple):
    """One candidate. `path`: the outermost module that ends there, `paths` all of them. `shape`: of the features,
    without batch. `macs`: multiply-adds of one input up to there. `time_us`: likewise time at batch 1, None where not
    measured. `share`: of the whole network, by time where measured, else by multiply-adds. `block`: the module holds
    others.
    """

    path: str
    paths: tuple[str, ...]
    shape: tuple[int, ...]
    macs: int
    time_us: float | None
    share: float
    block: bool


def candidates(cuts: Cuts, last: fx.Node) -> list[CutCost]:
    """Points before the last segment's end that something with multiply-adds comes before and after."""
    total = max(1, cuts.macs_between(None, cuts.traced.output))
    found = [point for point in cuts.points() if point.macs and cuts.macs_between(point.node, last)]
    return [
        CutCost(point.path, point.paths, point.shape, point.macs, None, point.macs / total, cuts.is_block(point.path))
        for point in found
    ]


def by_time(cuts: Cuts, found: list[CutCost], example: Tensor) -> list[CutCost]:
    """The same candidates with time measured here: each operation's median over some rounds at batch 1, in PyTorch."""
    times_us = _node_times(cuts, example[:1])
    total_us = sum(times_us.values())
    measured = []
    for cost in found:
        end = cuts.cut_at(cost.path).node
        spent_us = sum(times_us[node] for node in cuts.nodes_between(None, end) if node in times_us)
        measured.append(cost._replace(time_us=spent_us, share=spent_us / total_us))
    return measured


def choose_even(found: list[CutCost], count: int) -> list[CutCost]:
    """The `count` candidates nearest to even shares, in order; whole blocks before their parts.

    Raises:
        ValueError: fewer candidates than `count`, or `count` is none.
    """
    if not found:
        raise ValueError("the network can be cut nowhere: there is no module after which its result is all that counts")
    if not 1 <= count <= len(found):
        names = ", ".join(cost.path for cost in found[:8])
        raise ValueError(f"{count} new exits are wanted, but there are places for 1 to {len(found)}: {names}")
    # best[j]: least sum of misses with j chosen so far, and the choice.
    best: list[tuple[float, list[CutCost]] | None] = [(0.0, []), *[None] * count]
    for cost in found:
        penalty = NESTING_PENALTY * cost.path.count(".") + LEAF_PENALTY * (not cost.block)
        for chosen in range(count, 0, -1):
            before = best[chosen - 1]
            if before is None:
                continue
            miss = before[0] + abs(cost.share - chosen / (count + 1)) + penalty
            known = best[chosen]
            if known is None or miss < known[0]:
                best[chosen] = (miss, [*before[1], cost])
    picked = best[count]
    assert picked is not None
    return picked[1]


def _node_times(cuts: Cuts, row: Tensor) -> dict[fx.Node, float]:
    """Median microseconds per operation."""
    samples: dict[fx.Node, list[float]] = {}
    started = time.perf_counter()
    with torch.inference_mode():
        _time_once(cuts, row, {})
        for done in range(ROUNDS_MAX):
            if done >= ROUNDS_MIN and time.perf_counter() - started > MEASURE_S_MAX:
                break
            _time_once(cuts, row, samples)
    return {node: statistics.median(values) for node, values in samples.items()}


def _time_once(cuts: Cuts, row: Tensor, samples: dict[fx.Node, list[float]]) -> None:
    values: dict[fx.Node, Any] = {cuts.traced.input: row.clone()}
    for node in cuts.nodes:
        if node.op in ("placeholder", "output"):
            continue
        args, kwargs = (map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
        started_ns = time.perf_counter_ns()
        values[node] = call(node, cuts.traced.objects, args, kwargs)
        samples.setdefault(node, []).append((time.perf_counter_ns() - started_ns) / 1000)
