"""The front's side of the power sampler: what its process says, how the meter stands, and energy between moments.

Role: the loop calls `turn` a few times a second; nothing here waits for the process or the sensor, so a meter that is
missing, frozen, absurd, slow or lying changes what is known of energy and nothing else. Flow: lines -> `PowerTrack` and
a `MeterInfo`, which the desk tells tenants. One that says nothing for a while is killed and started again.

Does not: share energy out (the ledger's matter), read sensors (`profiles/meter_process.py`), or read clocks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec

from ..clients.info import EnergySource, MeterInfo, MeterState
from ..policies.view import NEVER_US
from ..profiles.meter_lines import Lines
from ..profiles.meter_process import Report
from ..profiles.meters import UNKNOWN, Energy, may_have_meter
from ..profiles.power_track import PowerTrack
from .config import Config
from .metering import Metering

LOOK_US = 200_000
# Reports come every 100 ms: without any for so long the sensor is slow, and after longer its process is stuck.
SILENT_US, STUCK_US = 1_000_000, 30_000_000
# To start and to import what it needs, on a slow and busy board.
START_US = 15_000_000


class Sampler:
    """The meter of this device, as far as the daemon knows it."""

    def __init__(
        self,
        config: Config,
        metering: Metering,
        note: Callable[[str], None],
        now_us: int,
        lines: Lines | None = None,
    ) -> None:
        """`metering`: is told how the meter stands. `lines`: in place of the sampler's process."""
        self.track = PowerTrack()
        self._metering = metering
        metering.refuses = config.unmetered == "refuse"
        self._note = note
        self._decode = msgspec.json.Decoder(Report).decode
        self._model = ""
        self._said = self._why = ""
        self._state: MeterState = "none"
        self._state_us = now_us
        self._heard_us = self._looked_us = now_us
        self._sample_us = 0
        self._span = 0
        self._offset = 0
        self._lines: Lines | None = lines
        if lines is None and may_have_meter(config.meter):
            device = "cuda" if config.device.startswith("cuda") else "cpu"
            self._lines = Lines([sys.executable, "-m", "delen.profiles.meter_process", config.meter, device])
        if self._lines is not None:
            self._state = "missing"
            self._take(now_us)
        self._tell(now_us)

    def turn(self, now_us: int) -> None:
        """Take in what the process has said; a few microseconds where nothing is due."""
        if self._lines is not None and self._state != "none" and now_us >= self._looked_us + LOOK_US:
            self._looked_us = now_us
            self._take(now_us)
            self._tell(now_us)

    def wake_at(self) -> int:
        """When `turn` has something to do; NEVER_US when never."""
        return NEVER_US if self._state == "none" else self._looked_us + LOOK_US

    def energy(self, start_us: int, end_us: int) -> Energy:
        """What the device drew between two moments, as far as it has been told; unknown over any bad reading."""
        mj = self.track.energy_mj(start_us, end_us, 2 * self._sample_us)
        return UNKNOWN if mj is None else Energy(mj, "measured")

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    def _take(self, now_us: int) -> None:
        assert self._lines is not None
        starts = self._lines.starts
        lines = self._lines.take()
        if self._lines.starts != starts:
            # Another process, whose totals begin anew; or none that could be started.
            self._heard_us = now_us + START_US - SILENT_US
            self._offset = self._span + 1
        for line in lines:
            try:
                self._hear(now_us, self._decode(line))
            except msgspec.DecodeError:
                continue
        if self._state == "none":
            return
        if not self._lines.running:
            self._be(now_us, "missing", self._said or self._lines.said)
        elif now_us - self._heard_us > SILENT_US:
            self._be(now_us, "slow", "it does not come back from reading")
            if now_us - self._heard_us > STUCK_US:
                self._lines.kill()

    def _hear(self, now_us: int, report: Report) -> None:
        self._heard_us = now_us
        if report.state == "none":
            self.close()
        self._model, self._said = report.model or self._model, report.fault
        self._sample_us = int(report.sample_s * 1e6) or self._sample_us
        for at_us, total_mj, span in report.samples:
            self._span = max(self._span, span + self._offset)
            if self.track.last_us is None or at_us > self.track.last_us:
                self.track.add_total(at_us, total_mj, span + self._offset)
        self._be(now_us, report.state, report.fault)

    def _be(self, now_us: int, state: MeterState, why: str) -> None:
        if (state, why) == (self._state, self._why):
            return
        if state == "reading":
            self._note(f"power meter {self._model}: reading")
        elif self._model or why:
            said = f"power meter {self._model or 'asked for'} is {state}{': ' if why else ''}{why}"
            self._note(f"{said}; energies are {'refused' if self._metering.refuses else 'modelled'} meanwhile")
        if state != self._state:
            self._state_us = now_us
        self._state, self._why = state, why

    def _tell(self, now_us: int) -> None:
        power_mw = self.track.power_mw if self._state == "reading" else None
        source: EnergySource = "measured" if self._state == "reading" else "unknown"
        self._metering.tell(MeterInfo(self._state, source, self._model, power_mw, now_us - self._state_us))
