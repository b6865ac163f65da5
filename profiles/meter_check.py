"""Whether the power meter that an operator names can be read here, by reading it once: for `delen serve --check`.

Role: a daemon whose meter is missing serves on without, so that only this says it before. Does not: judge readings
over time (`power_sensor.py`), or look at what `auto` would find: whatever that is, is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from .meter_ina3221 import ROOT
from .meter_wall import LineSensor
from .meters import MeterError, find_sensor

# A plug says something each second or two, and the board's own service about as often.
WAIT_S_MAX = 5.0
STEP_S = 0.05
EXPECTED = 'expected a meter that can be read here; `delen doctor` says which are, and meter = "auto" takes the best'


def unreadable(
    said: str,
    device: str = "cpu",
    *,
    root: Path = ROOT,
    clock_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Why this meter cannot be read, what was expected and what to do; None: it can, or none is asked for.

    Waits WAIT_S_MAX for a first figure, and as long as it takes for a driver. `device`: as `find_sensor` wants it.
    """
    if said in ("auto", "none"):
        return None
    try:
        sensor = find_sensor(said, root, device)
    except MeterError as error:
        return f"{error}; {EXPECTED}"
    assert sensor is not None
    until_s = clock_s() + WAIT_S_MAX
    try:
        while sensor.read() is None:
            if isinstance(sensor, LineSensor) and sensor.why:
                return f"meter {said}: {sensor.why}; {EXPECTED}"
            if clock_s() >= until_s:
                return f"meter {said}: it says no power within {WAIT_S_MAX:g} s; {EXPECTED}"
            sleep(STEP_S)
    finally:
        sensor.close()
    return None
