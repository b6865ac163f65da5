"""Bounds and conditions: what a tenant may ask of a request, what is wrong with it, and how defaults are overridden.

Role: the records behind every `bounds` field on the wire. Pure, and importable by every room, like `wire.py`.
Does not: know networks, times or whether a bound can be met; that is admission's.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

CONDITION_COUNT_MAX = 64
# As many exits as a bundle may have. An empty set is one byte on the wire and fifty in memory.
CONDITION_SET_COUNT_MAX = 32

Objective: TypeAlias = Literal["accuracy", "latency", "energy"]
OnMiss: TypeAlias = Literal["answer", "drop"]
Certifies: TypeAlias = Literal["marginal", "conditional"]
Metric: TypeAlias = Literal["response_time", "confidence", "accuracy", "energy", "computation", "exit"]
Operator: TypeAlias = Literal["less", "less_eq", "equal", "greater", "greater_eq"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a message: a map with fixed keys; an unknown key is an error, never ignored."""


class Condition(Record, frozen=True):
    """One test in Dělen's form, e.g. response_time less 0.02: seconds, mJ, GMAC, a share, or an exit's number."""

    metric: Metric
    operator: Operator
    threshold: float


class ConditionSet(Record, frozen=True):
    """The tests of one exit: `all_of` must all hold and, where given, at least one of `any_of`; then stop here."""

    all_of: tuple[Condition, ...] = ()
    any_of: tuple[Condition, ...] = ()


# More is not even decoded, since it takes milliseconds to.
Conditions: TypeAlias = Annotated[tuple[ConditionSet | None, ...], msgspec.Meta(max_length=CONDITION_SET_COUNT_MAX)]


class Bounds(Record, frozen=True):
    """What a tenant asks of a request. Left out: the session's default. None: explicitly no bound.

    `certificate`: `marginal`, the default: `accuracy` over all answers; `conditional`: also over those alone that were
    given at any exit or before. `conditions`: one set per exit, or none; they replace accuracy and energy bounds.
    """

    latency_ms: float | None | UnsetType = UNSET
    accuracy: float | None | UnsetType = UNSET
    energy_mj: float | None | UnsetType = UNSET
    certainty: float | UnsetType = UNSET
    certificate: Certifies | UnsetType = UNSET
    objective: Objective | None | UnsetType = UNSET
    on_miss: OnMiss | UnsetType = UNSET
    conditions: Conditions | None | UnsetType = UNSET


def bounds_fault(bounds: Bounds) -> str | None:
    """What is wrong with these bounds, in words for the tenant; None when nothing is."""
    for name, upper in (("latency_ms", 3.6e6), ("energy_mj", 1e12), ("accuracy", 1.0), ("certainty", 1.0)):
        value = getattr(bounds, name)
        if value is None or value is UNSET:
            continue
        if not math.isfinite(value) or value <= 0 or value > upper:
            return f"{name} is {value}; expected a finite number above 0 and at most {upper:g}"
    if bounds.certainty is not UNSET and bounds.certainty >= 1:
        return "certainty is 1; expected less: no finite calibration set can promise that"
    conditions = bounds.conditions
    if conditions is UNSET or conditions is None:
        return None
    for name in ("accuracy", "energy_mj"):
        if getattr(bounds, name) not in (None, UNSET):
            return f"conditions replace {name}; give one or the other"
    return conditions_fault(conditions)


def conditions_fault(conditions: tuple[ConditionSet | None, ...] | None) -> str | None:
    """What is wrong with these conditions; None when nothing is."""
    if conditions is None:
        return None
    if len(conditions) > CONDITION_SET_COUNT_MAX:
        return f"conditions for {len(conditions)} exits; at most {CONDITION_SET_COUNT_MAX} are allowed"
    tests = [test for group in conditions if group for test in group.all_of + group.any_of]
    if not tests:
        return "conditions hold no test; expected at least one for one exit"
    if len(tests) > CONDITION_COUNT_MAX:
        return f"{len(tests)} conditions; at most {CONDITION_COUNT_MAX} are allowed"
    bad = next((test for test in tests if not math.isfinite(test.threshold)), None)
    return f"the threshold of {bad.metric} is {bad.threshold}; expected a finite number" if bad else None


def merge(default: Bounds, override: Bounds) -> Bounds:
    """`override` where it says something, `default` elsewhere.

    Conditions and accuracy or energy bounds exclude each other, so an override with one takes the other back.
    """
    values = {name: getattr(default, name) for name in Bounds.__struct_fields__}
    said = {name: getattr(override, name) for name in Bounds.__struct_fields__ if getattr(override, name) is not UNSET}
    if said.get("conditions"):
        values.update(accuracy=UNSET, energy_mj=UNSET)
    elif said.get("accuracy") is not None or said.get("energy_mj") is not None:
        values.update(conditions=UNSET)
    return Bounds(**{**values, **said})
