"""Costs read from a profile: exact where measured, rising everywhere, and only worthwhile exits on the ladder."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delen.profiles.costs import Costs, CostTables
from delen.profiles.monotone import dense, isotonic
from delen.profiles.schema import Cost, ExitQuality, Profile
from delen.tests.sample_profile import BATCHES, sample_profile

MICROSECONDS = st.floats(0, 1e6, allow_nan=False)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Any profile that passes the checks: rising or not in batch size, any accuracies, with or without energy."""
    batches = (1, *sorted(draw(st.sets(st.integers(2, 12), max_size=4))))
    count = draw(st.integers(1, 4))
    energy = draw(st.booleans())

    def one() -> Cost:
        p50, p95, p99 = sorted(draw(st.tuples(MICROSECONDS, MICROSECONDS, MICROSECONDS)))
        energy_mj = draw(st.floats(0, 1e4)) if energy else None
        return Cost(p50_us=p50, p95_us=p95, p99_us=p99, n=10, energy_mj=energy_mj)

    def table() -> tuple[tuple[Cost, ...], ...]:
        return tuple(tuple(one() for _ in batches) for _ in range(count))

    accuracies = draw(st.lists(st.sampled_from([0.5, 0.7, 0.8, 0.9]), min_size=count, max_size=count))
    return msgspec.structs.replace(
        sample_profile(energy=energy),
        batches=batches,
        segments=table(),
        heads=table(),
        exits=tuple(ExitQuality(accuracy=value, low=value, high=value, n=1) for value in accuracies),
    )


@pytest.mark.slow
@settings(max_examples=50)
@given(profiles())
def test_every_cost_rises_with_the_batch(profile: Profile) -> None:
    costs = Costs.of(profile, 16)
    tables = [costs.segment_us, costs.head_us, costs.segment_p99_us, costs.head_p99_us]
    tables += [table for table in (costs.segment_mj, costs.head_mj) if table is not None]
    for row in [row for table in tables for row in table]:
        assert len(row) == 17
        assert row[1:] == sorted(row[1:])
    for last in range(costs.exit_count):
        for path in (costs.path_us, costs.path_p99_us):
            times = [path(0, last, batch) for batch in range(1, 17)]
            assert all(after >= before * (1 - 1e-12) for before, after in pairwise(times))


@settings(max_examples=50)
@given(profiles())
def test_a_longer_way_to_the_same_exit_never_costs_less(profile: Profile) -> None:
    costs = Costs.of(profile, 3)
    for last in range(costs.exit_count):
        for first in range(last):
            assert costs.path_us(first, last, 3) >= costs.path_us(first + 1, last, 3) * (1 - 1e-12)
            assert costs.path_p99_us(first, last, 3) >= costs.path_p99_us(first + 1, last, 3) * (1 - 1e-12)


@settings(max_examples=50)
@given(profiles())
def test_a_tail_lies_between_the_median_and_all_tails_at_once(profile: Profile) -> None:
    costs = Costs.of(profile, 12)
    for last in range(costs.exit_count):
        worst = costs.head_p99_us[last][5] + sum(costs.segment_p99_us[k][5] for k in range(last + 1))
        tail = costs.path_p99_us(0, last, 5)
        assert costs.path_us(0, last, 5) <= tail
        # Where a noisy profile's p99 falls below its lifted p50, the p50 counts.
        lifted = worst + costs.path_us(0, last, 5)
        assert tail <= lifted * (1 + 1e-12)


@settings(max_examples=50)
@given(profiles())
def test_the_ladder_rises_in_accuracy_and_in_time(profile: Profile) -> None:
    costs = Costs.of(profile, 1)
    assert costs.ladder
    assert [k for k in range(costs.exit_count) if not costs.dominated[k]] == list(costs.ladder)
    accuracies = [costs.accuracy[k] for k in costs.ladder]
    times = [costs.path_us(0, k, 1) for k in costs.ladder]
    assert accuracies == sorted(set(accuracies))
    assert times == sorted(set(times))
    assert max(accuracies) == max(costs.accuracy), "the best there is stays reachable"


def test_measured_sizes_are_exact_and_paths_are_sums() -> None:
    profile = sample_profile()
    costs = Costs.of(profile, 8)
    for index, row in enumerate(profile.segments):
        for batch, cost in zip(BATCHES, row, strict=True):
            assert costs.segment_us[index][batch] == cost.p50_us
            assert costs.segment_p99_us[index][batch] == cost.p99_us
    assert costs.path_us(0, 2, 1) == 100 + 200 + 400 + 10
    assert costs.path_us(1, 2, 1) == 200 + 400 + 10
    assert costs.path_p99_us(0, 0, 1) == pytest.approx(110 + math.hypot(50, 5))
    assert costs.energy_mj(1, 1) == pytest.approx((100 + 200 + 10) * 0.0075)


def test_between_and_beyond_measured_sizes() -> None:
    assert dense([1, 2, 4], [10, 20, 30], 6) == [
        0,
        10,
        20,
        25,
        30,
        pytest.approx(30 + 20 / 3),
        pytest.approx(30 + 40 / 3),
    ]
    assert dense([1], [10], 3) == [0, 10, 20, 30], "one size alone is taken as proportional"
    assert dense([1, 2, 4], [10, 20, 30], 2) == [0, 10, 20], "cut where the daemon's largest batch is smaller"
    assert dense([1, 2, 4], [10, 5, 30], 4) == [0, 10, 10, 20, 30], "a size that seems cheaper is lifted"


@pytest.mark.parametrize("energy", [True, False])
def test_the_same_costs_are_made_again_from_what_a_journal_keeps(energy: bool) -> None:
    costs = Costs.of(sample_profile(energy=energy, accuracies=(0.85, 0.8, 0.97)), 8)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(costs.tables()), type=CostTables)
    assert vars(Costs.of_tables(kept)) == vars(costs)


def test_a_flat_end_does_not_promise_free_work() -> None:
    beyond = dense([1, 4, 8], [10, 80, 80], 16)
    assert beyond[16] == 80 + 8 * 10


def test_a_batch_of_less_than_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_max is 0"):
        Costs.of(sample_profile(), 0)


def test_an_exit_no_better_than_a_shallower_one_is_dominated() -> None:
    costs = Costs.of(sample_profile(accuracies=(0.85, 0.97, 0.97)), 4)
    assert costs.dominated == [False, False, True]
    assert costs.ladder == (0, 1)


def test_an_exit_with_a_head_dearer_than_the_way_on_is_dominated() -> None:
    costs = Costs.of(sample_profile(heads_us=(10, 900, 10)), 4)
    assert costs.ladder == (0, 2)


def test_unknown_energy_is_none_and_never_zero() -> None:
    costs = Costs.of(sample_profile(energy=False), 4)
    assert costs.segment_mj is None
    assert costs.head_mj is None
    assert costs.energy_mj(0, 1) is None
    info = costs.exit_infos()[0]
    assert info.energy_mj is None
    assert info.energy_source == "unknown"


def test_tenants_are_told_cumulative_costs_rounded_up() -> None:
    infos = Costs.of(sample_profile(segments_us=(100.2, 200, 400)), 4).exit_infos()
    assert [info.index for info in infos] == [0, 1, 2]
    assert infos[0].latency_p50_us == 111
    assert infos[2].latency_p50_us == 711
    assert all(info.latency_p99_us > info.latency_p50_us for info in infos)
    assert infos[1].accuracy == 0.95


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
def test_a_fit_rises_keeps_the_mean_and_what_rose_already(values: list[float]) -> None:
    fitted = isotonic(values, [1.0] * len(values))
    assert len(fitted) == len(values)
    assert all(after >= before * (1 - 1e-12) for before, after in pairwise(fitted))
    assert sum(fitted) == pytest.approx(sum(values))
    assert isotonic(sorted(values), [1.0] * len(values)) == sorted(values)


def test_a_fit_leans_to_what_was_seen_more_often() -> None:
    assert isotonic([10, 4], [3, 1]) == [8.5, 8.5]


def test_the_most_a_request_is_charged_has_the_head_of_every_exit_it_may_stop_at() -> None:
    costs = Costs.of(sample_profile(segments_us=(100, 200, 400), heads_us=(10, 20, 30)), 8)
    assert [costs.most_mj(index) for index in range(3)] == pytest.approx(
        [0.0075 * us for us in (100 + 10, 300 + 10 + 20, 700 + 10 + 20 + 30)]
    )
    assert costs.exit_infos()[2].energy_mj == costs.most_mj(2)
    assert Costs.of(sample_profile(energy=False), 8).most_mj(0) is None


def test_a_modelled_batch_is_no_dearer_than_so_many_alone() -> None:
    stalled = sample_profile(segments_us=(100, 200, 400))
    first = list(stalled.segments[0])
    first[1] = msgspec.structs.replace(first[1], energy_mj=50.0)
    stalled = msgspec.structs.replace(stalled, segments=(tuple(first), *stalled.segments[1:]))
    for source, dear in (("modelled", False), ("measured", True)):
        costs = Costs.of(msgspec.structs.replace(stalled, energy_source=source), 8)
        alone_mj, two_mj = costs.energy_mj(0, 1), costs.energy_mj(0, 2)
        assert alone_mj is not None
        assert two_mj is not None
        assert (two_mj > 2 * alone_mj) is dear
