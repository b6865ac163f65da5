"""jetson-stats' own service on a made-up board, and our sampler as its client: one run, told as JSON lines.

Role: what `test_jtop_service.py` starts in a root directory of its own, where `/fake_sys` is the board's tree, which
the service reads for JTOP_TESTING. Flow: service up -> sampler reads -> the board's current moves -> the service is
stopped as if it hung -> goes on -> is killed; at each point, what the sampler says. Needs jetson-stats.

In real time, as its test (mark.e2e) is. Does not: check anything.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CURRENT = Path("/fake_sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input")
SERVICE = """
import sys
import jtop.service as service
service.get_hardware = lambda: {"Model": "made up", "SoC": "tegra234", "L4T": "36.4.3", "Jetpack": "6.2"}
service.JtopServer(force=True).loop_for_ever()
"""
WAIT_S = 40.0


def _states(sampler: subprocess.Popen[str], done: Callable[[dict[str, object]], bool], *, moving: bool) -> None:
    """Read the sampler's reports until one is as wanted, and tell that one."""
    assert sampler.stdout is not None
    end_s = time.monotonic() + WAIT_S
    for step in itertools.count():
        if moving:
            CURRENT.write_text(f"{1000 + step % 5 * 8}\n")
        report = json.loads(sampler.stdout.readline() or "{}")
        if done(report) or time.monotonic() > end_s:
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
            return


def main() -> None:
    """The whole run."""
    environ = {**os.environ, "JTOP_TESTING": "1", "JTOP_SERVICE": "True"}
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end_s = time.monotonic() + WAIT_S
    while not Path("/run/jtop.sock").exists() and time.monotonic() < end_s and service.poll() is None:
        time.sleep(0.1)
    command = [sys.executable, "-m", "delen.profiles.meter_process", "jtop", "cpu"]
    sampler = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            _states(sampler, lambda report: bool(report.get("samples")), moving=True)
        os.killpg(service.pid, signal.SIGSTOP)
        _states(sampler, lambda report: report.get("state") in ("frozen", "missing"), moving=True)
        os.killpg(service.pid, signal.SIGCONT)
        _states(sampler, lambda report: bool(report.get("samples")), moving=True)
        _states(sampler, lambda report: report.get("state") == "frozen", moving=False)
        os.killpg(service.pid, signal.SIGKILL)
        _states(sampler, lambda report: report.get("state") == "missing", moving=True)
    finally:
        sampler.kill()
        service.kill()


if __name__ == "__main__":
    main()
