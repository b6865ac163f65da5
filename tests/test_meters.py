"""Energy is measured where a sensor makes sense, modelled where there is none, and unknown rather than 0 otherwise."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from delen.profiles.meter_ina3221 import Ina3221Sensor
from delen.profiles.meter_rapl import RaplSensor
from delen.profiles.meters import (
    KINDS,
    CpuModel,
    Energy,
    MeterError,
    NoMeter,
    SensorMeter,
    best_meter,
    find_sensor,
    meter_fault,
)
from delen.profiles.power_sensor import Reading
from delen.tests.board_trees import BOARDS, plant, plant_board
from delen.tests.fake_sensor import FakeSensor

UNKNOWN = Energy(None, "unknown")


class Board:
    """A sensor and the meter on it, on one clock."""

    def __init__(self) -> None:
        self.sensor = FakeSensor()
        self.meter = SensorMeter(self.sensor, threaded=False, clock_ns=lambda: self.sensor.now_ns, sleep=self.wait)

    def wait(self, s: float) -> None:
        self.sensor.now_ns += round(s * 1e9)

    def window(self, values: list[float | None], step_s: float = 0.1) -> Energy:
        """Energy of a window in which the sensor says these in turn."""
        self.meter.start()
        for value in values:
            self.sensor.value = value
            self.wait(step_s)
            self.meter.sample()
        return self.meter.stop()


def test_a_window_is_the_integral_of_what_the_sensor_says() -> None:
    energy = Board().window([1000, 1001, 3000, 3000])
    assert energy.mj == pytest.approx(100 + 100.05 + 200.05 + 300)
    assert energy.source == "measured"


def test_the_model_says_sensor_and_what_it_covers(tmp_path: Path) -> None:
    meter = best_meter(plant_board(tmp_path, BOARDS["agx-orin"]))
    assert meter.source == "measured"
    assert meter.model.startswith("INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0: ")
    assert "no rail carries the whole board" in meter.model


def test_idle_power_is_the_mean_over_a_moment() -> None:
    board = Board()
    assert board.meter.idle_power_mw() == pytest.approx(1000)
    assert board.sensor.now_ns == pytest.approx(0.5e9), "it waited by the sleep it was given"


@pytest.mark.parametrize("value", [-1000.0, 0.0, 250_000.0, None])
def test_an_absurd_reading_makes_the_window_unknown_not_zero(value: float | None) -> None:
    board = Board()
    assert board.window([1000, value, 1000]) == UNKNOWN
    assert board.window([1000, 1001, 1000]).source == "measured", "the next window is judged by itself"


def test_a_sensor_that_vanishes_makes_windows_unknown() -> None:
    board = Board()
    board.meter.start()
    board.sensor.value = None
    board.wait(1)
    assert board.meter.stop() == UNKNOWN
    assert board.meter.idle_power_mw() is None


def test_a_frozen_sensor_is_unknown_until_it_moves_again() -> None:
    board = Board()
    assert board.window([1000] * 90).source == "measured", "nine seconds of one reading may be real"
    assert board.window([1000] * 20) == UNKNOWN
    assert board.window([1000, 1008]) == UNKNOWN, "it began frozen"
    assert board.window([1000, 1008]).source == "measured"


def test_too_short_a_window_is_unknown() -> None:
    assert Board().window([1000], step_s=0.01) == UNKNOWN


def test_the_thread_reads_while_work_runs_and_ends_with_the_window() -> None:
    sensor = FakeSensor()
    meter = SensorMeter(sensor)
    meter.start()
    thread = meter._thread
    assert thread is not None
    meter.stop()
    assert not thread.is_alive()


def test_a_sensor_that_does_not_come_back_holds_nobody_up() -> None:
    class Hung(FakeSensor):
        release = threading.Event()

        def read(self) -> Reading | None:
            self.release.wait(30)
            return super().read()

    meter = SensorMeter(Hung())
    meter.start()
    assert meter.stop() == UNKNOWN
    meter.start()
    assert meter.stop() == UNKNOWN, "and no second thread reads it meanwhile"
    assert [thread.name for thread in threading.enumerate()].count("delen-meter") == 1
    Hung.release.set()
    assert meter._thread is not None
    meter._thread.join(5)
    meter.stop()
    assert meter._thread is None, "the next window is its own again"


def test_the_model_charges_cpu_seconds() -> None:
    cpu_ns = iter([1_000_000_000, 3_000_000_000])
    meter = CpuModel(7.5, cpu_ns=lambda: next(cpu_ns))
    meter.start()
    assert meter.stop() == Energy(15_000.0, "modelled")
    assert meter.idle_power_mw() is None
    assert "7.5 W" in meter.model


@pytest.mark.parametrize("watts", [0, -1, float("nan"), 1e9])
def test_a_model_needs_sane_watts(watts: float) -> None:
    with pytest.raises(ValueError, match="W per core"):
        CpuModel(watts)


@pytest.mark.parametrize("name", [name for name, tree in BOARDS.items() if tree.chips])
def test_the_best_meter_of_every_board_is_its_own(tmp_path: Path, name: str) -> None:
    assert isinstance(find_sensor(root=plant_board(tmp_path, BOARDS[name])), Ina3221Sensor)


def test_without_a_meter_nothing_says_it_was_measured(tmp_path: Path) -> None:
    for meter in (best_meter(tmp_path), best_meter(tmp_path, None), best_meter(said="none")):
        assert meter.source != "measured"
        assert "measured" not in meter.model
    assert isinstance(best_meter(tmp_path), CpuModel)
    assert isinstance(best_meter(tmp_path, None), NoMeter)


def test_no_meter_knows_nothing() -> None:
    meter = NoMeter()
    meter.start()
    assert meter.stop() == UNKNOWN
    assert meter.idle_power_mw() is None


def test_a_processors_counters_come_after_a_boards_monitors(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    for name, text in (("name", "package-0"), ("energy_uj", "5"), ("max_energy_range_uj", "262143328850")):
        plant(zone / name, f"{text}\n")
    assert isinstance(find_sensor(root=tmp_path), RaplSensor)
    assert find_sensor(root=tmp_path, device="cuda") is None, "a graphics card's energy is not the processor's"
    assert isinstance(find_sensor(root=plant_board(tmp_path, BOARDS["orin-nx"])), Ina3221Sensor)
    assert isinstance(find_sensor("rapl", tmp_path), RaplSensor)


def test_a_meter_that_is_asked_for_and_not_there_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="ina3221"):
        find_sensor("ina3221", tmp_path)
    with pytest.raises(MeterError, match="RAPL"):
        find_sensor("rapl", tmp_path)
    with pytest.raises(MeterError, match="jetson-stats"):
        find_sensor("jtop", tmp_path)


def test_words_that_name_no_meter_are_told_apart() -> None:
    assert [meter_fault(said) for said in (*KINDS, "command: cat watts", "mqtt://plug.local/power")] == [None] * 8
    for said in ("ina", "command:", "mqtt://", "command: 'open", ""):
        fault = meter_fault(said)
        assert fault is not None
        assert "expected" in fault or "quote" in fault
