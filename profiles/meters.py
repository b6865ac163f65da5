"""Reading energy: a board's own INA3221 sensors, or a stated model where there are none.

Role: measure the energy of a window of work: `start()`, work, `stop()`. Flow: `best_meter` at start; `measure.py` and
the worker open and close windows. A meter says `measured`, `modelled` or `unknown`; a reading that is missing, frozen
or absurd makes the window unknown, never 0.

Does not: split energy between requests, or subtract what the device draws idle (who uses a window does).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from ..clients.info import EnergySource
from .board import ROOT

# One busy core of a server: Intel Xeon Gold 6248, 150 W TDP over 20 cores (ark.intel.com). A Jetson has its own meter.
WATTS_PER_CORE = 7.5
# No board that delen is for draws more; a reading beyond is a broken sensor or another unit.
POWER_MW_MAX = 200_000.0
# The driver's default averaging gives a new reading about every 1 to 5 ms; reading four channels costs about 1 ms.
SAMPLE_S = 0.01
# Even an idle board's current moves by a step (8 mA at 5 mOhm) within seconds; one that does not is not being read.
FROZEN_S = 10.0
IDLE_S = 0.5
# Rails that carry the whole board, by the names that NVIDIA's device trees use.
TOTALS = ("VDD_IN", "POM_5V_IN")


class Energy(NamedTuple):
    """Energy of one window; `mj` is None exactly where `source` is `unknown`."""

    mj: float | None
    source: EnergySource


UNKNOWN = Energy(None, "unknown")


class Meter(Protocol):
    """Energy of windows of work. `model`: how it is made, for a reader. `window_s_min`: shorter ones are unknown."""

    source: EnergySource
    model: str
    window_s_min: float

    def start(self) -> None:
        """Open a window; one at a time."""
        ...

    def stop(self) -> Energy:
        """Close it: the energy since `start`."""
        ...

    def idle_power_mw(self) -> float | None:
        """What the device draws while nothing runs, by waiting for a moment; None where that is not known."""
        ...


class Rail(NamedTuple):
    """One channel: files of millivolts and milliamperes, or one of milliwatts."""

    name: str
    files: tuple[Path, ...]


class CpuModel:
    """Energy as CPU seconds of this process times watts per busy core: no meter, a stated model."""

    source: EnergySource = "modelled"
    window_s_min = 0.0

    def __init__(self, watts: float = WATTS_PER_CORE, *, cpu_ns: Callable[[], int] = time.process_time_ns) -> None:
        """Raises ValueError where `watts` is not above 0."""
        if not 0 < watts <= POWER_MW_MAX / 1000:
            raise ValueError(f"{watts} W per core; expected above 0 and at most {POWER_MW_MAX / 1000:g}")
        self.model = f"CPU seconds of the process x {watts:g} W per busy core; not measured"
        self._watts = watts
        self._cpu_ns = cpu_ns
        self._started_ns = 0

    def start(self) -> None:
        self._started_ns = self._cpu_ns()

    def stop(self) -> Energy:
        return Energy((self._cpu_ns() - self._started_ns) / 1e6 * self._watts, self.source)

    def idle_power_mw(self) -> float | None:
        """None: the model knows only what the process itself does."""
        return None


class NoMeter:
    """Neither a meter nor a model: every window is unknown."""

    source: EnergySource = "unknown"
    model = "none: the device has no power meter that delen can read, and no watts per core are configured"
    window_s_min = 0.0

    def start(self) -> None:
        """Nothing to open."""

    def stop(self) -> Energy:
        return UNKNOWN

    def idle_power_mw(self) -> float | None:
        return None


class Ina3221Meter:
    """A Jetson's own sensors by sysfs: power samples from a thread while a window is open, integrated by trapezoids."""

    source: EnergySource = "measured"
    # Ten samples: fewer, and one that falls beside a step of the load decides the window.
    window_s_min = 10 * SAMPLE_S

    def __init__(
        self,
        root: Path = ROOT,
        *,
        sample_s: float | None = SAMPLE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            sample_s: how often the thread reads; None: no thread, the caller calls `sample()`.
        Raises:
            LookupError: no such sensor under `root`.
        """
        rails = find_rails(root)
        if not rails:
            raise LookupError(f"no INA3221 power sensor under {root}: none, or its driver (ina3221) is not loaded")
        totals = [rail for name in TOTALS for rail in rails if rail.name == name]
        self.rails = totals[:1] or rails
        names = " + ".join(rail.name for rail in self.rails)
        self.model = f"INA3221 {names}" + (
            "" if totals else " (no rail carries the whole board; these are all there are)"
        )
        self._sample_s = sample_s
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._window = _Window()
        self._reading: tuple[int, ...] | None = None
        self._frozen_ns = 0

    def start(self) -> None:
        self._window = _Window()
        self.sample()
        if self._sample_s is not None:
            self._done.clear()
            self._thread = threading.Thread(target=self._sample_until_done, name="delen-meter", daemon=True)
            self._thread.start()

    def stop(self) -> Energy:
        if self._thread is not None:
            self._done.set()
            self._thread.join()
            self._thread = None
        self.sample()
        window = self._window
        if (
            window.broken
            or window.last_ns - window.first_ns < self.window_s_min * 1e9
            or self._frozen_ns > FROZEN_S * 1e9
        ):
            return UNKNOWN
        return Energy(window.mj, self.source)

    def idle_power_mw(self) -> float | None:
        self.start()
        for _ in range(round(IDLE_S / SAMPLE_S)):
            self._sleep(SAMPLE_S)
            if self._sample_s is None:
                self.sample()
        energy = self.stop()
        elapsed_ns = self._window.last_ns - self._window.first_ns
        return None if energy.mj is None else energy.mj / elapsed_ns * 1e9

    def sample(self) -> None:
        """Take one reading into the open window."""
        now_ns = self._clock_ns()
        reading = self._read()
        if reading is None or reading != self._reading:
            self._frozen_ns = 0
        elif self._window.samples:
            self._frozen_ns += now_ns - self._window.last_ns
        self._reading = reading
        self._window.add(now_ns, None if reading is None else _power_mw(self.rails, reading))

    def _sample_until_done(self) -> None:
        while not self._done.wait(self._sample_s):
            self.sample()

    def _read(self) -> tuple[int, ...] | None:
        try:
            return tuple(int(file.read_text()) for rail in self.rails for file in rail.files)
        except (OSError, ValueError):
            return None


class _Window:
    """Power samples of one window, integrated as they come."""

    def __init__(self) -> None:
        self.samples = 0
        self.broken = False
        self.mj = 0.0
        self.first_ns = self.last_ns = 0
        self._last_mw = 0.0

    def add(self, now_ns: int, power_mw: float | None) -> None:
        # Exactly 0 is absurd too: a board that runs this draws something.
        if power_mw is None or not 0 < power_mw <= POWER_MW_MAX:
            self.broken = True
            power_mw = 0.0
        if self.samples:
            self.mj += (self._last_mw + power_mw) / 2 * (now_ns - self.last_ns) / 1e9
        else:
            self.first_ns = now_ns
        self.samples += 1
        self.last_ns, self._last_mw = now_ns, power_mw


def find_rails(root: Path = ROOT) -> list[Rail]:
    """Every channel of every INA3221 that carries a rail, in the order of their names."""
    devices = root / "sys/bus/i2c/devices"
    found = []
    # JetPack 5 and later: the kernel's own driver. `NC` is not connected; in7 sums the others' shunts.
    for label in sorted(devices.glob("*/hwmon/hwmon*/in*_label")):
        name = _label(label)
        number = re.sub(r"\D", "", label.name)
        if name and name != "NC" and not name.startswith("sum"):
            found.append(Rail(name, (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))))
    # JetPack 4: NVIDIA's older driver, which multiplies by itself.
    for label in sorted(devices.glob("*/iio*/rail_name_*")):
        name = _label(label)
        if name and name != "NC":
            found.append(Rail(name, (label.with_name(f"in_power{label.name.removeprefix('rail_name_')}_input"),)))
    return [rail for rail in found if all(file.exists() for file in rail.files)]


def rail_power_mw(rail: Rail) -> float | None:
    """What this channel carries now; None where it cannot be read or makes no sense."""
    try:
        reading = tuple(int(file.read_text()) for file in rail.files)
    except (OSError, ValueError):
        return None
    power_mw = _power_mw([rail], reading)
    return power_mw if 0 <= power_mw <= POWER_MW_MAX else None


def best_meter(root: Path = ROOT, watts: float | None = WATTS_PER_CORE) -> Meter:
    """The board's sensors where it has them, else the model, else (`watts` None) no figure at all."""
    if find_rails(root):
        return Ina3221Meter(root)
    return NoMeter() if watts is None else CpuModel(watts)


def _power_mw(rails: list[Rail], reading: tuple[int, ...]) -> float:
    values = iter(reading)
    total_mw = 0.0
    for rail in rails:
        parts = [next(values) for _ in rail.files]
        total_mw += parts[0] * parts[1] / 1000 if len(parts) == 2 else parts[0]
    return total_mw


def _label(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
