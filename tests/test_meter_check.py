"""A meter that is named and cannot be read is said, with what would be right; it is looked at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.profiles.meter_check import WAIT_S_MAX, unreadable
from delen.tests.board_trees import BOARDS, plant, plant_board


class Time:
    """Goes on by being slept."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, s: float) -> None:
        self.now_s += s


@pytest.mark.parametrize("said", ["auto", "none"])
def test_what_need_not_be_there_is_not_looked_for(tmp_path: Path, said: str) -> None:
    assert unreadable(said, root=tmp_path) is None


@pytest.mark.parametrize("said", ["ina3221", "rapl"])
def test_a_meter_that_is_not_there_is_said_with_what_to_do(tmp_path: Path, said: str) -> None:
    fault = unreadable(said, root=tmp_path)
    assert fault is not None
    assert fault.startswith(f"meter {said}: no ")
    assert "expected a meter that can be read here; `delen doctor` says which are" in fault


def test_a_board_s_own_meter_is_read(tmp_path: Path) -> None:
    root = plant_board(tmp_path, BOARDS["agx-orin"])
    assert unreadable("ina3221", root=root) is None


def test_a_meter_that_is_there_and_says_nothing_is_given_up(tmp_path: Path) -> None:
    root, time = plant_board(tmp_path, BOARDS["agx-orin"]), Time()
    for file in root.rglob("in[0-9]_input"):
        if file.is_file():
            plant(file, "")
    fault = unreadable("ina3221", root=root, clock_s=time.clock, sleep=time.sleep)
    assert fault is not None
    assert f"it says no power within {WAIT_S_MAX:g} s" in fault
    assert WAIT_S_MAX <= time.now_s < 1.1 * WAIT_S_MAX


def test_a_command_that_fails_is_quoted_at_once() -> None:
    time = Time()
    fault = unreadable("command: no-such-meter-here", clock_s=time.clock, sleep=time.sleep)
    assert fault is not None
    assert "no-such-meter-here" in fault.partition("; expected")[0].partition("here: ")[2]
    assert time.now_s == 0
