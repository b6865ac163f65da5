"""Histograms: every value is counted once, at the edge that holds it."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from delen.clients.info import EDGES_US
from delen.daemon.records import StepDone
from delen.daemon.tally import Tally, Work
from delen.tests.simulation import served


def test_a_value_on_an_edge_belongs_below_it() -> None:
    tally = Tally()
    for value in (0, EDGES_US[0], EDGES_US[0] + 1, EDGES_US[-1], EDGES_US[-1] + 1):
        tally.add(value)
    told = tally.told()
    assert (told.counts[0], told.counts[1], told.counts[-2], told.counts[-1]) == (2, 1, 1, 1)
    assert len(told.counts) == len(EDGES_US) + 1


@given(st.lists(st.integers(0, 20_000_000)))
def test_counts_and_sum_are_of_all_values(values: list[int]) -> None:
    tally = Tally()
    for value in values:
        tally.add(value)
    told = tally.told()
    assert told.sum_us == sum(values)
    assert all(
        count == sum(bisect_left(EDGES_US, value) == index for value in values)
        for index, count in enumerate(told.counts)
    )


def test_work_counts_segments_by_time_and_batch_and_leaves_heads_out() -> None:
    network = served(gates=False)
    work = Work(network)
    work.add(network, (StepDone(False, 0, 2, 50), StepDone(True, 0, 2, 7), StepDone(False, 2, 1, 3_000)))
    work.add(network, (StepDone(False, 0, 4, 150),))
    told = work.told()
    assert (told.name, told.version, told.batches) == (network.name, network.version, (1, 1, 0, 1))
    assert [sum(each.counts) for each in told.segments] == [2, 0, 1]
    assert [each.sum_us for each in told.segments] == [200, 0, 3_000]
