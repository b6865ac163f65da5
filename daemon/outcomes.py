"""What came of a simulated run, and means over seeds with their intervals.

Role: `measured` adds up the outcomes of one run; `summary` gives mean and 95 % interval over seeds. Late, dropped and
refused all count as violations; the accuracy of a violation is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from ..clients.wire import Answer, Refusal
from ..policies.fairness import Spread
from ..policies.view import Served
from .simulate import Outcome, Simulation

# Two-sided 95 % of Student's t by degrees of freedom (any table of it); beyond the last, the normal's.
T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL_95 = 1.960


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Percentages of all requests counted; latencies of those answered; energy per request answered.

    `effective_accuracy`: mean over all requests of the accuracy of the exit that answered, in percent, 0 for a
    violation. `right_pct`: the same with whether that input's label was right, where inputs are known.
    `admitted_missed_pct`: of those not refused, how many were late or dropped. `goodput_hz`: answers within their
    bounds per second, over the time in which requests were sent.
    `spread`: Jain's indices over configured tenants, of the whole run whoever is counted.
    """

    seed: int
    requests: int
    violations_pct: float
    refused_pct: float
    admitted_missed_pct: float
    goodput_hz: float
    effective_accuracy: float
    right_pct: float | None
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_exit: float
    energy_mj: float | None
    log_hash: str
    spread: Spread | None = None


class Interval(msgspec.Struct, frozen=True):
    """A mean over `n` seeds, and half the width of its 95 % interval (Student's t); 0 for one seed."""

    mean: float
    half: float
    n: int


FIGURES = (
    "violations_pct",
    "effective_accuracy",
    "right_pct",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "refused_pct",
    "admitted_missed_pct",
    "goodput_hz",
    "mean_exit",
    "energy_mj",
)


def measured(simulation: Simulation, *, warmup_us: int = 0, who: Callable[[Outcome], bool] | None = None) -> Measured:
    """Add up a finished run; requests sent before `warmup_us` are left out; `who`: only these, e.g. of one tenant."""
    counted = [outcome for outcome in simulation.outcomes if outcome.sent_us >= warmup_us]
    if who is not None:
        counted = [outcome for outcome in counted if who(outcome)]
    measured_run = figures(counted, simulation.server.networks, since_us=warmup_us, seed=simulation.seed)
    return msgspec.structs.replace(measured_run, log_hash=simulation.log_hash, spread=simulation.server.ledger.spread())


def figures(
    counted: Sequence[Outcome], networks: Mapping[str, Served], *, since_us: int = 0, seed: int = 0
) -> Measured:
    """Add up outcomes, simulated or played from a journal; `since_us`: when requests began to be sent."""
    total = max(1, len(counted))
    answers = [(outcome, outcome.reply) for outcome in counted if isinstance(outcome.reply, Answer)]
    met = [(outcome, answer) for outcome, answer in answers if not answer.broken]
    late_ms = sorted((outcome.ended_us - outcome.sent_us) / 1000 for outcome, _ in answers)
    energies = [answer.energy_mj for _, answer in answers if answer.energy_mj is not None]
    known = [outcome.correct for outcome, _ in met if outcome.correct is not None]
    refused = sum(1 for outcome in counted if isinstance(outcome.reply, Refusal))
    sent_us = max((outcome.sent_us for outcome in counted), default=since_us) - since_us
    return Measured(
        seed=seed,
        requests=len(counted),
        violations_pct=100 * (len(counted) - len(met)) / total,
        refused_pct=100 * refused / total,
        admitted_missed_pct=100 * (len(counted) - refused - len(met)) / max(1, len(counted) - refused),
        goodput_hz=1e6 * len(met) / max(1, sent_us),
        effective_accuracy=100 * _accuracy(met, networks) / total,
        right_pct=100 * sum(known) / total if len(known) == len(met) and known else None,
        p50_ms=percentile(late_ms, 50),
        p95_ms=percentile(late_ms, 95),
        p99_ms=percentile(late_ms, 99),
        mean_exit=sum(answer.exit for _, answer in answers) / max(1, len(answers)),
        energy_mj=sum(energies) / len(energies) if energies else None,
        log_hash="",
    )


def summary(runs: Sequence[Measured]) -> dict[str, Interval | None]:
    """Mean and interval of every figure over seeds; None where it is not known."""
    return {name: interval([getattr(run, name) for run in runs]) for name in FIGURES}


def interval(values: Iterable[float | None]) -> Interval | None:
    """Mean and 95 % interval; None if any value is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found):
        return None
    count, mean = len(known), math.fsum(known) / len(known)
    if count == 1:
        return Interval(mean, 0.0, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (count - 1))
    return Interval(
        mean, (T_95[count - 2] if count - 2 < len(T_95) else NORMAL_95) * deviation / math.sqrt(count), count
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank; 0 when there is nothing."""
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)] if ordered else 0.0


def _accuracy(met: Iterable[tuple[Outcome, Answer]], networks: Mapping[str, Served]) -> float:
    return sum(networks[outcome.network].costs.accuracy[answer.exit] for outcome, answer in met)
