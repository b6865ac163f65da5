"""Which exits fit a request's bounds, and which of them its objective prefers.

Role: from bounds and a network's costs to an `ExitPlan`, or to a `Misfit` that says what would fit. Looks at no queue:
whether there is time for it now is `admission.py`'s, and what runs next is the policy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from ..clients.bounds import Bounds, Condition, ConditionSet, Objective, OnMiss
from ..clients.wire import Certificate, Offer, Stop
from .gates import GatePlan
from .view import Served, rounded_up

# Tenants may vary their bounds as they like; what is remembered of that is bounded.
PLANS_MAX = 1024


class Asked(NamedTuple):
    """Bounds with every default filled in: what this request is held to."""

    latency_ms: float | None
    accuracy: float | None
    energy_mj: float | None
    objective: Objective
    on_miss: OnMiss
    conditions: tuple[ConditionSet | None, ...] | None

    @property
    def bounded(self) -> bool:
        return (
            self.latency_ms is not None
            or self.accuracy is not None
            or self.energy_mj is not None
            or self.conditions is not None
        )


@dataclass(frozen=True)
class ExitPlan:
    """How deep a request must and may go: to `mandatory` in any case, to `target` if there is time.

    `limit`: why it would stop at `target`. `gate`: leave earlier where it says so, None for a fixed exit.
    """

    mandatory: int
    target: int
    gate: GatePlan | None
    limit: Stop
    certificate: Certificate


class Misfit(NamedTuple):
    """No exit fits, whatever the load: why, and what would."""

    message: str
    offer: Offer


def asked(bounds: Bounds) -> Asked:
    """Fill in the defaults of DESIGN.md 6: accuracy in slack, energy where accuracy alone is bounded."""
    latency, accuracy, energy = (_given(v) for v in (bounds.latency_ms, bounds.accuracy, bounds.energy_mj))
    conditions = None if bounds.conditions is UNSET else bounds.conditions
    objective: Objective = "accuracy"
    if bounds.objective is not UNSET and bounds.objective is not None:
        objective = bounds.objective
    elif accuracy is not None and latency is None and energy is None:
        objective = "energy"
    on_miss: OnMiss = "answer" if bounds.on_miss is UNSET else bounds.on_miss
    return Asked(latency, accuracy, energy, objective, on_miss, conditions)


def _given(value: float | None | UnsetType) -> float | None:
    return None if value is UNSET else value


def plan(wanted: Asked, served: Served) -> ExitPlan | Misfit:
    """Choose the exits for one request on an otherwise idle device.

    Returns:
        ExitPlan: `mandatory` is the shallowest exit (or the gated last one) that keeps all bounds, `target` the one
        its objective prefers among those. Misfit where no exit does.
    Source: DESIGN.md 6, first policy.
    """
    if wanted.conditions is not None:
        return _plan_conditions(wanted.conditions, wanted.accuracy, served)
    takes_us = served.time_us(0, served.exit_last, 1)
    if wanted.latency_ms is not None and takes_us > served.guard.usable_us(wanted.latency_ms):
        return _plan_bounds(wanted, served)
    # Where time limits nothing, the same bounds always give the same plan.
    key = (wanted.accuracy, wanted.energy_mj, wanted.objective)
    known = served.plans.get(key)
    if known is None:
        if len(served.plans) >= PLANS_MAX:
            served.plans.clear()
        known = served.plans[key] = _plan_bounds(wanted, served)
    return known


def _plan_bounds(wanted: Asked, served: Served) -> ExitPlan | Misfit:
    fits = _affordable(wanted, served)
    if isinstance(fits, Misfit):
        return fits
    in_time = _in_time(wanted, served, fits)
    if isinstance(in_time, Misfit):
        return in_time
    limit: Stop = "last_exit" if in_time[-1] == served.exit_last else "energy"
    if in_time != fits:
        limit = "deadline"
    if wanted.accuracy is None:
        preferred = in_time[-1] if wanted.objective == "accuracy" else in_time[0]
        return ExitPlan(in_time[0], preferred, None, limit if preferred == in_time[-1] else "objective", "none")
    return _plan_accuracy(wanted, served, in_time, limit)


def _affordable(wanted: Asked, served: Served) -> tuple[int, ...] | Misfit:
    """The exits whose energy is within the cap, at the most a request can be charged."""
    if wanted.energy_mj is None:
        return served.ladder
    energies = {exit_index: served.costs.most_mj(exit_index) for exit_index in served.ladder}
    known = {exit_index: energy for exit_index, energy in energies.items() if energy is not None}
    if not known:
        return Misfit("energy_mj: this device knows no energies; profile it with a meter or a model", Offer())
    fits = tuple(exit_index for exit_index, energy in known.items() if energy <= wanted.energy_mj)
    if fits:
        return fits
    least = min(known.values())
    return Misfit(
        f"energy_mj {wanted.energy_mj:g}: the cheapest exit of {served.name} takes {least:.3g} mJ here",
        Offer(energy_mj=rounded_up(least)),
    )


def _in_time(wanted: Asked, served: Served, fits: tuple[int, ...]) -> tuple[int, ...] | Misfit:
    """The exits that answer in time when nothing else runs."""
    if wanted.latency_ms is None:
        return fits
    limit_us = served.guard.usable_us(wanted.latency_ms)
    in_time = tuple(exit_index for exit_index in fits if served.time_us(0, exit_index, 1) <= limit_us)
    if in_time:
        return in_time
    least_ms = served.guard.latency_ms_for(served.time_us(0, fits[0], 1))
    return Misfit(
        f"latency_ms {wanted.latency_ms:g}: the shortest bound {served.name} can keep here is {least_ms:g} ms",
        Offer(latency_ms=least_ms),
    )


def _plan_accuracy(wanted: Asked, served: Served, exits: tuple[int, ...], limit: Stop) -> ExitPlan | Misfit:
    """A fixed exit or a gate, whichever costs less on average; both uncertified."""
    assert wanted.accuracy is not None
    accuracy = served.costs.accuracy
    fixed = next((exit_index for exit_index in exits if accuracy[exit_index] >= wanted.accuracy), None)
    # A gate lets hard inputs run to the last exit, so it needs them all to be allowed.
    allowed = served.gates if exits == served.ladder and _gate_affordable(wanted, served) else None
    gate = allowed.plan(wanted.accuracy) if allowed is not None else None
    if fixed is None and gate is None:
        best = max(accuracy[exits[-1]], allowed.best_accuracy if allowed is not None else 0.0)
        return Misfit(
            f"accuracy {wanted.accuracy:g}: the best of {served.name} under the other bounds is {best:.4f}",
            Offer(accuracy=int(best * 1e4) / 1e4),
        )
    if wanted.objective == "accuracy" and fixed is not None:
        return ExitPlan(fixed, exits[-1], None, limit, "uncertified")
    if gate is not None and (fixed is None or _mean_us(served, gate) < served.costs.path_us(0, fixed, 1)):
        return ExitPlan(exits[-1], exits[-1], gate, "last_exit", "uncertified")
    assert fixed is not None
    return ExitPlan(fixed, fixed, None, "objective" if fixed != served.exit_last else "last_exit", "uncertified")


def _gate_affordable(wanted: Asked, served: Served) -> bool:
    """Whether a request that no gate lets go stays within its energy cap."""
    if wanted.energy_mj is None:
        return True
    most_mj = served.costs.most_mj(served.exit_last)
    return most_mj is not None and most_mj <= wanted.energy_mj


def as_conditions(wanted: Asked, served: Served) -> Asked:
    """Bounds as Dělen tests them after every exit: stop once a limit has been passed, or the accuracy is reached.

    Requests without bounds, or with conditions of their own, stay as they are.
    """
    if wanted.conditions is not None or not wanted.bounded:
        return wanted
    tests: list[Condition] = []
    if wanted.latency_ms is not None:
        tests.append(Condition("response_time", "greater", wanted.latency_ms / 1000))
    if wanted.energy_mj is not None:
        tests.append(Condition("energy", "greater", wanted.energy_mj))
    if wanted.accuracy is not None:
        tests.append(Condition("accuracy", "greater_eq", wanted.accuracy))
    return wanted._replace(conditions=(ConditionSet(any_of=tuple(tests)),) * len(served.costs.accuracy))


def _plan_conditions(
    conditions: tuple[ConditionSet | None, ...], accuracy: float | None, served: Served
) -> ExitPlan | Misfit:
    count = len(served.costs.accuracy)
    if len(conditions) != count:
        return Misfit(f"conditions for {len(conditions)} exits; {served.name} has {count}", Offer())
    # Conditions and an accuracy bound together only where the bound was made into a condition.
    least = 0.0 if accuracy is None else accuracy
    mandatory = next((exit_index for exit_index in served.ladder if served.costs.accuracy[exit_index] >= least), None)
    if mandatory is None:
        best = served.costs.accuracy[served.exit_last]
        return Misfit(f"accuracy {least:g}: the best exit of {served.name} has {best:.4f}", Offer(accuracy=best))
    return ExitPlan(mandatory, served.exit_last, None, "last_exit", "none")


def _mean_us(served: Served, gate: GatePlan) -> float:
    """What a gated request costs on average: its trunk to where it leaves, and every head it passed."""
    total, heads = 0.0, 0.0
    for exit_index in served.ladder:
        trunk = served.costs.path_us(0, exit_index, 1)
        total += gate.shares[exit_index] * (trunk + heads)
        heads += served.costs.head_us[exit_index][1]
    return total
