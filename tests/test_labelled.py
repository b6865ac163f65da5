"""Labelled data on its way through a bundle: which rows are taken, what is refused, and outcomes as files have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delen.daemon.labelled import Part, find_network, outcomes, read_inputs
from delen.exits.bundle import load_bundle, shipped_directory
from delen.exits.calibrate import calibrate
from delen.exits.calibration_file import read_calibration
from delen.exits.datasets import DataError
from delen.exits.samples import load_samples, prepare

DIGITS = load_bundle(shipped_directory() / "digits")
TEST = load_samples("digits")


def saved(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def test_a_file_of_x_and_y_is_taken_whole_and_prepared_for_the_network(tmp_path: Path) -> None:
    found = read_inputs(DIGITS, saved(tmp_path, x=TEST.images, y=TEST.labels), "calibration")
    np.testing.assert_array_equal(found.values, prepare(TEST.images, DIGITS.manifest.preprocessing))
    np.testing.assert_array_equal(found.labels, TEST.labels)


def test_a_file_with_parts_gives_the_one_that_is_asked_for(tmp_path: Path) -> None:
    x, y = TEST.images, TEST.labels
    arrays = {"x": x[:100], "y": y[:100], "x_calibration": x[100:200], "y_calibration": y[100:200]}
    spec = saved(tmp_path, **arrays, x_test=x[200:], y_test=y[200:])
    expected: dict[Part, np.ndarray] = {"calibration": y[100:200], "test": y[200:], "all": y}
    for part, labels in expected.items():
        np.testing.assert_array_equal(read_inputs(DIGITS, spec, part).labels, labels)


def test_labels_and_shapes_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    odd = TEST.labels.copy()
    odd[5] = 10
    with pytest.raises(DataError, match=r"label 10 at row 5 \(1 such\); digits has 10 classes"):
        read_inputs(DIGITS, saved(tmp_path, x=TEST.images, y=odd), "all")
    wide = np.zeros((400, 1, 9, 9), np.float32)
    with pytest.raises(DataError, match="shape"):
        read_inputs(DIGITS, saved(tmp_path, x=wide, y=np.arange(400) % 10), "all")


def test_outcomes_are_what_a_calibration_file_would_hold() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 60, 10)).astype(np.float32) * 3
    labels = draw.integers(0, 10, 60)
    own = calibrate(logits, labels)
    record = read_calibration(own.file, 3)
    found = outcomes(DIGITS, logits, labels)
    np.testing.assert_array_equal(found.correct, record.correct)
    np.testing.assert_array_equal(found.agrees, record.agrees)
    assert not found.fit.any()
    again = (1 - found.confidence.astype(np.float64)).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(1 - again, found.confidence)


def test_networks_in_the_state_directory_come_first(tmp_path: Path) -> None:
    assert find_network("digits", tmp_path).directory == DIGITS.directory
