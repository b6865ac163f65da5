"""Make confidences mean what they say: one temperature per exit, and the record for certificates.

Flow: `calibrate(logits, labels)` -> temperatures on a seeded third of the samples -> confidences of all samples ->
`CalibrationResult` with the file's bytes and the calibration error on the others. numpy only, deterministic.

Does not: choose thresholds (policies do, at run time), or see the test part.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .calibration_file import Calibration, write_calibration

Floats = npt.NDArray[np.float64]

# Temperatures and the path of gates are chosen on this part; certificates are judged on the rest, which needs more.
FIT_SHARE = 1 / 3
# Fewer could not certify even an accuracy of 0.9 at certainty 0.9 if no answer were wrong: 22 tested, 11 to choose on.
SAMPLES_MIN = 33
# exp(-3)..exp(3): networks trained with cross entropy lie between 0.5 and 5 (Guo et al., ICML'17).
LOG_TEMPERATURE_MAX = 3.0
# Golden sections until the temperature is known to one part in ten thousand: 6 * 0.618^n < 1e-4.
SECTIONS = 24
BINS = 15  # as in Guo et al.


class CalibrationResult(NamedTuple):
    """`temperatures`: one per exit. `accuracies`: share right per exit, over all samples. `error_before`, `error`:
    expected calibration error per exit on the samples that no temperature was chosen on, at temperature 1 and after.
    `file`: contents of `calibration.npz`. `missing`: classes of which there is no sample; nothing is known of them.
    """

    temperatures: tuple[float, ...]
    accuracies: tuple[float, ...]
    error_before: tuple[float, ...]
    error: tuple[float, ...]
    file: bytes
    missing: tuple[int, ...] = ()


def calibrate(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], *, seed: int = 0, own: bool = False
) -> CalibrationResult:
    """Choose temperatures and make the calibration record.

    Args:
        logits: shape (exits, n, classes), of samples the network was not trained on.
        labels: shape (n,).
        seed: picks the third that temperatures are chosen on.
        own: the file is a user's own, so temperatures go into it; else they go into the bundle's manifest.
    Raises:
        ValueError: shapes that do not belong together, too few samples, labels that are no class, or logits that are
            not finite.
    """
    _check(logits, labels)
    count = len(labels)
    fit = np.zeros(count, bool)
    fit[np.random.default_rng(seed).permutation(count)[: int(count * FIT_SHARE)]] = True
    temperatures, doubts, before, after = [], [], [], []
    for values in logits.astype(np.float64):
        temperature = choose_temperature(values[fit], labels[fit])
        doubt = doubt_of(values, temperature)
        correct = values.argmax(axis=1) == labels
        before.append(calibration_error(1 - doubt_of(values[~fit], 1.0), correct[~fit]))
        after.append(calibration_error(1 - doubt[~fit], correct[~fit]))
        temperatures.append(temperature)
        doubts.append(doubt)
    found = logits.argmax(axis=2)
    doubt_columns = np.stack(doubts, axis=1)
    record = Calibration(
        (1 - doubt_columns).astype(np.float32), (found == labels).T.copy(), (found == found[-1]).T.copy(), fit
    )
    accuracies = tuple(float(share) for share in record.correct.mean(axis=0))
    file = write_calibration(doubt_columns, record, temperatures if own else ())
    missing = tuple(np.flatnonzero(np.bincount(labels, minlength=logits.shape[2]) == 0).tolist())
    return CalibrationResult(tuple(temperatures), accuracies, tuple(before), tuple(after), file, missing)


def _check(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
    """Refuse what cannot be calibrated on."""
    if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
        raise ValueError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape}; expected (exits, n, classes) and (n,)"
        )
    if len(labels) < SAMPLES_MIN:
        raise ValueError(
            f"{len(labels)} labelled samples; expected at least {SAMPLES_MIN}, with which accuracy 0.9 is certified if "
            "none is wrong; for a loss of one point some 4,000 to 10,000 are needed"
        )
    broken = ~np.isfinite(logits).all(axis=2)
    if broken.any():
        exit_index, row = (int(place) for place in np.argwhere(broken)[0])
        raise ValueError(
            f"the logits of exit {exit_index} for sample {row} hold NaN or infinity ({int(broken.sum())} such rows): "
            "if the sample is sound the network is broken; train it again"
        )
    wrong = (labels < 0) | (labels >= logits.shape[2])
    if wrong.any():
        raise ValueError(
            f"label {int(labels[wrong][0])} at row {int(wrong.argmax())} ({int(wrong.sum())} such); the network has "
            f"{logits.shape[2]} classes, so labels go from 0 to {logits.shape[2] - 1}"
        )


def choose_temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """The temperature of least negative log-likelihood, by golden section on its logarithm.

    The likelihood has one minimum in 1/temperature, so no other can be missed. `logits`: shape (n, classes).
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML'17; differs: search by
    sections, for the same figure on every machine.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = -LOG_TEMPERATURE_MAX, LOG_TEMPERATURE_MAX
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = _loss(logits, labels, left), _loss(logits, labels, right)
    for _ in range(SECTIONS):
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = _loss(logits, labels, left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = _loss(logits, labels, right)
    # Four digits: what is beyond differs between processors and means nothing.
    return round(math.exp((low + high) / 2), 4)


def doubt_of(logits: Floats, temperature: float) -> Floats:
    """1 - the largest softmax probability, per row, summed from the other classes so that small values stay exact."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    weights = np.exp(scaled)
    best = weights.argmax(axis=1)
    total = weights.sum(axis=1)
    weights[np.arange(len(weights)), best] = 0
    doubt: Floats = weights.sum(axis=1) / total
    return doubt


def calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error: mean gap between confidence and share right over 15 equal bins, weighted by size.

    `confidence`, `correct`: shape (n,). Source: Naeini, Cooper, Hauskrecht, AAAI'15.
    """
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _loss(logits: Floats, labels: npt.NDArray[np.int64], log_temperature: float) -> float:
    scaled = logits * math.exp(-log_temperature)
    peak = scaled.max(axis=1)
    total = np.log(np.exp(scaled - peak[:, None]).sum(axis=1)) + peak
    return float((total - scaled[np.arange(len(labels)), labels]).mean())
