"""`delen profile --clocks`: one profile per clock, and the GPU has its own limits again whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from msgspec.structs import replace

from delen.clients import command_profile
from delen.clients.command_profile import _at_clocks, _steps
from delen.clients.exit_codes import CommandFailed, ExitCode
from delen.profiles import board_clocks
from delen.profiles.board_clocks import GpuClock, find_gpu
from delen.profiles.clocked import at_clock, gpu_khz
from delen.profiles.schema import Profile
from delen.tests.jetson_tree import HERTZ, jetson_tree
from delen.tests.sample_profile import sample_profile

STEPS = tuple(hertz // 1000 for hertz in HERTZ)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuClock:
    found = find_gpu(jetson_tree(tmp_path))
    assert found is not None
    monkeypatch.setattr(board_clocks, "find_gpu", lambda: found)
    return found


def test_each_clock_is_measured_while_it_is_held(gpu: GpuClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_bundle: object, _options: object) -> Profile:
        profile, khz = sample_profile(), gpu.limits_khz[1]
        assert khz is not None
        return replace(profile, device=at_clock(profile.device, khz))

    monkeypatch.setattr(command_profile, "_measure", measured)
    kept: list[Profile] = []
    bundle: Any = None
    found = _at_clocks(bundle, {"clocks": "all"}, kept.append)
    assert [gpu_khz(profile.device) for profile in found] == list(STEPS)
    assert kept == found
    assert gpu.limits_khz == (STEPS[0], STEPS[-1])


def test_limits_are_given_back_when_measuring_fails(gpu: GpuClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_bundle: object, _options: object) -> Profile:
        raise RuntimeError

    monkeypatch.setattr(command_profile, "_measure", fails)
    bundle: Any = None
    with pytest.raises(RuntimeError):
        _at_clocks(bundle, {"clocks": "420"}, lambda _profile: None)
    assert gpu.limits_khz == (STEPS[0], STEPS[-1])


@pytest.mark.usefixtures("gpu")
def test_without_rights_it_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", denied)
    bundle: Any = None
    with pytest.raises(CommandFailed, match="no right to set the GPU's clock") as failed:
        _at_clocks(bundle, {"clocks": "all"}, lambda _profile: None)
    assert failed.value.code == ExitCode.PERMISSION


def test_clocks_are_named_by_their_megahertz() -> None:
    assert _steps("726,114.75", STEPS) == [114_750, 726_750]
    with pytest.raises(click.UsageError, match=r"no clock of '700' MHz; it has 114.75, 420.75, 726.75, 1300.5, or all"):
        _steps("700", STEPS)
