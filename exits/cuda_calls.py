"""The calls of `device_memory.py` through cuda-bindings: wheels for every board, and CUDA graphs.

Does not: load anything before it is asked to open a GPU; a missing driver is a fault with advice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from cuda.bindings import driver

from .device_memory import CAPTURE_FIRST, CAPTURE_LAST, Bytes, fault
from .runner import EngineFault

_MAJOR = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
_MINOR = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
# Other threads of the process, as TensorRT's own, may allocate meanwhile.
_CAPTURE = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_NON_BLOCKING = driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value


class CudaCalls:
    """One GPU, its primary context, and one stream in it."""

    has_graphs = True

    def __init__(self, ordinal: int) -> None:
        self.library = f"cuda-bindings {metadata.version('cuda-bindings')}"
        _initialise()
        count = _done("cuDeviceGetCount", driver.cuDeviceGetCount())
        if ordinal >= count:
            raise EngineFault("device", f"no GPU {ordinal}: CUDA sees {count}; use device cuda:0 to cuda:{count - 1}")
        self._device = _done("cuDeviceGet", driver.cuDeviceGet(ordinal))
        name: bytes = _done("cuDeviceGetName", driver.cuDeviceGetName(64, self._device))
        self.name = name.split(b"\0")[0].decode("ascii", "replace")
        self.sm = 10 * self._attribute(_MAJOR) + self._attribute(_MINOR)
        self.driver_version: int = _done("cuDriverGetVersion", driver.cuDriverGetVersion())
        self._context = _done("cuDevicePrimaryCtxRetain", driver.cuDevicePrimaryCtxRetain(self._device))
        _done("cuCtxSetCurrent", driver.cuCtxSetCurrent(self._context))
        self._stream = _done("cuStreamCreate", driver.cuStreamCreate(_NON_BLOCKING))
        self.stream = int(self._stream)
        self._pinned: dict[int, int] = {}

    def _attribute(self, kind: Any) -> int:
        return int(_done("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(kind, self._device)))

    def allocate(self, size: int) -> int:
        return int(_done("cuMemAlloc", driver.cuMemAlloc(size)))

    def free(self, address: int) -> None:
        _done("cuMemFree", driver.cuMemFree(address))

    def allocate_pinned(self, size: int) -> Bytes:
        address = int(_done("cuMemHostAlloc", driver.cuMemHostAlloc(max(size, 1), 0)))
        array: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        self._pinned[array.ctypes.data] = address
        return array

    def free_pinned(self, array: Bytes) -> None:
        _done("cuMemFreeHost", driver.cuMemFreeHost(self._pinned.pop(array.ctypes.data)))

    def copy_in(self, to: int, source: Bytes) -> None:
        _done("cuMemcpyHtoDAsync", driver.cuMemcpyHtoDAsync(to, source.ctypes.data, source.nbytes, self._stream))

    def copy_out(self, to: Bytes, source: int) -> None:
        _done("cuMemcpyDtoHAsync", driver.cuMemcpyDtoHAsync(to.ctypes.data, source, to.nbytes, self._stream))

    def copy_within(self, to: int, source: int, size: int) -> None:
        _done("cuMemcpyDtoDAsync", driver.cuMemcpyDtoDAsync(to, source, size, self._stream))

    def synchronize(self) -> None:
        _done("cuStreamSynchronize", driver.cuStreamSynchronize(self._stream))

    def memory(self) -> tuple[int, int]:
        """Bytes free and in all."""
        free, total = _done("cuMemGetInfo", driver.cuMemGetInfo())
        return int(free), int(total)

    def record(self, steps: Callable[[], bool]) -> Any:
        """A CUDA graph of what `steps` puts into the stream; None where that cannot be recorded."""
        _done("cuStreamBeginCapture", driver.cuStreamBeginCapture(self._stream, _CAPTURE))
        whole = ended = False
        try:
            whole = steps()
            ended = True
        finally:
            # Whatever happened, the stream must not be left recording, nor what it has recorded be left behind.
            code, graph = driver.cuStreamEndCapture(self._stream)
            if not ended and not int(code):
                driver.cuGraphDestroy(graph)
        if CAPTURE_FIRST <= int(code) <= CAPTURE_LAST:
            return None
        _done("cuStreamEndCapture", (code,))
        try:
            return _done("cuGraphInstantiate", driver.cuGraphInstantiate(graph, 0)) if whole else None
        finally:
            _done("cuGraphDestroy", driver.cuGraphDestroy(graph))

    def launch(self, graph: Any) -> None:
        _done("cuGraphLaunch", driver.cuGraphLaunch(graph, self._stream))

    def forget(self, graph: Any) -> None:
        _done("cuGraphExecDestroy", driver.cuGraphExecDestroy(graph))

    def close(self) -> None:
        _done("cuStreamDestroy", driver.cuStreamDestroy(self._stream))
        _done("cuDevicePrimaryCtxRelease", driver.cuDevicePrimaryCtxRelease(self._device))


def _initialise() -> None:
    try:
        (code,) = driver.cuInit(0)
    except RuntimeError as error:
        # Without a driver's library there is nothing to call.
        raise EngineFault("device", f"no CUDA driver here ({_first_line(error)}); use the engine onnx") from error
    if int(code):
        raise EngineFault(
            "device", f"CUDA finds no usable GPU: {_name(code)}; may this user open its nodes? see delen doctor"
        )


def _done(call: str, result: tuple[Any, ...]) -> Any:
    """What a call gave, without its status. Raises EngineFault."""
    code, *values = result
    if int(code):
        raise fault(call, int(code), _name(code))
    return values[0] if len(values) == 1 else tuple(values)


def _name(code: Any) -> str:
    return str(getattr(code, "name", code))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0][:200]
