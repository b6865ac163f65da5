"""The sampler: a process that reads one power sensor and tells its readings, line by line.

Role: `python -m delen.profiles.meter_process WHICH DEVICE`, started by the daemon, so that a sensor that takes five
seconds, hangs or brings its process down costs requests nothing. Flow: find the sensor -> one `Report` with its name ->
one for every tenth of a second of samples, as JSON lines -> ends with its parent.

Does not: decide what a reading means for requests (`daemon/sampler.py`).
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

import msgspec

from ..clients.info import MeterState
from .meter_lines import end_with_parent
from .meters import MeterError, find_sensor
from .power_sensor import Gauge, Sensor

REPORT_S = 0.1
# Of one core, whatever the board: where a sample costs more, there are fewer. The rest to 1 % is for what this misses.
CORE_SHARE_MAX = 0.008
SAMPLE_S_MAX = 0.1
# The front's (loop.py), which knows by it when runs were; it goes on while the machine sleeps.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `model`: what the sensor is and covers, said once; `fault`: why there is none.

    `sample_s`: between samples now; `spent_ns`: CPU time of the process so far.
    `samples`: time in us by the front's clock, running total of mJ, and span, as `PowerTrack.since` gives them.
    """

    state: MeterState = "reading"
    model: str = ""
    fault: str = ""
    sample_s: float = 0.0
    spent_ns: int = 0
    samples: list[tuple[int, float, int]] = []


def run(which: str, device: str) -> int:
    """Read until the parent goes away; an exit code where there is nothing to read: 0 none found, 1 not to be had."""
    try:
        sensor = find_sensor(which, device=device)
    except MeterError as error:
        _tell(Report(state="missing", fault=str(error)))
        return 1
    if sensor is None:
        _tell(Report(state="none"))
        return 0
    _tell(Report(state="missing", model=f"{sensor.name}: {sensor.covers}", sample_s=sensor.sample_s))
    _sample(sensor)
    return 0


def _sample(sensor: Sensor) -> None:
    gauge = Gauge(sensor, _clock_ns)
    period_s, count = sensor.sample_s, 0
    told_us, told_ns, spent_ns = -1, time.monotonic_ns(), time.process_time_ns()
    while True:
        began_ns = time.monotonic_ns()
        gauge.sample()
        count += 1
        if began_ns - told_ns >= REPORT_S * 1e9:
            samples = [(at_us, round(mj, 3), span) for at_us, mj, span in gauge.track.since(told_us)]
            _tell(Report(state=gauge.state, sample_s=period_s, spent_ns=spent_ns, samples=samples))
            now_ns = time.process_time_ns()
            period_s = affordable_s(sensor.sample_s, period_s, (now_ns - spent_ns) / count / 1e9)
            told_ns, told_us, spent_ns, count = began_ns, samples[-1][0] if samples else told_us, now_ns, 0
        time.sleep(max(0.0, period_s - (time.monotonic_ns() - began_ns) / 1e9))


def give_way() -> None:
    """Never preempt what serves: a batch process waits for an idle moment or the next tick (sched(7))."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def affordable_s(wanted_s: float, period_s: float, cost_s: float) -> float:
    """The time between samples: `wanted_s`, or as much more as CPU time per sample asks for, eased in."""
    least_s = min(SAMPLE_S_MAX, cost_s / CORE_SHARE_MAX)
    return max(wanted_s, period_s + (least_s - period_s) / 4)


def _clock_ns() -> int:
    return time.clock_gettime_ns(CLOCK)


def _tell(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    end_with_parent()
    give_way()
    sys.exit(run(*sys.argv[1:]))
