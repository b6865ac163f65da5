"""The calls of `device_memory.py` through PyCUDA, which builds against JetPack's own CUDA. It knows no CUDA graphs.

Does not: import `pycuda.autoinit`, which would make a second context beside the one that TensorRT uses.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from typing import Any

import numpy as np
import pycuda.driver as driver

from .device_memory import Bytes, fault
from .runner import EngineFault


class PyCudaCalls:
    """One GPU, its primary context, and one stream in it."""

    has_graphs = False

    def __init__(self, ordinal: int) -> None:
        self.library = f"pycuda {metadata.version('pycuda')}"
        try:
            driver.init()
            count = driver.Device.count()
        except driver.Error as error:
            raise EngineFault(
                "device", f"CUDA finds no usable GPU: {error}; may this user open its nodes? see delen doctor"
            ) from error
        if ordinal >= count:
            raise EngineFault("device", f"no GPU {ordinal}: CUDA sees {count}; use device cuda:0 to cuda:{count - 1}")
        with _Translated("opening the GPU"):
            device = driver.Device(ordinal)
            self.name = str(device.name())
            major, minor = device.compute_capability()
            self.sm = 10 * int(major) + int(minor)
            self.driver_version = int(driver.get_driver_version())
            self._context = device.retain_primary_context()
            self._context.push()
            # PyCUDA aborts a process that ends within a context, and its exit code would be lost.
            atexit.register(self._leave)
            # 1: it does not wait for the default stream.
            self._stream: Any = driver.Stream(1)
        self.stream = int(self._stream.handle)
        self._blocks: dict[int, Any] = {}

    def allocate(self, size: int) -> int:
        with _Translated("cuMemAlloc"):
            block = driver.mem_alloc(size)
        self._blocks[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        with _Translated("cuMemFree"):
            self._blocks.pop(address).free()

    def allocate_pinned(self, size: int) -> Bytes:
        with _Translated("cuMemHostAlloc"):
            array: Bytes = driver.pagelocked_empty(max(size, 1), np.uint8)
        return array

    def free_pinned(self, array: Bytes) -> None:
        with _Translated("cuMemFreeHost"):
            array.base.free()  # type: ignore[union-attr]  # PyCUDA's own object, which no stub knows

    def copy_in(self, to: int, source: Bytes) -> None:
        with _Translated("cuMemcpyHtoDAsync"):
            driver.memcpy_htod_async(to, source, self._stream)

    def copy_out(self, to: Bytes, source: int) -> None:
        with _Translated("cuMemcpyDtoHAsync"):
            driver.memcpy_dtoh_async(to, source, self._stream)

    def copy_within(self, to: int, source: int, size: int) -> None:
        with _Translated("cuMemcpyDtoDAsync"):
            driver.memcpy_dtod_async(to, source, size, self._stream)

    def synchronize(self) -> None:
        with _Translated("cuStreamSynchronize"):
            self._stream.synchronize()

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all."""
        with _Translated("cuMemGetInfo"):
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def record(self, steps: Callable[[], bool]) -> Any:
        return None

    def launch(self, graph: Any) -> None:
        raise AssertionError("there are no graphs to launch")

    def forget(self, graph: Any) -> None:
        raise AssertionError("there are no graphs to forget")

    def close(self) -> None:
        with _Translated("closing the GPU"):
            # PyCUDA destroys a stream with its object, and only while there is a context.
            self._stream = None
            self._context.pop()
            atexit.unregister(self._leave)
            self._context.detach()

    def _leave(self) -> None:
        with suppress(driver.Error):
            self._context.pop()


class _Translated:
    """Turns PyCUDA's errors into faults; it has a class for what was short, and only words for the rest."""

    def __init__(self, call: str) -> None:
        self._call = call

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, driver.MemoryError):
            raise fault(self._call, 2, str(error)) from error
        if isinstance(error, driver.Error):
            raise fault(self._call, 999, str(error)) from error
