"""What delen weighs at rest: the front's memory, and the time to import the SDK.

Role: `delen bench footprint`. Import times are medians of processes started in turns: bare, the SDK, and the three
packages the SDK cannot do without. Does not: load engines into this process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import msgspec

from .private_daemon import PrivateDaemon

ROUNDS = 15
STATEMENTS = {"bare": "pass", "import": "from delen import Client", "parts": "import numpy, zmq, msgspec"}


class Footprint(msgspec.Struct, frozen=True):
    """`front_rss_mb`: of the front process with two networks served, at rest. Times over bare Python, ms, medians."""

    front_rss_mb: float
    import_ms: float
    parts_ms: float


def bench_footprint() -> Footprint:
    """Start a daemon and some interpreters; read memory from ps and times from the clock."""
    with PrivateDaemon(["bench"], ["digits", "identity-3k"]) as daemon:
        asked = ["ps", "-o", "rss=", "-p", str(daemon.pid)]
        rss_kb = int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            start_ns = time.perf_counter_ns()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times[name].append((time.perf_counter_ns() - start_ns) / 1e6)
    median_ms = {name: statistics.median(values) for name, values in times.items()}
    return Footprint(
        front_rss_mb=rss_kb / 1024,
        import_ms=median_ms["import"] - median_ms["bare"],
        parts_ms=median_ms["parts"] - median_ms["bare"],
    )
