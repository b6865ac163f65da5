"""A simulated daemon on a bad day, with a journal: stalls, dead workers, cancels, a spoilt input, three tenants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.daemon.config import Limits
from delen.daemon.journal import Journal
from delen.daemon.journal_records import Samples, Setup
from delen.daemon.noise import NoiseSpec
from delen.daemon.recorded import Recorded
from delen.daemon.simulate import Simulation
from delen.exits.calibration_file import Calibration
from delen.policies.correction_rivals import correction
from delen.tests.simulation import served

BYTES_MAX = 10_000_000
ASKED = (
    Bounds(),
    Bounds(latency_ms=5.0),
    Bounds(latency_ms=20.0),
    Bounds(latency_ms=10.0, accuracy=0.95, on_miss="drop"),
    Bounds(accuracy=0.955),
    Bounds(energy_mj=3.0),
    Bounds(conditions=(None, ConditionSet((Condition("confidence", "greater", 0.5),)), None)),
)


def recorded_day(
    path: Path,
    seed: int,
    *,
    count: int = 40,
    setup: Setup | None = None,
    faults: bool = True,
    asked: Sequence[Bounds] = ASKED,
    notes: list[str] | None = None,
    bytes_max: int = BYTES_MAX,
) -> Simulation:
    """`count` requests in 0.3 ms each, to two networks; the simulation, when it is over."""
    draw = Random(seed)
    if setup is None:
        setup = Setup(limits=Limits(queued_max=30), ahead_us=draw.choice([0, 300]))
    networks = [served(), served("other", segments_us=(150, 250, 500), accuracies=(0.7, 0.9, 0.96))]
    for network in networks:
        network.correction = correction(setup.correction, miss_target=setup.miss_target, p95_over_p50=1.3)
    journal = Journal(path, bytes_max=bytes_max, note=([] if notes is None else notes).append)
    simulation = Simulation(
        networks,
        seed=seed,
        limits=setup.limits,
        noise=NoiseSpec(sigma=0.1, stall_rate_hz=5, stall_ms=20) if faults else NoiseSpec(sigma=0.02),
        hop_us=100,
        server=Recorded(journal, setup, _samples),
    )
    end_us = count * 300
    ids = [
        simulation.ask(draw.randrange(end_us), draw.choice("abc"), draw.choice(asked), draw.choice(["net", "other"]))
        for _ in range(count)
    ]
    if faults:
        spoilt = draw.choice(ids)
        simulation.spoil = lambda request_id: request_id == spoilt
        for _ in range(3):
            simulation.cancel(draw.randrange(end_us), draw.choice(ids))
        for _ in range(draw.randrange(3)):
            simulation.kill_worker(draw.randrange(end_us))
    simulation.run()
    journal.close()
    return simulation


def _samples(name: str) -> Samples:
    draw = np.random.default_rng(len(name))
    confidence = draw.uniform(0.2, 1.0, (500, 3)).astype(np.float32)
    correct = draw.uniform(0, 1, confidence.shape) < confidence**0.1
    return Samples.of(Calibration(confidence, correct, correct == correct[:, -1:], np.arange(500) % 2 == 0))
