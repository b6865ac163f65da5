"""Standing: when a tenant's certificates are withdrawn, and what answers forced out early cost of them."""

from __future__ import annotations

import math

import pytest

from delen.daemon.standing import CLAIMS_MAX, Standing
from delen.policies.gates import CertifiedPlan


def plan(
    *, reserve: float = 0.01, accuracy: float = 0.92, forced: tuple[float, ...] = (0.2, 0.1, 0.0)
) -> CertifiedPlan:
    return CertifiedPlan(
        thresholds=(0.9, 0.9, math.inf),
        last=2,
        accuracy=accuracy,
        certainty=0.9,
        conditional=False,
        n=5000,
        errors=350,
        shares=(0.5, 0.2, 0.3),
        time_us=400.0,
        energy_mj=None,
        disagreement=0.05,
        forced=forced,
        reserve=reserve,
    )


def test_answers_forced_out_early_are_borne_as_long_as_the_reserve_lasts() -> None:
    standing = Standing()
    assert all(standing.keeps(plan(), None) for _ in range(99))
    # 100 answers bear a loss of 1.0 together: five forced out at exit 0, at 0.2 each.
    assert [standing.keeps(plan(), 0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert all(standing.keeps(plan(), None) for _ in range(100))
    assert standing.keeps(plan(), 1), "with more answers there is more to spend"


def test_a_first_answer_that_is_forced_out_breaks_its_bound() -> None:
    assert not Standing().keeps(plan(), 0)


def test_answers_that_break_their_bound_bring_no_reserve_for_the_others() -> None:
    """The certificate is about the answers that do not: what may be lost is a share of those alone."""
    standing = Standing()
    kept = [standing.keeps(plan(), None if number % 2 else 0) for number in range(10_000)]
    forced = sum(kept[0::2])
    assert 0.2 * forced <= 0.01 * sum(kept)
    assert forced > 0.9 * 0.01 * sum(kept) / 0.2


def test_answers_under_a_plan_without_reserve_bring_none_for_another_plan_of_the_same_accuracy() -> None:
    """A shorter deadline may leave only a plan that has spent its doubt on holding at all."""
    standing = Standing()
    assert all(standing.keeps(plan(reserve=0.0), None) for _ in range(10_000))
    assert not standing.keeps(plan(), 0)


def test_an_exit_beyond_the_plans_last_costs_all_there_is() -> None:
    standing = Standing()
    assert all(standing.keeps(plan(), None) for _ in range(99))
    assert [standing.keeps(plan(), 3) for _ in range(2)] == [True, False]


def test_without_a_reserve_nothing_is_borne() -> None:
    standing = Standing()
    assert all(standing.keeps(plan(reserve=0.0, forced=()), None) for _ in range(1000))
    assert not standing.keeps(plan(reserve=0.0, forced=()), 1)


def test_every_accuracy_has_a_reserve_of_its_own() -> None:
    standing = Standing()
    assert all(standing.keeps(plan(accuracy=0.9), None) for _ in range(1000))
    assert not standing.keeps(plan(accuracy=0.92), 0)


def test_what_is_remembered_of_accuracies_is_bounded() -> None:
    standing = Standing()
    for step in range(3 * CLAIMS_MAX):
        standing.keeps(plan(accuracy=step / 1000), None)
    assert len(standing._left) <= CLAIMS_MAX


@pytest.mark.parametrize("by_labels", [False, True])
def test_too_many_faults_withdraw_for_good_and_say_so_once(by_labels: bool) -> None:
    standing = Standing()

    def tell(fault: bool) -> bool:
        if by_labels:
            return standing.labelled(wrong=fault, miss_max=0.05)
        return standing.audited(differs=fault, miss_max=0.05)

    said = [tell(fault) for fault in [False] * 1000 + [True] * 100 + [False] * 10_000]
    assert said.count(True) == 1
    assert 1000 < said.index(True) < 1100
    assert standing.withdrawn, "a shift does not go away by itself"


def test_labels_of_answers_without_a_certificate_prove_nothing() -> None:
    standing = Standing()
    assert not any(standing.labelled(wrong=True, miss_max=None) for _ in range(1000))
    assert not standing.withdrawn
    assert (standing.told().labels, standing.told().wrong) == (1000, 1000)
