"""The GPU's clock as this daemon holds it: written by a thread of its own, since a driver may hang in a write.

Role: runs wish clocks, the thread sets one at a time, and of wishes that came meanwhile the last. A clock is in force
once its write has come back (`Turned.confirmed_khz`). While one does not come back in time, and for a while after one
has failed, there are no clocks to pick from: work goes on at the one it has. Flow: `wish` -> thread -> `turn`.

First of all the thread gives the GPU the limits back that a daemon that was killed could not (`clock_limits.py`); the
end does the same with its own. Does not: pick clocks, or know what they mean for networks (`clock_watch.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..policies.view import NEVER_US
from ..profiles.board_clocks import ClockError, GpuClock, find_gpu
from . import clock_limits
from .aside import Aside

# A write takes milliseconds; the first one also waits for the disk, which is to remember what was found.
SET_US_MAX = 250_000
# After a failure nothing is picked for so long, and then tried again.
AGAIN_US = 10_000_000
# At the start for what was left, at the end for giving back.
WAIT_S_MAX = 2.0


class Turned(NamedTuple):
    """What has become of wishes. `confirmed_khz`: in force since; 0: nothing new. `notes`: for the operator.

    `changed`: whether clocks may be picked is not as it was.
    """

    confirmed_khz: int = 0
    changed: bool = False
    notes: tuple[str, ...] = ()


NOTHING = Turned()


class ClockHold:
    """The one GPU whose clock may be set, if there is one, and what it was given."""

    def __init__(self, root: Path, state: Path, *, may_set: bool, wake: Callable[[], None]) -> None:
        """Waits for the GPU's files, but not for long. `wake`: called from any thread when `turn` has something to do.

        `may_set`: else only what was left is given back.
        """
        self.recent_khz: set[int] = set()
        self._root, self._state, self._may_set, self._wake = root, state, may_set, wake
        self._aside = Aside("delen-gpu-clock", wake)
        self._gpu: GpuClock | None = None
        self._under_way: Future[str] | None = None
        self._khz = self._wanted_khz = self._held_khz = 0
        self._late_us = self._again_us = NEVER_US
        self._slow = False
        # What `turn` told last.
        self._told = False
        self._alive = may_set or clock_limits.limits_path(state).exists()
        if self._alive:
            self._under_way, self._late_us = self._aside.submit(self._find), 0
            wait([self._under_way], WAIT_S_MAX)

    @property
    def gpu(self) -> GpuClock | None:
        """The GPU while its clock can be picked."""
        ready = self._gpu is not None and not self._slow and self._again_us == NEVER_US
        return self._gpu if ready else None

    @property
    def busy(self) -> bool:
        """Whether `turn` may have something to tell."""
        return self._under_way is not None or self._again_us < NEVER_US

    def wish(self, khz: int) -> None:
        """The GPU should have this clock, in a moment; nothing is waited for."""
        if self.gpu is None or khz == (self._wanted_khz or self._khz or self._held_khz):
            return
        self._wanted_khz = khz
        if self._under_way is None:
            self._next()
            # So that `turn` counts from now on how long it takes.
            self._wake()

    def turn(self, now_us: int) -> Turned:
        """See what has become of it, and set the next."""
        confirmed_khz, notes = 0, list[str]()
        job = self._under_way
        if job is not None and job.done():
            self._under_way, khz, self._khz = None, self._khz, 0
            self._late_us, self._slow = NEVER_US, False
            fault = job.exception()
            if fault is None:
                notes += [job.result()] if job.result() else []
                confirmed_khz = self._held_khz = khz or self._held_khz
            else:
                # Half set it was put back, but by whom is that sure?
                notes.append(f"the clock is not set, and stays as it is for a while: {fault}")
                self._held_khz = self._wanted_khz = 0
                self._again_us = now_us + AGAIN_US
            self._next()
        if self._again_us <= now_us:
            self._again_us = NEVER_US
        if self._under_way is not None and not self._slow:
            notes += self._patience(now_us)
        changed, self._told = (self.gpu is not None) != self._told, self.gpu is not None
        return Turned(confirmed_khz, changed, tuple(notes)) if confirmed_khz or changed or notes else NOTHING

    def wake_at(self) -> int:
        """When `turn` has something to do, though nothing comes back."""
        return min(self._late_us, self._again_us)

    def looking(self) -> None:
        """Somebody begins to read the clock: `recent_khz` are those that it had or may have had since."""
        self.recent_khz = {self._held_khz, self._khz, self._wanted_khz} - {0}

    def lost(self) -> None:
        """Somebody else has changed the clock: what was set before is to be set again."""
        if self._under_way is None:
            self._held_khz = 0

    def close(self) -> str:
        """Give the GPU its limits back, if it answers soon; what the operator should know, or nothing."""
        if not self._alive:
            return ""
        self._wanted_khz = 0
        last = self._aside.submit(self._give_back)
        self._aside.close()
        wait([last], WAIT_S_MAX)
        path = clock_limits.limits_path(self._state)
        if not last.done():
            return f"the GPU keeps its clock: its driver does not answer; the next start gives back what {path} says"
        fault = last.exception()
        return "" if fault is None else f"the GPU keeps its clock: {fault}"

    def _next(self) -> None:
        khz, self._wanted_khz = self._wanted_khz, 0
        if khz and khz != self._held_khz:
            self._under_way, self._khz, self._late_us = self._aside.submit(partial(self._set, khz)), khz, 0
            self.recent_khz.add(khz)

    def _patience(self, now_us: int) -> list[str]:
        if self._late_us == 0:
            self._late_us = now_us + SET_US_MAX
        if now_us < self._late_us:
            return []
        self._late_us, self._slow, self._wanted_khz = NEVER_US, True, 0
        what = f"to set {self._khz / 1000:g} MHz" if self._khz else "to be looked at"
        return [f"the GPU's driver was asked {what} and does not answer; its clock stays as it is until it does"]

    # ---- on the thread

    def _find(self) -> str:
        """Give back what was left, then see whether the clock can be set; what the operator should know."""
        gpu = find_gpu(self._root)
        said = self._put_right(gpu)
        if not self._may_set:
            return said
        fault = "this machine has no GPU whose clock can be set" if gpu is None else gpu.fault()
        if fault:
            return f"{said}; policy clock: the clock stays as it is: {fault}".removeprefix("; ")
        self._gpu = gpu
        return said

    def _put_right(self, gpu: GpuClock | None) -> str:
        path, span = clock_limits.limits_path(self._state), ""
        try:
            left = clock_limits.read_limits(self._state, self._root)
            if left is not None:
                if gpu is None or gpu.path.name != left.gpu:
                    return f"{path} is of the GPU {left.gpu}, which is not here; remove it if it will not come back"
                span = f"{left.min_hz / 1e6:g} to {left.max_hz / 1e6:g} MHz"
                # If they cannot be given back now, then at the end, for it has no others to give back.
                gpu.found(left.min_hz, left.max_hz)
                gpu.restore()
            clock_limits.forget(self._state)
        except (ClockError, OSError) as error:
            return f"the GPU's limits of before an earlier daemon that was killed are not given back: {error}"
        return span and f"the GPU has its limits back, {span}: an earlier daemon was killed while it held the clock"

    def _set(self, khz: int) -> str:
        assert self._gpu is not None
        self._gpu.set(khz, partial(clock_limits.remember, self._state, self._root, self._gpu))
        return ""

    def _give_back(self) -> str:
        if self._gpu is not None:
            self._gpu.restore()
            clock_limits.forget(self._state)
        return ""
