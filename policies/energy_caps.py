"""How much energy a tenant may have: so many watts on average, so many joules in any day or other span of time.

Role: charged with the worst a request may take when it comes in, and with what it took when it has ended, so that a
crowd of requests cannot overdraw what none of them alone would. `Window` is a day in slots of an hour: what is counted
is at least what was had in the last 24 hours, and at most an hour more. Mutable state of the core; its `levels` are
what a restart must not forget.

Does not: read a clock, or measure: a tenant's energy is its rows' part of each run, as measured or as modelled.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from .bucket import WAIT_US_MAX, Bucket

HOUR_US = 3_600_000_000
SLOTS = 24
# Watts hold over this window, as a share of the device does over its own.
POWER_WINDOW_US = 1_000_000
MJ_PER_US_OF_A_WATT = 1e-3


class Window:
    """What was had in the last day, by the hour; or in another time, by a 24th of it."""

    __slots__ = ("_slots", "_total", "slot_us")

    def __init__(self, slot_us: int = HOUR_US) -> None:
        self.slot_us = slot_us
        self._slots: deque[tuple[int, float]] = deque()
        self._total = 0.0

    def add(self, now_us: int, amount_mj: float) -> None:
        hour = now_us // self.slot_us
        if self._slots and self._slots[-1][0] == hour:
            self._slots[-1] = hour, self._slots[-1][1] + amount_mj
        else:
            self._slots.append((hour, amount_mj))
        self._total += amount_mj
        self._forget(hour)

    def total(self, now_us: int) -> float:
        self._forget(now_us // self.slot_us)
        # What was charged too much is given back a moment later, and so may be in a slot that stays for longer.
        return max(0.0, self._total)

    def wait_us(self, now_us: int, excess_mj: float) -> int:
        """How long until at least so much has fallen out; a day where that is more than there is."""
        self._forget(now_us // self.slot_us)
        gone = 0.0
        for hour, amount_mj in self._slots:
            gone += amount_mj
            if gone >= excess_mj:
                return (hour + SLOTS + 1) * self.slot_us - now_us
        return SLOTS * self.slot_us

    def levels(self, now_us: int) -> list[tuple[int, float]]:
        """(hours ago, mJ), oldest first: what to keep through a restart."""
        hour = now_us // self.slot_us
        self._forget(hour)
        return [(hour - slot, amount_mj) for slot, amount_mj in self._slots]

    def restore(self, now_us: int, levels: Sequence[tuple[int, float]]) -> None:
        """Begin with what was kept, oldest first; nothing may have been added yet."""
        hour = now_us // self.slot_us
        self._slots = deque((hour - ago, amount_mj) for ago, amount_mj in levels if 0 <= ago <= SLOTS)
        self._total = math.fsum(amount_mj for _, amount_mj in self._slots)

    def _forget(self, hour: int) -> None:
        while self._slots and self._slots[0][0] < hour - SLOTS:
            self._total -= self._slots.popleft()[1]
        if not self._slots:
            # Nothing is left of rounding either.
            self._total = 0.0


class EnergyCap:
    """One tenant's caps; None is no cap."""

    __slots__ = ("_day_j_max", "_power", "_power_w_max", "_reserved_mj", "_span", "_span_j_max", "day")

    def __init__(
        self,
        power_w_max: float | None,
        day_j_max: float | None,
        span_j_max: float | None = None,
        span_s: float = 3600.0,
    ) -> None:
        """`span_j_max`: joules in any `span_s` seconds."""
        self._span_j_max = span_j_max
        self._span = Window(max(1, math.ceil(span_s * 1e6 / SLOTS)))
        self._power_w_max = power_w_max
        self._day_j_max = day_j_max
        per_us = None if power_w_max is None else power_w_max * MJ_PER_US_OF_A_WATT
        self._power = None if per_us is None else Bucket(per_us, per_us * POWER_WINDOW_US)
        self.day = Window()
        self._reserved_mj = 0.0

    @property
    def capped(self) -> bool:
        return self._power is not None or self._day_j_max is not None or self._span_j_max is not None

    def wait_us(self, now_us: int, most_mj: float) -> tuple[int, str]:
        """How long until a request of at most `most_mj` may come in, 0: now; and what holds it up."""
        for name, most_j in (("energy_j_day_max", self._day_j_max), ("energy_j_window_max", self._span_j_max)):
            if most_j is not None and most_mj > most_j * 1000:
                # Nothing that falls out of the window makes room for it.
                return WAIT_US_MAX, f"{name} {most_j:g} is less than the {most_mj / 1000:g} J that this may take"
        if self._day_j_max is not None:
            excess_mj = self.day.total(now_us) + self._reserved_mj + most_mj - self._day_j_max * 1000
            if excess_mj > 0:
                said = f"energy_j_day_max {self._day_j_max:g}"
                return max(1, self.day.wait_us(now_us, excess_mj)), said
        if self._span_j_max is not None:
            excess_mj = self._span.total(now_us) + self._reserved_mj + most_mj - self._span_j_max * 1000
            if excess_mj > 0:
                return max(1, self._span.wait_us(now_us, excess_mj)), f"energy_j_window_max {self._span_j_max:g}"
        power = self._power
        if power is not None:
            # One request may take more than a second's worth; it then waits for all of that and is overdrawn.
            wait_us = power.wait_us(now_us, self._reserved_mj + min(most_mj, power.depth))
            if wait_us:
                return wait_us, f"power_w_max {self._power_w_max:g}"
        return 0, ""

    def reserve(self, most_mj: float) -> None:
        """A request came in."""
        self._reserved_mj += most_mj

    def release(self, most_mj: float) -> None:
        """It has ended; what it took was booked."""
        self._reserved_mj = max(0.0, self._reserved_mj - most_mj)

    def follow(self, before: EnergyCap) -> None:
        """Take the place of other caps of the same tenant."""
        self.day, self._reserved_mj = before.day, before._reserved_mj
        if self._span.slot_us == before._span.slot_us:
            self._span = before._span

    def book(self, now_us: int, took_mj: float) -> None:
        """Its part of a run."""
        if self._power is not None:
            self._power.take(now_us, took_mj)
        if self.capped:
            self.day.add(now_us, took_mj)
        if self._span_j_max is not None:
            self._span.add(now_us, took_mj)
