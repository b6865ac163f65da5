"""Temperatures make confidences honest, and the record tells which samples they were chosen on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from delen.exits.calibrate import calibrate, calibration_error, choose_temperature, doubt_of
from delen.exits.calibration_file import CalibrationFault, read_calibration, read_own_calibration


def drawn(count: int, temperature: float, seed: int = 3) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Logits (count, 4), and labels drawn from softmax(logits / temperature): that temperature is then the best."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, 4)) * 3
    scores = logits / temperature + generator.gumbel(size=logits.shape)
    return logits, scores.argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    assert choose_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_no_temperature_beside_the_chosen_one_is_likelier() -> None:
    logits, labels = drawn(500, 1.7)
    chosen = choose_temperature(logits, labels)

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(500), labels]))

    assert all(loss(chosen) <= loss(chosen * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_doubt_keeps_what_confidence_rounds_away() -> None:
    doubt = doubt_of(np.array([[50.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 1.0)
    assert doubt[0] == pytest.approx(2 * math.exp(-50))
    assert doubt[1] == pytest.approx(2 / 3)
    assert doubt_of(np.array([[2.0, 0.0]]), 2.0)[0] == pytest.approx(1 / (1 + math.e))


def test_calibration_error_against_a_case_worked_by_hand() -> None:
    confidence = np.array([0.9, 0.9, 0.6, 1.0])
    correct = np.array([True, False, True, True])
    # Bins: two at 0.9 with half right (gap 0.4 each), one at 0.6 right (0.4), one at 1.0 right (0).
    assert calibration_error(confidence, correct) == pytest.approx((2 * 0.4 + 0.4) / 4)


def test_overconfident_exits_become_honest_on_samples_not_used_for_it() -> None:
    logits, labels = drawn(4_000, 3.0)
    stacked = np.stack([logits, logits * 0.5]).astype(np.float32)
    result = calibrate(stacked, labels)
    assert result.temperatures[0] == pytest.approx(2 * result.temperatures[1], rel=1e-3)
    assert result.error_before[0] > 0.15
    assert max(result.error) < 0.04


def test_the_record_is_whole_and_marks_the_third_that_was_used() -> None:
    logits, labels = drawn(301, 1.0)
    other = np.roll(logits, 1, axis=1)
    result = calibrate(np.stack([other, logits]).astype(np.float32), labels)
    record = read_calibration(result.file, 2)
    assert record.fit.sum() == 100
    np.testing.assert_array_equal(record.correct[:, 1], logits.argmax(1) == labels)
    np.testing.assert_array_equal(record.agrees[:, 0], other.argmax(1) == logits.argmax(1))
    assert record.agrees[:, 1].all()
    np.testing.assert_allclose(record.confidence[:, 1], 1 - doubt_of(logits, result.temperatures[1]), atol=1e-3)
    assert result.accuracies == pytest.approx(record.correct.mean(axis=0))
    assert result.missing == ()


def test_temperatures_are_chosen_on_the_marked_samples_alone() -> None:
    logits, labels = drawn(300, 2.0)
    stacked = logits[None].astype(np.float32)
    first = calibrate(stacked, labels)
    fit = read_calibration(first.file, 1).fit
    assert first.temperatures == (choose_temperature(stacked[0].astype(np.float64)[fit], labels[fit]),)
    others = np.where(fit, labels, (labels + 1) % 4)
    assert calibrate(stacked, others).temperatures == first.temperatures


def test_a_file_of_the_users_own_brings_its_temperatures() -> None:
    logits, labels = drawn(200, 1.5)
    own = calibrate(np.stack([logits, logits * 2]).astype(np.float32), labels, own=True)
    record, temperatures = read_own_calibration(own.file, 2)
    assert temperatures == own.temperatures
    np.testing.assert_array_equal(record.correct[:, 0], logits.argmax(1) == labels)
    with pytest.raises(CalibrationFault, match="no more"):
        read_calibration(own.file, 2)


def test_same_samples_same_bytes_and_another_seed_another_third() -> None:
    logits, labels = drawn(200, 1.0)
    stacked = logits[None].astype(np.float32)
    assert calibrate(stacked, labels) == calibrate(stacked, labels)
    parts = [read_calibration(calibrate(stacked, labels, seed=seed).file, 1).fit for seed in (0, 1)]
    assert (parts[0] != parts[1]).any()


def test_a_class_without_a_sample_is_named() -> None:
    logits, labels = drawn(200, 1.0)
    kept = labels != 2
    assert calibrate(logits[None, kept].astype(np.float32), labels[kept]).missing == (2,)


def test_input_that_cannot_be_calibrated_is_refused() -> None:
    logits, labels = drawn(40, 1.0)
    stacked = logits[None].astype(np.float32)
    for bad_logits, bad_labels in ((stacked[0], labels), (stacked, labels[:5])):
        with pytest.raises(ValueError, match="expected"):
            calibrate(bad_logits, bad_labels)
    with pytest.raises(ValueError, match=r"32 labelled samples; expected at least 33.*some 4,000 to 10,000"):
        calibrate(stacked[:, :32], labels[:32])
    for wrong in (-1, 4):
        odd = labels.copy()
        odd[7] = wrong
        with pytest.raises(ValueError, match=f"label {wrong} at row 7.*4 classes"):
            calibrate(stacked, odd)
    stacked[0, 3, 0] = np.nan
    with pytest.raises(ValueError, match=r"exit 0 for sample 3 hold NaN"):
        calibrate(stacked, labels)
