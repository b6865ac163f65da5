"""CUDA's driver on the processor's memory: `fake_libcuda.c` compiled and loaded under the name of the real one.

Flow: `fake_cuda()` once a process -> the library, for injecting faults and counting what is held. Needs a compiler and
cuda-bindings, and that no real driver is here; a test that asks where one is missing is skipped with the reason.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).with_name("fake_libcuda.c")


class Held(NamedTuple):
    """What of the device is still held."""

    blocks: int
    pinned: int
    streams: int
    graphs: int
    contexts: int
    held_bytes: int
    peak_bytes: int


class FakeCuda:
    """The library, and what only a fake can do."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def reset(self) -> None:
        """As when it was loaded: nothing held, no fault to come, one GPU."""
        self.library.fake_reset()

    def fail(self, call: str, *, after: int = 0, code: int = 2) -> None:
        """Have this call fail once, after so many that work. Codes of 700 to 899 stick."""
        self.library.fake_fail(call.encode(), after, code)

    def devices(self, count: int) -> None:
        self.library.fake_devices(count)

    def held(self) -> Held:
        numbers = (ctypes.c_longlong * len(Held._fields))()
        self.library.fake_held(numbers)
        return Held(*numbers)

    def waiting(self) -> int:
        """How much was asked of the stream and has not been done."""
        return int(self.library.fake_waiting())


@functools.cache
def _loaded() -> FakeCuda | str:
    try:
        from importlib import metadata

        metadata.version("cuda-bindings")
    except metadata.PackageNotFoundError:
        return "needs cuda-bindings: pip install 'delen[dev]'"
    compiler = shutil.which("cc")
    if compiler is None:
        return "needs a C compiler"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        return "a real CUDA driver is here"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "libcuda.so.1"
        # The name inside is what makes the loader take it for the driver when cuda-bindings asks.
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(path), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True)
        return FakeCuda(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))


def fake_cuda() -> FakeCuda:
    """The fake driver, as new; skips the test where it cannot be."""
    found = _loaded()
    if isinstance(found, str):
        pytest.skip(found)
    found.reset()
    return found
