"""What machine this is and how it is set: names, power mode, clocks, temperature, by looking for files that say so.

Role: with `meters.py` the only reader of /sys and /proc. Everything is probed, nothing looked up by board or L4T
version, so a release that moves a file costs one field, not the program. `root` stands for /, in tests a made-up tree.

Does not: write anything, or measure power (`meters.py`).
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..exits.runner import Runner
from .schema import Device

ROOT = Path("/")
TEXT_BYTES_MAX = 1024 * 1024
# The Nano's PMIC zone reports a constant 100 C; it is no sensor (NVIDIA's L4T thermal guide).
NO_SENSORS = {"PMIC-Die", "PMIC"}
# Zones of parts that are switched off report -256 C on Orin, and errors on others.
TEMPERATURE_C_MIN, TEMPERATURE_C_MAX = -40.0, 150.0


class Board(NamedTuple):
    """What the machine says of itself. `clocks_khz`: `<part>` as it runs now, `<part>_max` as it is limited to."""

    board: str
    processor: str
    cores: int
    power_mode: str | None
    clocks_khz: dict[str, int]


def read_board(root: Path = ROOT) -> Board:
    """Look at the machine under `root`. Never fails: what no file says is said to be unknown."""
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    cores = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count() or 1
    return Board(_board_name(root), _processor_name(root, cpuinfo), cores, _power_mode(root), _clocks_khz(root))


def describe_device(runner: Runner, root: Path = ROOT) -> Device:
    """The device that a profile taken now with this engine belongs to."""
    board = read_board(root)
    return Device(
        board=board.board,
        processor=board.processor,
        cores=board.cores,
        power_mode=board.power_mode,
        clocks_khz=board.clocks_khz,
        engine=runner.engine,
        device=runner.device,
        precision=runner.precision,
        threads=runner.threads,
        versions=dict(runner.versions),
    )


def temperature_c(root: Path = ROOT) -> float | None:
    """The hottest zone, degrees Celsius; None where there is no sensor, or none that makes sense."""
    found = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees = _number(zone / "temp")
        if millidegrees is None or _text(zone / "type") in NO_SENSORS:
            continue
        if TEMPERATURE_C_MIN < millidegrees / 1000 < TEMPERATURE_C_MAX:
            found.append(millidegrees / 1000)
    return max(found, default=None)


def resident_bytes(root: Path = ROOT) -> int | None:
    """Memory of this process that is in RAM now; None where the system does not say."""
    fields = (_text(root / "proc/self/statm") or "").split()
    if len(fields) < 2 or not fields[1].isdigit():
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """What this process's control group may have before it is slowed down or killed; None where nobody says."""
    found: list[int] = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        place = root / "sys/fs/cgroup" / ("memory" if controllers == "memory" else "") / path.lstrip("/")
        names = {"": ("memory.high", "memory.max"), "memory": ("memory.limit_in_bytes",)}.get(controllers, ())
        found += [int(text) for name in names if (text := (_text(place / name) or "").strip()).isdigit()]
    # The first version writes a number beyond any memory where there is no limit.
    return min((limit for limit in found if limit < 2**60), default=None)


def _board_name(root: Path) -> str:
    model = _text(root / "proc/device-tree/model")
    if model:
        return model
    maker = _text(root / "sys/class/dmi/id/sys_vendor") or ""
    product = _text(root / "sys/class/dmi/id/product_name") or ""
    return f"{maker} {product}".strip() or f"{platform.machine()} server"


def _processor_name(root: Path, cpuinfo: str) -> str:
    name = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    if name:
        return name.group(1).strip()
    # Arm's cpuinfo has only part numbers; the device tree names the core, as in "arm,cortex-a78ae".
    for node in sorted((root / "proc/device-tree/cpus").glob("cpu@*/compatible")):
        core = (_text(node) or "").split("\0")[0]
        if core:
            return core
    return platform.processor() or platform.machine()


def _power_mode(root: Path) -> str | None:
    """Jetson's power model by name, else the firmware's platform profile; then the CPU governor. None: nothing says."""
    mode = _jetson_mode(root) or _text(root / "sys/firmware/acpi/platform_profile")
    governor = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return ", ".join(part for part in (mode, governor) if part) or None


def _jetson_mode(root: Path) -> str | None:
    status = re.search(r"pmode:\s*(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    if not status:
        return None
    number = int(status.group(1))
    models = re.finditer(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", _text(root / "etc/nvpmodel.conf") or "")
    return next((model.group(2) for model in models if int(model.group(1)) == number), f"nvpmodel {number}")


def _clocks_khz(root: Path) -> dict[str, int]:
    clocks: dict[str, int] = {}
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        part = policy.name.replace("policy", "cpu")
        _add_clock(clocks, part, _number(policy / "scaling_cur_freq"), _number(policy / "scaling_max_freq"))
    for index, device in enumerate(_gpus(root)):
        hertz, hertz_max = _number(device / "cur_freq"), _number(device / "max_freq")
        _add_clock(clocks, f"gpu{index}", hertz and hertz // 1000, hertz_max and hertz_max // 1000)
    return clocks


def _gpus(root: Path) -> Iterator[Path]:
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        node = _text(device / "device/of_node/name") or device.name
        if re.search(r"gpu|gv11b|gp10b|ga10b|gm20b", node):
            yield device


def _add_clock(clocks: dict[str, int], part: str, now_khz: int | None, khz_max: int | None) -> None:
    if now_khz is not None:
        clocks[part] = now_khz
    if khz_max is not None:
        clocks[f"{part}_max"] = khz_max


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """A small file's text; None where it is absent, unreadable (sensors of parts that are off are) or empty."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(TEXT_BYTES_MAX)
    except OSError:
        return None
    return raw.decode(errors="replace").strip("\0 \t\r\n") or None
