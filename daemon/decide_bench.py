"""What one decision of the core costs, by how much is queued: eight networks of four exits, requests with deadlines.

Role: `delen bench decide`. Drives the real `Server` with made-up costs; nothing runs. Target (DESIGN.md 7): a decision
under 200 us at 1,000 queued.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import msgspec

from ..clients.bounds import Bounds
from ..clients.wire import VERSION, Infer, TensorSpec
from ..policies import edf
from ..policies.exits import asked
from ..policies.view import Served
from ..profiles.costs import Costs
from ..profiles.schema import FORMAT, Cost, Device, ExitQuality, Profile
from .config import Limits
from .server import Server

NETWORKS, EXITS, BATCHES = 8, 4, (1, 8, 32)
ROUNDS = 50
QUEUED = (1, 10, 100, 1000)
# Deadlines a minute away keep everything admissible, so that what is measured is a full queue, not refusals.
LATENCY_MS = 60_000.0


class DecisionCost(msgspec.Struct, frozen=True):
    """Medians over ROUNDS, us, with `queued` requests waiting."""

    queued: int
    choose_p50_us: float
    submit_p50_us: float


def bench_decisions() -> list[DecisionCost]:
    """One row per queue length."""
    return [_measure(queued) for queued in QUEUED]


def _measure(queued: int) -> DecisionCost:
    server = Server(Limits(queued_max=4 * QUEUED[-1]))
    for index in range(NETWORKS):
        costs = Costs.of(_profile(), BATCHES[-1])
        server.networks[str(index)] = Served(str(index), "1", costs, None, BATCHES[-1], 100.0)
    server.worker_ready(0)
    for index in range(queued):
        _submit(server, index)
    view = server.view()
    choose_us = _median_us(lambda index: edf.choose(view, queued, index))
    submit_us = _median_us(lambda index: _submit(server, queued + index))
    return DecisionCost(queued, choose_us, submit_us)


def _submit(server: Server, index: int) -> None:
    bounds = Bounds(latency_ms=LATENCY_MS)
    name = str(index % NETWORKS)
    infer = Infer(VERSION, index.to_bytes(8, "big"), name, (TensorSpec("float32", (1,)),), bounds)
    server.submit(index, f"tenant{index % 16}", infer, asked(bounds), b"\0\0\0\0")


def _median_us(act: Callable[[int], object]) -> float:
    times = []
    for index in range(ROUNDS):
        start_ns = time.perf_counter_ns()
        act(index)
        times.append((time.perf_counter_ns() - start_ns) / 1000)
    return statistics.median(times)


def _profile() -> Profile:
    """Segments of 100 to 400 us; a row more in the batch costs half of the first."""
    rows = [
        tuple(
            Cost(p50_us=us, p95_us=us, p99_us=us, n=1, energy_mj=us)
            for us in (100.0 * (index + 1) * (1 + 0.5 * (batch - 1)) for batch in BATCHES)
        )
        for index in range(EXITS)
    ]
    device = Device(
        board="made up",
        processor="made up",
        cores=1,
        power_mode=None,
        clocks_khz={},
        engine="replay",
        device="cpu",
        precision="fp32",
        threads=1,
        versions={},
    )
    return Profile(
        format=FORMAT,
        network="made up",
        network_version="1",
        bundle="",
        device=device,
        batches=BATCHES,
        segments=tuple(rows),
        heads=tuple(rows[0] for _ in range(EXITS)),
        exits=tuple(ExitQuality(accuracy=0.6 + 0.1 * k, low=0.5, high=1.0, n=100) for k in range(EXITS)),
        energy_source="modelled",
        energy_model="made up",
        idle_power_mw=None,
        memory_bytes=0,
        temperature_c=(None, None),
        quick=False,
        taken_wall="",
    )
