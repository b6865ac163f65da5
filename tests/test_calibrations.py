"""A user's own calibration overrides the bundle's, is written as a whole, and never applies to another bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delen.exits.bundle import Bundle, BundleError, load_bundle, shipped_directory
from delen.exits.calibrate import calibrate
from delen.exits.calibrations import at_temperatures, find_own, keep, measure_logits, overridden, own_path
from delen.tests.small_bundles import digits_copy, edit


def digits() -> Bundle:
    return load_bundle(shipped_directory() / "digits")


def measured(count: int = 60) -> bytes:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, count, 10)).astype(np.float32)
    return calibrate(logits, logits[2].argmax(axis=1), own=True).file


def test_without_one_the_bundle_is_served_as_it_is(tmp_path: Path) -> None:
    bundle = digits()
    assert find_own(tmp_path, bundle) is None
    assert overridden(bundle, tmp_path) is bundle


def test_it_overrides_temperatures_accuracies_and_samples_and_nothing_else(tmp_path: Path) -> None:
    bundle = digits()
    path = keep(tmp_path, bundle, measured())
    assert path == tmp_path / "calibrations" / "digits" / f"{bundle.digest}.npz"
    own, changed = find_own(tmp_path, bundle), overridden(bundle, tmp_path)
    assert own is not None
    samples = changed.calibration()
    assert samples is not None
    assert len(samples.fit) == 60
    assert tuple(entry.temperature for entry in changed.manifest.exits) == own.temperatures
    assert changed.manifest.exits[2].accuracy == 1
    assert (changed.digest, changed.directory) == (bundle.digest, bundle.directory)
    assert changed.manifest.segments == bundle.manifest.segments
    assert bundle.calibration() is not samples


def test_a_bundle_of_another_version_is_not_touched(tmp_path: Path) -> None:
    keep(tmp_path, digits(), measured())
    edit(digits_copy(tmp_path), 'version = "1"', 'version = "2"')
    other = load_bundle(tmp_path / "digits")
    assert overridden(other, tmp_path) is other


def test_a_damaged_one_is_named_and_not_passed_over(tmp_path: Path) -> None:
    bundle = digits()
    path = keep(tmp_path / "state", bundle, measured())
    by_hand = own_path(tmp_path / "other", bundle)
    by_hand.parent.mkdir(parents=True)
    for damaged in (path.read_bytes()[:200], b""):
        by_hand.write_bytes(damaged)
        with pytest.raises(BundleError, match=rf"{bundle.digest}.npz.*delen calibrate"):
            overridden(bundle, tmp_path / "other")


def test_one_that_delen_wrote_survives_damage(tmp_path: Path) -> None:
    bundle = digits()
    path = keep(tmp_path, bundle, measured())
    before = find_own(tmp_path, bundle)
    assert before is not None
    path.write_bytes(path.read_bytes()[:200])
    after = find_own(tmp_path, bundle)
    assert after is not None
    assert after.temperatures == before.temperatures


def test_a_write_that_fails_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = digits()
    path = keep(tmp_path, bundle, measured())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        keep(tmp_path, bundle, measured(90))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path == own_path(tmp_path, bundle)


def test_a_worker_is_told_temperatures_and_keeps_the_rest() -> None:
    bundle = digits()
    assert at_temperatures(bundle, ()) is bundle
    told = at_temperatures(bundle, (1.0, 2.0, 3.0))
    assert [entry.temperature for entry in told.manifest.exits] == [1.0, 2.0, 3.0]
    assert told.read("segment0.onnx") == bundle.read("segment0.onnx")


class Echo:
    """An engine whose every head gives the sums of its inputs, from one buffer that it uses again and again."""

    def __init__(self) -> None:
        self._buffer = np.zeros((4, 2), np.float32)

    def place(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return images

    def segment(self, index: int, features: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return features + index

    def head(self, index: int, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        out = self._buffer[: len(features)]
        out[:] = features.sum(axis=1, keepdims=True)
        return out

    def take(self, features: Any, rows: Any) -> Any: ...
    def join(self, parts: Any) -> Any: ...
    def finish(self) -> None: ...


def test_logits_of_all_batches_stand_in_order_whatever_the_engine_does_with_its_buffer() -> None:
    inputs, told = np.arange(20, dtype=np.float32).reshape(10, 2), list[int]()
    logits = measure_logits(Echo(), 2, inputs, 4, told.append)
    np.testing.assert_array_equal(logits[0, :, 0], inputs.sum(axis=1))
    np.testing.assert_array_equal(logits[1, :, 1], inputs.sum(axis=1) + 2)
    assert told == [4, 8, 10]
