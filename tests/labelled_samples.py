"""Made-up outcomes of a network whose deeper exits are better and whose confidences mean something."""

from __future__ import annotations

import numpy as np

from delen.exits.calibration_file import Calibration
from delen.policies.gate_paths import Steps

ACCURACIES = (0.80, 0.88, 0.92)
STEPS = Steps((100.0, 200.0, 400.0), (10.0, 10.0, 10.0))


def outcomes(count: int, seed: int = 0, fit_share: float = 0.5) -> Calibration:
    """Hard inputs are hard for every exit; an exit's doubt is about how often it is wrong."""
    draw = np.random.default_rng(seed)
    hardness = draw.uniform(0, 1, count)
    doubts, rights = [], []
    for accuracy in ACCURACIES:
        # Wrong with a probability that rises with hardness, 1 - accuracy on average.
        wrong = (1 - accuracy) * 4 * hardness**3
        rights.append(draw.uniform(0, 1, count) >= wrong)
        doubts.append(np.clip(wrong * draw.uniform(0.7, 1.3, count), 1e-4, 0.9))
    correct = np.stack(rights, axis=1)
    # Two right answers agree; of wrong ones half.
    agrees = (correct & correct[:, -1:]) | (~correct & ~correct[:, -1:] & (draw.uniform(0, 1, (count, 1)) < 0.5))
    agrees[:, -1] = True
    confidence = (1 - np.stack(doubts, axis=1).astype(np.float16).astype(np.float64)).astype(np.float32)
    return Calibration(confidence, correct, agrees, np.arange(count) < count * fit_share)
