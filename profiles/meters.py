"""Energy of windows of work: from the best sensor there is, or a stated model where there is none.

Role: `start()`, work, `stop()`, for `measure.py` and whoever else weighs something. A meter says `measured`, `modelled`
or `unknown`; a reading that is missing, frozen, absurd, late or goes backwards makes the window unknown, never 0.
Flow: `find_sensor` by what the operator said or what is there -> `SensorMeter`, which reads it on a thread of its own.

Does not: split energy between requests, or subtract what the device draws idle (who uses a window does).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from ..clients.info import EnergySource
from .meter_ina3221 import POWER_MW_MAX, ROOT, Ina3221Sensor
from .meter_jtop import JtopSensor
from .meter_nvml import NvmlSensor
from .meter_rapl import RaplSensor
from .meter_wall import WallMeterError, WallSensor, command_of
from .power_sensor import Gauge, Sensor

# One busy core of a server: Intel Xeon Gold 6248, 150 W TDP over 20 cores (ark.intel.com). A Jetson has its own meter.
WATTS_PER_CORE = 7.5
IDLE_S = 0.5
# A thread that reads a sensor and has not come back by then is left to itself.
JOIN_S = 0.1
# What an operator may say; a wall meter is said by its command or topic.
KINDS: tuple[str, ...] = ("auto", "none", "ina3221", "jtop", "nvml", "rapl")
# Where there is none of these, there is no meter that delen finds by itself.
TRACES = (
    *("sys/bus/i2c/devices/*/hwmon", "sys/bus/i2c/devices/*/iio*", "sys/class/powercap/*-rapl:*"),
    *("run/jtop.sock", "dev/nvidia0"),
)


class MeterError(ValueError):
    """The meter that was asked for is not here, and why."""


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


class CpuModel:
    """Energy as CPU seconds of this process times watts per busy core: no meter, a stated model."""

    source: EnergySource = "modelled"
    window_s_min = 0.0

    def __init__(
        self,
        watts: float = WATTS_PER_CORE,
        *,
        cpu_ns: Callable[[], int] = time.process_time_ns,
        why: str = "no meter",
    ) -> None:
        """`why`: there is nothing better. Raises ValueError where `watts` is not above 0."""
        if not 0 < watts <= POWER_MW_MAX / 1000:
            raise ValueError(f"{watts} W per core; expected above 0 and at most {POWER_MW_MAX / 1000:g}")
        self.model = f"CPU seconds of the process x {watts:g} W per busy core; {why}"
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


class SensorMeter:
    """A sensor, read by a thread while a window is open."""

    source: EnergySource = "measured"

    def __init__(
        self,
        sensor: Sensor,
        *,
        threaded: bool = True,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`threaded`: else the caller calls `sample()`."""
        self.model = f"{sensor.name}: {sensor.covers}"
        self.window_s_min = sensor.window_s_min
        self.gauge = Gauge(sensor, clock_ns)
        self._sensor = sensor
        self._threaded = threaded
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._started_ns = 0
        self._span = 0

    def start(self) -> None:
        # A thread that still waits for its sensor: no other may read it, and this window will be unknown.
        if self._thread is None:
            if self._threaded:
                self._done = threading.Event()
                self._thread = threading.Thread(target=self._until, args=(self._done,), name="delen-meter", daemon=True)
                self._thread.start()
            else:
                self.sample()
        self._started_ns = self._clock_ns()

    def stop(self) -> Energy:
        ended_ns = self._clock_ns()
        if self._thread is not None:
            self._done.set()
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                return UNKNOWN
            self._thread = None
        else:
            self.sample()
        if ended_ns - self._started_ns < self.window_s_min * 1e9:
            return UNKNOWN
        reach_us = int(2e6 * self._sensor.sample_s)
        mj = self.gauge.track.energy_mj(self._started_ns // 1000, ended_ns // 1000, reach_us)
        return UNKNOWN if mj is None else Energy(mj, self.source)

    def idle_power_mw(self) -> float | None:
        self.start()
        waited_s = max(IDLE_S, 1.2 * self.window_s_min)
        step_s = min(self._sensor.sample_s, waited_s)
        for _ in range(round(waited_s / step_s)):
            self._sleep(step_s)
            if not self._threaded:
                self.sample()
        elapsed_s = (self._clock_ns() - self._started_ns) / 1e9
        energy = self.stop()
        return None if energy.mj is None else energy.mj / elapsed_s

    def sample(self) -> None:
        """Take one reading into the open window."""
        self.gauge.sample()

    def close(self) -> None:
        self._sensor.close()

    def _until(self, done: threading.Event) -> None:
        self.sample()
        while not done.wait(self._sensor.sample_s):
            self.sample()
        self.sample()


def find_sensor(said: str = "auto", root: Path = ROOT, device: str = "cpu") -> Sensor | None:
    """The sensor an operator names, or for `auto` the best that is there and says something; None: there is none.

    Args:
        said: one of KINDS, `command: ARGV` or `mqtt://HOST[:PORT]/TOPIC`; `ina3221:DIR` and `rapl:DIR`: of the system
            whose root is mounted there, as in a container.
        device: of the engine; on `cuda` a graphics card's own meter comes before the processor's.
    Raises:
        MeterError: what was named is not here.
    """
    if said == "none":
        return None
    said, root = _rooted(said, root)
    makers: dict[str, Callable[[], Sensor]] = {
        "ina3221": lambda: Ina3221Sensor(root),
        "jtop": lambda: JtopSensor(root),
        "nvml": NvmlSensor,
        "rapl": lambda: RaplSensor(root),
    }
    if said in makers:
        try:
            return makers[said]()
        except (LookupError, OSError) as error:
            raise MeterError(f"meter {said}: {error}") from error
    if said != "auto":
        fault = meter_fault(said)
        if fault:
            raise MeterError(fault)
        return WallSensor(said)
    order = ("ina3221", "jtop", "nvml") if device == "cuda" else ("ina3221", "jtop", "rapl")
    for kind in order:
        try:
            return makers[kind]()
        except (LookupError, OSError):
            continue
    return None


def meter_fault(said: str) -> str | None:
    """What is wrong with the words that name a meter; None: nothing."""
    if _rooted(said, ROOT)[0] in KINDS:
        return None
    try:
        command_of(said)
    except WallMeterError as error:
        return f"meter: {error}; or one of {', '.join(KINDS)}"
    return None


def may_have_meter(said: str, root: Path = ROOT) -> bool:
    """Whether it is worth looking closer, by what files there are; reads no sensor, so it cannot hang on one."""
    if said in ("auto", "none"):
        return said == "auto" and any(next(root.glob(pattern), None) is not None for pattern in TRACES)
    return True


def meter_signs(root: Path = ROOT) -> dict[str, bool]:
    """Kinds of meters besides a board's own monitors, and whether there are signs that they could work."""
    return {
        "jtop": (root / "run/jtop.sock").exists(),
        # On a Jetson NVML has no figures, and that is no fault.
        "nvml": (root / "dev/nvidiactl").exists() and not (root / "etc/nv_tegra_release").exists(),
        "rapl": any((root / "sys/class/powercap").glob("*-rapl:*")),
    }


def _rooted(said: str, root: Path) -> tuple[str, Path]:
    kind, colon, directory = said.partition(":")
    return (kind, Path(directory)) if colon and kind in ("ina3221", "rapl") and directory else (said, root)


def best_meter(
    root: Path = ROOT, watts: float | None = WATTS_PER_CORE, *, said: str = "auto", device: str = "cpu"
) -> Meter:
    """The device's sensor where it has one, else the model, else (`watts` None) no figure at all. Raises MeterError."""
    sensor = find_sensor(said, root, device)
    if sensor is not None:
        return SensorMeter(sensor)
    return NoMeter() if watts is None else CpuModel(watts)
