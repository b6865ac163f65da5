"""ONNX Runtime on the CPU: the default engine everywhere.

Role: one of the implementations of `runner.py`'s Runner. Flow: `OnnxRunner(threads=1).load(bundle, batch_max)` makes
one session per segment and head, from bytes that the bundle has just hashed; features are numpy arrays.

Does not: batch, choose depths, or trust what comes out: shapes and non-finite logits are faults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from .bundle import INPUT, OUTPUT, Bundle
from .engine_checks import check_batch, check_count, check_logits, check_rows
from .manifest import Graph, TensorShape
from .runner import EngineFault, Logits

Array: TypeAlias = npt.NDArray[Any]

# Which of its errors exist differs between the versions that boards have, so they are collected, not named.
_FAULTS: tuple[type[Exception], ...] = (
    MemoryError,
    # What it says of a graph may quote names out of it that are no UTF-8, and then it cannot even say that.
    UnicodeDecodeError,
    *(kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)
_OUTPUTS = [OUTPUT]
_WARNINGS_OFF = 3  # errors only: each of them is raised as well, and said once by who catches it


class OnnxRunner:
    """ONNX Runtime with `threads` threads per operator; 1 leaves the other cores to the front and to clients."""

    engine = "onnxruntime"
    device = "cpu"
    precision = "fp32"

    def __init__(self, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        self.threads = threads
        self.versions: Mapping[str, str] = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}

    def load(self, bundle: Bundle, batch_max: int) -> LoadedOnnx:
        """Make the sessions. Raises EngineFault `unsupported` or `memory`, and BundleError where a file has changed."""
        options = self._options()
        segments = [_Graph(bundle, graph, options) for graph in bundle.manifest.segments]
        heads = [_Graph(bundle, graph, options) for graph in bundle.manifest.heads]
        return LoadedOnnx(segments, heads, taken=bundle.manifest.input, batch_max=batch_max)

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _WARNINGS_OFF
        # Threads that spin while they wait burn the energy that delen accounts for, on cores that clients need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What was checked as ONNX is read as ONNX, whatever its first bytes look like.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        return options


class LoadedOnnx:
    """One network as ONNX Runtime sessions. Features are numpy arrays, never written to once made."""

    def __init__(self, segments: list[_Graph], heads: list[_Graph], *, taken: TensorShape, batch_max: int) -> None:
        self._segments = segments
        self._heads = heads
        self._taken = taken
        self._batch_max = batch_max

    def place(self, images: Array) -> Array:
        check_batch(images, self._taken, self._batch_max)
        return np.ascontiguousarray(images)

    def segment(self, index: int, features: Array) -> Array:
        return self._segments[index].run(features)

    def head(self, index: int, features: Array) -> Logits:
        head = self._heads[index]
        logits: Logits = head.run(features)
        check_logits(logits, len(features), head.shape[0])
        return logits

    def take(self, features: Array, rows: Sequence[int]) -> Array:
        check_rows(rows, len(features), self._batch_max)
        if len(rows) == len(features) and all(row == place for place, row in enumerate(rows)):
            return features
        return features[list(rows)]

    def join(self, parts: Sequence[Array]) -> Array:
        check_count(sum(map(len, parts)), self._batch_max)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def finish(self) -> None:
        """Nothing to wait for: every run has ended when it returns."""


class _Graph:
    """One session, and the shape that its output must have."""

    def __init__(self, bundle: Bundle, graph: Graph, options: onnxruntime.SessionOptions) -> None:
        self.file = graph.file
        self.shape = graph.output.shape
        try:
            # From bytes: what was hashed is what is parsed.
            session = onnxruntime.InferenceSession(bundle.read(graph.file), options, ["CPUExecutionProvider"])
        except _FAULTS as error:
            if _is_memory(error):
                raise EngineFault("memory", f"no memory to load {graph.file}; load fewer networks") from error
            raise EngineFault(
                "unsupported",
                f"ONNX Runtime {onnxruntime.__version__} cannot load {bundle.directory / graph.file}: "
                f"{_first_line(error)}; "
                "export it with operators and an opset that this version has, or use a newer one",
            ) from error
        self._run = session.run

    def run(self, features: Array) -> Array:
        try:
            output: Array = self._run(_OUTPUTS, {INPUT: features})[0]
        except _FAULTS as error:
            if _is_memory(error):
                raise EngineFault("memory", f"no memory to run {self.file} on a batch of {len(features)}") from error
            # On the CPU a failed run leaves the process whole; it is this graph that gives nothing to trust.
            raise EngineFault("output", f"ONNX Runtime failed in {self.file}: {_first_line(error)}") from error
        if output.shape[1:] != self.shape or len(output) != len(features):
            raise EngineFault(
                "output",
                f"{self.file} gave shape {list(output.shape)}; expected [{len(features)}, "
                f"{', '.join(map(str, self.shape))}]: the bundle's graph is not what its manifest says",
            )
        return output


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "Failed to allocate memory" in str(error) or "bad_alloc" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0][:300]
