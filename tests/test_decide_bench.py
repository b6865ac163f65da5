"""The benchmark of decisions drives a queue that stays as long as it says, and times every decision."""

from __future__ import annotations

import pytest

from delen.daemon import decide_bench
from delen.policies.policy import make_policy


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide_bench, "DECISIONS", 40)
    monkeypatch.setattr(decide_bench, "LOOP_STEPS", 100)


@pytest.mark.slow
def test_every_length_is_timed_with_its_percentiles_in_order() -> None:
    rows = list(decide_bench.bench_decisions((1, 30)))
    assert [(row.queued, row.decisions) for row in rows] == [(1, 40), (30, 40)]
    for row in rows:
        assert 0 < row.choose_p50_us <= row.choose_p99_us <= row.next_p99_us
        assert 0 < row.submit_p50_us <= row.submit_p99_us
        assert row.loop_us > 0


def test_the_queue_keeps_its_length_while_requests_go_on_and_end() -> None:
    policy = decide_bench._Timed(make_policy("stage-edf"))
    queue = decide_bench._Queue(policy, 50)
    firsts = set()
    for _ in range(200):
        run = queue.server.next(queue.now_us)
        assert run is not None
        firsts.add(run.first)
        queue.done(run)
        queue.fill()
        assert queue.server.pending_count == 50
    assert len(policy.took_us) == 200
    assert len(firsts) > 1, "requests go on at exits"
