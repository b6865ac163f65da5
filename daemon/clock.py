"""The time that front and worker share: a run is told until when it may go on by it.

Role: one function. It goes on while the machine sleeps, as tenants' patience does. Does not: know the date.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock_us() -> int:
    """Microseconds since the machine started; never goes back."""
    return time.clock_gettime_ns(_CLOCK) // 1000
