"""Prices: what is owed makes depth dear, what is allowed makes it cheap, and requests alike end up at the allowance."""

from __future__ import annotations

import pytest

from delen.policies.budgets import Budget, worth_it, worth_of
from delen.policies.horizon import Horizon
from delen.profiles.boards import parse_spec, replayed
from delen.profiles.costs import Costs

DAY_US = 86_400_000_000


def nano() -> Costs:
    """ResNet-50 on a Jetson Nano: exits at 46, 99 and 177 mJ; the fourth is dominated."""
    return Costs.of(replayed(parse_spec("jetson-nano"), "resnet50"), 8)


def test_free_energy_buys_the_deepest_exit_and_the_dearest_none() -> None:
    worth = worth_of(nano())
    assert worth is not None
    assert worth_it(worth, 0.0, 0, 3) == 2
    # Between the slopes of its exits: 0.0011 accuracy per mJ to the third, 0.0046 to the second, 0.0095 to the first.
    assert worth_it(worth, 0.002, 0, 3) == 1
    assert worth_it(worth, 0.006, 0, 3) == 0
    assert worth_it(worth, 0.02, 0, 3) is None
    assert worth_it(worth, 0.006, 1, 3) == 1


def test_power_that_is_hardly_any_is_waited_for_and_no_longer_than_can_be_said() -> None:
    worth = worth_of(nano())
    assert worth is not None
    budget = Budget(0, None, 1e-310)
    assert budget.price(0, worth) == 0
    budget.spend(0, 100.0)
    assert budget.price(1, worth) > 0
    assert 86_400_000_000 < budget.worth_in_us(1) < 1 << 62


def test_what_was_charged_too_much_is_no_credit() -> None:
    worth = worth_of(nano())
    assert worth is not None
    budget = Budget(0, None, 1000.0)
    budget.price(0, worth)
    budget.spend(0, -50.0)
    assert budget.price(0, worth) == 0


@pytest.mark.parametrize("each_mj", [60.0, 120.0, 150.0])
def test_requests_alike_take_what_is_allowed_on_average(each_mj: float) -> None:
    costs = nano()
    worth = worth_of(costs)
    assert worth is not None
    count = 2000
    budget, gap_us = Budget(0, Horizon(each_mj * count, DAY_US)), DAY_US // count
    taken: list[int] = []
    for k in range(count):
        exit_index = worth_it(worth, budget.price(k * gap_us, worth), 0, 2)
        if exit_index is not None:
            spent = costs.energy_mj(exit_index, 1)
            assert spent is not None
            budget.spend(k * gap_us, spent)
            taken.append(exit_index)
    assert 0.98 * each_mj * count <= budget.spent_mj <= each_mj * count + 177
    # Two neighbours and no others, once it has found its price.
    assert len(set(taken[200:-100])) <= 2
    assert len(taken) >= 0.99 * count


def test_a_power_is_kept_to_without_any_horizon() -> None:
    costs = nano()
    worth = worth_of(costs)
    assert worth is not None
    budget = Budget(0, None, power_mw=100.0)
    for k in range(2000):
        exit_index = worth_it(worth, budget.price(k * 1_000_000, worth), 0, 2)
        if exit_index is not None:
            budget.spend(k * 1_000_000, costs.energy_mj(exit_index, 1) or 0.0)
    assert budget.spent_mj / 2000 == pytest.approx(100.0, rel=0.03)


def test_a_network_whose_energies_nobody_knows_has_no_worth() -> None:
    costs = nano()
    tables = costs.tables()
    from msgspec.structs import replace

    assert worth_of(Costs.of_tables(replace(tables, segment_mj=None, head_mj=None))) is None
