"""Giving way: which runs are asked to yield at their next exit to a request that has just come.

Role: one function over what the device has and what waits. What a run must do for deadlines of its own is left alone:
whoever was admitted after it can wait for that. Does not: decide what runs instead.
"""

from __future__ import annotations

from ..policies import load
from ..policies.view import NEVER_US, Waiting
from .backlog import Backlog
from .device import Device
from .records import Effect, Flight, Yield


def preempt(device: Device, backlog: Backlog, now_us: int, urgent: Waiting) -> list[Effect]:
    """Ask runs to give way: audits to everybody; best effort, and work beyond a tenant's share, to anybody bounded;
    other work to a deadline that could not wait for it."""
    effects: list[Effect] = []
    for flight in device.flights():
        if flight.yielding or flight.yield_at_us is not None or not _gives_way(flight, device, backlog, now_us, urgent):
            continue
        if flight is device.running and now_us < flight.ask_us:
            flight.yield_at_us = flight.ask_us
            continue
        flight.yielding = True
        effects.append(Yield(flight.run.id))
    return effects


def _gives_way(flight: Flight, device: Device, backlog: Backlog, now_us: int, urgent: Waiting) -> bool:
    if flight.audit:
        return True
    if not urgent.bounded or urgent.spare:
        return False
    if not flight.bounded:
        return True
    if urgent.deadline_us == NEVER_US or urgent.spare:
        return False
    if flight.timed and (flight.must_us >= flight.ends_us or flight is device.posted):
        return False
    return load.slack_us(backlog.work(), max(now_us, flight.ends_us)) < 0
