"""One TensorRT engine at work: a context for each range of batch sizes, and CUDA graphs for the usual ones.

Role: what `tensorrt_runner.py` runs segments and heads with. Flow: `needs` -> `prepare(scratch, batches)` -> `run`.
A graph reads and writes fixed addresses, so a batch is copied to and from them on the device; where that would cost
more than the launches it saves, and for unusual sizes, TensorRT is asked directly and works from block to block.

Does not: wait for the device. An error of TensorRT is looked at at once, since it may be CUDA that has failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from .bundle import INPUT, OUTPUT
from .device_memory import Block, Gpu
from .manifest import TensorShape
from .runner import EngineFault
from .tensorrt_build import Build, Kit

# Copying this much to and from a graph's own buffers takes about 40 us at 100 GB/s, as much as launching ten kernels.
GRAPH_BYTES_MAX = 2 * 1024**2


class Needs(NamedTuple):
    """Bytes on the device: what a context works in, and what goes in and out of a graph."""

    work: int
    taken: int
    given: int


class Scratch:
    """Memory that all engines of a network share, since only one of them works at a time."""

    def __init__(self, gpu: Gpu, needs: Sequence[Needs]) -> None:
        self.work = gpu.block(max(need.work for need in needs))
        self.taken = gpu.block(max(need.taken for need in needs))
        self.given = gpu.block(max(need.given for need in needs))


class _Graph(NamedTuple):
    """A recorded run of one batch size. The context must live as long, and never be set otherwise."""

    graph: Any
    context: Any


class Engine:
    """One segment or head. `given`: dtype and shape of its output, as the manifest says."""

    def __init__(self, kit: Kit, gpu: Gpu, engine: Any, build: Build, given: TensorShape) -> None:
        """Raises EngineFault `unsupported` where the engine's ports are not the bundle's."""
        self._graphs: dict[int, _Graph] = {}
        self._contexts: list[Any] = []
        self._kit = kit
        self._gpu = gpu
        self._engine = engine
        self._build = build
        self.given = given
        self._taken_bytes = row_bytes(build.taken)
        self._given_bytes = row_bytes(given)
        self._scratch: Scratch | None = None
        for name, port in ((INPUT, build.taken), (OUTPUT, given)):
            found = np.dtype(kit.trt.nptype(engine.get_tensor_dtype(name))).name
            if found != port.dtype:
                raise EngineFault(
                    "unsupported",
                    f"TensorRT {kit.trt.__version__} makes the {name} of {build.file} {found}, the bundle says "
                    f"{port.dtype}; use the engine onnx, or a newer TensorRT",
                )

    def needs(self, batch: int) -> Needs:
        """What it takes, with graphs of up to `batch` rows."""
        engine = self._engine
        work = getattr(engine, "device_memory_size_v2", None)
        if work is None:
            work = engine.device_memory_size
        fits = min(batch, GRAPH_BYTES_MAX // max(self._taken_bytes + self._given_bytes, 1))
        return Needs(int(work), fits * self._taken_bytes, fits * self._given_bytes)

    def prepare(self, scratch: Scratch, batches: Sequence[int]) -> None:
        """Contexts for all batch sizes and graphs for these, so that no request waits for them.

        Raises:
            EngineFault: `memory`, or what the device says.
        """
        self._scratch = scratch
        self._contexts = [self._context(index) for index in range(len(self._build.ranges))]
        for batch in batches:
            try:
                self._record(batch)
            except EngineFault as short:
                if short.kind != "memory":
                    raise
                # A graph saves time, not more: without memory for it the batch runs step by step.
                return

    def run(self, taken: Block, rows: int) -> Block:
        """Put one run into the stream; the result is there for whatever comes after it in the stream.

        Raises:
            EngineFault: `output` where the graph gives another shape than the bundle says, `device`, `memory`.
        """
        gpu, scratch = self._gpu, self._scratch
        assert scratch is not None, "an engine is prepared before it runs"
        given = gpu.block(rows * self._given_bytes)
        known = self._graphs.get(rows)
        if known is None:
            context = self._contexts[self._range_of(rows)]
            self._check_shape(self._set(context, rows, taken.address, given.address), rows)
            self._execute(context)
        else:
            gpu.copy_within(scratch.taken.address, taken.address, rows * self._taken_bytes)
            gpu.calls.launch(known.graph)
            gpu.copy_within(given.address, scratch.given.address, rows * self._given_bytes)
        return given

    def close(self) -> None:
        """Let go of graphs, contexts and the engine, in this order."""
        for known in self._graphs.values():
            self._gpu.calls.forget(known.graph)
        self._graphs.clear()
        self._contexts.clear()
        self._scratch = None
        self._engine = None

    def __del__(self) -> None:
        # Where the device has failed, the process is about to end and takes it along.
        with suppress(EngineFault):
            self.close()

    def _record(self, batch: int) -> None:
        """A graph for this batch size, where it is worth one, the device knows them, and the shapes are right."""
        scratch = self._scratch
        assert scratch is not None, "prepare says so"
        if not self._gpu.calls.has_graphs or batch * (self._taken_bytes + self._given_bytes) > GRAPH_BYTES_MAX:
            return
        context = self._context(self._range_of(batch))
        shape = self._set(context, batch, scratch.taken.address, scratch.given.address)
        if shape != (batch, *self.given.shape):
            return
        # The first run settles what TensorRT puts off until then, which must not be part of the recording.
        self._execute(context)
        self._gpu.synchronize()
        graph = self._gpu.record(lambda: bool(context.execute_async_v3(self._gpu.stream)))
        if graph is not None:
            self._graphs[batch] = _Graph(graph, context)

    def _context(self, profile: int) -> Any:
        """A context for one range of batch sizes, working in the shared memory."""
        trt, engine = self._kit.trt, self._engine
        strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
        if strategies is None:
            context = engine.create_execution_context_without_device_memory()
        else:
            context = engine.create_execution_context(strategies.USER_MANAGED)
        if context is None:
            raise EngineFault(
                "memory", f"TensorRT has no memory to run {self._build.file}{self._said()}; load fewer networks"
            )
        assert self._scratch is not None, "prepare says so"
        context.device_memory = self._scratch.work.address
        if not context.set_optimization_profile_async(profile, self._gpu.stream):
            raise self._failed("set its profile")
        return context

    def _set(self, context: Any, rows: int, taken: int, given: int) -> tuple[int, ...]:
        """Where to read and write, and how much; the output's shape is then known."""
        if not (
            context.set_input_shape(INPUT, (rows, *self._build.taken.shape))
            and context.set_tensor_address(INPUT, taken)
            and context.set_tensor_address(OUTPUT, given)
        ):
            raise self._failed(f"take a batch of {rows}")
        return tuple(context.get_tensor_shape(OUTPUT))

    def _check_shape(self, shape: tuple[int, ...], rows: int) -> None:
        if shape != (rows, *self.given.shape):
            raise EngineFault(
                "output",
                f"{self._build.file} gave shape {list(shape)}; expected [{rows}, "
                f"{', '.join(map(str, self.given.shape))}]: the bundle's graph is not what its manifest says",
            )

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._gpu.stream):
            raise self._failed("run")

    def _failed(self, what: str) -> EngineFault:
        """TensorRT says no. If CUDA has failed underneath, waiting raises that; else it is this graph alone."""
        self._gpu.synchronize()
        return EngineFault("output", f"TensorRT would not {what} in {self._build.file}{self._said()}")

    def _said(self) -> str:
        said = self._kit.messages.take()
        return f": {'; '.join(said[-3:])}" if said else ""

    def _range_of(self, rows: int) -> int:
        """Which optimisation profile this many rows belong to."""
        return next(index for index, (_, _, largest) in enumerate(self._build.ranges) if rows <= largest)


def row_bytes(tensor: TensorShape) -> int:
    """Bytes of one row of a batch."""
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
