"""Whether this process comes near the memory it may have, and then: nothing new is taken in until it does not.

Role: queues of single tenants are bounded, and so is each message, but the sum over many tenants may be more than the
service manager grants, which would slow the whole process down and then kill it, with everybody's requests. Flow: so
often, and after so many bytes, `look` -> `Desk.shedding` -> new requests are refused with the limit's name; what was
accepted goes on, and what it frees is given back to the system. Does not: take from anybody what was accepted.
"""

from __future__ import annotations

from collections.abc import Callable

from ..profiles.board import memory_limit_bytes, resident_bytes
from .config import Limits
from .desk import Desk
from .memory import give_back

LOOK_US, GIVE_BACK_US = 50_000, 500_000
# Of inputs taken in, before it is looked at though that is not due: in 50 ms there may come a hundred megabytes.
TAKEN_BYTES_MAX = 8 * 1024 * 1024
# Of the limit: above the one nothing is taken in, below the other again.
SHED_SHARE, CALM_SHARE = 0.9, 0.8


class Pressure:
    """This process's memory against its limit: `limits.resident_bytes_max`, or what its control group says."""

    def __init__(
        self,
        limits: Limits,
        *,
        resident: Callable[[], int | None] = resident_bytes,
        granted: Callable[[], int | None] = memory_limit_bytes,
    ) -> None:
        self._limits = limits
        self._resident = resident
        self._granted = granted()
        self._look_us = self._give_back_us = 0

    def look(self, now_us: int, desk: Desk) -> str | None:
        """Look if that is due; a line for the operator where something has changed. Cost: 10 us every 50 ms."""
        limit = self._limits.resident_bytes_max or self._granted
        if now_us < self._look_us and desk.taken_bytes < TAKEN_BYTES_MAX:
            return None
        self._look_us, desk.taken_bytes = now_us + LOOK_US, 0
        if limit is None:
            return None
        resident = self._resident()
        if resident is None:
            return None
        if desk.shedding and now_us >= self._give_back_us:
            # Freed memory stays with the process otherwise, and would be counted for ever.
            self._give_back_us = now_us + GIVE_BACK_US
            give_back()
        mib = 1024 * 1024
        named = "limits.resident_bytes_max" if self._limits.resident_bytes_max else "its control group's limit"
        if not desk.shedding and resident > SHED_SHARE * limit:
            desk.shedding = f"the daemon has {resident // mib} MiB; {named} is {limit // mib} MiB"
            return f"short of memory, no new requests are taken: {desk.shedding}"
        if desk.shedding and resident < CALM_SHARE * limit:
            desk.shedding = ""
            return f"enough memory again: {resident // mib} of {limit // mib} MiB"
        return None
