"""RAPL's counters are added up, wraps and all; one that steps back is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.profiles.meter_rapl import RaplSensor
from delen.profiles.power_sensor import Gauge
from delen.tests.board_trees import plant

RANGE_UJ = 262_143_328_850


def zone(root: Path, folder: str, name: str, energy_uj: int) -> Path:
    """One counter's files; returns that of the counter."""
    path = root / "sys/class/powercap" / folder
    plant(path / "name", f"{name}\n")
    plant(path / "max_energy_range_uj", f"{RANGE_UJ}\n")
    plant(path / "energy_uj", f"{energy_uj}\n")
    return path / "energy_uj"


def test_packages_and_their_memory_are_added_up(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 900_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 5_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    sensor = RaplSensor(tmp_path)
    assert sensor.name.startswith("RAPL ")
    assert "core" not in sensor.name, "it is inside its package"
    before = sensor.read()
    plant(first, "3000000\n")
    plant(memory, "5500000\n")
    after = sensor.read()
    assert before is not None
    assert after is not None
    assert after.value - before.value == pytest.approx(2500)


def test_the_platforms_counter_holds_the_others(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    zone(tmp_path, "intel-rapl:1", "psys", 1)
    sensor = RaplSensor(tmp_path)
    assert (sensor.name, sensor.covers) == ("RAPL psys", "the platform")


def test_a_wrap_is_no_step_back(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 600_000)
    sensor = RaplSensor(tmp_path)
    sensor.read()
    plant(file, "400000\n")
    reading = sensor.read()
    assert reading is not None
    assert reading.value == pytest.approx(1000)


def test_a_counter_that_stands_is_not_believed_for_long(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    now_ns = [0]
    gauge = Gauge(RaplSensor(tmp_path), lambda: now_ns[0])
    for _ in range(30):
        gauge.sample()
        now_ns[0] += 20_000_000
    assert gauge.state == "frozen"


def test_a_counter_that_steps_back_is_told_from_one_that_wraps(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ // 2)
    sensor, now_ns = RaplSensor(tmp_path), iter(range(0, 10**12, 10**7))
    gauge = Gauge(sensor, lambda: next(now_ns))
    gauge.sample()
    plant(file, f"{RANGE_UJ // 2 - 1_000_000}\n")
    gauge.sample()
    assert gauge.state == "backwards"


def test_a_counter_that_vanishes_is_missing_and_counts_on_from_where_it_returns(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    sensor = RaplSensor(tmp_path)
    sensor.read()
    file.unlink()
    assert sensor.read() is None
    plant(file, "9000000\n")
    reading = sensor.read()
    assert reading is not None
    assert reading.value == 0, "what it counted meanwhile is not known to be one window's"


def test_no_counters_and_broken_ones(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="RAPL"):
        RaplSensor(tmp_path)
    plant(zone(tmp_path, "intel-rapl:0", "package-0", 1).with_name("max_energy_range_uj"), "")
    with pytest.raises(LookupError, match="RAPL"):
        RaplSensor(tmp_path)
