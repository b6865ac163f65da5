"""A wall meter's words, lines and silences."""

from __future__ import annotations

import sys

import pytest

from delen.profiles.meter_lines import Lines
from delen.profiles.meter_wall import LineSensor, WallMeterError, WallSensor, command_of, line_mw


class FakeLines(Lines):
    """What a child has said by now."""

    def __init__(self) -> None:
        super().__init__(["nothing"], clock_ns=lambda: 0)
        self.said_now: list[str] = []

    def take(self) -> list[str]:
        lines, self.said_now = self.said_now, []
        return lines


@pytest.mark.parametrize(
    ("line", "mw"),
    [
        ("5.25", 5250),
        ("5.25 W", 5250),
        ("5.25W", 5250),
        ('{"apower": 4.5, "voltage": 230}', 4500),
        ('{"power": "4.5"}', 4500),
        ("-1", -1000),
        ("", None),
        ("no", None),
        ("nan", None),
        ('{"volt": 230}', None),
        ("[5]", None),
        ("true", None),
        ("1" + 400 * "0", None),
        pytest.param(50_000 * "[", None, id="deep"),
    ],
)
def test_a_line_says_watts(line: str, mw: float | None) -> None:
    assert line_mw(line) == (None if mw is None else pytest.approx(mw))


def test_a_key_leads_to_the_number() -> None:
    assert line_mw('{"ENERGY": {"Power": 7, "Total": 90}}', "ENERGY.Power") == 7000
    assert line_mw('{"ENERGY": 7}', "ENERGY.Power") is None


def test_a_topic_is_a_subscription() -> None:
    command, key = command_of("mqtt://plug.local:1884/flat/tasmota%20one/SENSOR?key=ENERGY.Power")
    assert command == ["mosquitto_sub", "-h", "plug.local", "-p", "1884", "-t", "flat/tasmota one/SENSOR"]
    assert key == "ENERGY.Power"
    assert command_of("command: read-watts --port '/dev/tty USB'")[0] == ["read-watts", "--port", "/dev/tty USB"]


@pytest.mark.parametrize(
    "said", ["mqtt://", "mqtt://host", "mqtt://host:no/t", "mqtt://-x/t", "mqtt://u:p@host/t", "cat x", "command: '"]
)
def test_words_that_are_no_wall_meter_are_refused(said: str) -> None:
    with pytest.raises(WallMeterError):
        command_of(said)


def test_a_meter_that_falls_silent_is_missing() -> None:
    lines, now_s = FakeLines(), [0.0]
    sensor = LineSensor(lines, line_mw, lambda: int(now_s[0] * 1e9))
    assert sensor.read() is None
    lines.said_now = ["4", "5"]
    first = sensor.read()
    assert first is not None
    assert first.value == 5000
    now_s[0] = 5.0
    assert sensor.read() == first
    now_s[0] = 5.1
    assert sensor.read() is None
    lines.said_now = ["5"]
    again = sensor.read()
    assert again is not None
    assert again.raw != first.raw, "the same watts said again are news"


def test_a_line_that_says_nothing_takes_the_figure_back() -> None:
    lines = FakeLines()
    sensor = LineSensor(lines, line_mw, lambda: 0)
    lines.said_now = ["5", "error"]
    assert sensor.read() is None


@pytest.mark.e2e
def test_a_command_is_run_and_ended() -> None:
    sensor = WallSensor(f"command: {sys.executable} -c 'import sys; print(12.5, flush=True); sys.stdin.read()'")
    reading = None
    while reading is None:
        reading = sensor.read()
    assert reading.value == 12_500
    sensor.close()
    assert not sensor._lines.running
