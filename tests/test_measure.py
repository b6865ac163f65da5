"""Measuring gives a right profile whatever the machine does: noise, small memory, slow networks, bad meters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delen.clients.info import EnergySource
from delen.exits.bundle import Bundle, find_bundle, load_bundle, shipped_directory
from delen.exits.datasets import Labelled
from delen.exits.runner import EngineFault
from delen.profiles import measure as measuring
from delen.profiles.measure import FULL, QUICK, Budget, measure, percentile
from delen.profiles.meters import Energy, NoMeter
from delen.profiles.replay_runner import ReplayRunner
from delen.profiles.schema import Profile, ProfileError, profile_fault
from delen.tests.sample_profile import sample_profile

BRIEF = Budget(quick=False, timing_s=0.5, rounds_min=5, turn_s=0.01, energy_s=0.2, samples_max=100, p99_factor=1.0)


class Clock:
    """Virtual time that only work moves on."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, s: float) -> None:
        self.now_ns += round(s * 1e9)


class FakeEngine:
    """An engine whose steps take what `step_us(step, batch, run)` says; features are the batch itself."""

    engine, device, precision, threads = "fake", "cpu", "fp32", 1

    def __init__(self, clock: Clock, step_us: Callable[[int, int, int], float], memory_rows: int = 10**6) -> None:
        self.versions: Mapping[str, str] = {}
        self._clock = clock
        self._step_us = step_us
        self._memory_rows = memory_rows
        self._runs = 0

    def load(self, bundle: Bundle, batch_max: int) -> FakeEngine:
        return self

    def place(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if len(images) > self._memory_rows:
            raise EngineFault("memory", f"no memory for {len(images)} rows")
        return images

    def segment(self, index: int, features: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self._spend(2 * index, len(features))
        return features

    def head(self, index: int, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Exit k knows the label, which is the input's first pixel, of all but every (k + 2)-th row."""
        self._spend(2 * index + 1, len(features))
        labels = features.reshape(len(features), -1)[:, 0].round().astype(np.int64) % 10
        labels = np.where(np.arange(len(labels)) % (index + 2) == 0, (labels + 1) % 10, labels)
        return np.eye(10, dtype=np.float32)[labels]

    def take(self, features: npt.NDArray[Any], rows: Sequence[int]) -> npt.NDArray[Any]:
        return features[list(rows)]

    def join(self, parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate(parts)

    def finish(self) -> None:
        pass

    def _spend(self, step: int, batch: int) -> None:
        self._runs += 1
        self._clock.advance(self._step_us(step, batch, self._runs) / 1e6)


class FakeMeter:
    """Draws `power_mw` at all times, of which `idle_mw` idle; `short_s`: shorter windows are unknown."""

    source: EnergySource = "measured"
    model = "a fake"

    def __init__(self, clock: Clock, power_mw: float = 3000.0, idle_mw: float | None = 1000.0, short_s: float = 0.0):
        self.window_s_min = short_s
        self._clock = clock
        self._power_mw = power_mw
        self._idle_mw = idle_mw
        self._started_ns = 0

    def start(self) -> None:
        self._started_ns = self._clock.now_ns

    def stop(self) -> Energy:
        s = (self._clock.now_ns - self._started_ns) / 1e9
        return Energy(None, "unknown") if s < self.window_s_min else Energy(self._power_mw * s, "measured")

    def idle_power_mw(self) -> float | None:
        return self._idle_mw


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measuring, "clock_ns", clock)
    return clock


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(find_bundle("digits", [shipped_directory()]))


def steady(step: int, batch: int, run: int) -> float:
    return 100.0 * (step + 1) * (1 + 0.5 * (batch - 1))


def test_measuring_a_replayed_profile_gives_it_back(clock: Clock, bundle: Bundle, tmp_path: Path) -> None:
    given = sample_profile()
    runner = ReplayRunner(given, spend=True, sleep=clock.advance)
    found = measure(runner, bundle, meter=FakeMeter(clock), batches=given.batches, budget=BRIEF, root=tmp_path)
    assert found.batches == given.batches
    for table_found, table_given in ((found.segments, given.segments), (found.heads, given.heads)):
        for row_found, row_given in zip(table_found, table_given, strict=True):
            for one, expected in zip(row_found, row_given, strict=True):
                assert one.p50_us == pytest.approx(expected.p50_us)
                assert one.n >= BRIEF.rounds_min
    assert (found.network, found.bundle, found.quick) == ("digits", bundle.digest, False)
    assert found.temperature_c == (None, None)


def test_the_same_steps_are_the_same_whichever_is_measured_first(clock: Clock, bundle: Bundle) -> None:
    """A disturbance that lasts a tenth of the time falls on all batch sizes and moves no median."""

    def disturbed(step: int, batch: int, run: int) -> float:
        return steady(step, batch, run) * (10 if 300 < run < 600 else 1)

    found = measure(FakeEngine(clock, disturbed), bundle, meter=NoMeter(), batches=(1, 2, 4), budget=BRIEF)
    for k in range(3):
        for index, batch in enumerate((1, 2, 4)):
            assert found.segments[k][index].p50_us == pytest.approx(steady(2 * k, batch, 0))
            assert found.segments[k][index].p99_us == pytest.approx(10 * steady(2 * k, batch, 0))


def test_noise_that_contradicts_itself_is_fitted(clock: Clock, bundle: Bundle) -> None:
    def odd(step: int, batch: int, run: int) -> float:
        return {1: 100.0, 2: 300.0, 4: 200.0, 8: 400.0}[batch] + run % 3

    found = measure(FakeEngine(clock, odd), bundle, meter=FakeMeter(clock), batches=(1, 2, 4, 8), budget=BRIEF)
    assert profile_fault(found) is None
    for row in (*found.segments, *found.heads):
        for values in ([c.p50_us for c in row], [c.p95_us for c in row], [c.p99_us for c in row]):
            assert values == sorted(values)
        assert 200 < row[1].p50_us < 302, "two sizes out of order meet between their figures"
        assert row[1].p50_us == row[2].p50_us
        assert row[1].energy_mj == row[2].energy_mj


def test_energy_is_the_meters_less_the_idle_draw(clock: Clock, bundle: Bundle) -> None:
    found = measure(FakeEngine(clock, steady), bundle, meter=FakeMeter(clock), batches=(1, 4), budget=BRIEF)
    assert (found.energy_source, found.idle_power_mw) == ("measured", 1000.0)
    assert "1000 mW" in found.energy_model
    for k in range(3):
        for index, batch in enumerate((1, 4)):
            # 2 W above idle: 2 mJ each millisecond, for the whole batch.
            assert found.segments[k][index].energy_mj == pytest.approx(steady(2 * k, batch, 0) * 0.002)
            assert found.heads[k][index].energy_mj == pytest.approx(steady(2 * k + 1, batch, 0) * 0.002)


def test_a_meter_too_slow_for_the_budget_weighs_whole_networks_and_says_so(clock: Clock, bundle: Bundle) -> None:
    meter = FakeMeter(clock, short_s=0.1)
    found = measure(FakeEngine(clock, steady), bundle, meter=meter, batches=(1, 4), budget=BRIEF)
    assert "split over its steps by time" in found.energy_model
    assert found.segments[2][1].energy_mj == pytest.approx(steady(4, 4, 0) * 0.002)


def test_a_meter_too_slow_for_one_window_weighs_the_largest_batch_once(clock: Clock, bundle: Bundle) -> None:
    weighed: list[float] = []

    class Counting(FakeMeter):
        def stop(self) -> Energy:
            weighed.append(1)
            return super().stop()

    meter = Counting(clock, short_s=1.0)
    found = measure(FakeEngine(clock, steady), bundle, meter=meter, batches=(1, 4), budget=BRIEF)
    assert len(weighed) == 1
    assert "weighed once, at batch 4, and split over steps and batches by time" in found.energy_model
    for index, batch in enumerate((1, 4)):
        assert found.segments[2][index].energy_mj == pytest.approx(steady(4, batch, 0) * 0.002)


def test_without_a_meter_energy_is_unknown_throughout(clock: Clock, bundle: Bundle) -> None:
    found = measure(FakeEngine(clock, steady), bundle, meter=NoMeter(), batches=(1, 2), budget=BRIEF)
    assert found.energy_source == "unknown"
    assert {cost.energy_mj for row in (*found.segments, *found.heads) for cost in row} == {None}
    assert found.idle_power_mw is None


def test_a_meter_that_fails_makes_energy_unknown_not_zero(clock: Clock, bundle: Bundle) -> None:
    class Broken(FakeMeter):
        def stop(self) -> Energy:
            return Energy(None, "unknown")

    found = measure(FakeEngine(clock, steady), bundle, meter=Broken(clock), batches=(1, 2), budget=BRIEF)
    assert found.energy_source == "unknown"
    assert found.heads[0][0].energy_mj is None


def _labelled(count: int) -> Labelled:
    """Images whose first pixel is the label once the network's preprocessing is done."""
    images = np.zeros((count, 1, 8, 8), np.uint8)
    return Labelled(images, np.zeros(count, np.int64))


def test_accuracy_is_counted_on_the_samples(clock: Clock, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_ready", lambda bundle, images: images)
    engine = FakeEngine(clock, steady)
    found = measure(engine, bundle, meter=NoMeter(), batches=(1, 6), samples=_labelled(60), budget=BRIEF)
    # Of batches of 6, exit k is wrong in every (k + 2)-th row.
    assert [quality.accuracy for quality in found.exits] == pytest.approx([1 / 2, 2 / 3, 4 / 6])
    assert {quality.n for quality in found.exits} == {60}
    assert all(quality.low < quality.accuracy < quality.high for quality in found.exits)


def test_no_more_samples_than_the_budget_allows(clock: Clock, bundle: Bundle) -> None:
    found = measure(
        FakeEngine(clock, steady), bundle, meter=NoMeter(), batches=(1, 7), samples=_labelled(250), budget=BRIEF
    )
    assert {quality.n for quality in found.exits} == {100}


def test_without_samples_the_bundles_calibration_counts(clock: Clock, bundle: Bundle) -> None:
    calibration = bundle.calibration()
    assert calibration is not None
    found = measure(FakeEngine(clock, steady), bundle, meter=NoMeter(), batches=(1, 2), budget=BRIEF)
    assert [q.accuracy for q in found.exits] == pytest.approx(calibration.correct.mean(axis=0).tolist())
    assert found.exits[0].n == len(calibration.correct)


def test_sizes_that_do_not_fit_in_memory_are_left_out(clock: Clock, bundle: Bundle) -> None:
    engine = FakeEngine(clock, steady, memory_rows=4)
    assert measure(engine, bundle, meter=NoMeter(), batches=(1, 2, 4, 8, 16), budget=BRIEF).batches == (1, 2, 4)
    with pytest.raises(EngineFault, match="no memory for 1 rows"):
        measure(FakeEngine(clock, steady, memory_rows=0), bundle, meter=NoMeter(), budget=BRIEF)


def _quick(clock: Clock, bundle: Bundle, us: float) -> tuple[Profile, float]:
    def step_us(step: int, batch: int, run: int) -> float:
        return us * batch

    started_ns = clock.now_ns
    found = measure(FakeEngine(clock, step_us), bundle, meter=FakeMeter(clock), budget=QUICK)
    return found, (clock.now_ns - started_ns) / 1e9


@pytest.mark.parametrize("us", [50.0, 200.0, 700.0, 2000.0, 20_000.0])
def test_a_quick_profile_takes_at_most_five_seconds(clock: Clock, bundle: Bundle, us: float) -> None:
    found, elapsed_s = _quick(clock, bundle, us)
    assert elapsed_s <= 5
    assert found.quick
    assert found.batches[0] == 1


def test_a_quick_profile_drops_large_batches_of_slow_networks_first(clock: Clock, bundle: Bundle) -> None:
    assert _quick(clock, bundle, 200.0)[0].batches == (1, 2, 4, 8, 16, 32)
    slow = _quick(clock, bundle, 20_000.0)[0].batches
    assert slow == (1, 2, 4, 8, 16, 32)[: len(slow)]
    assert len(slow) < 6


def test_a_quick_profile_has_wider_tails(clock: Clock, bundle: Bundle) -> None:
    found, _ = _quick(clock, bundle, 200.0)
    assert found.segments[0][0].p99_us == pytest.approx(200 * QUICK.p99_factor)
    assert FULL.p99_factor == 1.0


def test_progress_rises_to_the_end_and_says_what_is_done(clock: Clock, bundle: Bundle) -> None:
    seen: list[tuple[int, int, str]] = []
    measure(
        FakeEngine(clock, steady),
        bundle,
        meter=FakeMeter(clock),
        batches=(1, 2),
        samples=_labelled(20),
        budget=BRIEF,
        on_progress=lambda done, total, label: seen.append((done, total, label)),
    )
    done = [step[0] for step in seen]
    assert done == sorted(done)
    assert seen[-1] == (100, 100, "done")
    assert {"loading", "energy", "accuracy"} <= {label for _, _, label in seen}


@pytest.mark.parametrize("batches", [(), (2, 4), (1, 4, 2), (1, 1)])
def test_batch_sizes_must_ascend_from_one(clock: Clock, bundle: Bundle, batches: tuple[int, ...]) -> None:
    with pytest.raises(ProfileError, match="ascending sizes that start at 1"):
        measure(FakeEngine(clock, steady), bundle, meter=NoMeter(), batches=batches, budget=BRIEF)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 0.99) == 3.0
