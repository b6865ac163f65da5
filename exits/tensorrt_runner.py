"""TensorRT as an engine, for Jetson boards: one engine per segment and head, features that stay on the device.

Role: one of the implementations of `runner.py`'s Runner, for TensorRT 8.6 to 11. Flow: `TensorRTRunner()` looks for the
GPU first, since TensorRT without one crashes the interpreter; `load` takes each engine from the cache or builds it
(`tensorrt_build.py`, `engine_cache.py`), then prepares a CUDA graph for each usual batch size (`tensorrt_engine.py`).
Inputs go through pinned memory, features from block to block (`device_memory.py`), and only logits come back.

Does not: choose precisions. An engine computes in what the bundle's graphs say, which is what was calibrated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .device_memory import Block, Gpu, Staging, open_gpu
from .engine_cache import EngineCache, cache_directory, key_of
from .engine_checks import check_batch, check_count, check_logits, check_rows, usual_batches
from .manifest import Graph, TensorShape
from .runner import EngineFault, Logits
from .tensorrt_build import REVISION, Build, Kit, Tell, build_engine, make_kit, ranges_for
from .tensorrt_engine import Engine, Scratch, row_bytes


class TensorRTRunner:
    """TensorRT on `device`: `cuda`, `cuda:N`, or `auto` for the first GPU."""

    engine = "tensorrt"
    precision = "fp32"

    def __init__(
        self,
        threads: int = 1,
        device: str = "auto",
        *,
        cache: EngineCache | None = None,
        tell: Tell = lambda said: None,
        trt: Any = None,
    ) -> None:
        """`cache`: where engines are kept; None: the user's own. `tell`: hears what is being built.

        `trt`: the module; None: TensorRT's own.

        Raises:
            EngineFault: `device` where there is no GPU, `unsupported` where no binding of CUDA is installed.
            ImportError: TensorRT is not installed.
        """
        module = _tensorrt() if trt is None else trt
        if threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        found = re.fullmatch(r"auto|cuda(?::([0-9]+))?", device)
        if found is None:
            raise EngineFault("device", f"no device {device!r} for TensorRT; expected auto, cuda, or cuda:1")
        ordinal = int(found.group(1) or 0)
        # Before anything of TensorRT is made: a runtime without CUDA wraps nothing, and dies when it is collected.
        self._gpu = open_gpu(ordinal)
        self.device = f"cuda:{ordinal}"
        self.threads = threads
        self._tell = tell
        self._kit = make_kit(module)
        self._runtime = module.Runtime(self._kit.logger)
        self._cache = EngineCache(cache_directory(os.environ, os.getuid()), os.getuid()) if cache is None else cache
        calls = self._gpu.calls
        self.versions: Mapping[str, str] = {
            "tensorrt": str(module.__version__),
            "cuda": str(calls.driver_version),
            "sm": str(calls.sm),
            "memory": calls.library,
            "numpy": np.__version__,
        }

    def load(self, bundle: Bundle, batch_max: int) -> LoadedTensorRT:
        """Find or build every engine. Raises EngineFault `unsupported` or `memory`, and BundleError."""
        manifest = bundle.manifest
        if self._cache.fault:
            self._tell(self._cache.fault)
        before = [manifest.input, *(graph.output for graph in manifest.segments[:-1])]
        parts = [*zip(manifest.segments, before, strict=True)]
        parts += [(head, segment.output) for head, segment in zip(manifest.heads, manifest.segments, strict=True)]
        made = [self._engine(bundle, graph, taken, batch_max) for graph, taken in parts]
        scratch = Scratch(self._gpu, [engine.needs(batch_max) for engine in made])
        for engine in made:
            engine.prepare(scratch, usual_batches(batch_max))
        self._gpu.synchronize()
        count = len(manifest.segments)
        staging = Staging(self._gpu, batch_max * row_bytes(manifest.input), 4 * batch_max * len(manifest.classes))
        network = Network(made[:count], made[count:], manifest.input, batch_max)
        return LoadedTensorRT(self._gpu, staging, network)

    def close(self) -> None:
        """Give the device back, once everything that was loaded is gone."""
        self._gpu.close()

    def _engine(self, bundle: Bundle, graph: Graph, taken: TensorShape, batch_max: int) -> Engine:
        model = bundle.read(graph.file)
        ranges, precision = ranges_for(batch_max), bundle.manifest.precision
        calls = self._gpu.calls
        # Boards of one SM differ in how many cores and how much memory they have, so the name counts too.
        key = key_of(
            model,
            {
                "tensorrt": self.versions["tensorrt"],
                "sm": calls.sm,
                "gpu": calls.name,
                "precision": precision,
                "ranges": ranges,
                "revision": REVISION,
            },
        )
        build = Build(graph.file, model, taken, precision, ranges)
        kept = self._cache.read(key)
        engine = None if kept is None else self._runtime.deserialize_cuda_engine(kept)
        if engine is None:
            self._cache.drop(key)
            plan = build_engine(self._kit, build, self._tell)
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise _not_taken(self._kit, self._gpu, graph.file)
            self._cache.write(key, plan)
        return Engine(self._kit, self._gpu, engine, build, graph.output)


def _tensorrt() -> Any:
    import tensorrt

    return tensorrt


def _not_taken(kit: Kit, gpu: Gpu, file: str) -> EngineFault:
    """TensorRT does not take the engine that it has just built: for want of memory, or nobody knows why."""
    reason = "; ".join(kit.messages.take()[-3:]) or "it gives no reason"
    free, _ = gpu.calls.memory()
    kind = "memory" if "memory" in reason.lower() else "unsupported"
    return EngineFault(
        "memory" if kind == "memory" else "unsupported",
        f"TensorRT does not load the engine it built for {file}: {reason}; {free // 2**20} MiB of the GPU are free; "
        "load fewer networks, or use the engine onnx",
    )


class Network(NamedTuple):
    """The engines of one network, what it takes, and how many rows at most."""

    segments: Sequence[Engine]
    heads: Sequence[Engine]
    taken: TensorShape
    batch_max: int


class Features(NamedTuple):
    """One batch on the device, never written to once made. `depth`: how many segments it has been through."""

    block: Block
    rows: int
    depth: int


class LoadedTensorRT:
    """One network in TensorRT."""

    def __init__(self, gpu: Gpu, staging: Staging, network: Network) -> None:
        self._gpu = gpu
        self._staging = staging
        self._network = network
        shapes = [network.taken, *(engine.given for engine in network.segments)]
        self._row_bytes = [row_bytes(shape) for shape in shapes]

    def place(self, images: npt.NDArray[Any]) -> Features:
        check_batch(images, self._network.taken, self._network.batch_max)
        return Features(self._staging.send(images), len(images), 0)

    def segment(self, index: int, features: Features) -> Features:
        block = self._network.segments[index].run(features.block, features.rows)
        return Features(block, features.rows, index + 1)

    def head(self, index: int, features: Features) -> Logits:
        head = self._network.heads[index]
        logits = self._staging.fetch(head.run(features.block, features.rows), (features.rows, *head.given.shape))
        check_logits(logits, features.rows, head.given.shape[0])
        return logits

    def take(self, features: Features, rows: Sequence[int]) -> Features:
        check_rows(rows, features.rows, self._network.batch_max)
        if len(rows) == features.rows and all(row == place for place, row in enumerate(rows)):
            return features
        width = self._row_bytes[features.depth]
        block = self._gpu.block(width * len(rows))
        to = block.address
        for first, count in _stretches(rows):
            self._gpu.copy_within(to, features.block.address + first * width, count * width)
            to += count * width
        return Features(block, len(rows), features.depth)

    def join(self, parts: Sequence[Features]) -> Features:
        count = sum(part.rows for part in parts)
        check_count(count, self._network.batch_max)
        depths = {part.depth for part in parts}
        if len(depths) > 1:
            raise EngineFault("input", f"batches at depths {sorted(depths)} cannot become one")
        if len(parts) == 1:
            return parts[0]
        width = self._row_bytes[parts[0].depth]
        block = self._gpu.block(width * count)
        to = block.address
        for part in parts:
            self._gpu.copy_within(to, part.block.address, part.rows * width)
            to += part.rows * width
        return Features(block, count, parts[0].depth)

    def finish(self) -> None:
        self._staging.settle()

    def close(self) -> None:
        """Give back what this network has on the device. Features of it are of no use any more."""
        self._staging.settle()
        for engine in (*self._network.segments, *self._network.heads):
            engine.close()
        self._staging.close()


def _stretches(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Rows that follow one another, as (first, count): each is one copy."""
    found: list[tuple[int, int]] = []
    for row in rows:
        if found and row == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((row, 1))
    return found
