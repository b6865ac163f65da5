"""Garbage that needs a collector: the core makes none, for the daemon's loop hardly ever lets it run."""

from __future__ import annotations

import gc

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer
from delen.daemon.config import Limits
from delen.daemon.noise import NoiseSpec
from delen.daemon.simulate import TENSORS, Simulation
from delen.tests.desk_simulation import DeskSimulation
from delen.tests.simulation import served

BOUNDS = (Bounds(), Bounds(latency_ms=5.0), Bounds(latency_ms=20.0), Bounds(accuracy=0.95), Bounds(energy_mj=3.0))


def left_behind(simulation: Simulation) -> list[str]:
    """What of delen only the collector could free, once it is over: names of types."""
    simulation.kill_worker(30_000)
    gc.collect()
    # What is there by now is not looked through again.
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        simulation.run()
        simulation.outcomes.clear()
        gc.collect()
        # Not what the test runner itself left meanwhile.
        return [type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("delen")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_requests_leave_no_cycles_behind() -> None:
    simulation = Simulation([served()], noise=NoiseSpec(sigma=0.1), hop_us=100, ahead_us=300)
    for number in range(200):
        simulation.ask(number * 500, "abc"[number % 3], BOUNDS[number % len(BOUNDS)])
    assert left_behind(simulation) == []


def test_messages_leave_no_cycles_behind() -> None:
    defaults = {"a": Bounds(), "b": Bounds(latency_ms=20.0), "c": Bounds(accuracy=0.95)}
    limits = Limits(answers_kept_max=10, queued_max=20)
    simulation = DeskSimulation(
        [served()], defaults, limits=limits, noise=NoiseSpec(sigma=0.1), hop_us=100, ahead_us=300
    )
    for number in range(100):
        when_us, tenant, request_id = number * 500, "abc"[number % 3], number.to_bytes(2, "big")
        infer = Infer(VERSION, request_id, "net", TENSORS, BOUNDS[number % len(BOUNDS)])
        simulation.send(when_us, tenant, infer)
        if number % 4 == 0:
            simulation.send(when_us + 300, tenant, infer, b"s")
        if number % 5 == 0:
            simulation.take_back(when_us + 200, tenant, request_id)
        if number % 7 == 0:
            simulation.fetch(when_us + 5_000, tenant, request_id)
    assert left_behind(simulation) == []
    simulation.settled()
