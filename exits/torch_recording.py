"""CUDA graphs for PyTorch: a fixed list of steps, recorded once for each usual batch size and replayed for all.

Role: what `torch_runner.py` runs segments and heads with on a GPU, where starting dozens of kernels one by one takes
longer than what they do. Flow: `record` at load, for 1, 2, 4 ... rows -> `replay`, where a batch between two sizes is
run as the larger one, with old rows behind its own. What a recording gives is copied out before the next replay, so all
of them share one pool of memory. Where recording does not work (some operators, old drivers, little memory) there is
none, and the steps run one by one.

Does not: wait for the device once it has recorded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Steps = Callable[[Tensor], Tensor]
# Libraries choose their algorithms on the first runs, which must not be part of a recording.
WARM_UP_RUNS = 3


class _Graph(NamedTuple):
    graph: Any
    given: Tensor


class Recording:
    """One list of steps at some batch sizes. `taken`: where a batch lies for them, as many rows as the largest."""

    def __init__(self, taken: Tensor, graphs: dict[int, _Graph]) -> None:
        self._taken = taken
        self._graphs = graphs
        self._sizes = sorted(graphs)

    def replay(self, features: Tensor) -> Tensor | None:
        """What the steps give, in memory of its own; None where no recording is large enough."""
        rows = len(features)
        place = bisect_left(self._sizes, rows)
        if place == len(self._sizes):
            return None
        size = self._sizes[place]
        self._taken[:rows].copy_(features)
        graph, given = self._graphs[size]
        graph.replay()
        return given[:rows].clone()


def record(steps: Steps, taken: Tensor, sizes: Sequence[int], pool: Any) -> Recording:
    """Record the steps at each of these sizes, largest first so that the others fit into its memory.

    Args:
        taken: zeros of the largest batch, in the layout the steps like; it belongs to the recording from now on.
        pool: what all recordings of a network share their memory by, from `torch.cuda.graph_pool_handle()`.
    """
    graphs = {}
    with torch.cuda.device(taken.device):
        for size in sorted(sizes, reverse=True):
            found = _record(steps, taken[:size], pool)
            if found is None:
                break
            graphs[size] = found
    return Recording(taken, graphs)


def _record(steps: Steps, taken: Tensor, pool: Any) -> _Graph | None:
    try:
        present = torch.cuda.current_stream(taken.device)
        side = torch.cuda.Stream(taken.device)  # type: ignore[no-untyped-call]
        side.wait_stream(present)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                steps(taken)
        present.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            given = steps(taken)
    except RuntimeError:
        # If it is the device that has failed, the next thing asked of it says so.
        return None
    return _Graph(graph, given)
