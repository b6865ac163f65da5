"""The offline oracle against every choice there is, on tiny problems."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random

import pytest

from delen.policies import clock_oracle
from delen.policies.clock_oracle import Job, least_cost

WAYS = {400: (9_000.0, 6.0), 700: (6_000.0, 5.0), 1300: (4_000.0, 8.0)}


def brute(jobs: Sequence[Job], switch_us: int, price: float) -> float | None:
    """The least cost of all choices in which nobody is late; None where there is none."""
    best: float | None = None
    for choice in product(WAYS, repeat=len(jobs)):
        free_us, cost, before = 0.0, 0.0, 1300
        for job, khz in zip(jobs, choice, strict=True):
            us, mj = job.ways[khz]
            wait_us = switch_us if khz != before else 0
            free_us = max(free_us, job.arrival_us) + wait_us + us
            cost += mj + mj * wait_us / us + price * (wait_us + us)
            before = khz
            if free_us > job.deadline_us:
                break
        else:
            best = cost if best is None else min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_is_cheaper(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_oracle, "STEP_US", 1)
    random = Random(seed)
    arrivals = sorted(random.randrange(0, 30_000) for _ in range(5))
    jobs = [Job(at, at + 14_000, WAYS) for at in arrivals]
    price = random.choice([0.0, 1e-4, 1e-3])
    expected = brute(jobs, 500, price)
    found = least_cost(jobs, 500, price, 1300)
    if expected is None:
        assert found.late
    else:
        assert found.late == 0
        assert found.energy_mj + price * found.busy_us == pytest.approx(expected)


def test_who_is_late_in_any_case_runs_at_the_highest_clock() -> None:
    best = least_cost([Job(0, 3_000, WAYS)], 500, 0.0, 700)
    assert best.late == 1
    assert best.busy_us == 4_500
