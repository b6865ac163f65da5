"""The memory that front and worker share: inputs of a run going down, logits coming up, and the flag to yield.

Role: one sealed memfd made by the front, mapped by both. Two halves take turns (run id odd or even), so that the next
run's inputs may be laid down while one executes. Row i of a run has the i-th input and, at every exit, the i-th logits;
rows lie next to each other, so a batch is one view and nobody copies twice.

    page 0: per half, the id of the run that should yield | half 0: inputs, logits by exit | half 1: the same

Does not: allocate per request, or outlive the worker that it was made for.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PAGE = 4096
_FLAG = struct.Struct("<Q")


class Need(NamedTuple):
    """What one network's runs need of a half: bytes of one input, exits, classes, rows."""

    input_bytes: int
    exit_count: int
    class_count: int
    batch_max: int


class Arena:
    """A mapped memfd; the same class on both sides."""

    def __init__(self, fd: int, size: int) -> None:
        """Map `size` bytes of a memfd; the caller keeps owning the descriptor."""
        self._map = mmap.mmap(fd, size)
        self._bytes = memoryview(self._map)
        self._half = (size - PAGE) // 2

    @staticmethod
    def create(needs: Iterable[Need]) -> tuple[int, int]:
        """A sealed memfd large enough for every network; returns descriptor and size."""
        half = max(_round(need.batch_max * need.input_bytes) + _round(_logits_bytes(need)) for need in needs)
        size = PAGE + 2 * half
        fd = os.memfd_create("delen-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        # Neither side can pull the memory from under the other (SIGBUS), or grow it.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd, size

    def write_input(self, run_id: int, need: Need, row: int, payload: bytes | memoryview) -> None:
        """Lay down the input of row `row`."""
        start = self._start(run_id) + row * need.input_bytes
        self._bytes[start : start + need.input_bytes] = payload

    def inputs(
        self, run_id: int, need: Need, dtype: str, shape: tuple[int, ...], count: int
    ) -> npt.NDArray[np.generic]:
        """The first `count` inputs as one array, shape (count, *shape); valid until the run after the next."""
        return np.ndarray((count, *shape), dtype, self._map, self._start(run_id))

    def write_logits(self, run_id: int, need: Need, exit_index: int, logits: bytes) -> None:
        """Lay down the logits of one exit: float32, a row of classes for each row that its head saw."""
        start = self._logits_start(run_id, need, exit_index)
        self._bytes[start : start + len(logits)] = logits

    def logits(self, run_id: int, need: Need, exit_index: int, count: int) -> bytes:
        """A copy of the logits of the first `count` rows at one exit."""
        start = self._logits_start(run_id, need, exit_index)
        return bytes(self._bytes[start : start + count * need.class_count * 4])

    def ask_yield(self, run_id: int) -> None:
        """Ask this run, and no other, to stop at its next exit, or not to begin; the other half's may be asked too."""
        _FLAG.pack_into(self._map, _flag_offset(run_id), run_id)

    def yield_asked(self, run_id: int) -> bool:
        return bool(_FLAG.unpack_from(self._map, _flag_offset(run_id))[0] == run_id)

    def _logits_start(self, run_id: int, need: Need, exit_index: int) -> int:
        logits = self._start(run_id) + _round(need.batch_max * need.input_bytes)
        return logits + exit_index * need.batch_max * need.class_count * 4

    def _start(self, run_id: int) -> int:
        return PAGE + (run_id & 1) * self._half


def _flag_offset(run_id: int) -> int:
    return (run_id & 1) * _FLAG.size


def _logits_bytes(need: Need) -> int:
    return need.exit_count * need.batch_max * need.class_count * 4


def _round(size: int) -> int:
    return -(-size // PAGE) * PAGE
