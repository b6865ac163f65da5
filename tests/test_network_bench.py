"""What the bench of networks asks, and what it makes of the answers; the daemon is played."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delen.daemon import network_bench
from delen.daemon.network_bench import Ask, Reply, bench_served, halves, recalibrate
from delen.exits.bundle import load_bundle, shipped_directory
from delen.exits.calibrations import find_own
from delen.exits.samples import load_samples
from delen.profiles.assumed import assumed_cost, assumed_profile


@pytest.fixture(autouse=True)
def known_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exits of digits at 100, 200 and 400 us, as if measured."""

    def profile(runner: object, bundle: Any, state: Path) -> Any:
        accuracies = [entry.accuracy for entry in bundle.manifest.exits]
        segments = [[assumed_cost(us)] for us in (100.0, 100.0, 200.0)]
        return assumed_profile("digits", [1], segments, [[assumed_cost(1.0)]] * 3, accuracies)

    monkeypatch.setattr(network_bench, "profile_of", profile)
    monkeypatch.setattr(network_bench, "make_runner", lambda *given: None)


class Daemons:
    """Answer everything rightly, at the exit and price that bounds or depth stand for."""

    def __init__(self, labels: Any) -> None:
        self.labels = labels
        self.asked: list[tuple[str, int]] = []

    @contextmanager
    def serving(self, directory: Path, state: Path, exit_index: int | None) -> Iterator[Ask]:
        def ask(inputs: Any, bounds: Mapping[str, object]) -> Sequence[Reply]:
            way = "gates" if "accuracy" in bounds else "full" if exit_index is None else "fixed"
            left = {"gates": 0, "full": 2, "fixed": exit_index}[way]
            assert left is not None
            start = sum(count for other, count in self.asked if other == way)
            self.asked.append((way, len(inputs)))
            return [
                Reply(int(label), left, 100 * (left + 1), 1000) for label in self.labels[start : start + len(inputs)]
            ]

        yield ask


def test_three_ways_take_turns_and_are_compared(tmp_path: Path) -> None:
    bundle = load_bundle(shipped_directory() / "digits")
    part = load_samples("digits")
    daemons = Daemons(part.labels)
    served = bench_served(daemons.serving, bundle, tmp_path, part, asked=0.8)
    assert [way for way, _ in daemons.asked[:6]] == ["full", "gates", "fixed"] * 2
    for name in ("full", "gates", "fixed"):
        assert sum(count for way, count in daemons.asked if way == name) == len(part.labels)
    assert (served.full.accuracy, served.full.device_us, served.full.shares) == (1, 300, (0, 0, 1))
    assert served.gates is not None
    assert served.fixed is not None
    assert served.of_full == pytest.approx(1 / 3)
    assert served.of_fixed == pytest.approx(served.gates.device_us / served.fixed.device_us)


def test_what_cannot_be_certified_is_not_asked_for(tmp_path: Path) -> None:
    bundle = load_bundle(shipped_directory() / "digits")
    part = load_samples("digits")
    daemons = Daemons(part.labels)
    served = bench_served(daemons.serving, bundle, tmp_path, part, asked=0.9999)
    assert (served.gates, served.fixed, served.fixed_exit, served.of_full) == (None, None, None, None)
    assert {way for way, _ in daemons.asked} == {"full"}


def test_divisions_share_no_picture_and_differ_by_seed() -> None:
    known, fresh = halves(np.zeros(101, np.int64), 3)
    assert sorted([*known, *fresh]) == list(range(101))
    assert abs(len(known) - len(fresh)) == 1
    assert list(halves(np.zeros(101, np.int64), 4)[0]) != list(known)


def test_the_daemon_is_given_the_new_calibration(tmp_path: Path) -> None:
    bundle = load_bundle(shipped_directory() / "digits")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    logits = rng.normal(size=(3, 200, 10)).astype(np.float32)
    logits[2, np.arange(200), labels] += 9
    recalibrate(tmp_path, bundle, logits, labels)
    own = find_own(tmp_path, bundle)
    assert own is not None
    assert own.calibration.correct[:, 2].mean() > 0.9 > own.calibration.correct[:, 0].mean()
