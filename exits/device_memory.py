"""Memory of the GPU, and the order of work on it, for an engine that manages neither: what a runner needs of CUDA.

Role: the one module that the TensorRT runner talks to; behind it is either of two Python bindings of CUDA's driver
(`cuda_calls.py`, `pycuda_calls.py`). Flow: `open_gpu(0)` -> `Gpu`; `gpu.block(size)` lends device memory that comes
back by itself when nobody holds it any more; all copies, runs and graphs go down one stream, so that what was asked
first is done first, and a block may be lent again while its last user still waits in that stream.

Every failed call is an EngineFault: `memory` where memory was short, else `device`, since after most errors of CUDA
nothing in the process works any more. Does not: know TensorRT, or wait for the device unless asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .runner import EngineFault

Bytes = npt.NDArray[np.uint8]

# CUresult, from cuda.h.
OUT_OF_MEMORY = 2
# CUDA_ERROR_STREAM_CAPTURE_*, 900 to 909: what was recorded cannot be; nothing else is harmed.
CAPTURE_FIRST, CAPTURE_LAST = 900, 909
# TensorRT wants addresses that are multiples of this; cuMemAlloc gives them so.
ALIGNMENT = 256


class Calls(Protocol):
    """One opened GPU, its primary context and one stream. Addresses and handles are ints. Raises EngineFault."""

    library: str
    name: str
    sm: int
    driver_version: int
    stream: int
    has_graphs: bool

    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None: ...
    def allocate_pinned(self, size: int) -> Bytes: ...
    def free_pinned(self, array: Bytes) -> None: ...
    def copy_in(self, to: int, source: Bytes) -> None: ...
    def copy_out(self, to: Bytes, source: int) -> None: ...
    def copy_within(self, to: int, source: int, size: int) -> None: ...
    def synchronize(self) -> None: ...
    def memory(self) -> tuple[int, int]: ...
    def record(self, steps: Callable[[], bool]) -> Any: ...
    def launch(self, graph: Any) -> None: ...
    def forget(self, graph: Any) -> None: ...
    def close(self) -> None: ...


def fault(call: str, code: int, name: str) -> EngineFault:
    """What a failed call of the driver means to the worker."""
    if code == OUT_OF_MEMORY:
        return EngineFault("memory", f"{call}: no memory on the GPU ({name}); load fewer networks, or batch less")
    return EngineFault("device", f"{call} failed: {name} ({code}); the GPU is not usable from this process any more")


class Block:
    """Device memory on loan: `size` bytes or a little more at `address`. It goes back when nobody refers to it."""

    __slots__ = ("_gpu", "address", "size")

    def __init__(self, gpu: Gpu, address: int, size: int) -> None:
        self._gpu = gpu
        self.address = address
        self.size = size

    def __del__(self) -> None:
        self._gpu.take_back(self.address, self.size)


class Gpu:
    """One GPU as the runner sees it: lends blocks, copies, records and replays."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.stream = calls.stream
        self.held_bytes = 0
        self._idle: dict[int, list[int]] = {}
        self._closed = False
        self.copy_in = calls.copy_in
        self.copy_out = calls.copy_out
        self.copy_within = calls.copy_within
        self.synchronize = calls.synchronize

    def block(self, size: int) -> Block:
        """Device memory of at least `size` bytes. Raises EngineFault `memory` where there is none."""
        rounded = size_class(size)
        idle = self._idle.get(rounded)
        if idle:
            return Block(self, idle.pop(), rounded)
        try:
            address = self.calls.allocate(rounded)
        except EngineFault as short:
            # What lies idle in other sizes may be what is missing.
            if short.kind != "memory" or not self.trim():
                raise
            address = self.calls.allocate(rounded)
        self.held_bytes += rounded
        return Block(self, address, rounded)

    def take_back(self, address: int, size: int) -> None:
        """A block is free again: whoever gets it next comes later in the same stream."""
        if not self._closed:
            self._idle.setdefault(size, []).append(address)

    def trim(self) -> int:
        """Give idle blocks back to the driver; how many bytes that were."""
        self.synchronize()
        freed = 0
        for size, addresses in self._idle.items():
            for address in addresses:
                self.calls.free(address)
            freed += size * len(addresses)
        self._idle.clear()
        self.held_bytes -= freed
        return freed

    def record(self, steps: Callable[[], bool]) -> Any:
        """What `steps` puts into the stream, as one CUDA graph; None where it cannot be recorded."""
        return self.calls.record(steps) if self.calls.has_graphs else None

    def close(self) -> None:
        """Free what is idle, and leave the context. What is still on loan goes with the process."""
        self.trim()
        self._closed = True
        self.calls.close()


class Staging:
    """Pinned host memory on the way to and from the device: the GPU reads it without the processor's help."""

    def __init__(self, gpu: Gpu, in_bytes: int, out_bytes: int) -> None:
        self._gpu = gpu
        self._held: list[Bytes] = []
        self._in = gpu.calls.allocate_pinned(in_bytes)
        self._held = [self._in]
        self._out = gpu.calls.allocate_pinned(out_bytes)
        self._held.append(self._out)
        self._waiting = False

    def send(self, images: npt.NDArray[Any]) -> Block:
        """The values on the device, in memory of their own. `images` may change as soon as this returns."""
        block = self._gpu.block(images.nbytes)
        if self._waiting:
            self._gpu.synchronize()
        staged = self._in[: images.nbytes]
        np.copyto(staged.view(images.dtype).reshape(images.shape), images)
        self._waiting = True
        self._gpu.copy_in(block.address, staged)
        return block

    def fetch(self, block: Block, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """float32 values of this shape from the device; waits for all that was asked before."""
        size = 4 * int(np.prod(shape))
        self._gpu.copy_out(self._out[:size], block.address)
        self.settle()
        return self._out[:size].view(np.float32).reshape(shape).copy()

    def settle(self) -> None:
        """Wait until the device has done all it was given."""
        self._gpu.synchronize()
        self._waiting = False

    def close(self) -> None:
        """Give both back; a second time does nothing."""
        held, self._held = self._held, []
        for array in held:
            self._gpu.calls.free_pinned(array)

    def __del__(self) -> None:
        # Where the device has failed, the process is about to end and takes it along.
        with suppress(EngineFault):
            self.close()


def size_class(size: int) -> int:
    """Sizes that blocks come in: four to an octave, so that batches of 7 and 8 share, and at most a fifth is waste."""
    if size <= 4 * ALIGNMENT:
        return max(-(-size // ALIGNMENT), 1) * ALIGNMENT
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step


def open_gpu(ordinal: int) -> Gpu:
    """The GPU by number, through whichever binding of CUDA is installed: cuda-bindings, else PyCUDA.

    Raises:
        EngineFault: `unsupported` where neither is installed, `device` where there is no driver or no such GPU.
    """
    try:
        from .cuda_calls import CudaCalls

        return Gpu(CudaCalls(ordinal))
    except ImportError as missing:
        try:
            from .pycuda_calls import PyCudaCalls
        except ImportError:
            raise EngineFault(
                "unsupported",
                "no Python binding of CUDA is installed; pip install 'delen[jetson]' brings cuda-bindings, or "
                "'delen[pycuda]' builds PyCUDA on the board",
            ) from missing
        return Gpu(PyCudaCalls(ordinal))
