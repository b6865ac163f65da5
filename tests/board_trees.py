"""Recorded `/sys` trees: the power monitors of eight Jetson boards, as the drivers of their JetPack lay them out.

Role: `plant_board(root, BOARDS[name])` writes what the kernel would show; readings are in the drivers' own units.
Sources, by layout: NVIDIA's iio driver of JetPack 4, paths and rails from the L4T developer guides, "Clock Frequency
and Power Management" (docs.nvidia.com/jetson/archives/l4t-archived); the kernel's ina3221
(as `recorded_ina3221.py` has it from a running kernel), its labels and the channels that its sum leaves out from
arch/arm64/boot/dts/nvidia/tegra234-p3701.dtsi and tegra234-p3767.dtsi; AGX Xavier's two monitors from NVIDIA DG-09840,
figure 5-14; Thor's INA238 and three rails from forums.developer.nvidia.com/t/366461 and
docs.kernel.org/hwmon/ina238.html.

Does not: stand for a board in anything but its power monitors and their buses, or keep `bus` a directory of links:
tests bind it alone elsewhere (`recorded_ina3221.py` has the links).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# The chip's limits after power-on, in terms of the voltage across its shunts: one channel's, and their sum's.
LIMIT_UV, SUM_LIMIT_UV = 4095 * 40, 16383 * 40


class Channel(NamedTuple):
    """A rail as its monitor reads it: millivolts and milliamperes."""

    name: str
    mv: int
    ma: int

    @property
    def mw(self) -> float:
        return self.mv * self.ma / 1000


UNCONNECTED = Channel("", 0, 0)


class Chip(NamedTuple):
    """One monitor on a bus. `driver`: `iio` and `iio_device` (JetPack 4), `ina3221` or `ina238` (the kernel's).

    A channel without a name is one that the device tree says is not connected.
    """

    driver: str
    bus: str
    number: int
    channels: tuple[Channel, ...]
    shunt_uohm: int = 5000


class Tree(NamedTuple):
    """A board's monitors; `total`: the rails whose sum delen should read, `inside`: what that leaves out."""

    model: str
    jetpack: str
    chips: tuple[Chip, ...]
    total: tuple[str, ...]

    def total_mw(self) -> float:
        return sum(channel.mw for chip in self.chips for channel in chip.channels if channel.name in self.total)


BOARDS = {
    "nano": Tree(
        "NVIDIA Jetson Nano Developer Kit",
        "4.6.1",
        (
            Chip(
                "iio",
                "6-0040",
                0,
                (Channel("POM_5V_IN", 5000, 482), Channel("POM_5V_GPU", 5000, 40), Channel("POM_5V_CPU", 5000, 104)),
            ),
        ),
        ("POM_5V_IN",),
    ),
    "nano-2gb": Tree("NVIDIA Jetson Nano 2GB Developer Kit", "4.6.1", (), ()),
    "tx2": Tree(
        "quill",
        "4.6.1",
        (
            Chip(
                "iio_device",
                "0-0040",
                0,
                (
                    Channel("VDD_SYS_GPU", 19112, 12),
                    Channel("VDD_SYS_SOC", 19104, 36),
                    Channel("VDD_4V0_WIFI", 4776, 4),
                ),
            ),
            Chip(
                "iio_device",
                "0-0041",
                1,
                (Channel("VDD_IN", 19104, 164), Channel("VDD_SYS_CPU", 19120, 20), Channel("VDD_SYS_DDR", 4784, 72)),
            ),
            Chip("iio_device", "0-0042", 2, (Channel("VDD_MUX", 19064, 232), Channel("VDD_5V0_IO_SYS", 4976, 220))),
        ),
        ("VDD_IN",),
    ),
    "xavier-nx": Tree(
        "NVIDIA Jetson Xavier NX Developer Kit",
        "5.1.2",
        (
            Chip(
                "ina3221",
                "7-0040",
                6,
                (Channel("VDD_IN", 4984, 744), Channel("VDD_CPU_GPU_CV", 4984, 88), Channel("VDD_SOC", 4984, 200)),
            ),
        ),
        ("VDD_IN",),
    ),
    "agx-xavier": Tree(
        "Jetson-AGX",
        "5.1.2",
        (
            Chip(
                "ina3221",
                "1-0040",
                3,
                (Channel("GPU", 19264, 32), Channel("CPU", 19264, 40), Channel("SOC", 19264, 56)),
            ),
            Chip(
                "ina3221",
                "1-0041",
                4,
                (Channel("CV", 19264, 8), Channel("VDDRQ", 19264, 24), Channel("SYS5V", 5008, 360)),
            ),
        ),
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    ),
    "orin-nano": Tree(
        "NVIDIA Jetson Orin Nano Developer Kit",
        "6.2",
        (
            Chip(
                "ina3221",
                "1-0040",
                1,
                (Channel("VDD_IN", 4984, 920), Channel("VDD_CPU_GPU_CV", 4984, 104), Channel("VDD_SOC", 4984, 272)),
            ),
        ),
        ("VDD_IN",),
    ),
    "orin-nx": Tree(
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        "5.1.3",
        (
            Chip(
                "ina3221",
                "1-0040",
                4,
                (Channel("VDD_IN", 5016, 1104), Channel("VDD_CPU_GPU_CV", 5016, 168), Channel("VDD_SOC", 5016, 312)),
            ),
        ),
        ("VDD_IN",),
    ),
    "agx-orin": Tree(
        "NVIDIA Jetson AGX Orin Developer Kit",
        "6.0",
        (
            Chip(
                "ina3221",
                "1-0040",
                3,
                (
                    Channel("VDD_GPU_SOC", 19912, 160),
                    Channel("VDD_CPU_CV", 19912, 40),
                    Channel("VIN_SYS_5V0", 4968, 640),
                ),
                2000,
            ),
            Chip("ina3221", "1-0041", 4, (UNCONNECTED, Channel("VDDQ_VDD2_1V8AO", 4968, 80), UNCONNECTED), 2000),
        ),
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ),
    "thor": Tree(
        "NVIDIA Jetson AGX Thor Developer Kit",
        "7.0",
        (
            Chip(
                "ina3221",
                "2-0040",
                2,
                (
                    Channel("VDD_GPU", 19904, 120),
                    Channel("VDD_CPU_SOC_MSS", 19904, 328),
                    Channel("VIN_SYS_5V0", 4968, 1312),
                ),
            ),
            Chip("ina238", "2-0044", 3, (Channel("VIN", 19930, 1154),)),
        ),
        ("VIN",),
    ),
}


def plant_board(root: Path, tree: Tree) -> Path:
    """Write a board's monitors below `root`, and what it says it is."""
    plant(root / "proc/device-tree/model", f"{tree.model}\0")
    for chip in tree.chips:
        folder = root / "sys/bus/i2c/devices" / chip.bus
        plant(
            folder / "name",
            "ina238\n" if chip.driver == "ina238" else "ina3221x\n" if "iio" in chip.driver else "ina3221\n",
        )
        if chip.driver.startswith("iio"):
            _iio(folder, chip)
        elif chip.driver == "ina238":
            _ina238(folder / f"hwmon/hwmon{chip.number}", chip.channels[0])
        else:
            _ina3221(folder / f"hwmon/hwmon{chip.number}", chip)
    return root


def plant_software(root: Path) -> Path:
    """The files of JetPack 6.2 on L4T 36.4.3, as its packages leave them."""
    plant(
        root / "etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n",
    )
    status = "Package: nvidia-jetpack\nStatus: install ok installed\nArchitecture: arm64\nVersion: 6.2+b77\n"
    plant(root / "var/lib/dpkg/status", f"Package: libc6\nVersion: 2.35\n\n{status}\nPackage: zlib1g\nVersion: 1\n")
    plant(root / "usr/local/cuda/version.json", '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}')
    plant(root / "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0", "")
    plant(root / "usr/lib/python3.10/dist-packages/tensorrt/__init__.py", "")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/python3").symlink_to("python3.10")
    plant(root / "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n")
    plant(root / "var/lib/nvpmodel/status", "pmode:0000\n")
    return root


def plant(path: Path, text: str, mode: int = 0o644) -> None:
    """Write one file anew, and the directories it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # It may be one that can only be read.
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _iio(folder: Path, chip: Chip) -> None:
    device = folder / f"iio:device{chip.number}"
    for number, channel in enumerate(chip.channels):
        plant(device / f"rail_name_{number}", f"{channel.name}\n")
        plant(device / f"in_voltage{number}_input", f"{channel.mv}\n")
        plant(device / f"in_current{number}_input", f"{channel.ma}\n")
        plant(device / f"in_power{number}_input", f"{round(channel.mw)}\n")
        plant(device / f"crit_current_limit_{number}", "32764\n")
    plant(device / "ui_input", "0\n")
    if chip.driver == "iio_device":
        # The same channels once more, under the name that older releases documented.
        (folder / "iio_device").symlink_to(device.name)


def _ina3221(folder: Path, chip: Chip) -> None:
    """As Linux 6.1's driver does it (`recorded_ina3221.py`)."""
    channels = (*chip.channels, UNCONNECTED, UNCONNECTED)[:3]
    shunts_uv = [channel.ma * chip.shunt_uohm // 1000 for channel in channels]
    for number, (channel, shunt_uv) in enumerate(zip(channels, shunts_uv, strict=True), start=1):
        shunt_uohm = chip.shunt_uohm if channel.name else 10_000
        readings = (
            (f"in{number}_input", channel.mv),
            (f"curr{number}_input", channel.ma),
            (f"in{number + 3}_input", shunt_uv),
        )
        for name, value in readings:
            if channel.name:
                plant(folder / name, f"{value}\n", 0o444)
            else:
                # Reading fails with ENODATA there; a directory cannot be read either.
                (folder / name).mkdir(parents=True)
        if channel.name:
            plant(folder / f"in{number}_label", f"{channel.name}\n", 0o444)
        plant(folder / f"in{number}_enable", f"{int(bool(channel.name))}\n")
        plant(folder / f"shunt{number}_resistor", f"{shunt_uohm}\n")
        for limit in ("max", "crit"):
            plant(folder / f"curr{number}_{limit}", f"{LIMIT_UV * 1000 // shunt_uohm}\n")
            plant(folder / f"curr{number}_{limit}_alarm", "0\n", 0o444)
    plant(folder / "in7_label", "sum of shunt voltages\n", 0o444)
    plant(folder / "in7_input", f"{sum(shunts_uv)}\n", 0o444)
    plant(folder / "curr4_input", f"{sum(shunts_uv) * 1000 // chip.shunt_uohm}\n", 0o444)
    plant(folder / "curr4_crit", f"{SUM_LIMIT_UV * 1000 // chip.shunt_uohm}\n")
    plant(folder / "curr4_crit_alarm", "0\n", 0o444)
    plant(folder / "name", "ina3221\n", 0o444)
    plant(folder / "samples", "1\n")
    # Two conversions of 1.1 ms for each channel that is on.
    plant(folder / "update_interval", f"{round(2.2 * sum(bool(channel.name) for channel in channels))}\n")


def _ina238(folder: Path, channel: Channel) -> None:
    plant(folder / "label", f"{channel.name}\n")
    plant(folder / "name", "ina238\n")
    plant(folder / "in0_input", "2\n")
    plant(folder / "in1_input", f"{channel.mv}\n")
    plant(folder / "curr1_input", f"{channel.ma}\n")
    plant(folder / "power1_input", f"{round(channel.mw * 1000)}\n")
    plant(folder / "temp1_input", "41000\n")
