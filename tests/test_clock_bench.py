"""The bench of clocks, short: what it says adds up, and the oracle is never dearer than the policy."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from delen.daemon import clock_bench
from delen.daemon.clock_bench import bench_clocks
from delen.daemon.scenario import load_scenario


@pytest.mark.slow
def test_a_short_bench_shows_what_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario("clocks")
    small = replace(scenario, duration_s=20.0, cases=tuple(case for case in scenario.cases if case.load in (4, 12)))
    monkeypatch.setattr(clock_bench, "load_scenario", lambda _name: small)
    seen: list[tuple[int, int]] = []
    points = bench_clocks(2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert len(points) == 10
    for point in points:
        assert point.together_j.mean <= point.alone_j.mean
        # Its times are rounded down and its device is exact, so it is a bound; noise is worth a part of a percent.
        assert point.over_oracle_pct.mean > -0.5
    rail = {point.load: point for point in points if not point.rest_w}
    assert rail[4].saved_pct.mean > 35
    assert rail[12].saved_pct.mean > 30
    assert rail[4].more_missed_pct.mean == 0
    assert rail[4].over_oracle_pct.mean < 5
    always = {(point.load, point.rest_w): point.saved_pct.mean for point in points if point.meant == "always"}
    assert always[4, 3.0] < always[4, 1.0] < rail[4].saved_pct.mean
    pytest.importorskip("matplotlib")
    from delen.daemon.clock_plot import draw_clocks

    draw_clocks(points, tmp_path / "clocks.png")
    assert (tmp_path / "clocks.png").stat().st_size > 10_000
