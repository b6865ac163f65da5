"""What the one device has: the run it executes, and the one posted behind it.

Role: the part of the core that knows when the device is free, when it wants another run, and when a run takes far too
long. Does not: choose runs or end requests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import structs

from ..policies.device_clock import DeviceClock
from ..policies.power_cap import PowerCap, run_mj
from ..policies.view import NEVER_US, Choice, Run, Served, Waiting
from .config import Limits
from .records import Flight, Request


class Device:
    """Runs posted to the device, in order; at most two."""

    def __init__(self, limits: Limits, ahead_us: int, *, yields: bool = True) -> None:
        """`ahead_us`: how long before a run's end the next one is posted; 0: only when the device is idle.

        `yields`: runs are asked to give way at their exits.
        """
        self.running: Flight | None = None
        self.posted: Flight | None = None
        self._limits = limits
        self._ahead_us = ahead_us
        self._yields = yields
        self._cap = PowerCap(limits.power_w_max) if limits.power_w_max else None
        self.power_us = 0
        self.lessons: list[tuple[Flight, int]] = []
        self._ready = False
        self._ready_us: int | None = None
        self._last_id = 0

    @property
    def ready(self) -> bool:
        return self._ready

    def flights(self) -> tuple[Flight, ...]:
        """What it has, in the order it runs."""
        if self.running is None:
            return ()
        return (self.running,) if self.posted is None else (self.running, self.posted)

    def holds(self, ticket: int) -> bool:
        """Whether this request is in one of its runs."""
        running, posted = self.running, self.posted
        return (running is not None and ticket in running.rows) or (posted is not None and ticket in posted.rows)

    def left(self, request: Request) -> None:
        """It is wanted no more; where a run has it, it may yet be what the worker dies of."""
        for flight in self.flights():
            if request.waiting.ticket in flight.rows:
                flight.left.append(request)

    def find(self, run_id: int) -> Flight | None:
        """The run of this number; None for runs long lost."""
        if self.running is not None and self.running.run.id == run_id:
            return self.running
        return self.posted if self.posted is not None and self.posted.run.id == run_id else None

    def start_us(self, now_us: int) -> int | None:
        """When a run posted now would start; None if none may be posted."""
        if not self._ready or self.posted is not None:
            return None
        running = self.running
        if running is None:
            return now_us
        if not self._ahead_us or running.looked_ahead or now_us < running.likely_us - self._ahead_us:
            return None
        return None if self._shares_half() else max(now_us, running.likely_us)

    def _shares_half(self) -> bool:
        """Whether the next run's inputs would lie where those of the run that executes still do.

        Odd and even runs take turns in the memory that they are laid down in (arena.py). With several workers the one
        posted behind may be over first; another worker's, so that the next could only follow on the wrong side.
        """
        return self.running is not None and (self._last_id - self.running.run.id) % 2 == 1

    def within_power(self, choice: Choice, now_us: int) -> Choice:
        """The run as far as the device's power allows; or none, and when to ask again."""
        return choice if self._cap is None else self._cap.trim(choice, now_us)

    def has_power(self, now_us: int, networks: Iterable[Served]) -> bool:
        """Whether there is enough for one row to the last exit of any of these; if not, `power_us` is when to ask."""
        if self._cap is None:
            return True
        most_mj = max([run_mj(served.costs, 0, [served.exit_last]) for served in networks], default=0.0)
        if self._cap.has_room(now_us, most_mj):
            return True
        self.power_us = self._cap.later_us()
        return False

    def reaches(self, now_us: int, served: Served, stage: int, rows: int) -> int | None:
        """How far so many rows of work that can wait may go; None: not at all, and `power_us` is when to ask again."""
        stop = len(served.costs.accuracy) - 1
        if self._cap is None:
            return stop
        last = self._cap.reaches(now_us, served.costs, stage, [stop] * rows)
        if last is None:
            self.power_us = self._cap.later_us()
        return last

    def looked(self) -> None:
        """Nothing was found to post behind what it runs."""
        if self.running is not None:
            self.running.looked_ahead = True

    def look_again(self) -> None:
        """Somebody new waits, so there may be something to post ahead."""
        if self.running is not None:
            self.running.looked_ahead = False

    def free_us(self, now_us: int) -> int:
        """When a request with a deadline could start: work that nobody needs gives way at its next exit."""
        if not self._ready:
            return max(now_us, self._ready_us if self._ready_us is not None else now_us)
        free_us = now_us if self._cap is None else self._cap.free_us(now_us)
        for flight in self.flights():
            ends_us, late_us = flight.ends_us, 0
            if self.running is not None and flight is self.posted:
                # What is posted behind a run that is late begins as much later.
                late_us = max(0, now_us - self.running.likely_us)
            if ends_us + late_us <= free_us:
                continue
            if self._yields:
                # Asked while it does what it must, it ends with that; later, at its next exit.
                at_us = now_us - late_us
                ends_us = min(ends_us, flight.must_us if at_us < flight.must_us else _left_us(flight, at_us))
            free_us = max(free_us, ends_us + late_us)
        return free_us

    def wake_at(self) -> int:
        """When something is due here: a run overdue, one that should yield, or the time to post the next."""
        running = self.running
        if running is None:
            return NEVER_US
        return running.overdue_us if running.yield_at_us is None else min(running.overdue_us, running.yield_at_us)

    def post_at(self) -> int:
        """When the next run may be posted, while one executes; NEVER_US if there is nothing to wait for."""
        running = self.running
        if running is None or self.posted is not None or not self._ahead_us or running.looked_ahead:
            return NEVER_US
        if self._shares_half():
            return NEVER_US
        return running.likely_us - self._ahead_us

    def post(self, flight: Flight) -> None:
        """Take note of a run just posted."""
        flight.overdue_us = self._overdue_us(flight)
        self._last_id = flight.run.id
        if self._cap is not None:
            self._cap.post(flight.run, flight.served)
        if flight.clock is not None:
            flight.clock.begin(flight.run.clock_khz, flight.posted_us, flight.top_us)
        if self.running is None:
            self.running = flight
        else:
            self.posted = flight

    def over(self, flight: Flight, now_us: int) -> None:
        """This run has ended; the one behind it has begun."""
        if self._cap is not None:
            self._cap.over(flight.run.id, now_us)
        if flight is self.posted:
            self.posted = None
            return
        self.running, self.posted = self.posted, None
        if self.running is not None:
            begun, shift_us = self.running, now_us - self.running.posted_us
            begun.posted_us = now_us
            begun.likely_us += now_us + begun.run.predicted_us - begun.ends_us
            begun.ends_us = now_us + begun.run.predicted_us
            begun.must_us += shift_us
            begun.ask_us += shift_us
            begun.overdue_us = self._overdue_us(begun)

    def passed(self, flight: Flight, exit_index: int, now_us: int) -> None:
        """A run is past this exit and goes on: what is left of it has its own time, whatever was left of the last's."""
        if flight is not self.running or flight.audit or flight.canary:
            return
        stop = max([row.stop for row in flight.rows.values()], default=0)
        if stop > exit_index:
            left_us = flight.served.time_us(exit_index + 1, stop, len(flight.rows), flight.run.clock_khz)
            limits = self._limits
            flight.overdue_us = now_us + max(limits.run_ms_min * 1000, int(limits.run_factor_max * left_us))

    def done(self, flight: Flight, now_us: int) -> None:
        """This run has ended and did what it should: its network's times will follow it, see `learn`."""
        self.over(flight, now_us)
        flight.served.ran_us = now_us
        self.lessons.append((flight, now_us))

    def learn(self) -> None:
        """Networks' times follow the runs that are done; before anybody looks at them, see `Server.learn`."""
        if not self.lessons:
            return
        for flight, now_us in self.lessons:
            flight.served.correction.observe(flight.profiled_us, flight.observed_us)
            flight.served.ran(now_us - flight.posted_us - flight.switch_us - flight.observed_us)
        self.lessons.clear()

    def up(self, now_us: int) -> None:
        """It can take runs."""
        self._ready, self._ready_us = True, now_us

    def _overdue_us(self, flight: Flight) -> int:
        limits = self._limits
        return flight.posted_us + max(limits.run_ms_min * 1000, int(limits.run_factor_max * flight.run.predicted_us))

    def lost_of(self, keys: Collection[str], now_us: int) -> tuple[Flight | None, Flight | None]:
        """The worker of these networks is gone, others are not; returns what it was running and what was posted."""
        running, posted = self.running, self.posted
        if posted is not None and posted.run.network in keys:
            self.posted = None
            if self._cap is not None:
                self._cap.over(posted.run.id, now_us)
        else:
            posted = None
        if running is None or running.run.network not in keys:
            return None, posted
        self.over(running, now_us)
        return running, posted

    def lost(self, ready_us: int) -> tuple[Flight | None, Flight | None]:
        """It is gone, with all it had; returns what it was running and what was posted behind."""
        gone = self.running, self.posted
        if self._cap is not None:
            self._cap.lost()
        self.running = self.posted = None
        self._ready, self._ready_us = False, ready_us
        return gone


def flight_of(choice: Choice, requests: dict[int, Request], start_us: int) -> Flight:
    """A run about to be posted that will start at `start_us`."""
    run, members = choice.run, choice.members
    assert run is not None
    served, rows = members[0].served, run.rows
    timed, bounded = [], False
    for member in members:
        if not member.spare:
            bounded = bounded or member.bounded
            if member.deadline_us < NEVER_US and not member.optional:
                timed.append(member)
    clock, top_us, switch_us = choice.clock, 0.0, 0
    if clock is not None:
        top_us = served.costs.path_us(run.first, max([row.stop for row in rows]), len(rows))
        switch_us = clock.switch_to_us(run.clock_khz)
    before_us, must_us = _must_us(served, timed, run, switch_us)
    path_end_us = run.predicted_us - switch_us
    return Flight(
        run=run,
        rows={row.ticket: row for row in rows},
        owners={row.ticket: requests[row.ticket].tenant for row in rows},
        posted_us=start_us,
        ends_us=start_us + run.predicted_us,
        likely_us=start_us + switch_us + int((path_end_us - served.hop_us) / (1 + served.correction.margin)),
        must_us=start_us + must_us,
        ask_us=start_us + before_us,
        served=served,
        bounded=bounded or bool(timed),
        timed=bool(timed),
        overdue_us=NEVER_US,
        clock=clock,
        top_us=top_us,
        switch_us=switch_us,
    )


def as_it_is(flight: Flight, clock: DeviceClock | None) -> None:
    """A run that nobody waits for takes the clock that it finds, and is reckoned and learnt from by that."""
    if clock is not None and clock.next_khz in flight.served.at_khz:
        flight.run = structs.replace(flight.run, clock_khz=clock.next_khz)


def _left_us(flight: Flight, now_us: int) -> int:
    """When a run is left that is asked now: at the first exit it has not passed yet, if all goes as it mostly does."""
    served, run, batch = flight.served, flight.run, len(flight.run.rows)
    costs, wait_us = served.costs_at(run.clock_khz), served.hop_us + flight.switch_us
    for last in range(run.first, max([row.stop for row in run.rows])):
        path_us = costs.path_us(run.first, last, batch)
        if now_us < flight.posted_us + wait_us + path_us * served.correction.mu:
            return flight.posted_us + int(wait_us + path_us * served.correction.factor) + 1
    return flight.ends_us


def _must_us(served: Served, timed: list[Waiting], run: Run, switch_us: int) -> tuple[int, int]:
    """When to ask a run to yield so that it does all that deadlines need and no more, and when that is done.

    A run looks whether it is asked at the end of each segment, so it is asked a quarter into the last that it must run.
    """
    if not timed:
        return 0, 0
    last = max([member.expected for member in timed])
    first, batch, khz = run.first, len(run.rows), run.clock_khz
    before_us = switch_us + served.time_us(first, last - 1, batch, khz) if last > first else 0
    must_us = switch_us + served.time_us(first, last, batch, khz)
    return before_us + (must_us - before_us) // 4, must_us


def pays_ahead(choice: Choice) -> bool:
    """Whether posting it early saves more than one more row in its batch would.

    Who comes meanwhile, or leaves the run that executes, is no company for it any more; what it saves is the hop.
    """
    members, run = choice.members, choice.run
    assert run is not None
    if choice.clock is not None and run.clock_khz != choice.clock.next_khz:
        # The clock is the device's: what executes now has it as it is.
        return False
    served, first, stop = members[0].served, run.first, max([row.stop for row in run.rows])
    count = len(members)
    if members[0].alone or count >= served.batch_useful[stop]:
        return True
    costs = served.costs
    apart_us = costs.path_us(first, stop, count) + costs.path_us(first, stop, 1)
    return served.hop_us >= (apart_us - costs.path_us(first, stop, count + 1)) * served.correction.mu
