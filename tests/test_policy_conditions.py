"""Dělen's conditions: when they hold, and that what is unknown never does."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Condition, ConditionSet, Metric, Operator
from delen.policies.conditions import holds

METRICS: dict[Metric, float | None] = {
    "response_time": 0.020,
    "confidence": 0.75,
    "accuracy": 0.9,
    "energy": None,
    "computation": 1.5,
    "exit": 1.0,
}
TRUE, FALSE = Condition("exit", "equal", 1.0), Condition("exit", "equal", 0.0)


@pytest.mark.parametrize(
    ("operator", "below", "same", "above"),
    [
        ("less", False, False, True),
        ("less_eq", False, True, True),
        ("equal", False, True, False),
        ("greater", True, False, False),
        ("greater_eq", True, True, False),
    ],
)
def test_the_metric_is_compared_with_the_threshold(operator: Operator, below: bool, same: bool, above: bool) -> None:
    found = [
        holds(ConditionSet(all_of=(Condition("confidence", operator, threshold),)), METRICS)
        for threshold in (0.70, 0.75, 0.80)
    ]
    assert found == [below, same, above]


@pytest.mark.parametrize(
    ("all_of", "any_of", "expected"),
    [
        ((TRUE, TRUE), (), True),
        ((TRUE, FALSE), (), False),
        ((), (FALSE, TRUE), True),
        ((), (FALSE, FALSE), False),
        ((TRUE,), (FALSE, TRUE), True),
        ((TRUE,), (FALSE,), False),
        ((FALSE,), (TRUE,), False),
    ],
)
def test_all_of_the_one_and_any_of_the_other(
    all_of: tuple[Condition, ...], any_of: tuple[Condition, ...], expected: bool
) -> None:
    assert holds(ConditionSet(all_of=all_of, any_of=any_of), METRICS) is expected


@pytest.mark.parametrize("operator", ["less", "less_eq", "equal", "greater", "greater_eq"])
def test_a_test_of_what_is_not_known_is_false(operator: Operator) -> None:
    assert not holds(ConditionSet(all_of=(Condition("energy", operator, 0.0),)), METRICS)
    assert not holds(ConditionSet(all_of=(Condition("energy", operator, 0.0),)), {})


def test_no_condition_stops_nobody() -> None:
    assert not holds(None, METRICS)
    assert not holds(ConditionSet(), METRICS)
