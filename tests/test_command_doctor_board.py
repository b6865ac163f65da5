"""What `delen doctor` says of a board: each thing that is not well comes with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from delen.clients import command_doctor_board, device_nodes
from delen.clients.command_doctor_board import gpu, held_clock, memory, meters, power_mode, software
from delen.clients.device_nodes import Node
from delen.clients.findings import Finding
from delen.daemon.clock_limits import Limits, limits_path, remember
from delen.exits.bundle import load_bundle, shipped_directory
from delen.profiles.board_clocks import find_gpu
from delen.tests.board_trees import BOARDS, plant, plant_board, plant_software
from delen.tests.jetson_tree import GPU, jetson_tree


def by_check(findings: Iterator[Finding]) -> dict[str, Finding]:
    found = {finding.check: finding for finding in findings}
    assert all(finding.state == "ok" or finding.fix for finding in found.values()), "every fault has its remedy"
    return found


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that are there."""
    names: set[str] = set()
    monkeypatch.setattr(command_doctor_board, "_importable", names.__contains__)
    return names


def test_jetpack_and_a_python_that_is_not_the_boards(
    tmp_path: Path, importable: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_software(tmp_path)
    monkeypatch.setattr(command_doctor_board, "_here", lambda: "3.12")
    found = by_check(software(tmp_path))
    assert found["jetpack"].found == "JetPack 6.2, L4T 36.4.3, CUDA 12.6.11, TensorRT 10.3.0"
    assert found["python of the board"].found == "the system's is 3.10, this is 3.12"
    assert "python3.10 -m venv --system-site-packages" in found["python of the board"].fix
    assert found["engine tensorrt"].fix == "use 3.10"


def test_an_environment_that_hides_jetpacks_tensorrt_is_told_how_to_let_it_in(
    tmp_path: Path, importable: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_software(tmp_path)
    monkeypatch.setattr(command_doctor_board, "_here", lambda: "3.10")
    found = by_check(software(tmp_path))
    assert "python of the board" not in found
    assert "--system-site-packages" in found["engine tensorrt"].fix
    importable.add("tensorrt")
    assert by_check(software(tmp_path))["engine tensorrt"].state == "ok"


def test_a_clock_that_a_killed_daemon_held_is_told_with_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, state = jetson_tree(tmp_path / "root"), tmp_path / "state"
    clock = find_gpu(root)
    assert clock is not None
    assert not list(held_clock([state], root))
    remember(state, root, clock, 114_750_000, 1_300_500_000)
    # Its daemon runs: nothing to say.
    assert not list(held_clock([state], root))
    monkeypatch.setattr(Limits, "held", False)
    [found] = held_clock([state], root)
    assert found.state == "warn"
    assert f"killed (pid {os.getpid()}); its limits were 114.75 to 1300.5 MHz" in found.found
    assert "start the daemon, which gives them back" in found.fix
    assert f"in {root / GPU}: echo 1300500000 > max_freq, echo 114750000 > min_freq" in found.fix
    limits_path(state).write_text("?")
    (state / "last-good/gpu-clock.json").unlink()
    [found] = held_clock([state], root)
    assert "cannot be used" in found.found


def test_a_board_without_jetpacks_packages_is_told_what_brings_them(tmp_path: Path, importable: set[str]) -> None:
    plant(tmp_path / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3\n")
    found = by_check(software(tmp_path))
    assert "apt-get install nvidia-jetpack" in found["jetpack"].fix
    assert "python3-libnvinfer" in found["engine tensorrt"].fix


def test_a_machine_that_is_no_jetson_has_nothing_to_answer_for(tmp_path: Path, importable: set[str]) -> None:
    assert not by_check(software(tmp_path))
    assert by_check(gpu(tmp_path))["gpu"].state == "ok"


def test_nodes_that_this_user_may_not_open_name_the_groups(
    tmp_path: Path, importable: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [Node("/dev/nvmap", "video", "0660", True), Node("/dev/dri/renderD128", "render", "0660", True)]
    monkeypatch.setattr(device_nodes, "device_nodes", lambda _devices: nodes)
    monkeypatch.setattr(os, "access", lambda path, _mode: path == "/dev/nvmap")
    found = by_check(gpu(tmp_path))
    assert found["gpu"].found == "may not open 1 of 2 nodes: /dev/dri/renderD128"
    assert "usermod -aG render" in found["gpu"].fix
    assert "delen[jetson]" in found["cuda memory"].fix
    monkeypatch.setattr(os, "access", lambda _path, _mode: True)
    importable.add("cuda")
    assert {finding.state for finding in gpu(tmp_path)} == {"ok"}


def test_the_power_mode_and_which_there_are(tmp_path: Path) -> None:
    assert by_check(power_mode(plant_software(tmp_path)))["power mode"].found == "15W; there are: 15W, 7W"


@pytest.mark.parametrize("name", [name for name, tree in BOARDS.items() if tree.chips])
def test_every_rail_is_shown_with_what_it_reads_and_which_make_the_figure(tmp_path: Path, name: str) -> None:
    tree = BOARDS[name]
    found = by_check(meters(plant_board(tmp_path, tree)))
    rails = {channel.name for chip in tree.chips for channel in chip.channels if channel.name}
    assert {check.removeprefix("rail ") for check in found if check.startswith("rail ")} == rails
    assert {rail for rail in rails if "part of the figure" in found[f"rail {rail}"].found} == set(tree.total)
    assert found["power meter"].state == "ok"
    assert found["power meter"].found.startswith("measured: INA3221")


def test_a_rail_that_reads_nonsense_is_named_with_its_file(tmp_path: Path) -> None:
    plant_board(tmp_path, BOARDS["orin-nano"])
    plant(tmp_path / "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input", "99999999\n")
    found = by_check(meters(tmp_path))
    assert found["rail VDD_IN"].state == "warn"
    assert "in1_input" in found["rail VDD_IN"].fix


def test_counters_that_are_roots_alone_and_a_service_without_its_client_are_nearly_meters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "9")):
        plant(zone / name, text)
    plant(tmp_path / "run/jtop.sock", "")
    found = by_check(meters(tmp_path))
    assert "delen doctor --devices" in found["meter rapl"].fix
    assert "pip install 'delen[jetson]'" in found["meter jtop"].fix
    assert found["power meter"].state == "warn"
    plant(zone / "energy_uj", "5")
    assert by_check(meters(tmp_path))["meter rapl"].found.startswith("RAPL package-0: processor and memory")


def test_free_memory_is_set_against_what_the_networks_need(tmp_path: Path) -> None:
    bundles = [load_bundle(shipped_directory() / "fashion")]
    plant(tmp_path / "proc/meminfo", "MemAvailable: 4000000 kB\n")
    found = by_check(memory(tmp_path, bundles))["memory"]
    assert found.state == "ok"
    assert "fashion 60" in found.found
    plant(tmp_path / "proc/meminfo", "MemAvailable: 100000 kB\n")
    assert "limits.batch_max" in by_check(memory(tmp_path, bundles))["memory"].fix
    (tmp_path / "proc/meminfo").unlink()
    assert by_check(memory(tmp_path, bundles))["memory"].state == "warn"
