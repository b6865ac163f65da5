"""What the board says of itself, read from made-up trees: an Orin Nano's, a Nano's, a server's, and broken ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from delen.profiles.board import describe_device, read_board, resident_bytes, temperature_c
from delen.profiles.replay_runner import ReplayRunner
from delen.tests.sample_profile import sample_profile

ARM_CPUINFO = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\nprocessor\t: 1\nCPU part\t: 0xd42\n"
ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/cpus/cpu@0/compatible": "arm,cortex-a78ae\0arm,armv8\0",
    "proc/cpuinfo": ARM_CPUINFO,
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "960000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "408000000\n",
    "sys/class/devfreq/17000000.gpu/device/of_node/name": "gpu",
    "sys/class/devfreq/13e40000.host1x/cur_freq": "115200000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "47000\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/class/thermal/thermal_zone3/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone3/temp": "100000\n",
}


def plant(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_an_orin_nano(tmp_path: Path) -> None:
    board = read_board(plant(tmp_path, ORIN_NANO))
    assert board.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert board.processor == "arm,cortex-a78ae"
    assert board.cores == 2
    assert board.power_mode == "7W, schedutil"
    assert board.clocks_khz == {"cpu0": 729600, "cpu0_max": 960000, "gpu0": 306000, "gpu0_max": 408000}


def test_a_power_mode_without_a_name_is_told_by_number(tmp_path: Path) -> None:
    files = {"var/lib/nvpmodel/status": "pmode:0008\n"}
    assert read_board(plant(tmp_path, files)).power_mode == "nvpmodel 8"


def test_a_server(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 7B13\n",
        "sys/class/dmi/id/sys_vendor": "Acme",
        "sys/class/dmi/id/product_name": "Blade 7",
    }
    board = read_board(plant(tmp_path, files))
    assert board == ("Acme Blade 7", "AMD EPYC 7B13", 1, None, {})


def test_a_machine_that_says_nothing_still_has_a_name_and_cores(tmp_path: Path) -> None:
    board = read_board(tmp_path)
    assert board.board.endswith(" server")
    assert board.cores >= 1
    assert board.power_mode is None
    assert board.clocks_khz == {}


def test_the_hottest_zone_that_makes_sense(tmp_path: Path) -> None:
    assert temperature_c(plant(tmp_path, ORIN_NANO)) == 48.25


@pytest.mark.parametrize("text", ["", "hot", "-256000", "9999999"])
def test_a_senseless_sensor_is_no_sensor(tmp_path: Path, text: str) -> None:
    plant(tmp_path, {"sys/class/thermal/thermal_zone0/temp": text})
    assert temperature_c(tmp_path) is None


def test_a_sensor_that_cannot_be_read_is_no_sensor(tmp_path: Path) -> None:
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").mkdir(parents=True)
    assert temperature_c(tmp_path) is None


def test_memory_of_this_process(tmp_path: Path) -> None:
    resident = resident_bytes()
    assert resident is None or resident > 1_000_000
    assert resident_bytes(tmp_path) is None
    assert resident_bytes(plant(tmp_path, {"proc/self/statm": "garbage"})) is None


def test_a_device_is_the_board_and_the_engine(tmp_path: Path) -> None:
    device = describe_device(ReplayRunner(sample_profile()), plant(tmp_path, ORIN_NANO))
    assert (device.board, device.power_mode) == ("NVIDIA Jetson Orin Nano Developer Kit", "7W, schedutil")
    assert (device.engine, device.threads, device.versions) == ("replay", 1, {"replay": "1"})
