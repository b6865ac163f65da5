"""Power mode and GPU clock, read from made-up trees and set in them; refusals say what to do."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from delen.profiles import board_clocks
from delen.profiles.board_clocks import ClockError, Setting, find_gpu, read_modes, read_setting, set_mode
from delen.tests.jetson_tree import GPU, jetson_tree, put


def asks(said: str) -> board_clocks.Ask:
    return lambda _command: said


def test_a_setting_is_mode_and_upper_limit(tmp_path: Path) -> None:
    assert read_setting(jetson_tree(tmp_path)) == Setting("MAXN", 1_300_500)


def test_a_machine_without_either_says_nothing(tmp_path: Path) -> None:
    assert read_setting(tmp_path) == Setting(None, None)
    assert find_gpu(tmp_path) is None


@pytest.mark.parametrize("said", ["0", "999", "-1300500000", "1" + 300 * "0", "1" + 6000 * "0", "fast"])
def test_a_limit_that_can_be_no_clock_is_none(tmp_path: Path, said: str) -> None:
    root = jetson_tree(tmp_path)
    put(root, f"{GPU}/max_freq", said)
    put(root, f"{GPU}/available_frequencies", f"{said} 726750000")
    put(root, "var/lib/nvpmodel/status", f"pmode:{said}")
    setting, gpu = read_setting(root), find_gpu(root)
    assert setting.gpu_khz is None
    assert gpu is not None
    assert gpu.steps_khz == (726_750,)


def test_heat_that_lowers_the_limit_or_only_the_clock_is_seen(tmp_path: Path) -> None:
    root = jetson_tree(tmp_path)
    put(root, "sys/class/thermal/cooling_device3/type", "gpu-balanced")
    put(root, "sys/class/thermal/cooling_device3/cur_state", "0")
    assert read_setting(root).throttled == ()
    put(root, "sys/class/thermal/cooling_device3/cur_state", "2")
    put(root, f"{GPU}/cur_freq", "624750000")
    assert read_setting(root) == Setting("MAXN", 624_750, ("gpu-balanced",))
    put(root, f"{GPU}/max_freq", "420750000")
    assert read_setting(root) == Setting("MAXN", 420_750, ("gpu-balanced",))


def test_the_cpus_heat_is_not_the_gpus(tmp_path: Path) -> None:
    root = jetson_tree(tmp_path)
    put(root, "sys/class/thermal/cooling_device0/type", "cpufreq-cpu0")
    put(root, "sys/class/thermal/cooling_device0/cur_state", "3")
    assert read_setting(root).throttled == ()


def test_where_no_file_says_the_mode_nvpmodel_is_asked(tmp_path: Path) -> None:
    root = jetson_tree(tmp_path)
    (root / "var/lib/nvpmodel/status").unlink()
    assert read_modes(root).now is None
    modes = read_modes(root, asks("NV Fan Mode:quiet\nNV Power Mode: MAXQ\n1\n"))
    assert (modes.now, modes.name) == (1, "MAXQ")
    assert read_modes(root, asks("NVPM ERROR: failed\n")).now is None


def test_a_clock_is_held_and_given_back(tmp_path: Path) -> None:
    root = jetson_tree(tmp_path)
    gpu = find_gpu(root)
    assert gpu is not None
    assert gpu.steps_khz == (114_750, 420_750, 726_750, 1_300_500)
    assert gpu.limits_khz == (114_750, 1_300_500)
    for khz in (726_750, 114_750, 1_300_500):
        gpu.set(khz)
        assert gpu.limits_khz == (khz, khz)
    gpu.restore()
    assert gpu.limits_khz == (114_750, 1_300_500)


def test_limits_never_cross_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = find_gpu(jetson_tree(tmp_path))
    assert gpu is not None
    write = board_clocks._write

    def checked(path: Path, hertz: int) -> None:
        write(path, hertz)
        low, high = gpu.limits_khz
        assert low is not None
        assert high is not None
        assert low <= high

    monkeypatch.setattr(board_clocks, "_write", checked)
    for khz in (420_750, 1_300_500, 726_750, 114_750):
        gpu.set(khz)


@pytest.mark.parametrize("khz", [420_750, 1_300_500])
@pytest.mark.parametrize("after", [0, 1])
def test_a_clock_that_is_half_set_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, khz: int, after: int
) -> None:
    gpu = find_gpu(jetson_tree(tmp_path))
    assert gpu is not None
    gpu.set(726_750)
    write, left = board_clocks._write, [after]

    def failing_once(path: Path, hertz: int) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise ClockError("busy")
        write(path, hertz)

    monkeypatch.setattr(board_clocks, "_write", failing_once)
    with pytest.raises(ClockError, match="busy"):
        gpu.set(khz)
    assert gpu.limits_khz == (726_750, 726_750)
    gpu.restore()
    assert gpu.limits_khz == (114_750, 1_300_500)


def test_a_clock_it_does_not_have_is_refused_with_the_nearest(tmp_path: Path) -> None:
    gpu = find_gpu(jetson_tree(tmp_path))
    assert gpu is not None
    with pytest.raises(ClockError, match=r"no clock of 800 MHz; the nearest it has are 420.75, 726.75, 1300.5 MHz"):
        gpu.set(800_000)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS], ids=["rights", "sandbox"])
def test_without_rights_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    gpu = find_gpu(jetson_tree(tmp_path))
    assert gpu is not None

    def denied(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_text", denied)
    with pytest.raises(
        ClockError,
        match=r'no right to set the GPU.s clock: .*min_freq .*delen doctor --devices.*chgrp delen .*clocks = "read"',
    ):
        gpu.set(726_750)
    assert "no right" in (gpu.fault() or "")


def test_a_driver_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = find_gpu(jetson_tree(tmp_path))
    assert gpu is not None

    def refused(*_arguments: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(ClockError, match=r"the GPU refuses 726\.75 MHz in .*: Invalid argument"):
        gpu.set(726_750)


def test_a_mode_is_set_by_name_and_a_reboot_is_not_taken(tmp_path: Path) -> None:
    root, asked = jetson_tree(tmp_path), []

    def ask(command: Sequence[str]) -> str:
        asked.append(list(command))
        return ""

    set_mode("maxq", root, ask)
    assert asked[-1] == ["nvpmodel", "-m", "1"]
    with pytest.raises(ClockError, match="no power mode 'FAST'; it has MAXN, MAXQ"):
        set_mode("FAST", root, ask)
    with pytest.raises(ClockError, match="takes a reboot: run `sudo nvpmodel -m 0` and confirm"):
        set_mode("MAXN", root, asks("NVPM WARN: Reboot required for changing to this power mode: 0"))


def test_a_tool_that_is_not_there_fails_or_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = jetson_tree(tmp_path)
    monkeypatch.setattr(board_clocks, "NVPMODEL", "no-such-nvpmodel")
    with pytest.raises(ClockError, match="there is no no-such-nvpmodel here: this is no Jetson"):
        set_mode("MAXQ", root)
    monkeypatch.setattr(board_clocks, "NVPMODEL", "false")
    with pytest.raises(ClockError, match=r"false -m 1 failed, exit status 1; setting a mode takes root"):
        set_mode("MAXQ", root)

    def hangs(*_arguments: object, **_more: object) -> None:
        raise subprocess.TimeoutExpired("nvpmodel", 5.0)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ClockError, match="did not answer"):
        set_mode("MAXQ", root)
