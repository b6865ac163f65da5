"""Gates: a threshold delivers on the calibration samples exactly what its plan says, and is the loosest that does."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delen.policies.gates import GatePlan, GateTable


def samples(seed: int, count: int, exits: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Confidences, and whether each exit was right: the surer and the deeper, the more often."""
    draw = np.random.default_rng(seed)
    confidence = draw.uniform(0.2, 1.0, (count, exits)).astype(np.float32)
    correct = draw.uniform(0, 1, confidence.shape) < confidence ** (1 / np.arange(1, exits + 1))
    return confidence, correct


def delivered(
    confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_], ladder: tuple[int, ...], threshold: float
) -> tuple[float, list[float]]:
    """Accuracy, and the share that leaves at each exit, one sample after the other."""
    right, left = 0, [0] * confidence.shape[1]
    for sure, ok in zip(confidence.tolist(), correct.tolist(), strict=True):
        leaves = next((k for k in ladder[:-1] if sure[k] > threshold), ladder[-1])
        right += ok[leaves]
        left[leaves] += 1
    return right / len(confidence), [count / len(confidence) for count in left]


def promise(accuracy: float, count: int) -> float:
    return accuracy - math.sqrt(accuracy * (1 - accuracy) / count)


@given(st.integers(0, 50), st.sampled_from([(0, 1, 2), (0, 2), (1, 2)]), st.floats(0.5, 1.0))
@settings(max_examples=25)  # each judges 80 to 200 thresholds, sample by sample
def test_a_plan_is_the_loosest_threshold_that_keeps_its_promise_as_all_stricter_ones_do(
    seed: int, ladder: tuple[int, ...], wanted: float
) -> None:
    confidence, correct = samples(seed, 40, 3)
    table = GateTable(confidence, correct, ladder)
    early = confidence[:, list(ladder[:-1])]
    thresholds = [float(value) for value in np.unique(np.quantile(early, np.linspace(0, 1, 200)))]
    promised = [promise(delivered(confidence, correct, ladder, value)[0], 40) for value in thresholds]
    keeps = [all(later >= wanted for later in promised[index:]) for index in range(len(thresholds))]
    plan = table.plan(wanted)
    if plan is None:
        assert not any(keeps)
        assert table.best_accuracy < wanted
        return
    assert plan.threshold == thresholds[keeps.index(True)]
    accuracy, shares = delivered(confidence, correct, ladder, plan.threshold)
    assert plan.accuracy == pytest.approx(accuracy)
    assert plan.shares == pytest.approx(shares)


def test_the_more_is_asked_the_fewer_leave_early() -> None:
    table = GateTable(*samples(1, 2_000, 3), (0, 1, 2))
    plans = [table.plan(accuracy) for accuracy in (0.70, 0.75, 0.80)]
    early = [1 - plan.shares[2] for plan in plans if plan is not None]
    assert len(early) == 3
    assert early == sorted(early, reverse=True)
    assert early[0] > early[-1]


def test_an_exit_that_is_not_on_the_ladder_is_never_left_at() -> None:
    plan = GateTable(*samples(2, 500, 3), (0, 2)).plan(0.7)
    assert plan is not None
    assert plan.shares[1] == 0
    assert sum(plan.shares) == pytest.approx(1)


def test_what_no_threshold_delivers_has_no_plan() -> None:
    table = GateTable(*samples(3, 500, 3), (0, 1, 2))
    assert table.plan(0.9999) is None
    assert table.plan(table.best_accuracy) is not None


def test_one_exit_alone_has_no_gate_but_a_plan() -> None:
    confidence, correct = samples(4, 500, 1)
    plan = GateTable(confidence, correct, (0,)).plan(0.3)
    assert plan is not None
    assert plan.shares == (1.0,)
    assert plan.accuracy == pytest.approx(correct.mean())


def test_the_same_table_is_made_again_from_what_a_journal_keeps() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.2, 1.0, (300, 3)).astype(np.float32)
    table = GateTable(confidence, draw.uniform(0, 1, confidence.shape) < confidence, (0, 2))
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(table.plans), type=list[GatePlan])
    assert vars(GateTable.of_plans(kept)) == vars(table)
