"""jetson-stats is asked by a child; its lines, its freezing and its absence are dealt with like any sensor's."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import pytest

from delen.clients.info import MeterState
from delen.profiles import meter_jtop
from delen.profiles.meter_jtop import SOCKET, JtopSensor, told, total_mw
from delen.profiles.meter_lines import Lines
from delen.profiles.power_sensor import Gauge
from delen.tests.board_trees import plant

POWER = {"rail": {"VDD_SOC": {"power": 1500}}, "tot": {"power": 5016, "avg": 5000, "name": "VDD_IN"}}


def test_a_line_is_made_and_read() -> None:
    assert total_mw(told(POWER)) == 5016


@pytest.mark.parametrize("power", [{}, None, {"tot": None}, {"tot": {"power": None}}, {"rail": {}}, "down"])
def test_what_the_service_leaves_out_is_no_figure(power: object) -> None:
    assert total_mw(told(power)) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '{"mw": "5"}',
        '{"mw": true}',
        "5",
        '{"mw": 1' + 400 * "0" + "}",
        pytest.param(50_000 * "[", id="deep"),
    ],
)
def test_a_line_that_is_no_answer_is_no_figure(line: str) -> None:
    assert total_mw(line) is None


def test_without_the_package_or_the_service_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(LookupError, match="pip install"):
        JtopSensor(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    with pytest.raises(LookupError, match="systemctl start jtop"):
        JtopSensor(tmp_path)


@pytest.mark.e2e
def test_a_service_that_repeats_itself_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    plant(tmp_path / SOCKET, "")
    code = f"import sys\nwhile True:\n print({told(POWER)!r}, flush=True)\n sys.stdin.readline()"
    sensor = JtopSensor(tmp_path, command=(sys.executable, "-c", code))
    now_ns = [0]
    gauge = Gauge(sensor, lambda: now_ns[0])

    def sampled() -> MeterState:
        gauge.sample()
        return gauge.state

    while sampled() != "reading":
        pass
    sensor.silent_s = 3600.0
    now_ns[0] = 11_000_000_000
    assert sampled() == "frozen"
    sensor.close()


@pytest.mark.e2e
def test_the_child_ends_with_its_parent() -> None:
    # Whatever jetson-stats' client does: here it hangs in its import.
    code = (
        "import sys, types, runpy, time\n"
        "class Hung(types.ModuleType):\n def __getattr__(self, name): print('hung', flush=True); time.sleep(600)\n"
        "sys.modules['jtop'] = Hung('jtop')\n"
        f"runpy.run_module({meter_jtop.__name__!r}, run_name='__main__')"
    )
    lines = Lines([sys.executable, "-c", code])
    end_s = time.monotonic() + 20
    while "hung" not in lines.take():
        assert time.monotonic() < end_s
        time.sleep(0.002)
    assert lines.running
    began_s = time.monotonic()
    lines.close()
    assert time.monotonic() - began_s < 0.4, "closing its input was enough"
