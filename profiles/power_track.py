"""Energy between any two moments, from samples of power or of an energy counter.

Role: the one integrator that meters and the daemon share: trapezoids over power, differences of a counter. Samples that
do not follow on each other, because one between them is missing or is not believed, are in different spans, and energy
is known only within one. Pure. Does not: read sensors, or judge what they say (`power_sensor.py`).
"""

from __future__ import annotations

from bisect import bisect_right

# 100 readings a second for 80 s: longer than any request waits.
SAMPLES_MAX = 8192
# Samples further apart say too little of what lay between them; unless that is how often the sensor says anything.
GAP_US = 1_000_000


class PowerTrack:
    """The last samples as running totals. Times: monotonic microseconds, never going back."""

    def __init__(self, samples_max: int = SAMPLES_MAX, gap_us: int = GAP_US) -> None:
        """`gap_us`: samples further apart do not follow on each other."""
        self.span = 0
        self.power_mw: float | None = None
        self._samples_max = samples_max
        self._gap_us = gap_us
        self._times_us: list[int] = []
        self._totals_mj: list[float] = []
        self._spans: list[int] = []
        self._counter_mj = 0.0

    def add_power(self, now_us: int, power_mw: float) -> None:
        """What is drawn now, mW."""
        if not self._follows(now_us):
            self._add(now_us, 0.0)
        else:
            before_mw = power_mw if self.power_mw is None else self.power_mw
            spent_mj = (before_mw + power_mw) / 2 * (now_us - self._times_us[-1]) / 1e6
            self._add(now_us, self._totals_mj[-1] + spent_mj)
        self.power_mw = power_mw

    def add_counter(self, now_us: int, counter_mj: float) -> None:
        """What a counter that only grows has come to, mJ."""
        if not self._follows(now_us):
            self._add(now_us, 0.0)
        else:
            spent_mj = counter_mj - self._counter_mj
            elapsed_us = now_us - self._times_us[-1]
            self._add(now_us, self._totals_mj[-1] + spent_mj)
            if elapsed_us:
                self.power_mw = spent_mj / elapsed_us * 1e6
        self._counter_mj = counter_mj

    def add_total(self, now_us: int, total_mj: float, span: int) -> None:
        """A sample of another track, as `since` gave it."""
        if self._times_us and span == self._spans[-1] and now_us > self._times_us[-1]:
            spent_mj = total_mj - self._totals_mj[-1]
            self.power_mw = spent_mj / (now_us - self._times_us[-1]) * 1e6
        self.span = span
        self._add(now_us, total_mj)

    def cut(self) -> None:
        """What follows does not join what was before: a reading is missing, or is not believed."""
        self.power_mw = None
        if self._times_us and self._spans[-1] == self.span:
            self.span += 1

    def energy_mj(self, start_us: int, end_us: int, reach_us: int = 0) -> float | None:
        """mJ from `start_us` to `end_us`; None where that is not within one span.

        Args:
            reach_us: how far beyond the first and last sample their power may be taken to hold.
        """
        if not self._times_us or end_us < start_us:
            return None
        begun, ended = self._at(start_us, reach_us), self._at(end_us, reach_us)
        if begun is None or ended is None or begun[1] != ended[1]:
            return None
        return max(0.0, ended[0] - begun[0])

    def since(self, after_us: int) -> list[tuple[int, float, int]]:
        """Samples later than that: time, total mJ, span."""
        first = bisect_right(self._times_us, after_us)
        return list(zip(self._times_us[first:], self._totals_mj[first:], self._spans[first:], strict=True))

    @property
    def last_us(self) -> int | None:
        return self._times_us[-1] if self._times_us else None

    def _follows(self, now_us: int) -> bool:
        if not self._times_us or self._spans[-1] != self.span:
            return False
        if now_us - self._times_us[-1] > self._gap_us:
            self.cut()
            return False
        return True

    def _add(self, now_us: int, total_mj: float) -> None:
        self._times_us.append(now_us)
        self._totals_mj.append(total_mj)
        self._spans.append(self.span)
        if len(self._times_us) > 2 * self._samples_max:
            for kept in (self._times_us, self._totals_mj, self._spans):
                del kept[: self._samples_max]

    def _at(self, time_us: int, reach_us: int) -> tuple[float, int] | None:
        """The running total at a moment and its span, interpolated; None where that is not known."""
        times_us, totals_mj, spans = self._times_us, self._totals_mj, self._spans
        after = bisect_right(times_us, time_us)
        best: tuple[int, int] | None = None
        # The two samples around it; where these do not join, the pair before or behind, if that is near enough.
        for left in (after - 1, after, after - 2):
            if 0 <= left < len(times_us) - 1 and spans[left] == spans[left + 1]:
                off_us = max(0, times_us[left] - time_us, time_us - times_us[left + 1])
                if off_us <= reach_us and (best is None or off_us < best[0]):
                    best = off_us, left
        if best is None:
            return None
        left = best[1]
        elapsed_us = times_us[left + 1] - times_us[left]
        slope = (totals_mj[left + 1] - totals_mj[left]) / elapsed_us if elapsed_us else 0.0
        return totals_mj[left] + slope * (time_us - times_us[left]), spans[left]
