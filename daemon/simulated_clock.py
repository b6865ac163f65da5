"""The GPU clock of a simulated device: what a run that says another clock has to wait.

Role: `simulate.py`'s counterpart of the driver that sets a real one. Does not: pick clocks.
"""

from __future__ import annotations

from ..policies.view import Run
from .journal_records import ClockConfirmed
from .reclock import confirm
from .server import Server


class SimulatedClock:
    """Takes `switch_us` of the core's view of the clock for every change; without a clock there nothing changes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._khz = 0
        self.switches = 0

    def begin(self, run: Run, start_us: int) -> int:
        """When this run really starts, where the device could have started it at `start_us`."""
        clock = self._server.view().clock
        if clock is None or not run.clock_khz:
            return start_us
        before_khz, self._khz = self._khz or clock.steps_khz[-1], run.clock_khz
        if clock.wished_khz == run.clock_khz:
            confirm(self._server, ClockConfirmed(start_us, run.clock_khz))
        if before_khz == run.clock_khz:
            return start_us
        self.switches += 1
        return start_us + clock.switch_us
