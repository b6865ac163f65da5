"""Power monitors of every board are found by their files, and the figure is the one that carries the whole board."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.profiles.meter_ina3221 import Ina3221Sensor, find_rails, rail_power_mw
from delen.tests.board_trees import BOARDS, plant, plant_board
from delen.tests.recorded_ina3221 import CHIPS, change, plant_recorded, states

# What the recorded chips carried, in mV and mA; rails in the order of their channels.
RECORDED = {
    "VDD_GPU_SOC": 19912 * 160 / 1000,
    "VDD_CPU_CV": 19912 * 40 / 1000,
    "VIN_SYS_5V0": 4968 * 640 / 1000,
    "VDDQ_VDD2_1V8AO": 4968 * 80 / 1000,
}
METERED = [name for name, tree in BOARDS.items() if tree.chips]


@pytest.mark.parametrize("name", METERED)
def test_every_board_says_what_it_draws(tmp_path: Path, name: str) -> None:
    tree = BOARDS[name]
    sensor = Ina3221Sensor(plant_board(tmp_path, tree))
    reading = sensor.read()
    assert reading is not None
    # The iio driver rounds each rail to a milliwatt.
    assert reading.value == pytest.approx(tree.total_mw(), abs=1)
    assert tuple(rail.name for rail in sensor.rails) == tree.total
    assert all(rail in sensor.name for rail in tree.total)


@pytest.mark.parametrize("name", METERED)
def test_each_rail_is_found_once_and_reads_as_its_monitor_does(tmp_path: Path, name: str) -> None:
    tree = BOARDS[name]
    wanted = {channel.name: channel.mw for chip in tree.chips for channel in chip.channels if channel.name}
    rails = find_rails(plant_board(tmp_path, tree))
    assert len(rails) == len(wanted)
    assert {rail.name: rail_power_mw(rail) for rail in rails} == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize(("name", "covers"), [("thor", "the board"), ("orin-nx", "the module")])
def test_a_board_with_a_total_says_of_what(tmp_path: Path, name: str, covers: str) -> None:
    assert Ina3221Sensor(plant_board(tmp_path, BOARDS[name])).covers == covers


@pytest.mark.parametrize("name", ["agx-xavier", "agx-orin"])
def test_a_board_without_a_total_claims_none(tmp_path: Path, name: str) -> None:
    assert "no rail carries the whole board" in Ina3221Sensor(plant_board(tmp_path, BOARDS[name])).covers


def test_what_another_rail_holds_already_is_not_added_and_that_is_said(tmp_path: Path) -> None:
    sensor = Ina3221Sensor(plant_board(tmp_path, BOARDS["agx-orin"]))
    assert "VDDQ_VDD2_1V8AO being part of another" in sensor.covers


def test_a_board_without_a_monitor_has_no_such_sensor(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="ina3221"):
        Ina3221Sensor(plant_board(tmp_path, BOARDS["nano-2gb"]))


def test_thors_input_monitor_needs_no_label(tmp_path: Path) -> None:
    plant_board(tmp_path, BOARDS["thor"])
    (tmp_path / "sys/bus/i2c/devices/2-0044/hwmon/hwmon3/label").unlink()
    assert [rail.name for rail in Ina3221Sensor(tmp_path).rails] == ["VIN"]


def test_a_channel_that_is_switched_off_is_no_rail(tmp_path: Path) -> None:
    plant_board(tmp_path, BOARDS["agx-xavier"])
    plant(tmp_path / "sys/bus/i2c/devices/1-0041/hwmon/hwmon4/in1_enable", "0\n")
    assert "CV" not in [rail.name for rail in find_rails(tmp_path)]


def test_a_driver_that_gets_another_number_is_found_too(tmp_path: Path) -> None:
    # After a reboot, or the next kernel, hwmon numbers and buses differ.
    tree = BOARDS["orin-nano"]
    moved = tree._replace(chips=(tree.chips[0]._replace(bus="9-0040", number=17),))
    assert [rail.name for rail in Ina3221Sensor(plant_board(tmp_path, moved)).rails] == ["VDD_IN"]


@pytest.mark.parametrize("text", ["", "garbage", "5016 mV and more than 32 characters of it\n"])
def test_a_file_that_holds_no_number_is_no_reading(tmp_path: Path, text: str) -> None:
    sensor = Ina3221Sensor(plant_board(tmp_path, BOARDS["orin-nano"]))
    plant(tmp_path / "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input", text)
    assert sensor.read() is None


def test_a_monitor_that_goes_and_comes_back_is_read_again(tmp_path: Path) -> None:
    sensor = Ina3221Sensor(plant_board(tmp_path, BOARDS["orin-nano"]))
    file = tmp_path / "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input"
    file.unlink()
    assert sensor.read() is None
    plant(file, "1000\n")
    reading = sensor.read()
    assert reading is not None
    assert reading.value == pytest.approx(4984)


def test_rails_of_the_true_driver_are_found_and_read(tmp_path: Path) -> None:
    # Through links, as they lie in the kernel's tree; inputs that are not connected are none, nor is the shunts' sum.
    rails = find_rails(plant_recorded(tmp_path))
    assert {rail.name: rail_power_mw(rail) for rail in rails} == pytest.approx(RECORDED)


def test_the_total_of_the_true_driver_leaves_out_what_is_inside_another(tmp_path: Path) -> None:
    sensor = Ina3221Sensor(plant_recorded(tmp_path))
    reading = sensor.read()
    assert reading is not None
    assert sensor.name == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert reading.value == pytest.approx(sum(RECORDED.values()) - RECORDED["VDDQ_VDD2_1V8AO"])
    assert reading.raw == (19912, 160, 19912, 40, 4968, 640)


def test_each_rail_of_the_true_driver_is_scaled_by_its_own_shunt(tmp_path: Path) -> None:
    # The same voltage across half the resistance. The driver then has no current of the sum, which nothing here reads.
    sensor = Ina3221Sensor(plant_recorded(tmp_path))
    change(tmp_path, "shunt 3 of another size")
    reading = sensor.read()
    assert reading is not None
    assert reading.raw == (19912, 160, 19912, 40, 4968, 1280)


def test_a_channel_of_the_true_driver_that_is_switched_off_is_no_reading_and_then_no_rail(tmp_path: Path) -> None:
    sensor = Ina3221Sensor(plant_recorded(tmp_path))
    change(tmp_path, "channel 1 switched off")
    # Its label stays, its readings fail: two thirds of a sum are not the sum.
    assert sensor.read() is None
    assert [rail.name for rail in Ina3221Sensor(tmp_path).rails] == ["VDD_CPU_CV", "VIN_SYS_5V0"]


def test_a_current_of_the_true_driver_that_flows_back_has_its_sign(tmp_path: Path) -> None:
    sensor = Ina3221Sensor(plant_recorded(tmp_path))
    change(tmp_path, "current 3 the other way")
    reading = sensor.read()
    assert reading is not None
    assert reading.raw[-1] == -640
    assert [rail_power_mw(rail) for rail in sensor.rails if rail.name == "VIN_SYS_5V0"] == [None]


def test_a_chip_that_no_device_tree_describes_has_no_rails(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="device tree"):
        Ina3221Sensor(plant_recorded(tmp_path, CHIPS[2:]))


def test_a_built_tree_has_the_files_of_the_true_driver(tmp_path: Path) -> None:
    # Names, contents, permission bits and what cannot be read: nothing but NVIDIA's bus numbers differs.
    plant_board(tmp_path, BOARDS["agx-orin"])
    for recorded, built in (
        ("0-0040/hwmon/hwmon0", "1-0040/hwmon/hwmon3"),
        ("0-0041/hwmon/hwmon1", "1-0041/hwmon/hwmon4"),
    ):
        folder = tmp_path / "sys/bus/i2c/devices" / built
        found = {file.name: "unreadable" if file.is_dir() else _mode_and_text(file) for file in folder.iterdir()}
        assert found == {
            Path(entry.path).name: "unreadable" if entry.text.startswith("!") else f"{entry.kind} {entry.text}"
            for entry in states()[""]
            if f"/{recorded}/" in entry.path and entry.kind != "link"
        }


@pytest.mark.parametrize("name", METERED)
def test_a_built_tree_reads_in_the_steps_of_its_chip(name: str) -> None:
    # 8 mV on the bus and 40 uV across the shunt.
    for chip in BOARDS[name].chips:
        for channel in chip.channels if chip.driver == "ina3221" else ():
            assert channel.mv % 8 == 0
            assert channel.ma * chip.shunt_uohm % 40_000 == 0


def test_a_rail_that_is_labelled_as_not_connected_is_none(tmp_path: Path) -> None:
    plant_board(tmp_path, BOARDS["orin-nano"])
    plant(tmp_path / "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in3_label", "NC\n")
    assert [rail.name for rail in find_rails(tmp_path)] == ["VDD_IN", "VDD_CPU_GPU_CV"]


def _mode_and_text(file: Path) -> str:
    return f"{file.stat().st_mode & 0o777:o} {file.read_text()}"
