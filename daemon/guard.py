"""What one tenant's connections may do to the daemon, and what is done when they do more. Pure; `door.py` acts on it.

Role: three guards. `ConnectionGuard`: at a cap the endpoint is unbound for a while, since libzmq accepts without end
and, on ipc, aborts the process when descriptors run out. `Manners`: after too many malformed messages a tenant is not
read for a while. `MemoryGuard`: a message that never ends is bounded by no option of libzmq and is never seen here;
what is seen is memory that grows while an endpoint has connections with bytes to read and delivers nothing.

Does not: read clocks, sockets or memory; those are passed in.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Set
from typing import NamedTuple

# An endpoint that fills up again at once stays away twice as long each time, up to this.
CLOSED_US_MIN, CLOSED_US_MAX = 250_000, 8_000_000
# After so long without filling up it is as good as new.
FORGIVEN_US = 30_000_000


class ConnectionGuard:
    """Connections of one endpoint, by their descriptors, against its cap."""

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self.fds: set[int] = set()
        self.full_count = 0
        self._closed_us = CLOSED_US_MIN
        self._open_at_us: int | None = None
        self._opened_us = 0

    @property
    def open_at_us(self) -> int | None:
        """When it may be bound again; None while it is bound."""
        return self._open_at_us

    @property
    def closed(self) -> bool:
        return self._open_at_us is not None

    def accepted(self, fd: int) -> bool:
        """A connection has come; True when that is one too many."""
        if self.closed:
            # From before it was unbound, and gone with that.
            return False
        self.fds.add(fd)
        return len(self.fds) > self.connections_max

    def gone(self, fd: int) -> None:
        self.fds.discard(fd)

    def close(self, now_us: int) -> int:
        """It is being unbound, which drops all its connections; returns for how long."""
        self.full_count += 1
        calm = now_us - self._opened_us >= FORGIVEN_US
        self._closed_us = CLOSED_US_MIN if calm or self.full_count == 1 else min(2 * self._closed_us, CLOSED_US_MAX)
        self._open_at_us = now_us + self._closed_us
        self.fds.clear()
        return self._closed_us

    def wait(self, now_us: int) -> None:
        """It is not to be bound again yet, for a reason that is not its own."""
        self._open_at_us = max(now_us + CLOSED_US_MIN, self._open_at_us or 0)

    def due(self, now_us: int) -> bool:
        """Whether it should be bound again now."""
        return self._open_at_us is not None and now_us >= self._open_at_us

    def opened(self, now_us: int) -> None:
        self._open_at_us, self._opened_us = None, now_us
        self.fds.clear()


class Manners:
    """Malformed messages of one tenant: so many within the window, and it is not read for a while."""

    def __init__(self, *, malformed_max: int, window_us: int, cool_us: int) -> None:
        self._window_us = window_us
        self._cool_us = cool_us
        self._times_us: deque[int] = deque(maxlen=malformed_max)
        self.until_us: int | None = None

    def malformed(self, now_us: int) -> bool:
        """Note one; True when the tenant is to cool down from now until `until_us`."""
        times = self._times_us
        times.append(now_us)
        if self.cooling(now_us) or len(times) < (times.maxlen or 1) or now_us - times[0] > self._window_us:
            return False
        times.clear()
        self.until_us = now_us + self._cool_us
        return True

    def cooling(self, now_us: int) -> bool:
        """Whether it cools down now."""
        if self.until_us is not None and now_us >= self.until_us:
            self.until_us = None
        return self.until_us is not None


# So often in a row a connection must have had bytes to read and delivered nothing. And after so many looks at which
# nobody had any, what was taken is in use. A sender without end has its descriptor empty at many a look.
SILENT_LOOKS, QUIET_LOOKS = 3, 20


class Intake(NamedTuple):
    """One endpoint's connections at a look, by their descriptors: with bytes to read, and heard from since the last.

    `unread`: those whose answers wait in the kernel, since nobody takes them.
    """

    busy: Set[int]
    heard: Set[int]
    unread: Set[int] = frozenset()


class MemoryGuard:
    """Memory of the process against what the endpoints' connections delivered meanwhile."""

    def __init__(self, growth_bytes_max: int) -> None:
        self._growth_bytes_max = growth_bytes_max
        self._calm_bytes: int | None = None
        self._silent: Counter[tuple[str, int]] = Counter()
        self._unread: Counter[tuple[str, int]] = Counter()
        self._quiet_looks = 0

    def grown(self, resident_bytes: int) -> bool:
        """Whether memory has grown by so much that `suspects` should be asked; else what there is counts as calm."""
        if self._calm_bytes is None or resident_bytes < self._calm_bytes:
            self._calm_bytes = resident_bytes
        if resident_bytes - self._calm_bytes >= self._growth_bytes_max:
            return True
        self._forget()
        return False

    def slow(self, intakes: Mapping[str, Intake]) -> list[str]:
        """Endpoints to close, when memory has `grown`, before any of `suspects`: those that do not take their answers.

        The library keeps those by their number, however large each is; so who asks and does not read is at fault
        before who merely was not heard in a process that busy.
        """
        now = {(name, fd) for name, intake in intakes.items() for fd in intake.unread}
        self._unread = Counter({each: self._unread[each] + 1 for each in now})
        found = {name for (name, _), looks in self._unread.items() if looks >= SILENT_LOOKS}
        if found:
            self._forget()
        return sorted(found)

    def suspects(self, resident_bytes: int, intakes: Mapping[str, Intake]) -> list[str]:
        """Endpoints to close, when memory has `grown`: those with connections that take in bytes and deliver nothing.

        Another connection's messages are no excuse: whoever sends without end may well send a little beside it.
        """
        silent = self._silent
        for name, intake in intakes.items():
            for fd in intake.heard:
                silent.pop((name, fd), None)
            for fd in intake.busy - intake.heard:
                silent[name, fd] += 1
        found = {name for (name, _), looks in silent.items() if looks >= SILENT_LOOKS}
        if found:
            self._forget()
            return sorted(found)
        self._quiet_looks = 0 if any(intake.busy for intake in intakes.values()) else self._quiet_looks + 1
        if self._quiet_looks >= QUIET_LOOKS:
            self._calm_bytes = resident_bytes
            self._forget()
        return []

    def _forget(self) -> None:
        self._silent.clear()
        self._unread.clear()
        self._quiet_looks = 0
