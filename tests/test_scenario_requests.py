"""Streams of a scenario: every kind of arrivals keeps its rate, and asks keep their shares."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from delen.clients.bounds import Bounds
from delen.daemon.scenario_requests import Arrivals, Ask, DataMissing, Stream, stream_requests


def drawn(arrivals: Arrivals, seed: int = 0, asks: tuple[Ask, ...] = (Ask(),)) -> list[tuple[int, Bounds]]:
    stream = Stream(tenant="a", network="net", arrivals=arrivals, asks=asks)
    return stream_requests(stream, 1000.0, 20.0, np.random.default_rng(seed), None)


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals(),
        Arrivals(kind="gamma", cv2=4),
        Arrivals(kind="periodic", jitter=0.2),
        Arrivals(kind="mmpp", rates=(0.5, 1.5), dwell_s=(0.1, 0.1)),
    ],
    ids=lambda arrivals: str(arrivals.kind),
)
def test_arrivals_keep_the_rate_and_the_order(arrivals: Arrivals) -> None:
    times_us = [when_us for when_us, _ in drawn(arrivals)]
    assert len(times_us) == pytest.approx(20_000, rel=0.05)
    assert times_us == sorted(times_us)
    assert times_us[-1] < 20e6


def test_a_burst_is_a_burst_and_then_over() -> None:
    times_us = [when_us for when_us, _ in drawn(Arrivals(kind="burst", burst=5, start_s=8, end_s=10))]
    assert sum(8e6 <= when_us < 10e6 for when_us in times_us) == pytest.approx(10_000, rel=0.05)
    assert sum(12e6 <= when_us < 14e6 for when_us in times_us) == pytest.approx(2_000, rel=0.1)


def test_cameras_do_not_start_together() -> None:
    camera = Arrivals(kind="periodic")
    starts_us = {drawn(camera, seed)[0][0] for seed in range(8)}
    assert len(starts_us) == 8
    assert max(starts_us) < 1000


def test_bounds_are_drawn_by_their_shares() -> None:
    asks = (Ask(share=3, latency_ms=15), Ask(share=1, accuracy=0.8, objective="latency", on_miss="drop"))
    counts = Counter(bounds for _, bounds in drawn(Arrivals(), asks=asks))
    assert set(counts) == {ask.bounds() for ask in asks}
    assert counts[asks[0].bounds()] == pytest.approx(3 * counts[asks[1].bounds()], rel=0.1)


def test_a_trace_without_its_directory_says_which_and_how() -> None:
    with pytest.raises(DataMissing, match=r"counts\.csv; say where traces lie with --data DIR"):
        drawn(Arrivals(kind="trace", trace="nab", file="counts.csv"))
