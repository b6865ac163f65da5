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
    cpuinfo = text(root / "proc/cpuinfo") or ""
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
        millidegrees = number(zone / "temp")
        if millidegrees is None or text(zone / "type") in NO_SENSORS:
            continue
        if TEMPERATURE_C_MIN < millidegrees / 1000 < TEMPERATURE_C_MAX:
            found.append(millidegrees / 1000)
    return max(found, default=None)


def resident_bytes(root: Path = ROOT) -> int | None:
    """Memory of this process that is in RAM now; None where the system does not say."""
    fields = (text(root / "proc/self/statm") or "").split()
    if len(fields) < 2 or not fields[1].isdigit():
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors(root: Path = ROOT) -> list[int] | None:
    """Numbers of this process's open files, one of them for looking; None where there is none left for that."""
    try:
        return [int(entry.name) for entry in (root / "proc/self/fd").iterdir()]
    except OSError:
        return None


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """What this process's control group may have before it is slowed down or killed; None where nobody says."""
    found: list[int] = []
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        place = root / "sys/fs/cgroup" / ("memory" if controllers == "memory" else "") / path.lstrip("/")
        names = {"": ("memory.high", "memory.max"), "memory": ("memory.limit_in_bytes",)}.get(controllers, ())
        found += [int(said) for name in names if (said := text(place / name) or "").isdigit()]
    # The first version writes a number beyond any memory where there is no limit.
    return min((limit for limit in found if limit < 2**60), default=None)


def _board_name(root: Path) -> str:
    model = text(root / "proc/device-tree/model")
    if model:
        return model
    maker = text(root / "sys/class/dmi/id/sys_vendor") or ""
    product = text(root / "sys/class/dmi/id/product_name") or ""
    return f"{maker} {product}".strip() or f"{platform.machine()} server"


def _processor_name(root: Path, cpuinfo: str) -> str:
    name = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    if name:
        return name.group(1).strip()
    # Arm's cpuinfo has only part numbers; the device tree names the core, as in "arm,cortex-a78ae".
    for node in sorted((root / "proc/device-tree/cpus").glob("cpu@*/compatible")):
        core = (text(node) or "").split("\0")[0]
        if core:
            return core
    return platform.processor() or platform.machine()


def _power_mode(root: Path) -> str | None:
    """Jetson's power model by name, else the firmware's platform profile; then the CPU governor. None: nothing says."""
    mode = _jetson_mode(root) or text(root / "sys/firmware/acpi/platform_profile")
    governor = text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return ", ".join(part for part in (mode, governor) if part) or None


def _jetson_mode(root: Path) -> str | None:
    now, names = jetson_modes(root)
    return None if now is None else names.get(now, f"nvpmodel {now}")


def jetson_modes(root: Path) -> tuple[int | None, dict[int, str]]:
    """The number of the power model that is set, None where no file says, and the names of all there are."""
    status = re.search(r"pmode:\s*(\d{1,9})\b", text(root / "var/lib/nvpmodel/status") or "")
    models = re.finditer(r"POWER_MODEL\s+ID=(\d{1,9})\s+NAME=(\S+)", text(root / "etc/nvpmodel.conf") or "")
    return int(status.group(1)) if status else None, {int(model.group(1)): model.group(2) for model in models}


def _clocks_khz(root: Path) -> dict[str, int]:
    clocks: dict[str, int] = {}
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        part = policy.name.replace("policy", "cpu")
        _add_clock(clocks, part, number(policy / "scaling_cur_freq"), number(policy / "scaling_max_freq"))
    for index, device in enumerate(gpus(root)):
        hertz, hertz_max = number(device / "cur_freq"), number(device / "max_freq")
        _add_clock(clocks, f"gpu{index}", hertz and hertz // 1000, hertz_max and hertz_max // 1000)
    return clocks


def gpus(root: Path) -> Iterator[Path]:
    """The devfreq directories of GPUs."""
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        node = text(device / "device/of_node/name") or device.name
        if re.search(r"gpu|gv11b|gp10b|ga10b|gm20b", node):
            yield device


def _add_clock(clocks: dict[str, int], part: str, now_khz: int | None, khz_max: int | None) -> None:
    if now_khz is not None:
        clocks[part] = now_khz
    if khz_max is not None:
        clocks[f"{part}_max"] = khz_max


def number(path: Path) -> int | None:
    """What a small file says; None where it is absent or says no number."""
    said = text(path)
    try:
        return None if said is None else int(said)
    except ValueError:
        return None


def text(path: Path) -> str | None:
    """A small file's text; None where it is absent, unreadable (sensors of parts that are off are) or empty."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(TEXT_BYTES_MAX)
    except OSError:
        return None
    return raw.decode(errors="replace").strip("\0 \t\r\n") or None
