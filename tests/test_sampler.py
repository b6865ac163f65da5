"""However the meter's process behaves, the daemon knows how the meter stands, and energy only where that is certain."""

from __future__ import annotations

import msgspec
import pytest

from delen.clients.info import MeterState
from delen.daemon.config import Config
from delen.daemon.metering import Metering
from delen.daemon.sampler import SILENT_US, START_US, STUCK_US, Sampler
from delen.policies.view import NEVER_US
from delen.profiles.meter_lines import Lines
from delen.profiles.meter_process import Report
from delen.profiles.meters import UNKNOWN

STEP_US = 200_000


class FakeLines(Lines):
    """The sampler's process: says what a test puts into `said_now`."""

    def __init__(self) -> None:
        super().__init__(["sampler"], clock_ns=lambda: 0)
        self.said_now: list[str] = []
        self.alive, self.starts_now = False, True
        self.kills: list[str] = []

    @property
    def running(self) -> bool:
        return self.alive

    def take(self) -> list[str]:
        if self.starts_now:
            self.starts, self.alive, self.starts_now = self.starts + 1, True, False
        lines, self.said_now = self.said_now, []
        return lines

    def kill(self) -> None:
        self.kills.append("kill")

    def close(self) -> None:
        self.alive = False


class Rig:
    """A sampler on a process that a test speaks for, at a time the test tells."""

    def __init__(self, config: Config | None = None) -> None:
        self.lines = FakeLines()
        self.notes: list[str] = []
        self.metering = Metering()
        self.now_us = 50_000_000
        self.sampler = Sampler(config or Config(), self.metering, self.notes.append, self.now_us, self.lines)
        self._mj = 0.0
        self.span = 0

    def says(self, *reports: Report) -> None:
        """These, and some time later the loop looks."""
        self.lines.said_now += [msgspec.json.encode(report).decode() for report in reports]
        self.passes(STEP_US)

    def reads(self, power_mw: float = 5000.0, *, state: MeterState = "reading") -> None:
        """A fifth of a second of this power, told in two samples."""
        samples = []
        for part in (1, 2):
            self._mj += power_mw * 0.1
            samples.append((self.now_us + part * STEP_US // 2, self._mj, self.span))
        self.says(Report(state=state, samples=samples))

    def passes(self, us: int) -> None:
        self.now_us += us
        self.sampler.turn(self.now_us)

    def state(self) -> MeterState:
        return self.metering.info.state


def reading() -> Rig:
    rig = Rig()
    rig.says(Report(state="missing", model="INA3221 VDD_IN: the module", sample_s=0.01))
    for _ in range(3):
        rig.reads()
    return rig


def test_a_meter_that_reads_gives_energy_and_power() -> None:
    rig = reading()
    assert (rig.state(), rig.metering.info.source, rig.metering.info.model) == (
        "reading",
        "measured",
        "INA3221 VDD_IN: the module",
    )
    assert rig.metering.info.power_mw == pytest.approx(5000)
    energy = rig.sampler.energy(rig.now_us - 300_000, rig.now_us)
    assert energy.mj == pytest.approx(1500)
    assert energy.source == "measured"
    assert rig.sampler.energy(0, rig.now_us) == UNKNOWN


@pytest.mark.parametrize("state", ["missing", "frozen", "absurd", "slow", "backwards"])
def test_a_reading_that_is_not_believed_is_told_and_ends_what_is_known(state: MeterState) -> None:
    rig = reading()
    before_us = rig.now_us
    rig.says(Report(state=state))
    assert rig.state() == state
    assert (rig.metering.info.source, rig.metering.info.power_mw) == ("unknown", None)
    assert rig.metering.info.for_us == 0
    rig.passes(STEP_US)
    assert rig.metering.info.for_us == STEP_US
    rig.span += 1
    rig.reads()
    rig.reads()
    assert rig.state() == "reading"
    assert rig.sampler.energy(before_us, rig.now_us) == UNKNOWN
    assert rig.sampler.energy(rig.now_us - 200_000, rig.now_us).mj == pytest.approx(1000)
    assert [f"is {state}" in note for note in rig.notes].count(True) == 1, "said once"


def test_a_process_that_falls_silent_is_slow_and_in_the_end_killed() -> None:
    rig = reading()
    rig.passes(SILENT_US - 1)
    assert rig.state() == "reading"
    rig.passes(STEP_US)
    assert rig.state() == "slow"
    assert rig.lines.kills == []
    rig.passes(STUCK_US)
    assert rig.lines.kills == ["kill"]


def test_a_process_that_dies_is_missing_and_the_next_ones_totals_are_its_own() -> None:
    rig = reading()
    before_us = rig.now_us
    rig.lines.alive = False
    rig.passes(STEP_US)
    assert rig.state() == "missing"
    rig.lines.starts_now, rig._mj = True, 0.0
    rig.reads(1000)
    rig.reads(1000)
    assert rig.state() == "reading"
    assert rig.sampler.energy(before_us - 100_000, rig.now_us) == UNKNOWN
    assert rig.sampler.energy(rig.now_us - 200_000, rig.now_us).mj == pytest.approx(200)


def test_a_process_that_takes_long_to_start_is_waited_for() -> None:
    rig = Rig()
    rig.passes(START_US // 2)
    assert rig.state() == "missing"
    assert not rig.lines.kills


def test_without_a_meter_nothing_runs_and_nothing_is_due() -> None:
    rig = Rig()
    rig.says(Report(state="none"))
    assert rig.state() == "none"
    assert not rig.lines.alive
    assert rig.sampler.wake_at() == NEVER_US
    assert not rig.notes
    assert Sampler(Config(meter="none"), rig.metering, rig.notes.append, 0).wake_at() == NEVER_US


def test_a_meter_that_was_asked_for_and_is_not_there_says_why() -> None:
    rig = Rig(Config(meter="rapl"))
    rig.says(Report(state="missing", fault="meter rapl: [Errno 13] Permission denied"))
    rig.lines.alive = False
    rig.passes(STEP_US)
    assert rig.state() == "missing"
    rig.passes(STEP_US)
    assert rig.metering.info.power_mw is None
    assert ["Permission denied" in note for note in rig.notes] == [True]


def test_lines_that_are_no_reports_are_passed_over() -> None:
    rig = reading()
    rig.lines.said_now = ["", "{", '{"state": "excellent"}', '{"samples": [[1]]}', "\x00"]
    rig.passes(STEP_US)
    assert rig.state() == "reading"


def test_time_that_goes_backwards_in_a_report_is_no_sample() -> None:
    rig = reading()
    known = rig.sampler.energy(rig.now_us - 300_000, rig.now_us)
    rig.says(Report(samples=[(5, 1e9, rig.span)]))
    assert rig.sampler.energy(rig.now_us - 300_000 - STEP_US, rig.now_us - STEP_US) == known
