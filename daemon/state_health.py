"""A state directory looked over: what of it is whole, what is damaged, and what to do; for `delen doctor`.

Role: reads what `state_files.py`, `counters.py` and `audit_log.py` keep, also beside a daemon that is writing it.
Does not: change anything; a daemon mends what it can when it starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..exits import state_files
from .audit_log import look_through
from .counters import CountersDamaged, decoded
from .keeping import AUDIT, COUNTERS, SLOT_BYTES, directory_fault
from .slot_file import peek


class Part(NamedTuple):
    """One part: what was found, and what to do about it; an empty `fix` means that it is well."""

    name: str
    found: str
    fix: str = ""


def look(state: Path) -> list[Part]:
    """Every part of a state directory; none where there is no such directory. Raises OSError: it cannot be read."""
    if not state.is_dir():
        return []
    fault = directory_fault(state)
    rights = [Part("state rights", fault, "the daemon will not start on it, but in development mode")] if fault else []
    return [*rights, _files(state), *_counters(state), *_audit(state)]


def _files(state: Path) -> Part:
    health = state_files.inspect(state)
    if not health.faults:
        return Part("state files", f"{health.files} with a copy, all whole")
    more = f"; and {len(health.faults) - 1} more" if len(health.faults) > 1 else ""
    return Part("state files", f"{health.faults[0]}{more}", "the daemon mends this when it starts")


def _counters(state: Path) -> list[Part]:
    path = state / COUNTERS
    if not path.exists():
        return []
    try:
        totals = decoded(peek(path, slot_bytes=SLOT_BYTES)).totals
    except CountersDamaged as error:
        return [Part("tenants' counters", f"{path}: {error}", "move the file away: the daemon begins new ones")]
    energy_j = sum(one.energy_mj for one in totals) / 1000
    device_s = sum(one.device_us for one in totals) / 1e6
    said = f"{len(totals)} tenants: {energy_j:,.1f} J and {device_s:,.1f} s of the device in all"
    return [Part("tenants' counters", said)]


def _audit(state: Path) -> list[Part]:
    count, faults = look_through(state / AUDIT)
    if faults:
        return [Part("audit log", faults[0], "look at it: it is kept as it is, and the log goes on after it")]
    return [Part("audit log", f"{count} lines, unbroken")] if count else []
