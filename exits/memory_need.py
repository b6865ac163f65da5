"""How much memory a bundle will take, before anything of it is loaded.

Role: an estimate from what the manifest and the files' sizes say: weights as the engine keeps them, the features of the
largest batch, and the engine itself. Factors are measured (profiles/LOG.md) and lean to the high side: a load that is
refused costs a message, one that does not fit costs every network that runs.

Does not: know what is free (`profiles/board_memory.py`), or decide (`daemon/memory_budget.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .bundle import Bundle
from .manifest import TensorShape

MIB = 1024**2
# A process of each engine with its first small network, resident: 63 MiB with ONNX Runtime, 230 to 300 with PyTorch.
ENGINE_BYTES = {"onnx": 80 * MIB, "torch": 330 * MIB, "replay": 70 * MIB}
# An engine that is not in the table: a CUDA context and its libraries take about this.
ENGINE_BYTES_OTHER = 700 * MIB
# The file's bytes, what is parsed of them and what the engine packs: 3.2 to 4.1 times with ONNX Runtime.
WEIGHTS_FACTOR = 4.2
# Of what enters and leaves each segment: inside lie more and wider tensors, kept by each: 2.0 to 2.6 times.
INSIDE_FACTOR = 3.0


class MemoryNeed(NamedTuple):
    """Bytes. `weights`: at most, while it loads. `features`: of one run with the largest batch."""

    weights: int
    features: int

    @property
    def total(self) -> int:
        return self.weights + self.features


def memory_need(bundle: Bundle, batch_max: int) -> MemoryNeed:
    """What one process takes more for this bundle. Raises OSError where a file is gone."""
    manifest = bundle.manifest
    graphs = [*manifest.segments, *manifest.heads]
    files = sum((bundle.directory / graph.file).stat().st_size for graph in graphs)
    edges = [_bytes(manifest.input), *(_bytes(graph.output) for graph in manifest.segments)]
    crossing = sum(edges) + sum(edges[1:-1])
    return MemoryNeed(int(files * WEIGHTS_FACTOR), int(batch_max * crossing * INSIDE_FACTOR))


def engine_bytes(engine: str) -> int:
    """What a process of this engine takes by itself."""
    return ENGINE_BYTES.get(engine, ENGINE_BYTES_OTHER)


def _bytes(tensor: TensorShape) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
