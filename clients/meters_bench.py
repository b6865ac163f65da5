"""What a power meter costs requests, well or broken: round trips with none, with one that reads, and with bad ones.

Role: half of `delen bench meters`. Two private daemons, one without a meter and one on a board's monitors made up in a
directory, are asked in turns; between rounds the monitors are made to vanish, freeze, lie or hang, which a named pipe
in place of a file does to whoever opens it. The metered daemon's sampler is stopped while the other is asked.
Does not: have a real sensor's bus; what sampling itself costs is in `profiles/meter_bench.py`.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from .client import Client
from .private_daemon import PrivateDaemon

# Turns so short that what else the machine does falls on both alike.
TURN, PAIRS, WARM_UP = 25, 400, 200
RESAMPLES = 500
STATES = ("reading", "missing", "frozen", "absurd", "slow")
WAIT_S_MAX = 30.0


class MeterLatency(msgspec.Struct, frozen=True):
    """Round trips while the meter stands so, us, in turns with as many without a meter.

    `p99_ratio`: the p99 of these over that of those; `low`, `high`: of 9 in 10 of them with turns drawn again.
    """

    state: str
    n: int
    p50_us: float
    p99_us: float
    without_p99_us: float
    p99_ratio: float
    low: float
    high: float


def bench_latency(
    rounds: int, root: Path, current: Path, on_progress: Callable[[int, int], None]
) -> list[MeterLatency]:
    """Each round brings the meter into each state, and asks without and with it in turns. About 2 minutes a round.

    Args:
        root: a directory below which a board's power monitor has been made; `current`: its file of milliamperes.
    """
    pairs: dict[str, list[tuple[list[float], list[float]]]] = {state: [] for state in STATES}
    steps = itertools.count()
    with _daemons(root, current) as (plain, metered, sampler):
        for index, state in itertools.product(range(rounds), STATES):
            _make(current, state)
            _until(metered, state, current)
            pid = None
            for turn in range(PAIRS):
                pid = sampler() if turn % 40 == 0 else pid
                _signal(pid, signal.SIGSTOP)
                without = _ask(plain)
                _signal(pid, signal.SIGCONT)
                if state == "reading":
                    _put(current, f"{1000 + next(steps) % 9}")
                pairs[state].append((without, _ask(metered)))
            _put(current, "1000")
            _until(metered, "reading", current)
            on_progress(index * len(STATES) + STATES.index(state) + 1, rounds * len(STATES))
    return [_row(state, pairs[state]) for state in STATES]


def _row(state: str, pairs: list[tuple[list[float], list[float]]]) -> MeterLatency:
    without, having = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    chance = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        some = chance.integers(len(pairs), size=len(pairs))
        drawn.append(_p99(having[some]) / _p99(without[some]))
    drawn.sort()
    return MeterLatency(
        state=state,
        n=having.size,
        p50_us=float(np.median(having)),
        p99_us=_p99(having),
        without_p99_us=_p99(without),
        p99_ratio=_p99(having) / _p99(without),
        low=drawn[RESAMPLES // 20],
        high=drawn[-RESAMPLES // 20],
    )


def _p99(values: npt.NDArray[np.float64]) -> float:
    return float(np.percentile(values, 99))


@contextmanager
def _daemons(root: Path, current: Path) -> Iterator[tuple[Client, Client, Callable[[], int | None]]]:
    """A client of each daemon, without and with a meter, and what finds the process of the latter's sampler."""
    names, state = ["identity-3k"], root / "state"
    with (
        PrivateDaemon(["bench"], names, arguments=["--meter", "none"], state_dir=state) as without,
        PrivateDaemon(["bench"], names, arguments=["--meter", f"ina3221:{root}"], state_dir=state) as having,
        Client("bench", endpoint=without.endpoint("bench")) as plain,
        Client("bench", endpoint=having.endpoint("bench")) as metered,
    ):
        _until(metered, "reading", current)
        for client in (plain, metered):
            _ask(client, WARM_UP)

        def sampler() -> int | None:
            asked = ["ps", "-o", "pid=,args=", "--ppid", str(having.pid)]
            listed = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
            return next((int(line.split()[0]) for line in listed.splitlines() if "meter_process" in line), None)

        yield plain, metered, sampler


def _signal(pid: int | None, number: int) -> None:
    """One that hung for long has been killed, and there may be none just now: it disturbs nobody then."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _make(current: Path, state: str) -> None:
    """Bring the monitor into this state; `frozen` is what it is when nobody moves it."""
    if state == "missing":
        current.unlink()
    elif state == "absurd":
        _put(current, "99999999")
    elif state == "slow":
        pipe = current.with_name("pipe")
        os.mkfifo(pipe)
        pipe.replace(current)


def _until(client: Client, state: str, current: Path) -> None:
    """Wait for the daemon to see it so. A reader that hangs is let go once something else is wanted."""
    end_s = time.monotonic() + WAIT_S_MAX
    for step in itertools.count():
        if client.stats().meter.state == state:
            return
        if time.monotonic() > end_s:
            raise TimeoutError(f"the meter is {client.stats().meter.state}, expected {state}")
        if state == "reading":
            _put(current, f"{1000 + step % 9}")
        time.sleep(0.05)


def _put(file: Path, text: str) -> None:
    """Replace a file's content at once, as a driver would; whoever hangs on a pipe there reads its end."""
    new = file.with_name("new")
    new.write_text(f"{text}\n")
    with suppress(OSError):
        # Without a reader there is nobody to let go.
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
    new.replace(file)


def _ask(client: Client, count: int = TURN) -> list[float]:
    """Round trips one after the other, us."""
    value = np.zeros((784,), np.float32)
    taken = []
    for _ in range(count):
        start_ns = time.perf_counter_ns()
        client.infer("identity-3k", value)
        taken.append((time.perf_counter_ns() - start_ns) / 1000)
    return taken
