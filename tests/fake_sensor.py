"""A power sensor that says what a test wants, on a clock of its own, and may take its time."""

from __future__ import annotations

from delen.profiles.power_sensor import Reading


class FakeSensor:
    """`value`: what it says next; None: nothing. `takes_s`: how far its clock moves while it is read."""

    name = "fake"
    covers = "everything"
    sample_s = 0.01
    window_s_min = 0.1
    frozen_s = 10.0
    power_mw_max = 200_000.0

    def __init__(self, value: float | None = 1000.0, *, counts: bool = False, takes_s: float = 0.0) -> None:
        self.value = value
        self.counts = counts
        self.takes_s = takes_s
        self.now_ns = 0
        self.closed = False

    def read(self) -> Reading | None:
        self.now_ns += round(self.takes_s * 1e9)
        return None if self.value is None else Reading(self.value, (self.value,))

    def close(self) -> None:
        self.closed = True
