"""Energy is measured where a sensor makes sense, modelled where there is none, and unknown rather than 0 otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.profiles.meters import CpuModel, Energy, Ina3221Meter, NoMeter, best_meter, find_rails
from delen.tests.test_board import plant

HWMON = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
UNKNOWN = Energy(None, "unknown")


class Board:
    """An Orin Nano's sensors under `root` and the time they are read at."""

    def __init__(self, root: Path, rails: tuple[str, ...] = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")) -> None:
        self.root = root
        self.now_ns = 0
        for number, name in enumerate(rails, 1):
            plant(root, {f"{HWMON}/in{number}_label": name, f"{HWMON}/in{number}_input": "5000"})
            plant(root, {f"{HWMON}/curr{number}_input": str(1000 * number)})
        plant(root, {f"{HWMON}/in7_label": "sum of shunt voltages", f"{HWMON}/in7_input": "1"})

    def meter(self) -> Ina3221Meter:
        return Ina3221Meter(self.root, sample_s=None, clock_ns=lambda: self.now_ns, sleep=self.wait)

    def wait(self, s: float) -> None:
        self.now_ns += round(s * 1e9)

    def draw(self, milliamperes: int | str) -> None:
        plant(self.root, {f"{HWMON}/curr1_input": str(milliamperes)})

    def window(self, meter: Ina3221Meter, currents: list[int | str], step_s: float = 0.1) -> Energy:
        """Energy of a window in which the total rail draws these currents in turn."""
        meter.start()
        for current in currents:
            self.draw(current)
            self.wait(step_s)
            meter.sample()
        return meter.stop()


def test_a_window_is_the_integral_of_the_total_rail(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.draw(1000)
    energy = board.window(board.meter(), [1000, 1001, 3000, 3000])
    # 5 V: two steps near 5 W, one rising from 5 to 15 W, one at 15 W, 0.1 s each, in mJ.
    assert energy.mj == pytest.approx((5.0 + 5.0025 + 10.0025 + 15.0) * 100)
    assert energy.source == "measured"


def test_the_total_rail_is_chosen_and_sums_and_unconnected_channels_are_not(tmp_path: Path) -> None:
    board = Board(tmp_path, ("NC", "VDD_IN", "VDD_SOC"))
    assert [rail.name for rail in find_rails(tmp_path)] == ["VDD_IN", "VDD_SOC"]
    assert [rail.name for rail in board.meter().rails] == ["VDD_IN"]
    assert "VDD_IN" in board.meter().model


def test_a_board_without_a_total_rail_adds_what_it_has_and_says_so(tmp_path: Path) -> None:
    board = Board(tmp_path, ("VDD_GPU_SOC", "VDD_CPU_CV"))
    meter = board.meter()
    assert "no rail carries the whole board" in meter.model
    energy = board.window(meter, [1000, 1001, 1000])
    assert energy.mj == pytest.approx(15_000 * 0.3, rel=1e-3)


def test_the_older_driver_of_jetpack_4(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/devices/6-0040/iio:device0"
    plant(tmp_path, {f"{folder}/rail_name_0": "POM_5V_IN", f"{folder}/in_power0_input": "2000"})
    plant(tmp_path, {f"{folder}/rail_name_1": "POM_5V_GPU", f"{folder}/in_power1_input": "300"})
    now = iter(range(0, 10_000_000_000, 100_000_000))
    meter = Ina3221Meter(tmp_path, sample_s=None, clock_ns=lambda: next(now))
    meter.start()
    meter.sample()
    assert meter.stop().mj == pytest.approx(2000 * 0.2)


def test_idle_power_is_the_mean_over_a_moment(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert board.meter().idle_power_mw() == pytest.approx(5000)
    assert board.now_ns == pytest.approx(0.5e9), "it waited by the sleep it was given"


@pytest.mark.parametrize("reading", ["-1000", "0", "50000", "", "garbage"])
def test_an_absurd_reading_makes_the_window_unknown_not_zero(tmp_path: Path, reading: str) -> None:
    board = Board(tmp_path)
    meter = board.meter()
    assert board.window(meter, [1000, reading, 1000]) == UNKNOWN
    assert board.window(meter, [1000, 1001, 1000]).source == "measured", "the next window is judged by itself"


def test_a_sensor_that_vanishes_makes_windows_unknown(tmp_path: Path) -> None:
    board = Board(tmp_path)
    meter = board.meter()
    meter.start()
    (tmp_path / HWMON / "curr1_input").unlink()
    board.wait(1)
    assert meter.stop() == UNKNOWN
    assert meter.idle_power_mw() is None


def test_a_frozen_sensor_is_unknown_until_it_moves_again(tmp_path: Path) -> None:
    board = Board(tmp_path)
    meter = board.meter()
    assert board.window(meter, [1000] * 90).source == "measured", "nine seconds of one reading may be real"
    assert board.window(meter, [1000] * 20) == UNKNOWN
    assert board.window(meter, [1000, 1008]).source == "measured"


def test_too_short_a_window_is_unknown(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert board.window(board.meter(), [1000], step_s=0.01) == UNKNOWN


def test_the_thread_reads_while_work_runs_and_ends_with_the_window(tmp_path: Path) -> None:
    meter = Ina3221Meter(Board(tmp_path).root, sample_s=0.001)
    meter.start()
    thread = meter._thread
    assert thread is not None
    meter.stop()
    assert not thread.is_alive()


def test_the_model_charges_cpu_seconds() -> None:
    cpu_ns = iter([1_000_000_000, 3_000_000_000])
    meter = CpuModel(7.5, cpu_ns=lambda: next(cpu_ns))
    meter.start()
    assert meter.stop() == Energy(15_000.0, "modelled")
    assert meter.idle_power_mw() is None
    assert "7.5 W" in meter.model
    assert "not measured" in meter.model


@pytest.mark.parametrize("watts", [0, -1, float("nan"), 1e9])
def test_a_model_needs_sane_watts(watts: float) -> None:
    with pytest.raises(ValueError, match="W per core"):
        CpuModel(watts)


def test_the_best_meter_there_is(tmp_path: Path) -> None:
    assert isinstance(best_meter(tmp_path), CpuModel)
    assert isinstance(best_meter(tmp_path, None), NoMeter)
    assert isinstance(best_meter(Board(tmp_path / "orin").root), Ina3221Meter)


def test_no_meter_knows_nothing() -> None:
    meter = NoMeter()
    meter.start()
    assert meter.stop() == UNKNOWN
    assert meter.idle_power_mw() is None


def test_asking_for_a_sensor_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="ina3221"):
        Ina3221Meter(tmp_path)
