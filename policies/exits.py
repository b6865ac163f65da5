"""Which exits fit a request's bounds, and which of them its objective prefers.

Role: from bounds and a network's costs to an `ExitPlan`, or to a `Misfit` that says what would fit. Looks at no queue:
whether there is time for it now is `admission.py`'s, and what runs next is the policy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from ..clients.bounds import Bounds, Certifies, Condition, ConditionSet, Objective, OnMiss
from ..clients.wire import Certificate, Offer, Stop
from .gates import CertifiedPlan
from .view import Served, rounded_up

# Tenants may vary their bounds as they like; what is remembered of that is bounded.
PLANS_MAX = 1024
# DESIGN.md 6.
CERTAINTY_DEFAULT = 0.9


class Asked(NamedTuple):
    """Bounds with every default filled in: what this request is held to.

    `withdrawn`: its tenant's inputs have been shown to be unlike the calibration samples, so nothing is certified.
    `deepest`: the last exit its tenant may use, None: all; `at_deepest`: why it stops there; `least`: the first it may
    stop at, where other bounds allow that.
    """

    latency_ms: float | None
    accuracy: float | None
    energy_mj: float | None
    objective: Objective
    on_miss: OnMiss
    conditions: tuple[ConditionSet | None, ...] | None
    certainty: float = CERTAINTY_DEFAULT
    certificate: Certifies = "marginal"
    withdrawn: bool = False
    deepest: int | None = None
    at_deepest: Stop = "last_exit"
    least: int = 0

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

    `limit`: why it would stop at `target`. `gate`: leave earlier where it says so, None for a fixed exit. `proof`: what
    the accuracy is certified by, the gate's or the fixed exit's; None where it is not.
    """

    mandatory: int
    target: int
    gate: CertifiedPlan | None
    limit: Stop
    certificate: Certificate
    proof: CertifiedPlan | None = None


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
    certainty = CERTAINTY_DEFAULT if bounds.certainty is UNSET else bounds.certainty
    certificate: Certifies = "marginal" if bounds.certificate is UNSET else bounds.certificate
    return Asked(latency, accuracy, energy, objective, on_miss, conditions, certainty, certificate)


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
        return _plan_conditions(wanted, wanted.conditions, served)
    takes_us = served.time_us(0, served.exit_last, 1)
    if wanted.latency_ms is not None and takes_us > served.guard.usable_us(wanted.latency_ms):
        return _plan_bounds(wanted, served)
    # Where time limits nothing, the same bounds always give the same plan.
    key = wanted
    if wanted.latency_ms is not None or wanted.on_miss != "answer":
        key = wanted._replace(latency_ms=None if wanted.latency_ms is None else 0.0, on_miss="answer")
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
    limit: Stop = wanted.at_deepest if in_time[-1] == _usable(wanted, served)[-1] else "energy"
    if in_time != fits:
        limit = "deadline"
    if wanted.least:
        in_time = tuple([exit_index for exit_index in in_time if exit_index >= wanted.least]) or in_time[-1:]
    if wanted.accuracy is None:
        preferred = in_time[-1] if wanted.objective == "accuracy" else in_time[0]
        return ExitPlan(in_time[0], preferred, None, limit if preferred == in_time[-1] else "objective", "none")
    return _plan_accuracy(wanted, served, in_time, limit)


def _affordable(wanted: Asked, served: Served) -> tuple[int, ...] | Misfit:
    """The exits whose energy is within the cap, at the most a request can be charged."""
    usable = _usable(wanted, served)
    if wanted.energy_mj is None:
        return usable
    energies = {exit_index: served.costs.most_mj(exit_index) for exit_index in usable}
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


def _usable(wanted: Asked, served: Served) -> tuple[int, ...]:
    """The exits this tenant may use: at least the first, since a network without any would not be named to it."""
    if wanted.deepest is None:
        return served.ladder
    return tuple(exit_index for exit_index in served.ladder if exit_index <= wanted.deepest) or served.ladder[:1]


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
    """The cheapest way that is certified: gates or a fixed exit, none deeper than what the other bounds allow.

    With objective accuracy a fixed exit, from which on every one is certified too: deeper ones are then gifts.
    """
    assert wanted.accuracy is not None
    if served.gates is None:
        return _plan_uncertified(wanted, served, exits, limit)
    gated = wanted.objective != "accuracy"
    conditional = gated and wanted.certificate == "conditional"
    # A deadline may stop a request wherever it is; energy is looked at in full beforehand.
    deepest, forcible = exits[-1], wanted.latency_ms is not None
    proof = served.gates.plan(
        wanted.accuracy, wanted.certainty, conditional=conditional, deepest=deepest, forcible=forcible, gated=gated
    )
    if proof is None:
        best = served.gates.best(
            wanted.certainty, conditional=conditional, deepest=deepest, forcible=forcible, gated=gated
        )
        return Misfit(_uncertifiable(wanted, served, best), Offer(accuracy=best or None))
    if wanted.withdrawn:
        # As right as it can be: to the deepest exit the other bounds allow, and nothing is promised.
        return ExitPlan(exits[-1], exits[-1], None, limit, "withdrawn")
    if not gated:
        return ExitPlan(proof.last, exits[-1], None, limit, "certified", proof)
    stop: Stop = "objective" if proof.last != _usable(wanted, served)[-1] else "last_exit"
    return ExitPlan(proof.last, proof.last, proof if proof.gated else None, stop, "certified", proof)


def _uncertifiable(wanted: Asked, served: Served, best: float) -> str:
    """What cannot be promised, what can, and what would help."""
    assert served.gates is not None
    assert wanted.accuracy is not None
    said = (
        f"accuracy {wanted.accuracy:g} cannot be certified for {served.name} under these bounds: best is {best:.4f} "
        f"at certainty {wanted.certainty:g} (n={served.gates.proofs.n})"
    )
    needed = served.gates.needed(wanted.accuracy, wanted.certainty)
    if needed is None or needed <= served.gates.proofs.n + served.gates.proofs.fit_n:
        return said
    return f"{said}; about {needed:,} labelled samples would do: delen calibrate"


def _plan_uncertified(wanted: Asked, served: Served, exits: tuple[int, ...], limit: Stop) -> ExitPlan | Misfit:
    """Without a calibration file: the shallowest exit that is accurate enough by the profile."""
    assert wanted.accuracy is not None
    accuracy = served.costs.accuracy
    fixed = next((exit_index for exit_index in exits if accuracy[exit_index] >= wanted.accuracy), None)
    if fixed is None:
        best = accuracy[exits[-1]]
        return Misfit(
            f"accuracy {wanted.accuracy:g}: the best of {served.name} under the other bounds is {best:.4f}",
            Offer(accuracy=int(best * 1e4) / 1e4),
        )
    if wanted.objective == "accuracy":
        return ExitPlan(fixed, exits[-1], None, limit, "uncertified")
    stop: Stop = "objective" if fixed != _usable(wanted, served)[-1] else "last_exit"
    return ExitPlan(fixed, fixed, None, stop, "uncertified")


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


def _plan_conditions(wanted: Asked, conditions: tuple[ConditionSet | None, ...], served: Served) -> ExitPlan | Misfit:
    count = len(served.costs.accuracy)
    if len(conditions) != count:
        return Misfit(f"conditions for {len(conditions)} exits; {served.name} has {count}", Offer())
    # Conditions and an accuracy bound together only where the bound was made into a condition.
    least, usable = 0.0 if wanted.accuracy is None else wanted.accuracy, _usable(wanted, served)
    mandatory = next((exit_index for exit_index in usable if served.costs.accuracy[exit_index] >= least), None)
    if mandatory is None:
        best = served.costs.accuracy[usable[-1]]
        return Misfit(f"accuracy {least:g}: the best exit of {served.name} has {best:.4f}", Offer(accuracy=best))
    return ExitPlan(mandatory, usable[-1], None, "last_exit", "none")
