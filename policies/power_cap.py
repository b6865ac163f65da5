"""The power the device may draw for requests: no second takes more than the cap allows.

Role: `trim` cuts a run that was chosen to as many segments as there is room for, or says when there will be; `post` and
`over` keep the books. A run counts in full from its start until a window after its end, so the sum over any window is
never less than what was drawn in it. A single segment that takes more than a second's worth has a second to itself.
Does not: choose runs, or know what the device draws idle.
"""

from __future__ import annotations

from collections import deque

from msgspec import structs

from ..profiles.costs import Costs
from . import batches
from .view import NEVER_US, Choice, Run, Served

WINDOW_US = 1_000_000
# mJ that a watt is in a window.
MJ_PER_W = WINDOW_US * 1e-3


class PowerCap:
    """`cap_w`: watts beyond idle."""

    __slots__ = ("_cap_mj", "_done", "_lost_mj", "_running", "cap_w")

    def __init__(self, cap_w: float) -> None:
        self.cap_w = cap_w
        self._cap_mj = cap_w * MJ_PER_W
        # What runs that have ended drew, and when; and of those that run, by id.
        self._done: deque[tuple[int, float]] = deque()
        self._running: dict[int, float] = {}
        self._lost_mj = 0.0

    def room_mj(self, now_us: int) -> float:
        """What may begin now."""
        done = self._done
        if self._lost_mj:
            done.append((now_us, self._lost_mj))
            self._lost_mj = 0.0
        while done and done[0][0] + WINDOW_US <= now_us:
            done.popleft()
        return self._cap_mj - sum([mj for _, mj in done]) - sum(self._running.values())

    def free_us(self, now_us: int) -> int:
        """When something may begin; a window from now where that hangs on what runs."""
        if self.room_mj(now_us) > 0:
            return now_us
        later_us = self.later_us()
        return later_us if later_us < NEVER_US else now_us + WINDOW_US

    def trim(self, choice: Choice, now_us: int) -> Choice:
        """The run as far as its segments but the last have room; or none, and when to look again."""
        run = choice.run
        if run is None:
            return choice
        served, stops = choice.members[0].served, [row.stop for row in run.rows]
        last = self.reaches(now_us, served.costs_at(run.clock_khz), run.first, stops)
        if last is None:
            return Choice(None, (), (), self.later_us())
        if last >= max(stops):
            return choice
        return _cut(choice, run, served, last)

    def reaches(self, now_us: int, costs: Costs, first: int, stops: list[int]) -> int | None:
        """The last segment there is room for, of rows that leave where they stop; None where there is none for any."""
        if costs.segment_mj is None or costs.head_mj is None:
            return max(stops)
        room_mj = self.room_mj(now_us)
        return _last(costs, first, stops, room_mj, empty=room_mj >= self._cap_mj)

    def has_room(self, now_us: int, most_mj: float) -> bool:
        """Whether that much may begin now, in one piece; what takes more than a second's worth waits for all of it."""
        return self.room_mj(now_us) >= min(most_mj, self._cap_mj)

    def post(self, run: Run, served: Served) -> None:
        """This run begins."""
        self._running[run.id] = run_mj(served.costs_at(run.clock_khz), run.first, [row.stop for row in run.rows])

    def over(self, run_id: int, now_us: int) -> None:
        """It has ended, whatever it did of what it should."""
        drawn_mj = self._running.pop(run_id, None)
        if drawn_mj is not None:
            self._done.append((now_us, drawn_mj))

    def lost(self) -> None:
        """Nothing runs any more; when that ended nobody knows, so it is taken to be the next moment anybody asks."""
        self._lost_mj += sum(self._running.values())
        self._running.clear()

    def later_us(self) -> int:
        """When the first of what was drawn is a window ago; NEVER_US: that hangs on what runs."""
        return self._done[0][0] + WINDOW_US if self._done else NEVER_US


def _cut(choice: Choice, run: Run, served: Served, last: int) -> Choice:
    """The same to no further than `last`, at the same clock."""
    stops, khz, clock = [min(row.stop, last) for row in run.rows], run.clock_khz, choice.clock
    takes_us = batches.run_us(served, run.first, stops, khz)
    cut = batches.choice(run.id, choice.members, stops, takes_us, anytime=bool(run.stop_by_us))
    if clock is None or cut.run is None:
        return cut
    takes_us += clock.switch_to_us(khz)
    segments_us = run.segments_us[: last + 1] if cut.run.segments_us else ()
    at_khz = structs.replace(cut.run, segments_us=segments_us, predicted_us=takes_us, clock_khz=khz)
    return cut._replace(run=at_khz, clock=clock)


def run_mj(costs: Costs, first: int, stops: list[int]) -> float:
    """What a run of rows that leave where they stop takes by the profile, all heads on the way included; 0: unknown."""
    if costs.segment_mj is None or costs.head_mj is None:
        return 0.0
    drawn_mj = 0.0
    for index in range(first, max(stops) + 1):
        staying = sum([stop >= index for stop in stops])
        drawn_mj += costs.segment_mj[index][staying] + costs.head_mj[index][staying]
    return drawn_mj


def _last(costs: Costs, first: int, stops: list[int], room_mj: float, *, empty: bool) -> int | None:
    """The last segment there is room for; None where there is none for any. `empty`: nothing else was drawn."""
    assert costs.segment_mj is not None
    assert costs.head_mj is not None
    drawn_mj, last = 0.0, None
    for index in range(first, max(stops) + 1):
        staying = sum([stop >= index for stop in stops])
        drawn_mj += costs.segment_mj[index][staying] + costs.head_mj[index][staying]
        if drawn_mj > room_mj and not (empty and last is None):
            break
        last = index
    return last
