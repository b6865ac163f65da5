"""The device's battery as a command or a file tells of it, and until when it is to last.

Role: whoever knows the battery says a line now and then: `{"energy_j": 5200, "harvest": [[3600, 4.5], [7200, 0]]}`,
what it holds now, and what is expected to come in: up to so many seconds from now, so many watts on average. A command
may say many lines, or one and end; then it is run again after `every_s`, as a file is read again. Flow: child process
-> `turn`, which never waits for it -> the core (`budget_events.tell`).

Does not: forecast, or believe what cannot be: that is said once, and what was known before stands.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..clients.adaptation import FOR_S_MAX
from ..policies.view import NEVER_US
from ..profiles.meter_lines import Lines
from .battery_config import ENERGY_J_MAX, BatteryConfig, battery_command
from .budget_events import tell
from .journal_records import Batteried
from .server import Server

LOOK_US = 500_000
# A day in quarters of an hour, and as much again.
FORECAST_MAX = 200
# Silent for so long, or so many times as long as it is looked at, the operator is told.
SILENT_S_MIN, SILENT_TIMES = 60.0, 10
POWER_W_MAX = 1e9


class BatteryLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a battery says of itself."""

    energy_j: float
    harvest: tuple[tuple[float, float], ...] = ()

    def fault(self) -> str | None:
        """What cannot be; None when nothing is."""
        if not 0 <= self.energy_j <= ENERGY_J_MAX:
            return f"energy_j is {self.energy_j:g}; expected joules, from 0 to {ENERGY_J_MAX:g}"
        if len(self.harvest) > FORECAST_MAX:
            return f"harvest has {len(self.harvest)} entries; at most {FORECAST_MAX} are taken"
        before_s = 0.0
        for until_s, power_w in self.harvest:
            if not (before_s < until_s <= FOR_S_MAX and 0 <= power_w <= POWER_W_MAX):
                return (
                    f"harvest has [{until_s:g}, {power_w:g}]; expected [seconds from now, W], later than the one "
                    f"before, at most {FOR_S_MAX:g} s and {POWER_W_MAX:g} W"
                )
            before_s = until_s
        return None


class BatteryWatch:
    """The battery of this device, as far as anybody tells of it."""

    def __init__(
        self,
        config: BatteryConfig,
        server: Server,
        note: Callable[[str], None],
        wall: Callable[[], float],
        lines: Lines | None = None,
    ) -> None:
        """`wall`: the time of day, s. `lines`: in place of the command."""
        self._config, self._server, self._note, self._wall = config, server, note, wall
        self._lines = lines
        if lines is None and config.source:
            self._lines = Lines(battery_command(config.source), again_s=config.every_s)
        self._decode = msgspec.json.Decoder(BatteryLine).decode
        self._looked_us, self._said = 0, ""
        self._heard_us: int | None = None
        self._silent_us = int(1e6 * max(SILENT_S_MIN, SILENT_TIMES * config.every_s))

    def turn(self, now_us: int) -> None:
        """Take in what was said of it; a microsecond where nothing is due."""
        if self._lines is None or now_us < self._looked_us + LOOK_US:
            return
        self._looked_us = now_us
        said = self._lines.take()
        if said or self._heard_us is None:
            self._heard_us = now_us
        if said:
            self._hear(now_us, said[-1])
        elif not self._lines.running and self._lines.said:
            self._fault(f"{self._lines.said}; it is tried again")
        elif now_us - self._heard_us > self._silent_us:
            # Not ended, for it may speak only when something changes.
            self._fault(f"nothing is said of it for {self._silent_us // 1_000_000} s; what was said last stands")

    def wake_at(self) -> int:
        return NEVER_US if self._lines is None else self._looked_us + LOOK_US

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()

    def _hear(self, now_us: int, text: str) -> None:
        try:
            line = self._decode(text)
        except msgspec.DecodeError as error:
            self._fault(f"{text!r:.80} says nothing of a battery: {error}")
            return
        fault = line.fault()
        if fault is not None:
            self._fault(fault)
            return
        config = self._config
        left_s = config.for_s if config.until is None else config.until.timestamp() - self._wall()
        assert left_s is not None
        if left_s <= 0:
            self._fault(f"until {config.until} has passed, so nothing is to last; say a later time")
        else:
            self._said = ""
        harvest = tuple((now_us + int(until_s * 1e6), 1000 * power_w) for until_s, power_w in line.harvest)
        until_us = now_us + int(left_s * 1e6)
        tell(self._server, Batteried(now_us, 1000 * line.energy_j, 1000 * config.reserve_j, until_us, harvest))

    def _fault(self, said: str) -> None:
        if said != self._said:
            self._note(f"battery: {said}")
        self._said = said
