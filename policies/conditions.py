"""Conditions in Dělen's form, tested after an exit: true means stop here.

Source: Dělen (IoTDI'23), section 4, and its released condition files; differs: compound conditions work, and a request
for which no condition ever fires is answered by the last exit.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from ..clients.bounds import Condition, ConditionSet, Metric

_TESTS = {
    "less": operator.lt,
    "less_eq": operator.le,
    "equal": operator.eq,
    "greater": operator.gt,
    "greater_eq": operator.ge,
}


def holds(conditions: ConditionSet | None, metrics: Mapping[Metric, float | None]) -> bool:
    """Whether to stop: every `all_of` test, and one of `any_of` where there are any.

    Args:
        metrics: response_time in seconds, confidence and accuracy as shares, energy in mJ, computation in GMAC, exit
            0-based; None where unknown, and a test of an unknown metric is false.
    """
    if conditions is None or not (conditions.all_of or conditions.any_of):
        return False
    every = all(_true(test, metrics) for test in conditions.all_of)
    return every and (not conditions.any_of or any(_true(test, metrics) for test in conditions.any_of))


def _true(test: Condition, metrics: Mapping[Metric, float | None]) -> bool:
    value = metrics.get(test.metric)
    return value is not None and bool(_TESTS[test.operator](value, test.threshold))
