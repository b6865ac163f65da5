"""Bounds: what cannot be asked is said in words, and overrides win field by field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from delen.clients.bounds import (
    CONDITION_COUNT_MAX,
    CONDITION_SET_COUNT_MAX,
    Bounds,
    Condition,
    ConditionSet,
    bounds_fault,
    conditions_fault,
    merge,
)

TEST = Condition("response_time", "greater", 0.02)
SETS = (ConditionSet(all_of=(TEST,)), None)


@pytest.mark.parametrize("name", ["latency_ms", "accuracy", "energy_mj", "certainty"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), float("-inf")])
def test_a_value_that_bounds_nothing_is_named(name: str, value: float) -> None:
    fault = bounds_fault(msgspec.structs.replace(Bounds(), **{name: value}))
    assert fault is not None
    assert name in fault


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(),
        Bounds(latency_ms=None, accuracy=None, energy_mj=None),
        Bounds(latency_ms=0.001, accuracy=1.0, energy_mj=1e6, certainty=0.999),
        Bounds(latency_ms=20.0, conditions=SETS),
        Bounds(accuracy=None, conditions=SETS),
        Bounds(accuracy=0.9, conditions=None),
    ],
)
def test_what_can_be_asked_has_no_fault(bounds: Bounds) -> None:
    assert bounds_fault(bounds) is None


@pytest.mark.parametrize(
    ("bounds", "word"),
    [
        (Bounds(accuracy=1.01), "accuracy"),
        (Bounds(latency_ms=3.7e6), "latency_ms"),
        (Bounds(certainty=1.0), "certainty"),
        (Bounds(accuracy=0.9, conditions=SETS), "accuracy"),
        (Bounds(energy_mj=1.0, conditions=SETS), "energy_mj"),
        (Bounds(conditions=(None, None)), "no test"),
        (Bounds(conditions=()), "no test"),
        (Bounds(conditions=(ConditionSet(),)), "no test"),
    ],
)
def test_what_contradicts_itself_is_said(bounds: Bounds, word: str) -> None:
    assert word in (bounds_fault(bounds) or "")


def test_conditions_are_counted_and_their_thresholds_are_finite() -> None:
    most = (ConditionSet(any_of=(TEST,) * CONDITION_COUNT_MAX),)
    assert conditions_fault(most) is None
    assert "at most" in (conditions_fault((*most, SETS[0])) or "")
    endless = (ConditionSet(any_of=(Condition("energy", "less", float("inf")),)),)
    assert "energy" in (conditions_fault(endless) or "")
    assert conditions_fault(None) is None


def test_empty_sets_are_counted_too_lest_a_session_keep_megabytes_of_them() -> None:
    most = (*SETS, *[None] * CONDITION_SET_COUNT_MAX)[:CONDITION_SET_COUNT_MAX]
    assert conditions_fault(most) is None
    for filler in (None, ConditionSet()):
        assert "33 exits; at most 32" in (bounds_fault(Bounds(conditions=(*most, filler))) or "")


def test_an_override_wins_where_it_says_something() -> None:
    session = Bounds(latency_ms=50.0, accuracy=0.9, objective="energy")
    assert merge(session, Bounds()) == session
    assert merge(session, Bounds(latency_ms=20.0)) == Bounds(latency_ms=20.0, accuracy=0.9, objective="energy")
    assert merge(session, Bounds(latency_ms=None)).latency_ms is None


def test_conditions_and_the_bounds_they_replace_take_each_other_back() -> None:
    session = Bounds(latency_ms=50.0, accuracy=0.9, energy_mj=3.0)
    under_conditions = merge(session, Bounds(conditions=SETS))
    assert under_conditions == Bounds(latency_ms=50.0, conditions=SETS)
    assert merge(under_conditions, Bounds(accuracy=0.8)) == Bounds(latency_ms=50.0, accuracy=0.8)
    assert merge(under_conditions, Bounds(latency_ms=9.0)) == Bounds(latency_ms=9.0, conditions=SETS)


def test_what_merges_from_faultless_bounds_is_faultless() -> None:
    offers = [Bounds(accuracy=0.9), Bounds(conditions=SETS), Bounds(energy_mj=2.0), Bounds(accuracy=None)]
    for default in offers:
        for override in offers:
            assert bounds_fault(merge(default, override)) is None


@pytest.mark.parametrize("wrong", [{"latncy_ms": 1.0}, {"objective": "speed"}, {"on_miss": "retry"}, {"accuracy": "x"}])
def test_unknown_names_and_words_do_not_decode(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Bounds)
