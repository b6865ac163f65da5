"""A network as it is served: what follows the way to the worker and back, and how long a run may hold the device."""

from __future__ import annotations

import pytest

from delen.policies.view import HOP_MOVED, HOP_US_MAX, Served
from delen.tests.simulation import served


def after(runs: int, overhead_us: float) -> Served:
    network = served()
    assert network.batch_useful, "in use before anything has run"
    for _ in range(runs):
        network.ran(overhead_us)
    return network


def test_the_hop_follows_what_runs_take_beside_the_engine() -> None:
    assert after(200, 400.0).hop_us == pytest.approx(400, rel=0.01)
    assert after(200, -30.0).hop_us == pytest.approx(0, abs=0.1)
    assert after(1, 1e9).hop_us <= 50 + 0.05 * HOP_US_MAX, "a stall is not overhead"


def test_a_hop_that_stays_long_is_believed_and_one_that_is_short_again_too() -> None:
    network = after(100, 20_000.0)
    assert network.hop_us == pytest.approx(20_000, rel=0.05)
    for _ in range(10):
        network.ran(400.0)
    assert network.hop_us < HOP_US_MAX, "soon, since few are let in to show it"
    for _ in range(100):
        network.ran(400.0)
    assert network.hop_us == pytest.approx(400, rel=0.1)
    # Now and then a run is held up: that is no reason to expect it of all.
    for number in range(1_000):
        network.ran(1e6 if number % 50 == 0 else 400.0)
        assert network.hop_us < 600


def test_the_longer_the_hop_the_larger_the_batch_that_is_of_use() -> None:
    near, far = after(500, 1.0), after(500, 1_500.0)
    assert all(small <= large for small, large in zip(near.batch_useful, far.batch_useful, strict=True))
    assert near.batch_useful != far.batch_useful


def test_what_is_derived_from_the_hop_stays_as_it_is_while_that_hardly_moves() -> None:
    network = served()
    useful = network.batch_useful
    network.ran(network.hop_us * HOP_MOVED)
    assert network.batch_useful is useful
    for _ in range(100):
        network.ran(network.hop_us + 100)
    assert network.batch_useful is not useful


def test_the_longer_the_hop_the_farther_the_step_that_pays_best() -> None:
    # From exit 0: 0.10 for 210 us or 0.22 for 610 us, and the hop in either case.
    network = served(accuracies=(0.5, 0.6, 0.72))
    assert network.step(1, 1).stop == 1
    for _ in range(200):
        network.ran(1_500.0)
    assert network.step(1, 1).stop == 2


def test_the_largest_batch_that_gives_the_device_back_in_time() -> None:
    network = served(segments_us=(100, 200, 400))
    network.hop_us = 0.0
    costs, factor = network.costs, network.correction.factor
    for batch in range(1, network.batch_max):
        # Its longest segment with its head, and what that mostly does not exceed.
        longest_us = factor * (costs.segment_us[2][batch] + costs.head_us[2][batch])
        assert network.batch_within(0, 2, longest_us + 0.01) == batch
    assert network.batch_within(0, 2, 1.0) == 1, "one at least"
    assert network.batch_within(0, 0, 1e9) == network.batch_max
