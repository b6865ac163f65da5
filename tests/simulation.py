"""Networks with made-up costs, for the simulated core."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from delen.exits.calibration_file import Calibration
from delen.policies.certificates import Certifier, search, steps_of
from delen.policies.gate_paths import Steps
from delen.policies.gates import Proofs
from delen.policies.view import Guard, Served
from delen.profiles.costs import Costs
from delen.tests.sample_profile import sample_profile


def served(
    name: str = "net", *, segments_us: Sequence[float] = (100, 200, 400), gates: bool = True, **profile: Any
) -> Served:
    """A network with made-up costs; calibrated on 8,000 samples whose confidence tells how often they are right."""
    costs = Costs.of(sample_profile(segments_us=segments_us, **profile), 8)
    table = Certifier(_proofs(costs.ladder, tuple(costs.accuracy), steps_of(costs)), costs) if gates else None
    return Served(name, "1", costs, table, batch_max=8, hop_us=50.0, guard=Guard(hold_share=1.0))


@cache
def _proofs(ladder: tuple[int, ...], accuracies: tuple[float, ...], steps: Steps) -> Proofs:
    """Of an exit half as sure of itself, twice as many answers are wrong; each is as accurate as its profile says."""
    draw = np.random.default_rng(0)
    doubt = draw.uniform(0, 0.8, (8000, len(accuracies)))
    correct = draw.uniform(0, 1, doubt.shape) >= (1 - np.array(accuracies)) * doubt / 0.4
    agrees = correct == correct[:, -1:]
    samples = Calibration((1 - doubt).astype(np.float32), correct, agrees, np.arange(8000) % 2 == 0)
    return search(samples, ladder, steps)
