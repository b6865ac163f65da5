"""What a power sensor is, and when its readings are believed.

Role: `Sensor`, one protocol for everything that says what is drawn; `Gauge` reads one, judges each reading and keeps a
track of energy. A reading that is missing, frozen, absurd, late or goes backwards is no reading: the track is cut
there, and energy over the cut is unknown, never 0.

Does not: know where readings come from (`meter_*.py`), or run by itself (who samples calls `sample`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..clients.info import MeterState
from .power_track import GAP_US, PowerTrack

# A reading that took so long was made at a moment nobody knows.
SLOW_NS = 250_000_000
# A reading that is this much later than its turn has missed one.
GAP_SAMPLES = 2.5


class Reading(NamedTuple):
    """One reading. `value`: mW now, or mJ of a counter. `raw`: as the hardware said it; if that stays, it is stuck."""

    value: float
    raw: tuple[float, ...]


class Sensor(Protocol):
    """Something that says what is drawn.

    `name`: the sensor and its rails. `covers`: what its figure is the energy of, in words. `counts`: whether it counts
    energy, else it says power. `sample_s`: how often to read; `window_s_min`: shorter windows are unknown;
    `frozen_s`: a reading that has not moved for so long is not believed; `power_mw_max`: nor is one above.
    """

    name: str
    covers: str
    counts: bool
    sample_s: float
    window_s_min: float
    frozen_s: float
    power_mw_max: float

    def read(self) -> Reading | None:
        """What it says now; None where it says nothing. Waits for hardware, never for other processes."""
        ...

    def close(self) -> None:
        """Let go of processes and handles."""
        ...


class Gauge:
    """One sensor, read when asked, judged, and integrated in `track`."""

    def __init__(self, sensor: Sensor, clock_ns: Callable[[], int]) -> None:
        self.sensor = sensor
        self.track = PowerTrack(gap_us=max(GAP_US, int(GAP_SAMPLES * 1e6 * sensor.sample_s)))
        self.state: MeterState = "missing"
        self._clock_ns = clock_ns
        self._raw: tuple[float, ...] | None = None
        self._moved_ns = 0
        self._value = 0.0
        self._counted_ns: int | None = None

    def sample(self) -> None:
        """Take one reading."""
        asked_ns = self._clock_ns()
        reading = self.sensor.read()
        now_ns = self._clock_ns()
        # In the middle of reading: where a sensor is slow, half of that is how far off its time can be.
        taken_us = (asked_ns + now_ns) // 2000
        self.state = self._judge(reading, now_ns, now_ns - asked_ns)
        if self.state != "reading":
            self.track.cut()
            self._counted_ns = None
            return
        assert reading is not None
        if self.sensor.counts:
            self._value, self._counted_ns = reading.value, now_ns
            self.track.add_counter(taken_us, reading.value)
        else:
            self.track.add_power(taken_us, reading.value)

    def _judge(self, reading: Reading | None, now_ns: int, took_ns: int) -> MeterState:
        if reading is None:
            self._raw = None
            return "missing"
        if reading.raw != self._raw:
            self._raw, self._moved_ns = reading.raw, now_ns
        elif now_ns - self._moved_ns > self.sensor.frozen_s * 1e9:
            return "frozen"
        if took_ns > SLOW_NS:
            return "slow"
        return self._counted(reading.value, now_ns) if self.sensor.counts else self._sane(reading.value)

    def _sane(self, power_mw: float) -> MeterState:
        # Exactly 0 is absurd too: a board that runs this draws something.
        return "reading" if math.isfinite(power_mw) and 0 < power_mw <= self.sensor.power_mw_max else "absurd"

    def _counted(self, counter_mj: float, now_ns: int) -> MeterState:
        if not math.isfinite(counter_mj):
            return "absurd"
        if self._counted_ns is None or now_ns <= self._counted_ns:
            return "reading"
        spent_mj = counter_mj - self._value
        if spent_mj < 0:
            return "backwards"
        # A counter moves in steps: over a short while it may seem to run faster than anything can.
        elapsed_s = max((now_ns - self._counted_ns) / 1e9, self.sensor.sample_s)
        return "reading" if spent_mj <= self.sensor.power_mw_max * elapsed_s else "absurd"
