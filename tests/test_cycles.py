"""Garbage that needs a collector: the core makes none, for the daemon's loop hardly ever lets it run."""

from __future__ import annotations

import gc

from delen.clients.bounds import Bounds
from delen.daemon.noise import NoiseSpec
from delen.daemon.simulate import Simulation
from delen.tests.simulation import served

BOUNDS = (Bounds(), Bounds(latency_ms=5.0), Bounds(latency_ms=20.0), Bounds(accuracy=0.95), Bounds(energy_mj=3.0))


def test_requests_leave_no_cycles_behind() -> None:
    simulation = Simulation([served()], noise=NoiseSpec(sigma=0.1), hop_us=100, ahead_us=300)
    for number in range(200):
        simulation.ask(number * 500, "abc"[number % 3], BOUNDS[number % len(BOUNDS)])
    simulation.kill_worker(50_000)
    gc.collect()
    gc.disable()
    try:
        simulation.run()
        simulation.outcomes.clear()
        assert gc.collect() == 0
    finally:
        gc.enable()
