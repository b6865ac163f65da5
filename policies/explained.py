"""A certificate explained: what could be promised for each accuracy, by gates and by fixed exits, and at what cost.

Role: the figures behind `delen certify`, as records; the command prints them, `certificate_plot.py` draws them.
Flow: `explain(certifier, samples, accuracy, certainty)` -> `Explained`. Does not: print, draw or choose.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from ..exits.calibration_file import Calibration
from ..profiles.costs import Costs
from .betting import mean_max
from .certificates import Certifier, mean_us
from .gate_paths import Gates, Steps
from .gates import Candidate, CertifiedPlan

ASSUMPTION = "valid for data exchangeable with the calibration set"
CURVE_POINTS = 60


class FixedExit(msgspec.Struct, frozen=True):
    """One exit for all: `certified`, what it is certified for on its own. `holds`: for the accuracy asked for."""

    exit: int
    errors: int
    n: int
    measured: float
    certified: float
    time_us: float
    of_full: float
    holds: bool


class Point(msgspec.Struct, frozen=True):
    """An accuracy, and the mean time per request for which it can be certified; None where it cannot."""

    accuracy: float
    gates_us: float | None
    fixed_us: float | None


class Explained(msgspec.Struct, frozen=True):
    """Everything there is to say of one claim.

    `best`: highest accuracy that is certifiable, `needed`: labelled samples that would certify the one asked for; None:
    none would. `full_us`: running to the end. `time_us_max`: the plan's mean time is below it, at the same certainty.
    """

    accuracy: float
    certainty: float
    conditional: bool
    fixed: tuple[FixedExit, ...]
    plan: CertifiedPlan | None
    fixed_plan: CertifiedPlan | None
    time_us_max: float | None
    full_us: float
    best: float
    needed: int | None
    tested: int
    searched: int
    curve: tuple[Point, ...]
    assumption: str = ASSUMPTION


def explain(
    certifier: Certifier, samples: Calibration, costs: Costs, accuracy: float, certainty: float, *, conditional: bool
) -> Explained:
    """Explain one claim; `samples` and `costs` are what the certifier was made of."""
    full_us = costs.path_us(0, costs.ladder[-1], 1)
    plan = certifier.plan(accuracy, certainty, conditional=conditional)
    fixed_plan = certifier.plan(accuracy, certainty, gated=False)
    holds = math.inf if fixed_plan is None else fixed_plan.last
    return Explained(
        accuracy=accuracy,
        certainty=certainty,
        conditional=conditional,
        fixed=tuple(_fixed(way, certifier, costs, certainty, holds) for way in reversed(certifier.proofs.fixed)),
        plan=plan,
        fixed_plan=fixed_plan,
        # The plan was chosen for its cost on these samples too, so the bound must hold for all it was chosen from.
        time_us_max=None
        if plan is None
        else _time_us_max(plan, samples, costs, (1 - certainty) / len(certifier.proofs.gates)),
        full_us=full_us,
        best=certifier.best(certainty, conditional=conditional),
        needed=certifier.needed(accuracy, certainty),
        tested=certifier.proofs.n,
        searched=certifier.proofs.fit_n,
        curve=_curve(certifier, certainty, conditional=conditional),
    )


def _fixed(way: Candidate, certifier: Certifier, costs: Costs, certainty: float, holds: float) -> FixedExit:
    n, time_us = certifier.proofs.n, mean_us(way, costs)
    certified = certifier.alone(way.last, certainty)
    of_full = time_us / costs.path_us(0, costs.ladder[-1], 1)
    measured = 1 - way.errors / n if n else 0.0
    return FixedExit(way.last, way.errors, n, measured, certified, time_us, of_full, way.last >= holds)


def _time_us_max(plan: CertifiedPlan, samples: Calibration, costs: Costs, doubt: float) -> float:
    """Upper bound of the mean time per request, from where the samples of the test leave."""
    steps = Steps(tuple(row[1] for row in costs.segment_us), tuple(row[1] for row in costs.head_us))
    gates = Gates(plan.thresholds, plan.last)
    spent = np.array(steps.to_leave(gates))
    return mean_max(spent[gates.leaves(samples.confidence[~samples.fit])], float(spent.max()), doubt)


def _curve(certifier: Certifier, certainty: float, *, conditional: bool) -> tuple[Point, ...]:
    """From what the shallowest exit can promise to a little above the best."""
    first = certifier.proofs.fixed[-1]
    low = 1 - (sum(first.fit_wrong) + first.errors) / max(1, certifier.proofs.fit_n + certifier.proofs.n)
    high, points = max(low, certifier.best(certainty, conditional=conditional)), []
    for accuracy in np.linspace(low, high, CURVE_POINTS).tolist():
        gates = certifier.plan(accuracy, certainty, conditional=conditional)
        fixed = certifier.plan(accuracy, certainty, gated=False)
        points.append(
            Point(accuracy, None if gates is None else gates.time_us, None if fixed is None else fixed.time_us)
        )
    return tuple(points)
