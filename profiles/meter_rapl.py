"""RAPL: the energy counters of Intel's and AMD's processors, through the kernel's powercap files.

Role: a PC's or server's meter: the whole platform where there is a `psys` counter, else all packages and their memory.
Counters are microjoules that wrap at `max_energy_range_uj`, after minutes to hours
(https://docs.kernel.org/power/powercap/powercap.html). Reading needs root or a rule: since CVE-2020-8694 the files are
0400. Does not: count what graphics cards, disks or the power supply take.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .meter_ina3221 import ROOT
from .power_sensor import Reading

# The hardware counts about every millisecond.
SAMPLE_S = 0.02
# A step back that would be more than this share of the range is no wrap but a counter that lies.
WRAP_SHARE_MAX = 0.5


class Zone(NamedTuple):
    """One counter: its name, its file, and where it wraps."""

    name: str
    file: Path
    range_uj: int


class RaplSensor:
    """All chosen counters together, unwrapped."""

    counts = True
    sample_s = SAMPLE_S
    window_s_min = 2 * SAMPLE_S
    # An idle package still draws: its counter moves every millisecond, and one that stands says that nothing is drawn.
    frozen_s = 0.5
    power_mw_max = 2_000_000.0

    def __init__(self, root: Path = ROOT) -> None:
        """Raises LookupError: there are none, or PermissionError: they may not be read."""
        zones = find_zones(root)
        if not zones:
            raise LookupError(f"no RAPL energy counters under {root}")
        for zone in zones:
            with zone.file.open():
                pass
        self.zones = zones
        names = " + ".join(zone.name for zone in zones)
        self.name = f"RAPL {names}"
        self.covers = "the platform" if zones[0].name == "psys" else "processor and memory, not the whole machine"
        self._last_uj: list[int] | None = None
        self._total_uj = 0

    def read(self) -> Reading | None:
        """The sum since the first reading; a wrap of a counter is no step back."""
        try:
            counters = [int(zone.file.read_text()) for zone in self.zones]
        except (OSError, ValueError):
            self._last_uj = None
            return None
        for zone, now_uj, last_uj in zip(self.zones, counters, self._last_uj or counters, strict=True):
            spent_uj = now_uj - last_uj
            if spent_uj < 0 and spent_uj + zone.range_uj <= zone.range_uj * WRAP_SHARE_MAX:
                spent_uj += zone.range_uj
            self._total_uj += spent_uj
        self._last_uj = counters
        return Reading(self._total_uj / 1000, tuple(counters))

    def close(self) -> None:
        """Nothing is held open."""


def find_zones(root: Path = ROOT) -> list[Zone]:
    """`psys` alone where it is there, which holds the others; else packages and the memory beside them."""
    packages, memory = [], []
    for folder in sorted((root / "sys/class/powercap").glob("*-rapl:*")):
        zone = _zone(folder)
        if zone is None:
            continue
        if zone.name == "psys":
            return [zone]
        if folder.name.count(":") == 1:
            packages.append(zone)
        elif zone.name == "dram":
            memory.append(zone)
    return packages + memory


def _zone(folder: Path) -> Zone | None:
    try:
        name = (folder / "name").read_text().strip()
        range_uj = int((folder / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return None
    file = folder / "energy_uj"
    return Zone(name, file, range_uj) if file.exists() else None
