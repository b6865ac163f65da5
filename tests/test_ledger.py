"""A tenant's account: nothing is counted twice, and energy that is not known is never shown as a number."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, TensorSpec
from delen.daemon.ledger import KEPT_LATENCIES, UNCOUNTED_MAX, Account, Ledger, Took
from delen.daemon.simulate import Simulation
from delen.policies.attribution import Attribution, Settled
from delen.tests.simulation import served


def answer(total_us: int = 100, exit_index: int = 0, broken: tuple[str, ...] = ()) -> Answer:
    return Answer(
        version=VERSION,
        id=b"1",
        network="net",
        network_version="1",
        tensors=(TensorSpec("float32", (10,)),),
        label=0,
        exit=exit_index,
        confidence=0.9,
        expected_accuracy=0.9,
        certificate="none",
        queue_us=0,
        compute_us=total_us,
        total_us=total_us,
        batches=(1,),
        energy_mj=None,
        energy_source="unknown",
        broken=broken,
        stop="last_exit",
    )


def test_accepted_is_answered_and_failed_and_pending() -> None:
    account = Account("a", accepted=5, answered=2, failed=1)
    account.count_answer(answer(exit_index=2), 3)
    account.count_answer(answer(broken=("latency_ms",)), 3)
    stats = account.stats()
    assert (stats.answered, stats.failed, stats.pending) == (2, 1, 2)
    assert (stats.bounds_met, stats.bounds_broken) == (1, 1)
    assert stats.exits == {"net": (1, 0, 1)}


def test_another_version_with_more_exits_is_counted_with_the_first() -> None:
    account = Account("a", accepted=2)
    account.count_answer(answer(exit_index=1), 2)
    account.count_answer(answer(exit_index=3), 4)
    account.count_answer(answer(exit_index=0), 2)
    assert account.stats().exits == {"net": (1, 1, 0, 1)}


@pytest.mark.parametrize(("count", "p50", "p99"), [(1, 1, 1), (2, 1, 2), (100, 50, 99), (200, 100, 198)])
def test_percentiles_are_by_nearest_rank(count: int, p50: int, p99: int) -> None:
    account = Account("a")
    for total_us in range(count, 0, -1):
        account.count_answer(answer(total_us), 1)
    assert (account.stats().latency_p50_us, account.stats().latency_p99_us) == (p50, p99)


def test_percentiles_are_of_the_last_answers_only() -> None:
    account = Account("a")
    for total_us in [1_000_000] * 10 + [1] * KEPT_LATENCIES:
        account.count_answer(answer(total_us), 1)
    assert account.stats().latency_p99_us == 1


def test_energy_is_summed_and_says_where_it_comes_from() -> None:
    account = Account("a")
    assert (account.stats().energy_mj, account.stats().energy_source) == (None, "unknown")
    account.count_run(1.5, 100, "measured")
    account.count_run(2.0, 100, "measured")
    assert (account.stats().energy_mj, account.stats().energy_source) == (3.5, "measured")
    account.count_run(1.0, 100, "modelled")
    assert (account.stats().energy_mj, account.stats().energy_source) == (4.5, "modelled")


def test_what_is_charged_by_a_profile_is_a_model_until_the_meter_has_spoken() -> None:
    ledger = Ledger({})
    ledger.attribution = Attribution()
    ledger.book(0, "a", Took(energy_mj=2.0, device_us=400), "modelled")
    assert (ledger.account("a").stats().energy_source, ledger.account("a").stats().unsettled_mj) == ("modelled", 2.0)
    ledger.settle_energy(Settled({"a": 2.5}, {"a": 2.0}, 1.0))
    stats = ledger.account("a").stats()
    assert (stats.energy_mj, stats.energy_source, stats.unsettled_mj) == (2.5, "measured", 0.0)


def test_what_ran_before_the_meter_was_there_waits_for_nothing_it_could_say() -> None:
    ledger = Ledger({})
    ledger.book(0, "a", Took(energy_mj=2.0, device_us=400), "modelled")
    ledger.attribution = Attribution()
    stats = ledger.account("a").stats()
    assert (stats.energy_mj, stats.energy_source, stats.unsettled_mj) == (2.0, "modelled", 0.0)


def test_an_entry_that_fails_costs_no_other_and_doubles_none() -> None:
    ledger = Ledger({})
    broken = Took(device_us=1)
    for took in (Took(device_us=10), broken, Took(device_us=20)):
        ledger.book(0, "a", took, "unknown")
    del broken.energy_mj
    del broken.device_us
    with pytest.raises(AttributeError):
        ledger.count()
    assert ledger.account("a").stats().device_us == 10 + 20


def test_what_only_people_read_does_not_pile_up_where_nobody_reads() -> None:
    # Checked, it would be read after every event.
    simulation = Simulation([served()], check=False)
    simulation.poisson("a", Bounds(latency_ms=50.0), 1000.0, 0, 2_000_000)
    simulation.run()
    assert len(simulation.outcomes) > 4 * UNCOUNTED_MAX
    assert len(simulation.server.ledger._uncounted) < 2 * UNCOUNTED_MAX


def test_a_part_that_is_not_known_makes_the_sum_unknown() -> None:
    account = Account("a")
    account.count_run(1.5, 100, "modelled")
    account.count_run(None, 100, "modelled")
    account.count_run(1.5, 100, "modelled")
    stats = account.stats()
    assert (stats.energy_mj, stats.energy_source, stats.device_us) == (None, "unknown", 300)


def test_a_run_is_booked_once_and_only_time_beyond_what_was_owed_counts_for_fairness() -> None:
    ledger = Ledger({})
    ledger.book(0, "a", Took(owed_us=300.0, free_us=100.0, free_mj=0.5, energy_mj=2.0, device_us=400), "measured")
    stats, share = ledger.account("a").stats(), ledger.share("a")
    assert (stats.device_us, stats.energy_mj, stats.optional_us) == (400, 2.0, 100)
    assert (share.time_us, share.energy_mj) == (100.0, 0.5)


def test_a_run_whose_energy_nobody_knows_leaves_its_tenants_unknown() -> None:
    ledger = Ledger({})
    ledger.book(0, "a", Took(free_us=100.0, device_us=100), "unknown")
    assert (ledger.account("a").stats().energy_mj, ledger.share("a").energy_mj) == (None, None)
