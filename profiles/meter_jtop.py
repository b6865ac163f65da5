"""jetson-stats: a board's power through the service of `jtop`, for users who may not read the sensors themselves.

Role: two halves. `JtopSensor` is a sensor like any other; its figures come from a child process, `python -m
delen.profiles.meter_jtop`, the only place where jetson-stats is imported: its client may hang when the service stops,
and has brought whole programs down. The service goes on telling the last figure when its own reading fails, so a figure
that stays is none.

Does not: need the package; start or configure the service; say more than the whole board's power.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .meter_ina3221 import POWER_MW_MAX, ROOT
from .meter_lines import Lines, end_with_parent
from .meter_wall import LineSensor, finite

# The service reads about twice a second at best.
SAMPLE_S = 0.5
FROZEN_S = 10.0
SOCKET = "run/jtop.sock"


class JtopSensor(LineSensor):
    """What jetson-stats says the board draws."""

    sample_s = SAMPLE_S
    window_s_min = 4 * SAMPLE_S
    frozen_s = FROZEN_S
    power_mw_max = POWER_MW_MAX
    covers = "the board, as jetson-stats has it"
    name = "jetson-stats"

    def __init__(
        self,
        root: Path = ROOT,
        *,
        command: Sequence[str] = (sys.executable, "-m", f"{__package__}.meter_jtop"),
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Raises LookupError: no package or no service."""
        if importlib.util.find_spec("jtop") is None:
            raise LookupError("jetson-stats is not installed: pip install 'delen[jetson]'")
        if not (root / SOCKET).exists():
            raise LookupError(f"no /{SOCKET}: jetson-stats' service does not run; sudo systemctl start jtop")
        super().__init__(Lines(command, clock_ns=clock_ns), total_mw, clock_ns)

    def raw(self, power_mw: float) -> tuple[float, ...]:
        """The figure alone: saying it again does not make it new."""
        return (power_mw,)


def total_mw(line: str) -> float | None:
    """The power in a line of the child; None where it says none."""
    try:
        said = json.loads(line)
        power_mw = said["mw"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return None if isinstance(power_mw, str) else finite(power_mw)


def told(power: Any) -> str:
    """One line from what jetson-stats calls `power`: its total's milliwatts and name."""
    total = power.get("tot") if isinstance(power, dict) else None
    power_mw = total.get("power") if isinstance(total, dict) else None
    name = total.get("name", "") if isinstance(total, dict) else ""
    return json.dumps({"mw": power_mw if isinstance(power_mw, int | float) else None, "rail": str(name)})


def _main() -> int:
    """The child: a line for every reading, until the parent closes our input or jetson-stats gives up."""
    end_with_parent()
    from jtop import jtop

    with jtop(interval=SAMPLE_S) as jetson:
        while jetson.ok():
            sys.stdout.write(told(jetson.power) + "\n")
            sys.stdout.flush()
    return 1


if __name__ == "__main__":
    sys.exit(_main())
