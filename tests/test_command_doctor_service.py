"""What the front's service is let do: what the configuration asks for on this machine, by path, and nothing beyond."""

from __future__ import annotations

import grp
from pathlib import Path

import pytest

from delen.clients.command_doctor_service import Asked, asked, opened, write_drop_in
from delen.clients.exit_codes import CommandFailed, ExitCode
from delen.tests.board_trees import BOARDS, plant_board
from delen.tests.jetson_tree import jetson_tree, put

CLOCK = Asked(meter="none", clocks="may-set", policy="clock")


def settings(lines: list[str]) -> list[str]:
    """Without the reasons."""
    assert sum(line.startswith("# ") for line in lines) == 1
    return [line for line in lines if not line.startswith("#")]


def test_a_clock_to_be_set_is_the_front_s_to_write_by_the_path_that_links_lead_to(tmp_path: Path) -> None:
    system = jetson_tree(tmp_path)
    linked = system / "sys/class/devfreq/17000000.gp10b"
    real = system / "sys/devices/17000000.gp10b/devfreq/17000000.gp10b"
    real.parent.mkdir(parents=True)
    linked.rename(real)
    linked.symlink_to(real)
    files = " ".join(f"/sys/devices/17000000.gp10b/devfreq/17000000.gp10b/{name}" for name in ("min_freq", "max_freq"))
    found = opened(CLOCK, system)
    assert settings(found.lines) == [
        f"ExecStartPre=+-/bin/chgrp delen {files}",
        f"ExecStartPre=+-/bin/chmod g+w {files}",
        f"ReadWritePaths=-{files.replace(' ', ' -')}",
    ]
    assert not found.faults


@pytest.mark.parametrize("wanted", [Asked(), Asked(policy="clock"), Asked(clocks="may-set", policy="stage-edf")])
def test_a_clock_that_is_not_to_be_set_is_not_opened(tmp_path: Path, wanted: Asked) -> None:
    assert opened(wanted, jetson_tree(tmp_path)) == ([], [])


def test_counters_of_the_processor_are_let_be_read_where_they_are_the_meter(tmp_path: Path) -> None:
    for name, said in (("name", "package-0"), ("max_energy_range_uj", "1000"), ("energy_uj", "1")):
        put(tmp_path, f"sys/class/powercap/intel-rapl:0/{name}", said)
    file = "/sys/class/powercap/intel-rapl:0/energy_uj"
    rights = [f"ExecStartPre=+-/bin/chgrp delen {file}", f"ExecStartPre=+-/bin/chmod g+r {file}"]
    assert settings(opened(Asked("rapl"), tmp_path).lines) == rights
    assert settings(opened(Asked("auto"), tmp_path).lines) == rights
    assert opened(Asked("none"), tmp_path).lines == []


def test_jtop_is_reached_by_the_group_of_its_socket_and_only_where_the_sensors_themselves_are_not(
    tmp_path: Path,
) -> None:
    put(tmp_path, "run/jtop.sock", "")
    group = grp.getgrgid((tmp_path / "run/jtop.sock").stat().st_gid).gr_name
    for meter in ("jtop", "auto"):
        assert settings(opened(Asked(meter), tmp_path).lines) == [f"SupplementaryGroups={group}"]
    # INA3221s are read by everybody.
    plant_board(tmp_path, next(iter(BOARDS.values())))
    assert opened(Asked("auto"), tmp_path).lines == []


def test_a_graphics_card_s_meter_needs_its_nodes(tmp_path: Path) -> None:
    for node in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        put(tmp_path, f"dev/{node}", "")
    lines = ["PrivateDevices=no", "ProcSubset=all", "DeviceAllow=/dev/nvidia0 rw", "DeviceAllow=/dev/nvidiactl rw"]
    assert settings(opened(Asked("nvml"), tmp_path).lines) == lines
    assert settings(opened(Asked("auto", "cuda:0"), tmp_path).lines) == lines
    assert opened(Asked("auto"), tmp_path).lines == []


def test_a_broker_is_reached_by_its_address_and_no_other_is(tmp_path: Path) -> None:
    lines = settings(opened(Asked("mqtt://192.0.2.7:1884/plug"), tmp_path).lines)
    assert lines[0] == "PrivateNetwork=no"
    assert lines[-1] == "IPAddressAllow=192.0.2.7"
    assert settings(opened(Asked("mqtt://localhost/plug"), tmp_path).lines)[-1] == "IPAddressAllow=localhost"
    named = opened(Asked("mqtt://any/plug"), tmp_path)
    assert named.lines == []
    assert "say the broker's" in named.faults[0]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Asked("rapl"), "meter rapl: there is none"),
        (Asked("jtop"), "meter jtop: there is none"),
        (Asked("nvml"), "meter nvml: there is none"),
        (Asked("command: plug --watts"), "systemctl edit delen"),
        (CLOCK, "no GPU whose clock"),
    ],
)
def test_what_cannot_be_opened_is_said(tmp_path: Path, wanted: Asked, said: str) -> None:
    found = opened(wanted, tmp_path)
    assert found.lines == []
    assert said in found.faults[0]


def test_it_is_written_for_what_the_configuration_says_and_taken_back_with_it(tmp_path: Path) -> None:
    system = jetson_tree(tmp_path / "system")
    prefix = tmp_path / "prefix"
    config = prefix / "etc/delen/delen.toml"
    put(prefix, "etc/delen/delen.toml", 'policy = "clock"\nclocks = "may-set"\nmeter = "none"\nnetworks = ["digits"]')
    path, faults = write_drop_in(prefix, system)
    assert path == prefix / "etc/systemd/system/delen.service.d/board.conf"
    assert not faults
    assert path.read_text().splitlines()[1:3] == ["", "[Service]"]
    config.unlink()
    assert asked(prefix) == Asked()
    assert write_drop_in(prefix, system) == (None, [])
    assert not path.exists()
    put(prefix, "etc/systemd/system/delen.service.d/board.conf", "[Service]")
    assert write_drop_in(prefix, system) == (None, [])
    assert path.exists(), "not ours to remove"
    config.write_text('clocks = "may-set"\npolicy = "clock"\n')
    with pytest.raises(CommandFailed, match="not written by delen"):
        write_drop_in(prefix, system)
    config.write_text("meter = 5\n")
    with pytest.raises(CommandFailed, match="meter") as failed:
        write_drop_in(prefix, system)
    assert failed.value.code == ExitCode.BAD_CONFIG
