"""What to run next and at which GPU clock: the default policy's run, at the clock that takes least energy in the time.

Role: exits are picked as `stage_edf.py` does, with times of the highest clock, so that nobody gets a shallower answer
or is refused because the device could run slower. Then the run gets the clock that takes least energy among those at
which its own deadlines hold, everybody else's slack is not spent, and the device keeps up with what is asked of it.

Flow: `StageEdf.choose` -> the run's time and energy at every clock -> the cheapest that fits; a clock is kept for its
dwell unless time is short. Counted beside the run's energy: `awake_mw`, what the rest of the board draws only while
there is work (it favours being done soon), less `idle_mw`, what the measured rail draws while there is none (it favours
going slow). Source: ALGORITHMS of energy, clocks and exits together; differs: per run, with use of the device a limit.

Does not: set the clock (the driver does), or slow down one segment of a run and not another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from ..profiles.costs import Costs
from . import load
from .device_clock import DeviceClock
from .policy_options import expect_within
from .pools import View
from .stage_edf import StageEdf, StageOptions
from .view import NEVER_US, Choice, Run, Served, Waiting

MJ_PER_US_OF_A_MW = 1e-6


class ClockOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`idle_mw`, `awake_mw`: see above. `use_max`: how much of the device may be in use at a lower clock.

    `slack_share`: of the time that waiting work could wait, how much one run may take by being slow. `stage`: options
    of the default policy.
    """

    idle_mw: float = 0.0
    awake_mw: float = 0.0
    use_max: float = 0.8
    slack_share: float = 0.7
    stage: StageOptions = StageOptions()

    def __post_init__(self) -> None:
        expect_within(self, ("idle_mw", "awake_mw"), 0)
        expect_within(self, ("use_max", "slack_share"), 0, 1)


def device_clock(networks: Iterable[Served], switch_us: int, dwell_us: int) -> DeviceClock | None:
    """The clock of a device that serves these: the steps at which all that know their clock know their costs."""
    known = [set(served.at_khz) for served in networks if served.at_khz]
    steps = tuple(sorted(set.intersection(*known))) if known else ()
    return DeviceClock(steps, steps[-1], switch_us, dwell_us) if len(steps) > 1 else None


class Way(NamedTuple):
    """A run at one clock: how long it takes in nearly all cases, what it draws, and what it costs beside idling, mJ."""

    khz: int
    takes_us: int
    drawn_mj: float
    cost_mj: float


class ClockEdf:
    """The default policy with a clock for every run."""

    name = "clock"
    admits = True
    demotes = True
    by_arrival = False
    reactive = False

    def __init__(self, options: ClockOptions | None = None) -> None:
        self.options = ClockOptions() if options is None else options
        self._stage = StageEdf(self.options.stage)
        self.preempts = self._stage.preempts

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        """Pick the next run and its clock; without clocks to pick from, as the default policy does.

        Cost: that of the default policy, and some 10 us for nine clocks.
        """
        choice = self._stage.choose(view, now_us, run_id)
        clock = view.clock
        if choice is None or choice.run is None or clock is None:
            return choice
        served = choice.members[0].served
        if not served.at_khz or served.costs.segment_mj is None:
            # What another run has set must not slow down one whose times are known at the highest alone.
            return _highest(choice, choice.run, clock)
        return self._clocked(view, choice, clock, now_us)

    def _clocked(self, view: View, choice: Choice, clock: DeviceClock, now_us: int) -> Choice:
        run, members = choice.run, choice.members
        assert run is not None
        served, stops = members[0].served, [row.stop for row in run.rows]
        top = clock.steps_khz[-1]
        ways = [self._way(served, run.first, stops, khz, clock) for khz in clock.steps_khz if khz in served.at_khz]
        if not ways or ways[-1].khz != top:
            return _highest(choice, run, clock)
        # Bounds and budgets were reckoned with the highest clock: none is taken at which a run draws more than there.
        ways = [way for way in ways if way.drawn_mj <= ways[-1].drawn_mj]
        stretch = self._stretch_max(view, members, now_us, ways[-1].takes_us)
        use = clock.use(now_us)
        if use > 0:
            # The device must have time for all that was asked of it of late if everything runs as slow.
            stretch = min(stretch, self.options.use_max / use)
        fits = [way for way in ways if way.takes_us <= stretch * ways[-1].takes_us]
        way = min(fits, key=lambda one: one.cost_mj) if fits else ways[-1]
        if way.khz < clock.next_khz and clock.dwells(now_us):
            # Not down again already; as it is, or as near above as a clock may be set now, which is fast enough for
            # whatever a slower one is enough for.
            way = next((one for one in ways if one.khz >= clock.next_khz), ways[-1])
        return choice._replace(run=_at(run, way, served, ways[-1]), clock=clock)

    def _stretch_max(self, view: View, members: Sequence[Waiting], now_us: int, top_us: int) -> float:
        """How many times as long as at the highest clock all that waits may take, this run first.

        Of the time left to each deadline only a share is used, since others will come; who is alone has all of it.
        """
        own_us = min([member.deadline_us for member in members])
        stretch = (own_us - now_us) / top_us
        work = load.in_order([pool.chunks for pool in view.timed.values() if pool.members])
        first = members[0]
        inside = first.deadline_us < NEVER_US and not first.optional and not first.spare
        if inside and len(work) == 1:
            return stretch
        # Otherwise its time comes on top of that of the work with deadlines.
        done_us = 0.0 if inside else float(top_us)
        for _, deadline_us, path_us, served, _, _ in work:
            done_us += served.hop_us + path_us * served.correction.factor
            left_us = self.options.slack_share * (deadline_us - now_us)
            if left_us < stretch * done_us:
                stretch = left_us / done_us
        return stretch

    def _way(self, served: Served, stage: int, stops: Sequence[int], khz: int, clock: DeviceClock) -> Way:
        takes_us, drawn_mj = _cost(served.at_khz[khz], stage, stops)
        switch_us = clock.switch_to_us(khz)
        # While it changes it draws what it draws at work, and does none.
        energy_mj = drawn_mj + drawn_mj * switch_us / takes_us
        likely_us = takes_us * served.correction.mu + switch_us
        cost_mj = energy_mj + (self.options.awake_mw - self.options.idle_mw) * MJ_PER_US_OF_A_MW * likely_us
        return Way(khz, int(served.hop_us + switch_us + takes_us * served.correction.factor) + 1, drawn_mj, cost_mj)


def _cost(costs: Costs, stage: int, stops: Sequence[int]) -> tuple[float, float]:
    """Profiled time and energy of rows that leave where they stop."""
    assert costs.segment_mj is not None
    assert costs.head_mj is not None
    us = energy_mj = 0.0
    for index in range(stage, max(stops) + 1):
        staying = sum([stop >= index for stop in stops])
        us += costs.segment_us[index][staying]
        energy_mj += costs.segment_mj[index][staying]
        leaving = sum([stop == index for stop in stops])
        if leaving:
            us += costs.head_us[index][leaving]
            energy_mj += costs.head_mj[index][leaving]
    return us, energy_mj


def _highest(choice: Choice, run: Run, clock: DeviceClock) -> Choice:
    """The run at the highest clock, which is the one that its times are for."""
    top_khz = clock.steps_khz[-1]
    predicted_us = run.predicted_us + clock.switch_to_us(top_khz)
    run = msgspec.structs.replace(run, predicted_us=predicted_us, clock_khz=top_khz)
    return choice._replace(run=run, clock=clock)


def _at(run: Run, way: Way, served: Served, top: Way) -> Run:
    """The run at this clock: its times are those it takes there."""
    segments_us = run.segments_us
    if segments_us and way.khz != top.khz:
        block_us, factor = served.at_khz[way.khz].block_us[len(run.rows)], served.correction.factor
        segments_us = tuple([int(us * factor) + 1 for us in block_us[: len(segments_us)]])
    return msgspec.structs.replace(run, segments_us=segments_us, predicted_us=way.takes_us, clock_khz=way.khz)
