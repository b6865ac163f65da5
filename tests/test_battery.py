"""A battery as it tells of itself: what it says is believed where it can be, and said where it cannot."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from delen.daemon.battery import BatteryWatch
from delen.daemon.battery_config import BatteryConfig, battery_command
from delen.daemon.config import Limits
from delen.daemon.server import Server
from delen.profiles.meter_lines import Lines

SECOND_US = 1_000_000
HOURLY = BatteryConfig(source="file: b.json", reserve_j=100.0, for_s=3600.0)


class Said(Lines):
    """Lines that a test puts there."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.said, self.ended = "", False

    def take(self) -> list[str]:
        """What was put there since."""
        taken, self.waiting = self.waiting, []
        return taken

    @property
    def running(self) -> bool:
        return not self.ended

    def close(self) -> None:
        self.ended = True


def watched(config: BatteryConfig = HOURLY, wall_s: float = 0.0) -> tuple[Server, Said, list[str], BatteryWatch]:
    server, said, noted = Server(Limits()), Said(), list[str]()
    return server, said, noted, BatteryWatch(config, server, noted.append, lambda: wall_s, said)


def test_what_it_holds_less_the_reserve_is_to_last() -> None:
    server, said, noted, watch = watched()
    said.waiting = ['{"energy_j": 50}', '{"energy_j": 460, "harvest": [[1800, 0.5]]}']
    watch.turn(10 * SECOND_US)
    battery = server.ledger.budgets.device
    assert battery is not None
    assert battery.horizon is not None
    assert battery.horizon.left_mj == pytest.approx(360_000)
    # 360 J and 900 to come in an hour.
    assert battery.allow_mw(10 * SECOND_US) == pytest.approx(350)
    battery.spend(11 * SECOND_US, 1000.0)
    said.waiting = ['{"energy_j": 400}']
    watch.turn(12 * SECOND_US)
    assert server.ledger.budgets.device is battery
    assert battery.horizon.left_mj == pytest.approx(300_000)
    assert battery.horizon.until_us == 3612 * SECOND_US
    assert noted == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("charging", "says nothing of a battery"),
        ('{"energy_j": -5}', "energy_j is -5; expected joules, from 0"),
        ('{"energy_j": 1e306}', "energy_j is 1e+306"),
        ('{"energy_j": 1' + 400 * "0" + "}", "says nothing of a battery"),
        ('{"energy_j": 5, "volts": 12}', "volts"),
        ('{"energy_j": 5, "harvest": [[60, 1], [30, 1]]}', "later than the one before"),
        ('{"energy_j": 5, "harvest": [[60, -1]]}', "harvest has [60, -1]"),
        # Beyond what a journal can write down.
        ('{"energy_j": 5, "harvest": [[1e300, 1]]}', "harvest has [1e+300, 1]"),
        ('{"energy_j": 5, "harvest": [[60, 1e306]]}', "harvest has [60, 1e+306]"),
    ],
)
def test_what_cannot_be_is_said_once_and_changes_nothing(line: str, fault: str) -> None:
    server, said, noted, watch = watched()
    for second in (1, 2):
        said.waiting = [line]
        watch.turn(second * SECOND_US)
    assert len(noted) == 1
    assert fault in noted[0]
    assert server.ledger.budgets.device is None


def test_a_horizon_in_the_past_is_said() -> None:
    until = datetime(2027, 1, 1, tzinfo=timezone.utc)
    config = BatteryConfig(source="command: tell-battery", until=until)
    _, said, noted, watch = watched(config, until.timestamp() + 5)
    for second in (1, 2, 3):
        said.waiting = ['{"energy_j": 5}']
        watch.turn(second * SECOND_US)
    assert "has passed" in noted[0]
    assert len(noted) == 1


def test_a_command_that_ends_is_said() -> None:
    _, said, noted, watch = watched()
    said.said, said.ended = "cat ended with 1", True
    watch.turn(SECOND_US)
    assert noted == ["battery: cat ended with 1; it is tried again"]


def test_a_command_that_hangs_is_said_and_what_was_known_stands() -> None:
    server, said, noted, watch = watched()
    said.waiting = ['{"energy_j": 460}']
    watch.turn(SECOND_US)
    watch.turn(101 * SECOND_US)
    assert noted == []
    for second in (102, 200, 300):
        watch.turn(second * SECOND_US)
    assert noted == ["battery: nothing is said of it for 100 s; what was said last stands"]
    assert server.ledger.budgets.device is not None
    for second in (301, 302):
        said.waiting = ['{"energy_j": 400}']
        watch.turn(second * SECOND_US)
    watch.turn(403 * SECOND_US)
    assert len(noted) == 2


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (BatteryConfig(reserve_j=1.0), "battery.source is missing"),
        (BatteryConfig(source="solar"), "battery.source is 'solar'; expected"),
        (BatteryConfig(source="command:", for_s=1.0), "expected a command behind it"),
        (BatteryConfig(source="file: x", reserve_j=-1.0, for_s=1.0), "battery.reserve_j is -1"),
        (BatteryConfig(source="file: x"), "needs until or for_s"),
        (BatteryConfig(source="file: x", until=datetime(2027, 1, 1)), "has no time zone"),
        (BatteryConfig(source="file: x", for_s=-3.0), "battery.for_s is -3"),
        (BatteryConfig(source="file: x", for_s=1e300), "battery.for_s is 1e+300"),
        (BatteryConfig(source="file: x", for_s=1.0, every_s=1e300), "battery.every_s is 1e+300"),
        (BatteryConfig(source="file: x", for_s=1.0, reserve_j=1e306), "battery.reserve_j is 1e+306"),
        (BatteryConfig(source="file: x", for_s=1.0, reserve_j=float("nan")), "battery.reserve_j is nan"),
    ],
)
def test_a_configuration_that_cannot_be_is_said(config: BatteryConfig, fault: str) -> None:
    assert fault in (config.fault() or "")


def test_a_sound_configuration_has_no_fault() -> None:
    assert HOURLY.fault() is None
    assert BatteryConfig().fault() is None
    assert battery_command("command: tell --now") == ["tell", "--now"]
