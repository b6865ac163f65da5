"""What the operator says of the device's battery. Does not: read it (`battery.py`)."""

from __future__ import annotations

from datetime import datetime

import msgspec

from ..clients.adaptation import FOR_S_MAX
from ..profiles.meter_wall import WallMeterError, command_of

# More than any battery holds, and less than what cannot be reckoned with.
ENERGY_J_MAX = 1e12


class BatteryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the operator says of the device's battery.

    `source`: `command: ARGV` or `file: PATH`; empty: there is none. `reserve_j`: of what it holds, never used. It is to
    last `until` a time, or always for the next `for_s` seconds. `every_s`: how often it is looked at.
    """

    source: str = ""
    reserve_j: float = 0.0
    until: datetime | None = None
    for_s: float | None = None
    every_s: float = 10.0

    def fault(self) -> str | None:
        """What cannot be right, in words; None when nothing is."""
        if not self.source:
            return (
                None if self == BatteryConfig() else 'battery.source is missing; expected "command: ..." or "file: ..."'
            )
        try:
            battery_command(self.source)
        except ValueError as error:
            return str(error)
        if not 0 <= self.reserve_j <= ENERGY_J_MAX:
            return f"battery.reserve_j is {self.reserve_j:g}; expected joules, from 0 to {ENERGY_J_MAX:g}"
        if (self.until is None) == (self.for_s is None):
            return "battery needs until or for_s, one of them: how long it is to last"
        if self.until is not None and self.until.tzinfo is None:
            return f"battery.until {self.until.isoformat()} has no time zone; write it as {self.until.isoformat()}Z"
        for name in ("for_s", "every_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= FOR_S_MAX:
                return f"battery.{name} is {value:g}; expected seconds, above 0 and at most {FOR_S_MAX:g}"
        return None


def battery_command(source: str) -> list[str]:
    """What tells of the battery. Raises ValueError."""
    kind, _, rest = source.partition(":")
    if kind == "file" and rest.strip():
        return ["cat", "--", rest.strip()]
    if kind != "command":
        raise ValueError(f'battery.source is {source!r:.80}; expected "command: ARGV" or "file: PATH"')
    if not rest.strip():
        raise ValueError(f"battery.source is {source!r}; expected a command behind it, and its arguments")
    try:
        return command_of(source)[0]
    except WallMeterError as error:
        raise ValueError(f"battery.source: {error}") from error
