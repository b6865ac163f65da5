"""The limits of the GPU's clock as they were found, kept on the disk for as long as this daemon holds it elsewhere.

Role: `<state>/gpu-clock.json`, written before the first write to the GPU and removed once its limits are given back. A
daemon that is killed cannot give them back: the next one finds the file and does. Limits end with the system's start,
so a file from before it is removed. Does not: write to the GPU (`profiles/board_clocks.py`).
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ..exits import state_files
from ..profiles.board_clocks import HERTZ_MAX, ClockError, GpuClock, boot_id

BYTES_MAX = 4096
# Linux numbers no process higher (PID_MAX_LIMIT).
PID_MAX = 2**22


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As found. `gpu`: its directory's name; `boot`: of the system, while it ran; `pid`: who holds the clock since."""

    gpu: str
    min_hz: int
    max_hz: int
    boot: str
    pid: int

    @property
    def held(self) -> bool:
        """Whether who holds the clock is there still, as far as a process's number says."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True


def limits_path(state: Path) -> Path:
    """Where they are kept."""
    return state / "gpu-clock.json"


def remember(state: Path, root: Path, gpu: GpuClock, low_hz: int, high_hz: int) -> None:
    """On the disk when this returns. Raises ClockError."""
    limits = Limits(gpu.path.name, low_hz, high_hz, boot_id(root), os.getpid())
    path = limits_path(state)
    try:
        state_files.keep(state, path, msgspec.json.encode(limits) + b"\n")
    except OSError as error:
        raise ClockError(
            f"the GPU's limits as found cannot be kept in {path} ({error.strerror}), so its clock is not set: "
            'make room, make it writable, or set clocks = "read"'
        ) from error


def read_limits(state: Path, root: Path) -> Limits | None:
    """What an earlier daemon left; None: nothing, or nothing that holds since the system's start.

    Raises:
        ClockError: what is there cannot be read, or is no such limits.
    """
    path = limits_path(state)
    try:
        limits = msgspec.json.decode(state_files.read(state, path, BYTES_MAX).data, type=Limits)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClockError(f"{path} cannot be used ({error}); see the GPU's limits yourself, and remove it") from error
    if not (0 < limits.min_hz <= limits.max_hz <= HERTZ_MAX and 0 < limits.pid <= PID_MAX):
        raise ClockError(f"{path} says limits that no GPU has; see the GPU's limits yourself, and remove it")
    return limits if limits.boot == boot_id(root) else None


def forget(state: Path) -> None:
    """They are given back, or hold no more. Raises OSError."""
    if limits_path(state).exists():
        state_files.forget(state, limits_path(state))
