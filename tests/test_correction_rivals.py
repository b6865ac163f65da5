"""The rivals do what they are known for, are chosen by name, and the bench that compares them tells them apart."""

from __future__ import annotations

import re

import pytest

from delen.daemon import correction_bench
from delen.daemon.correction_bench import HINDSIGHT, NOISES, CorrectionScore, bench_corrections
from delen.policies.correction import Correction, Corrects
from delen.policies.correction_rivals import CORRECTIONS, Alert, LastRuns, Static, correction


def after(candidate: Corrects, *ratios: float) -> Corrects:
    for ratio in ratios:
        candidate.observe(200.0, 200.0 * ratio)
    return candidate


def test_a_static_profile_learns_nothing() -> None:
    assert after(Static(1.2), 3.0, 3.0, 3.0).factor == pytest.approx(1.2)


def test_the_last_ten_runs_are_all_that_counts_and_p99_lies_just_below_the_longest() -> None:
    last = after(LastRuns(10, 0.99), *[9.0] * 5, *range(1, 11))
    assert last.factor == pytest.approx(9.0 + 0.91)
    assert last.mu == 6.0


def test_the_maximum_of_a_window_is_kept_until_it_leaves() -> None:
    window = after(LastRuns(3, 1.0), 1.0, 2.0, 1.0, 1.0)
    assert window.factor == pytest.approx(2.0)
    assert after(window, 1.0).factor == pytest.approx(1.0)


def test_before_any_run_a_window_believes_the_profile() -> None:
    assert LastRuns(10, 0.99, 1.4).factor == pytest.approx(1.4)


def test_alert_follows_every_run_and_reserves_three_quarters_more() -> None:
    alert = after(Alert(), *[1.0] * 20, 2.0)
    assert alert.mu == pytest.approx(2.0, abs=0.02)
    assert after(Alert(), *[1.0] * 20).factor == pytest.approx(1.0 + 2.326 * 0.1**0.5, abs=0.01)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_every_name_makes_one_that_can_be_told_a_run_and_predicts(name: str) -> None:
    made = correction(name, p95_over_p50=1.3)
    after(made, 1.0, 1.1)
    known = made.factor
    made.observe(0.0, 100.0)
    assert made.factor == known == pytest.approx(made.mu * (1 + made.margin))
    assert known >= 1.0


def test_what_is_known_of_the_profile_and_the_target_arrive() -> None:
    assert correction("static-p95", p95_over_p50=1.7).factor == pytest.approx(1.7)
    assert isinstance(correction("conformal"), Correction)
    assert correction("alert", miss_target=0.1).factor < correction("alert", miss_target=0.01).factor
    window = after(correction("max-of-n", miss_target=0.5), 4.0, 1.0, 1.0)
    assert window.factor == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("p99", {}, "no correction is called 'p99'; choose one of conformal, "),
        ("conformal", {"miss_target": 0.0}, "miss_target is 0.0"),
        ("conformal", {"miss_target": 1.0}, "above 0 and below 1"),
        ("static-p95", {"p95_over_p50": 0.9}, "never below its p50"),
        ("static-p95", {"p95_over_p50": float("nan")}, "p95_over_p50 is nan"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(name: str, given: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        correction(name, **given)


def scores(*noises: str, monkeypatch: pytest.MonkeyPatch, seeds: int = 1) -> dict[tuple[str, str], CorrectionScore]:
    monkeypatch.setattr(correction_bench, "NOISES", {name: NOISES[name] for name in noises})
    return {(score.noise, score.correction): score for score in bench_corrections(seeds)}


def test_the_bench_is_the_same_every_time_and_scores_every_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    once = scores("jitter 5 %", monkeypatch=monkeypatch)
    assert once == scores("jitter 5 %", monkeypatch=monkeypatch)
    assert [name for _, name in once] == [*CORRECTIONS, HINDSIGHT]
    assert once["jitter 5 %", HINDSIGHT].missed_pct == pytest.approx(1.0, abs=0.03)
    # By what they are: the profile's median is late every other run, its p95 one in twenty.
    assert once["jitter 5 %", "static-p50"].missed_pct == pytest.approx(50.0, abs=4.0)
    assert once["jitter 5 %", "static-p95"].missed_pct == pytest.approx(5.0, abs=1.5)
    assert once["jitter 5 %", "static-p95"].step_missed == 50


@pytest.mark.slow
def test_only_conformal_keeps_its_promise_under_every_noise_and_reserves_less_than_who_nearly_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by = scores(*NOISES, monkeypatch=monkeypatch, seeds=2)
    for noise in NOISES:
        ours, longest = by[noise, "conformal"], by[noise, "max-of-n"]
        assert ours.missed_pct <= 1.3, noise
        assert ours.step_missed <= 3.5, noise
        assert ours.over_pct <= longest.over_pct + 1.5, noise
        assert by[noise, "last-10-p99"].missed_pct > 5, noise
    for noise in ("jitter 1 %", "jitter 5 %", "drift over 1 s", "steps", "throttling"):
        assert by[noise, "conformal"].over_pct < by[noise, "alert"].over_pct / 4, noise
