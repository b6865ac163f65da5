"""The requests that have not ended: by ticket, how much of each tenant's input waits, and when each is due next.

Role: the core's table. A request may be due several times, or no more when its time comes; who asks finds out then.
Does not: decide what is due, or end anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from ..policies.view import NEVER_US
from .records import Flight, Request


class Requests:
    """All open requests. `open`: by ticket, to look at."""

    def __init__(self) -> None:
        self.open: dict[int, Request] = {}
        self._due: list[tuple[int, int]] = []
        self._queued_bytes: dict[str, int] = {}

    def add(self, request: Request) -> None:
        self.open[request.waiting.ticket] = request
        self._queued_bytes[request.tenant] = self.queued_bytes(request.tenant) + len(request.payload)

    def remove(self, request: Request) -> None:
        del self.open[request.waiting.ticket]
        self._queued_bytes[request.tenant] -= len(request.payload)

    def queued_bytes(self, tenant: str) -> int:
        """The inputs of this tenant's open requests together."""
        return self._queued_bytes.get(tenant, 0)

    def of(self, flight: Flight | None) -> list[Request]:
        """Those of a run's rows that have not ended."""
        return [] if flight is None else [self.open[row] for row in flight.rows if row in self.open]

    def due(self, when_us: int, ticket: int) -> None:
        """Something is to be done about this request then."""
        heappush(self._due, (when_us, ticket))

    def due_at(self) -> int:
        """When the next is due; NEVER_US if none is."""
        due = self._due
        while due and due[0][1] not in self.open:
            heappop(due)
        return due[0][0] if due else NEVER_US

    def take_due(self, now_us: int) -> Iterator[Request]:
        """Those that are due, earliest first; who becomes due meanwhile is among them."""
        while self._due and self._due[0][0] <= now_us:
            request = self.open.get(heappop(self._due)[1])
            if request is not None:
                yield request
