"""The rows that `delen profile` prints: cumulative per exit, per request at the largest batch, and JSON-able."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delen.profiles.store import Found
from delen.profiles.table import profile_rows, profile_summary, step_rows
from delen.tests.sample_profile import sample_profile


def test_a_row_per_exit_is_cumulative() -> None:
    rows = profile_rows(sample_profile(accuracies=(0.85, 0.97, 0.96)))
    assert [row["p50_us"] for row in rows] == [110, 310, 710]
    assert [row["dominated"] for row in rows] == [False, False, True]
    assert rows[1]["energy_mj"] == pytest.approx(310 * 0.0075)
    # Eight rows cost 4.5 times one, so each costs 4.5 / 8.
    assert rows[1]["p50_us_each_at_largest"] == pytest.approx(310 * 4.5 / 8, abs=0.1)
    assert rows[1]["energy_mj_each_at_largest"] == pytest.approx(310 * 0.0075 * 4.5 / 8)


def test_unknown_energy_stays_unknown() -> None:
    row = profile_rows(sample_profile(energy=False))[0]
    assert (row["energy_mj"], row["energy_mj_each_at_largest"], row["energy_source"]) == (None, None, "unknown")


def test_a_row_per_step_is_as_measured() -> None:
    rows = step_rows(sample_profile())
    assert len(rows) == 3 * 2 * 4
    assert rows[0] == {
        "step": "segment 0",
        "batch": 1,
        "p50_us": 100.0,
        "p95_us": 120.0,
        "p99_us": 150.0,
        "n": 100,
        "energy_mj": 0.75,
    }


def test_the_summary_is_json_and_says_where_it_was_found() -> None:
    profile = sample_profile()
    summary = json.loads(json.dumps(profile_summary(profile, Found(profile, Path("/a/b.json"), "power mode changed"))))
    assert (summary["path"], summary["stale"]) == ("/a/b.json", "power mode changed")
    assert summary["power_mode"] == "15W"
    assert len(summary["exits"]) == 3
    assert "path" not in profile_summary(profile)
