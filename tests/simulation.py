"""Networks with made-up costs, for the simulated core."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from delen.policies.gates import GateTable
from delen.policies.view import Guard, Served
from delen.profiles.costs import Costs
from delen.tests.sample_profile import sample_profile


def served(
    name: str = "net", *, segments_us: Sequence[float] = (100, 200, 400), gates: bool = True, **profile: Any
) -> Served:
    """A network with made-up costs; calibrated on 2,000 samples whose confidence tells how often they are right."""
    costs = Costs.of(sample_profile(segments_us=segments_us, **profile), 8)
    table = _gates(len(costs.accuracy), costs.ladder) if gates else None
    return Served(name, "1", costs, table, batch_max=8, hop_us=50.0, guard=Guard(hold_share=1.0))


@cache
def _gates(exit_count: int, ladder: tuple[int, ...]) -> GateTable:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.2, 1.0, (2000, exit_count)).astype(np.float32)
    correct = draw.uniform(0, 1, confidence.shape) < confidence**0.1
    return GateTable(confidence, correct, ladder)
