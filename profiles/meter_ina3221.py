"""A Jetson's own power monitors: INA3221 (three rails each) and, on Thor, an INA238, read through sysfs.

Role: find the rails by the files that are there, whichever driver and JetPack made them, and read the one that carries
the whole board, or add up those that lie beside each other. Layouts: NVIDIA's iio driver of JetPack 4
(`iio:deviceN/rail_name_N`, `in_powerN_input` in mW), the kernel's hwmon driver since JetPack 5 (`inN_label`,
`inN_input` mV, `currN_input` mA; https://docs.kernel.org/hwmon/ina3221.html), and the kernel's ina238
(`label`, `power1_input` in uW; https://docs.kernel.org/hwmon/ina238.html).

Does not: look boards up by name or version, or judge what a sensor says (`power_sensor.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .power_sensor import Reading

ROOT = Path("/")
# No Jetson draws more: Thor's limit is 168 W (forums.developer.nvidia.com/t/366461).
POWER_MW_MAX = 200_000.0
# The driver's default averaging gives a new reading about every 1 to 5 ms; reading four channels costs about 1 ms.
SAMPLE_S = 0.01
# Even an idle board's current moves by a step (8 mA at 5 mOhm) within seconds; one that does not is not being read.
FROZEN_S = 10.0
# Rails that carry everything, and what that is, by the names that NVIDIA's device trees use: VDD_IN on Xavier NX, TX2,
# Orin Nano and NX, POM_5V_IN on Nano, 5V_IN on early Xavier NX images, VIN on Thor (an INA238 before all others).
TOTALS = {
    "VIN": "the board",
    "VDD_IN": "the module",
    "POM_5V_IN": "the module",
    "5V_IN": "the module",
}
# AGX boards have no such rail. AGX Xavier's six are six supplies side by side (NVIDIA DG-09840, figure 5-14), as are
# Thor's three. AGX Orin's VDDQ_VDD2_1V8AO is measured on the 5 V line that VIN_SYS_5V0 measures already.
INSIDE = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
# The channel that sums others' shunts, and those that are not connected.
NO_RAIL = re.compile(r"NC\d*|sum\b.*|", re.IGNORECASE)


class Rail(NamedTuple):
    """One channel: files of millivolts and milliamperes, or one of power; `mw_per_unit`: of their number or product."""

    name: str
    files: tuple[Path, ...]
    mw_per_unit: float = 1e-3


class Ina3221Sensor:
    """The rails that say what the board draws, added up."""

    counts = False
    sample_s = SAMPLE_S
    # Ten samples: fewer, and one that falls beside a step of the load decides the window.
    window_s_min = 10 * SAMPLE_S
    frozen_s = FROZEN_S
    power_mw_max = POWER_MW_MAX

    def __init__(self, root: Path = ROOT) -> None:
        """Raises LookupError: no such sensor under `root`."""
        rails = find_rails(root)
        if not rails:
            raise LookupError(
                f"no INA3221 power sensor under {root}: none, its driver (ina3221) is not loaded, or the device tree "
                "names no rail"
            )
        self.rails, self.covers = chosen(rails)
        self.name = f"INA3221 {' + '.join(rail.name for rail in self.rails)}"

    def read(self) -> Reading | None:
        raw: list[float] = []
        total_mw = 0.0
        for rail in self.rails:
            units = _units(rail)
            if units is None:
                return None
            raw += units
            total_mw += _power_mw(rail, units)
        return Reading(total_mw, tuple(raw))

    def close(self) -> None:
        """Nothing is held open: a board's sensors may come and go with their driver."""


def chosen(rails: list[Rail]) -> tuple[list[Rail], str]:
    """The rails to add up, and what their sum is the power of."""
    by_name = {rail.name: rail for rail in rails}
    for name, covers in TOTALS.items():
        if name in by_name:
            return [by_name[name]], covers
    beside = [rail for rail in rails if INSIDE.get(rail.name) not in by_name]
    inside = [rail.name for rail in rails if rail not in beside]
    left_out = f", {', '.join(inside)} being part of another" if inside else ""
    return beside, f"the sum of these: no rail carries the whole board{left_out}"


def find_rails(root: Path = ROOT) -> list[Rail]:
    """Every channel that carries a rail, by the names of their files."""
    devices = root / "sys/bus/i2c/devices"
    found: dict[tuple[Path, ...], Rail] = {}
    for rail in (*_hwmon(devices), *_single(devices), *_iio(devices)):
        if all(file.exists() for file in rail.files):
            # The iio driver shows the same channel under two names, one a link to the other.
            found.setdefault(tuple(file.resolve() for file in rail.files), rail)
    return list(found.values())


def rail_power_mw(rail: Rail) -> float | None:
    """What this channel carries now; None where it cannot be read or makes no sense."""
    units = _units(rail)
    if units is None:
        return None
    power_mw = _power_mw(rail, units)
    return power_mw if 0 <= power_mw <= POWER_MW_MAX else None


def _hwmon(devices: Path) -> Iterator[Rail]:
    """JetPack 5 and later: the kernel's own driver. A channel that is switched off has 0 in `inN_enable`."""
    for label in sorted(devices.glob("*/hwmon/hwmon*/in*_label")):
        name, number = _text(label), re.sub(r"\D", "", label.name)
        if not NO_RAIL.fullmatch(name) and _text(label.with_name(f"in{number}_enable")) != "0":
            yield Rail(name, (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")))


def _single(devices: Path) -> Iterator[Rail]:
    """A monitor of one rail, whose driver multiplies by itself; the label is the device tree's, and may be left out."""
    for power in sorted(devices.glob("*/hwmon/hwmon*/power1_input")):
        name = _text(power.with_name("label")) or ("VIN" if _text(power.with_name("name")) == "ina238" else "")
        if not NO_RAIL.fullmatch(name):
            yield Rail(name, (power,), 1e-3)


def _iio(devices: Path) -> Iterator[Rail]:
    """JetPack 4: NVIDIA's older driver, which says milliwatts."""
    for label in sorted(devices.glob("*/iio*/rail_name_*")):
        name = _text(label)
        if not NO_RAIL.fullmatch(name):
            yield Rail(name, (label.with_name(f"in_power{label.name.removeprefix('rail_name_')}_input"),), 1.0)


def _units(rail: Rail) -> list[int] | None:
    """The numbers in a channel's files. Raw calls: this happens hundreds of times a second."""
    units = []
    for file in rail.files:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                units.append(int(os.read(descriptor, 32)))
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            return None
    return units


def _power_mw(rail: Rail, units: list[int]) -> float:
    product = units[0] * units[1] if len(units) == 2 else units[0]
    return product * rail.mw_per_unit


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
