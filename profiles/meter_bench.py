"""What sampling power costs: CPU time of the sampler's own process, for every kind of sensor, by made-up trees.

Role: half of `delen bench meters`. A tree with the files of a board's monitors is read by the real sampler
process for some seconds; its CPU time over them is the share of a core, start-up apart.
Does not: include what the kernel's driver spends on the bus, which a made-up tree has not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from .meter_lines import Lines
from .meter_process import Report

# Left out at the beginning, while the sampler finds out what it can afford; and how long is measured.
SETTLE_S, MEASURE_S = 2.0, 6.0
HWMON = "sys/bus/i2c/devices/1-004{chip}/hwmon/hwmon{chip}"


class SamplingCost(msgspec.Struct, frozen=True):
    """One kind of sensor: files read per sample, samples a second, and % of one core."""

    meter: str
    files: int
    rate_hz: float
    core_pct: float


def bench_sampling() -> list[SamplingCost]:
    """INA3221 with one rail and with six. About 25 s. The values stand still, so it must be over before `frozen_s`."""
    return [
        _cost("ina3221, a total rail", "ina3221", monitors(("VDD_IN",)), 2),
        _cost("ina3221, six rails", "ina3221", monitors(("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")), 12),
    ]


def monitors(rails: tuple[str, ...]) -> dict[str, str]:
    """The files of INA3221 monitors with these rails, three to a chip, by path below the root."""
    files: dict[str, str] = {}
    for number, rail in enumerate(rails):
        folder, channel = HWMON.format(chip=number // 3), number % 3 + 1
        files |= {f"{folder}/in{channel}_label": rail, f"{folder}/in{channel}_input": "5016"}
        files[f"{folder}/curr{channel}_input"] = "1000"
    return files


def plant_monitor(root: Path) -> Path:
    """A board's total rail below `root`; returns the file of its current, in mA."""
    plant(root, monitors(("VDD_IN",)))
    return root / HWMON.format(chip=0) / "curr1_input"


def plant(root: Path, files: Mapping[str, str]) -> None:
    """Write such files below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def _cost(name: str, kind: str, files: Mapping[str, str], read: int) -> SamplingCost:
    with TemporaryDirectory(prefix="delen-") as scratch:
        plant(Path(scratch), files)
        which = f"{kind}:{scratch}"
        reports = _run(which)
    samples = [sample for report in reports for sample in report.samples]
    begun_us = samples[0][0] + int(SETTLE_S * 1e6)
    steady = [report for report in reports if report.samples and report.samples[0][0] >= begun_us]
    elapsed_s = (steady[-1].samples[0][0] - steady[0].samples[0][0]) / 1e6
    count = sum(len(report.samples) for report in steady[:-1])
    # A report says what had been spent when the one before it was made: on the same stretch as its samples' beginnings.
    spent_s = (steady[-1].spent_ns - steady[0].spent_ns) / 1e9
    return SamplingCost(name, read, count / elapsed_s, 100 * spent_s / elapsed_s)


def _run(which: str) -> list[Report]:
    """What the sampler's process tells."""
    lines = Lines([sys.executable, "-m", "delen.profiles.meter_process", which, "cpu"])
    decode = msgspec.json.Decoder(Report).decode
    reports: list[Report] = []
    end_s = time.monotonic() + SETTLE_S + MEASURE_S + 0.5
    while time.monotonic() < end_s:
        reports += [decode(line) for line in lines.take()]
        time.sleep(0.05)
    lines.close()
    return reports
