"""Arrivals of traces: the rate and duration asked for, the shape that was recorded, never more than there is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delen.profiles.traces import arrivals_of_trace

# Read here, before the variables of whoever runs the tests are hidden from them.
DATA = os.environ.get("DELEN_DATA", "")


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    """One arrival every 100 ms for a minute, but none in its second half minute's first ten seconds."""
    seconds = [step / 10 for step in range(600) if not 300 <= step < 400]
    lines = [f"2023-11-16 18:00:{second:010.7f},1,1" for second in seconds]
    path = tmp_path / "azure.csv"
    path.write_text("\r\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    return path


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    path = tmp_path / "counts.txt"
    path.write_text("100,100,800,0\n")
    return path


@pytest.fixture
def nab(tmp_path: Path) -> Path:
    path = tmp_path / "nab.csv"
    path.write_text("timestamp,value\n" + "\n".join(f"2014-04-10 00:{5 * i:02}:00,{300 + 300 * i}" for i in range(4)))
    return path


@pytest.fixture
def servegen(tmp_path: Path) -> Path:
    """Two clients: one bursty and steady in rate, one regular that is there for the second half only."""
    folder = tmp_path / "servegen"
    folder.mkdir()
    (folder / "a.csv").write_text("0,5,2,Gamma,0.25,0.8\n600,5,2,Gamma,0.25,0.8\n")
    (folder / "b.csv").write_text("0,0,0,,0,0\n600,10,0.3,Weibull,3.7,0.11\n")
    return folder


def per_part(times_us: np.ndarray, parts: int, duration_s: float) -> list[int]:
    counts: list[int] = np.bincount(times_us * parts // int(duration_s * 1e6), minlength=parts).tolist()
    return counts


def test_timestamps_take_the_rate_exactly(azure: Path) -> None:
    times_us = arrivals_of_trace("azure", azure, duration_s=2.0, rate_hz=200, rng=rng())
    # 400 of 500 arrivals: 50 s of the trace, whose seconds 30 to 40 are silent.
    assert per_part(times_us, 5, 2.0) == [100, 100, 100, 0, 100]


def test_timestamps_take_a_time_scale(azure: Path) -> None:
    times_us = arrivals_of_trace("azure", azure, duration_s=4.0, time_scale=0.1, rng=rng())
    assert per_part(times_us, 4, 4.0) == [100, 100, 100, 0]


def test_a_random_start_is_elsewhere_but_as_long(azure: Path) -> None:
    at_rate = [
        arrivals_of_trace("azure", azure, duration_s=2.0, rate_hz=100, random_start=True, rng=rng(seed))
        for seed in range(5)
    ]
    assert {len(times_us) for times_us in at_rate} <= {199, 200}
    assert len({tuple(times_us) for times_us in at_rate}) == 5
    scaled = [
        arrivals_of_trace("azure", azure, duration_s=4.0, time_scale=0.1, random_start=True, rng=rng(seed))
        for seed in range(5)
    ]
    assert all(times_us[-1] < 4_000_000 and times_us[0] >= 0 for times_us in scaled)
    assert {len(times_us) // 10 for times_us in scaled} <= {29, 30, 31, 39, 40, 41}


def test_counts_fill_the_duration_at_the_rate(counts: Path) -> None:
    times_us = arrivals_of_trace("slopower", counts, duration_s=8.0, rate_hz=1000, rng=rng())
    assert per_part(times_us, 4, 8.0) == [pytest.approx(count, rel=0.15) for count in (800, 800, 6400, 0)]
    assert times_us.dtype == np.int64
    assert (np.diff(times_us) >= 0).all()


def test_counts_at_a_time_scale_keep_their_number(counts: Path, nab: Path) -> None:
    times_us = arrivals_of_trace("slopower", counts, duration_s=3.0, time_scale=1 / 60, bin_s=60, rng=rng())
    assert per_part(times_us, 3, 3.0) == [pytest.approx(count, rel=0.3) for count in (100, 100, 800)]
    times_us = arrivals_of_trace("nab", nab, duration_s=2.5, time_scale=1 / 300, rng=rng())
    # The last half second is half a bin of 900.
    assert per_part(times_us, 5, 2.5) == [pytest.approx(count, rel=0.3) for count in (150, 150, 300, 300, 450)]


def test_rate_and_time_scale_together_set_height_and_speed(nab: Path) -> None:
    times_us = arrivals_of_trace("nab", nab, duration_s=2.0, time_scale=1 / 300, rate_hz=3000, rng=rng())
    assert per_part(times_us, 2, 2.0) == [pytest.approx(count, rel=0.1) for count in (2000, 4000)]


def test_counts_may_start_anywhere_that_leaves_enough(nab: Path) -> None:
    totals = set()
    for seed in range(20):
        times_us = arrivals_of_trace("nab", nab, duration_s=1.0, time_scale=1 / 300, random_start=True, rng=rng(seed))
        assert 0 <= times_us[0] < times_us[-1] < 1_000_000
        totals.add(len(times_us) // 100)
    # The first bin holds 300, the last 1,200.
    assert min(totals) < 6
    assert max(totals) > 9
    assert max(totals) < 14


def test_a_random_start_leaves_the_rate_as_asked(nab: Path, servegen: Path) -> None:
    for kind, path, time_scale in (("nab", nab, 1 / 300), ("servegen", servegen, 1 / 600)):
        for seed in range(5):
            times_us = arrivals_of_trace(
                kind, path, duration_s=1.0, rate_hz=20_000, time_scale=time_scale, random_start=True, rng=rng(seed)
            )
            assert len(times_us) == pytest.approx(20_000, rel=0.05)
            assert 0 <= times_us[0] < times_us[-1] < 1_000_000


def test_servegen_clients_are_superposed_at_their_rates(servegen: Path) -> None:
    times_us = arrivals_of_trace("servegen", servegen, duration_s=1200.0, time_scale=1.0, rng=rng())
    assert per_part(times_us, 2, 1200.0) == [pytest.approx(count, rel=0.1) for count in (3000, 9000)]
    times_us = arrivals_of_trace("servegen", servegen, duration_s=60.0, rate_hz=100, rng=rng())
    assert per_part(times_us, 2, 60.0) == [pytest.approx(count, rel=0.1) for count in (1500, 4500)]


def test_servegen_gaps_have_the_fitted_spread(servegen: Path) -> None:
    gaps = np.diff(arrivals_of_trace("servegen", servegen / "a.csv", duration_s=60, rate_hz=500, rng=rng()))
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.05)
    regular = servegen / "b.csv"
    times_us = arrivals_of_trace("servegen", regular, duration_s=60, rate_hz=500, rng=rng())
    gaps = np.diff(times_us)
    assert gaps.std() / gaps.mean() == pytest.approx(0.30, rel=0.05)
    assert times_us[0] > 29_000_000


@pytest.mark.parametrize("family", ["Gamma", "Weibull"])
def test_bursty_windows_of_few_arrivals_keep_their_mean(tmp_path: Path, family: str) -> None:
    path = tmp_path / "few.csv"
    path.write_text("\n".join(f"{600 * i},0.02,2.2,{family},0.5,1" for i in range(1000)))
    times_us = arrivals_of_trace("servegen", path, duration_s=600_000, time_scale=1.0, rng=rng())
    # Twelve to a window. Windows that each began with an arrival would have about 14.
    assert len(times_us) / 1000 == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "arguments", "fault"),
    [
        ("azure", {"duration_s": 10, "rate_hz": 100}, "at most 49.9 per second, or 4.99 s"),
        ("azure", {"duration_s": 60, "time_scale": 0.1}, "lasts 5.99 s .* never repeated"),
        ("azure", {"duration_s": 1, "time_scale": 0.1, "rate_hz": 5}, "take only one"),
        ("nab", {"duration_s": 60, "time_scale": 0.01}, "lasts 12 s .* raise time_scale 5-fold"),
        ("counts", {"duration_s": 1, "rate_hz": 1}, "no traces are of kind 'counts'"),
        ("nab", {"duration_s": 1}, "neither rate_hz nor time_scale"),
        ("nab", {"duration_s": 0, "rate_hz": 1}, "duration_s is 0"),
        ("nab", {"duration_s": 1, "rate_hz": -1}, "rate_hz is -1"),
        ("nab", {"duration_s": 1, "rate_hz": 1, "bin_s": 60}, "leave it out"),
        ("nab", {"duration_s": 1, "rate_hz": 9e8}, "at most 100000000"),
        ("slopower", {"duration_s": 1, "time_scale": 1}, "give bin_s"),
    ],
)
def test_what_a_trace_cannot_give_is_refused(
    azure: Path, counts: Path, nab: Path, kind: str, arguments: dict[str, Any], fault: str
) -> None:
    path = {"azure": azure, "slopower": counts}.get(kind, nab)
    with pytest.raises(ValueError, match=fault):
        arrivals_of_trace(kind, path, rng=rng(), **arguments)


def test_a_silent_stretch_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    silent = tmp_path / "silent.txt"
    silent.write_text("0,0,5")
    with pytest.raises(ValueError, match="no arrivals in the 2 s used"):
        arrivals_of_trace("slopower", silent, duration_s=2, time_scale=1, bin_s=1, rng=rng())
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"without .csv files"):
        arrivals_of_trace("servegen", tmp_path / "none", duration_s=2, rate_hz=1, rng=rng())


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="DELEN_DATA does not say where the published traces are")
@pytest.mark.parametrize(
    ("kind", "name", "cv"),
    [
        ("azure", "azure_llm/AzureLLMInferenceTrace_code.csv", (8, 16)),
        ("azure", "azure_llm/AzureLLMInferenceTrace_conv.csv", (1.0, 1.2)),
        ("servegen", "servegen_mm_image", (1.2, 1.6)),
        ("slopower", "slopower/azure_full_trace.out.txt", (1.5, 3)),
        ("slopower", "slopower/wikipedia_full_trace.out", (1, 1.3)),
        ("nab", "nab/Twitter_volume_UPS.csv", (2, 4)),
    ],
)
def test_the_published_traces_play_at_any_rate(kind: str, name: str, cv: tuple[float, float]) -> None:
    path = Path(DATA) / "traces" / name
    times_us = arrivals_of_trace(kind, path, duration_s=30, rate_hz=200, rng=rng())
    assert len(times_us) == pytest.approx(6000, rel=0.05)
    assert 0 <= times_us[0] <= times_us[-1] < 30_000_000
    gaps = np.diff(times_us)
    assert cv[0] < gaps.std() / gaps.mean() < cv[1]
