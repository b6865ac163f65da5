"""Confidence gates from a calibration file: leave at the first exit whose confidence exceeds one threshold.

Role: for an accuracy bound, the loosest threshold that still kept it on the held-out samples, and what requests under
it cost on average. Computed once per network at load (a table over thresholds), so that a bound costs one look-up.

Does not certify: the threshold is picked and judged on the same samples, with one standard error kept in hand. Answers
given under it say `uncertified`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

THRESHOLD_COUNT = 200
# One standard error below the estimate: about 84 % one-sided confidence, and no certificate.
STANDARD_ERRORS = 1.0


class GatePlan(NamedTuple):
    """One threshold for all exits but the last: what it delivered on `n` held-out samples.

    `shares[k]`: of requests that leave at exit k of the network; 0 for exits that are not on the ladder.
    """

    threshold: float
    accuracy: float
    shares: tuple[float, ...]
    n: int


class GateTable:
    """All thresholds of one network, from loose to strict, with what each delivers."""

    def __init__(
        self, confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_], ladder: Sequence[int]
    ) -> None:
        """`confidence`, `correct`: shape (n, exits). `ladder`: the exits that may be chosen, shallow to deep."""
        exit_count = confidence.shape[1]
        early = confidence[:, list(ladder[:-1])]
        quantiles = np.linspace(0, 1, THRESHOLD_COUNT)
        thresholds = np.unique(np.quantile(early, quantiles)) if early.size else np.zeros(1)
        plans = [
            _plan(float(threshold), early > threshold, correct[:, list(ladder)], ladder, exit_count)
            for threshold in thresholds
        ]
        self._take(plans)

    @classmethod
    def of_plans(cls, plans: Sequence[GatePlan]) -> GateTable:
        """The same table again from the `plans` of another, as a journal keeps them."""
        table = cls.__new__(cls)
        table._take(plans)
        return table

    @property
    def plans(self) -> Sequence[GatePlan]:
        """What every threshold delivered, from loose to strict."""
        return self._plans

    def _take(self, plans: Sequence[GatePlan]) -> None:
        margins = [STANDARD_ERRORS * float(np.sqrt(p.accuracy * (1 - p.accuracy) / p.n)) for p in plans]
        promised = [plan.accuracy - margin for plan, margin in zip(plans, margins, strict=True)]
        # A looser threshold may look better by luck: what it promises is capped by every stricter one's promise.
        self._promised: list[float] = np.minimum.accumulate(promised[::-1])[::-1].tolist()
        self._plans = list(plans)

    @property
    def best_accuracy(self) -> float:
        """The highest accuracy any threshold promises."""
        return float(self._promised[-1])

    def plan(self, accuracy: float) -> GatePlan | None:
        """The loosest threshold that promises `accuracy`; None where none does. O(log thresholds)."""
        index = bisect_left(self._promised, accuracy)
        return self._plans[index] if index < len(self._plans) else None


def _plan(
    threshold: float,
    passes: npt.NDArray[np.bool_],
    correct: npt.NDArray[np.bool_],
    ladder: Sequence[int],
    exit_count: int,
) -> GatePlan:
    """Where every sample leaves under one threshold, and how often it is right there."""
    count = len(correct)
    leaves = np.concatenate([passes, np.ones((count, 1), np.bool_)], axis=1).argmax(axis=1)
    accuracy = float(correct[np.arange(count), leaves].mean())
    shares = [0.0] * exit_count
    for position, share in enumerate(np.bincount(leaves, minlength=len(ladder)) / count):
        shares[ladder[position]] = float(share)
    return GatePlan(threshold, accuracy, tuple(shares), count)
