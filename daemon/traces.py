"""The last requests of each tenant in detail, and their place in traces that go through several programs.

Role: `TraceRing` keeps the trails of requests that ended, so many and no more, and turns them into records only when
somebody asks; keeping one costs less than a microsecond. `child` continues a caller's W3C trace. Pure.
Flow: server -> `Ended.trail` -> desk -> `TraceRing.add`; a `traces` message -> `TraceRing.page`.

Does not: know what was refused (it never ran), or draw anything (`clients/gateway_trace.py`).
"""

from __future__ import annotations

import re
from collections import deque
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from ..clients.info import RequestTrace, StepTrace
from ..clients.wire import Answer, Failure
from .records import Trail

# Roughly what a reply's header may hold, and what its parts take there.
PAGE_BYTES = 40_000
REQUEST_BYTES, STEP_BYTES = 500, 24
# https://www.w3.org/TR/trace-context/#traceparent-header, version 00; later ones begin so.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


def child(traceparent: str, request_id: bytes) -> str:
    """The daemon's own place in the caller's trace; empty if `traceparent` is none.

    Always the same for the same request, so that an answer given again is the same answer.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return ""
    trace, flags = found.groups()
    span = blake2b(request_id, digest_size=8, key=bytes.fromhex(trace)).hexdigest()
    return f"00-{trace}-{span}-{flags}"


class Page(NamedTuple):
    """Some of the ring's requests; `next`, `more`, `lost` as in `wire.TraceList`."""

    next: int
    more: bool
    lost: int
    requests: tuple[RequestTrace, ...]


class TraceRing:
    """One tenant's last `count_max` requests."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._kept: deque[tuple[int, Answer | Failure, Trail]] = deque(maxlen=count_max)
        self._count = 0

    def add(self, now_us: int, reply: Answer | Failure, trail: Trail) -> None:
        """A request has ended so."""
        self._count += 1
        self._kept.append((now_us, reply, trail))

    def page(self, after: int) -> Page:
        """Those with numbers above `after`, oldest first, as many as go into one reply."""
        first = self._count - len(self._kept)
        # A cursor from before a restart may lie ahead of everything: then all there is, is new.
        begun = after if 0 <= after <= self._count else 0
        start = max(0, begun - first)
        found: list[RequestTrace] = []
        size = 0
        for position, (ended_us, reply, trail) in enumerate(islice(self._kept, start, None), start):
            size += REQUEST_BYTES + STEP_BYTES * sum([len(each.steps) for each in trail.ran])
            if found and size > PAGE_BYTES:
                break
            found.append(_told(first + position + 1, ended_us, reply, trail))
        last = found[-1].number if found else self._count
        return Page(last, last < self._count, max(0, first - begun), tuple(found))


def _told(number: int, ended_us: int, reply: Answer | Failure, trail: Trail) -> RequestTrace:
    ended = reply if isinstance(reply, Answer) else None
    return RequestTrace(
        number=number,
        id=reply.id,
        network=trail.infer.network,
        outcome=reply.code if isinstance(reply, Failure) else "answered",
        arrival_us=trail.arrival_us,
        total_us=ended_us - trail.arrival_us,
        queue_us=None if trail.started_us is None else trail.started_us - trail.arrival_us,
        exit=None if ended is None else ended.exit,
        stop="" if ended is None else ended.stop,
        broken=() if ended is None else ended.broken,
        traceparent=child(trail.infer.traceparent, reply.id) if trail.infer.traceparent else "",
        steps=_steps(trail),
    )


def _steps(trail: Trail) -> tuple[StepTrace, ...]:
    """Reckoned back from each report. One that the front read late seems to have run as much later."""
    told: list[StepTrace] = []
    for ran in trail.ran:
        start_us = ran.reported_us - trail.arrival_us - sum([step.took_us for step in ran.steps])
        for step in ran.steps:
            if ran.looked or not step.head:
                told.append(StepTrace(step.head, step.index, step.batch, start_us, step.took_us))
            start_us += step.took_us
    return tuple(told)
