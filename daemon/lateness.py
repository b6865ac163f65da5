"""Requests whose time is up in the queue: their deadline, the last moment to go deeper, or all that may be waited for.

Role: the part of the core that decides what those get. Flow: `Server.expire` -> `time_is_up` -> an end, or back into
the queue, marked as late. Does not: know when that is; `requests.py` does.
"""

from __future__ import annotations

from ..clients.wire import Stop
from .endings import failure, give_up_us, untried
from .losses import Answers, End, Parts
from .records import Effect, Request


class Lateness:
    """Ends requests in time, or lets them go on late. `demotes`: the policy serves those that are late."""

    def __init__(self, parts: Parts, end: End, answer: Answers, *, demotes: bool) -> None:
        self._parts = parts
        self._end = end
        self._answer = answer
        self._demotes = demotes
        self._hold_us = parts.limits.hold_ms * 1000
        self._suspect_us = parts.limits.suspect_ms * 1000

    def time_is_up(self, now_us: int, request: Request) -> list[Effect]:
        """A deadline has passed in the queue, or the last time at which something else could have begun."""
        requests, backlog, device = self._parts.requests, self._parts.backlog, self._parts.device
        waiting, wanted = request.waiting, request.asked
        if device.holds(waiting.ticket):
            return []
        if request.dropped:
            said = "it could not have been answered within its latency bound any more"
            return self._end(request, failure(request, "deadline", said), forget=True)
        if now_us >= request.tried_by_us:
            if backlog.holds_back(waiting):
                return self._untried(now_us, request)
            # Its turn comes, unless something happens again.
            request.tried_by_us = now_us + self._suspect_us
            requests.due(request.tried_by_us, waiting.ticket)
            if wanted.latency_ms is None or now_us < waiting.arrival_us + int(wanted.latency_ms * 1000):
                return []
        if waiting.optional:
            if now_us < (until_us := give_up_us(waiting, self._hold_us)):
                # The device has become faster since, so there is time for one more segment a little longer.
                requests.due(until_us, waiting.ticket)
                return []
            backlog.remove(waiting)
            reason: Stop = "deadline" if wanted.latency_ms is not None else "fairness"
            return self._end(request, self._answer(request, reason, now_us), forget=True)
        return self._late(now_us, request) if self._demotes else []

    def _untried(self, now_us: int, request: Request) -> list[Effect]:
        """It was held back for as long as may be."""
        waiting = request.waiting
        self._parts.backlog.remove(waiting)
        # What it gets now does not clear its input.
        request.suspect = False
        at_hand = waiting.last_reached >= 0 and request.asked.on_miss == "answer"
        ended = self._answer(request, "deadline", now_us) if at_hand else untried(request)
        return self._end(request, ended, forget=True)

    def _late(self, now_us: int, request: Request) -> list[Effect]:
        backlog, waiting, wanted = self._parts.backlog, request.waiting, request.asked
        backlog.remove(waiting)
        if wanted.on_miss == "drop":
            said = "its latency bound passed in the queue"
            return self._end(request, failure(request, "deadline", said), forget=True)
        if waiting.last_reached >= 0:
            return self._end(request, self._answer(request, "deadline", now_us), forget=True)
        request.late = True
        waiting.demote(now_us)
        backlog.add(waiting)
        return []
