"""An engine that replays a profile: for tests, for demonstrations, and for boards that are not at hand.

Role: one of the implementations of `exits/runner.py`'s Runner. It runs no network: answers are drawn from a digest of
each input row, so the same row has the same outcome in any batch, and costs are the profile's medians, counted in
`spent_us` and, on request, really waited for.

Does not: resemble the network's labels. How sure each exit is and whether it agrees with the last one is taken from
rows of a calibration where one is given, and from the profile's accuracies otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..exits.bundle import Bundle
from ..exits.calibration_file import Calibration
from ..exits.engine_checks import check_batch, check_count, check_rows
from ..exits.manifest import Manifest
from ..exits.runner import EngineFault, Logits
from .costs import Costs
from .schema import Profile

# Confidence 1 would need an infinite logit; a calibration rounds to it.
DOUBT_MIN = 1e-6


class Outcomes(NamedTuple):
    """A batch on the replayed device: a digest per input row, shape (batch,), uint64, and segments run so far."""

    digests: npt.NDArray[np.uint64]
    depth: int


class ReplayRunner:
    """Replays one profile. `spent_us`: the device time of everything run so far, by the profile's medians."""

    engine = "replay"

    def __init__(
        self,
        profile: Profile,
        *,
        spend: bool = False,
        calibration: Calibration | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """
        Args:
            profile: what everything costs; its device is the one replayed.
            spend: whether costs are really waited for, with `sleep` (seconds), or only counted.
            calibration: rows to draw outcomes from; the bundle's own where None and it has one.
        Raises:
            ValueError: `spend` without `sleep`.
        """
        if spend and sleep is None:
            raise ValueError("spend needs sleep: pass time.sleep, or a virtual clock's")
        self.device = profile.device.device
        self.precision = profile.device.precision
        self.threads = profile.device.threads
        self.versions: Mapping[str, str] = dict(profile.device.versions)
        self.spent_us = 0.0
        self._profile = profile
        self._calibration = calibration
        self._sleep = sleep if spend else None

    def load(self, bundle: Bundle, batch_max: int) -> LoadedReplay:
        """Raises EngineFault `unsupported` where the profile is of a network with another number of exits."""
        manifest = bundle.manifest
        if len(manifest.segments) != len(self._profile.exits):
            raise EngineFault(
                "unsupported",
                f"{manifest.name} has {len(manifest.segments)} exits, the replayed profile of {self._profile.network} "
                f"has {len(self._profile.exits)}; give a profile of this network",
            )
        calibration = self._calibration if self._calibration is not None else bundle.calibration()
        draws = _Draws(manifest, self._profile, calibration)
        return LoadedReplay(manifest, Costs.of(self._profile, batch_max), draws, self._spend)

    def _spend(self, us: float) -> None:
        self.spent_us += us
        if self._sleep is not None:
            self._sleep(us / 1e6)


class LoadedReplay:
    """One network, replayed. Features are `Outcomes`, never changed once made."""

    def __init__(self, manifest: Manifest, costs: Costs, draws: _Draws, spend: Callable[[float], None]) -> None:
        self._manifest = manifest
        self._costs = costs
        self._draws = draws
        self._spend = spend

    def place(self, images: npt.NDArray[Any]) -> Outcomes:
        check_batch(images, self._manifest.input, self._costs.batch_max)
        digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in images]
        return Outcomes(np.frombuffer(b"".join(digests), np.uint64), 0)

    def segment(self, index: int, features: Outcomes) -> Outcomes:
        self._check_depth(features, index, f"segment {index}")
        self._spend(self._costs.segment_us[index][len(features.digests)])
        return features._replace(depth=index + 1)

    def head(self, index: int, features: Outcomes) -> Logits:
        self._check_depth(features, index + 1, f"head {index}")
        self._spend(self._costs.head_us[index][len(features.digests)])
        return self._draws.logits(index, features.digests)

    def take(self, features: Outcomes, rows: Sequence[int]) -> Outcomes:
        check_rows(rows, len(features.digests), self._costs.batch_max)
        return features._replace(digests=features.digests[list(rows)])

    def join(self, parts: Sequence[Outcomes]) -> Outcomes:
        check_count(sum(len(part.digests) for part in parts), self._costs.batch_max)
        if len({part.depth for part in parts}) > 1:
            raise EngineFault("input", f"batches at depths {[part.depth for part in parts]} cannot become one")
        return parts[0]._replace(digests=np.concatenate([part.digests for part in parts]))

    def finish(self) -> None:
        """Nothing to wait for: costs are spent as they arise."""

    def _check_depth(self, features: Outcomes, expected: int, what: str) -> None:
        # A real engine would fail on the shapes here; a replayed one has none, so the order itself is checked.
        if features.depth != expected:
            raise EngineFault(
                "input", f"{what} needs {expected} segments run before it; these rows have {features.depth}"
            )


class _Draws:
    """Turns digests into logits whose softmax, after the exit's temperature, is the confidence drawn."""

    def __init__(self, manifest: Manifest, profile: Profile, calibration: Calibration | None) -> None:
        self._classes = len(manifest.classes)
        self._temperatures = [entry.temperature for entry in manifest.exits]
        self._accuracies = [quality.accuracy for quality in profile.exits]
        self._calibration = calibration

    def logits(self, index: int, digests: npt.NDArray[np.uint64]) -> Logits:
        """Shape (batch, classes), float32."""
        confidence, agrees = self._outcome(index, digests)
        classes = self._classes
        # Low bits pick the label, high bits the outcome, so that neither tells of the other.
        last = digests % np.uint64(classes)
        labels = np.where(agrees, last, (last + np.uint64(1)) % np.uint64(classes)).astype(np.intp)
        sure = np.clip(confidence.astype(np.float64), 1 / classes + DOUBT_MIN, 1 - DOUBT_MIN)
        logits = np.zeros((len(digests), classes), np.float32)
        # softmax(z / T) = sure at the label with 0 elsewhere: z = T log(sure (classes - 1) / (1 - sure))
        odds = np.log(sure * (classes - 1) / (1 - sure))
        logits[np.arange(len(digests)), labels] = self._temperatures[index] * odds
        return logits

    def _outcome(self, index: int, digests: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Confidence and agreement with the last exit of each row, shape (batch,)."""
        high = digests >> np.uint64(32)
        if self._calibration is not None:
            rows = (high % np.uint64(len(self._calibration.confidence))).astype(np.intp)
            return self._calibration.confidence[rows, index], self._calibration.agrees[rows, index]
        # A row's difficulty in 0..1 is the same at all exits: what a shallow one gets right, a better one does too.
        difficulty = high.astype(np.float64) / 2**32
        last = len(self._accuracies) - 1
        agrees = difficulty < self._accuracies[index] if index < last else np.ones(len(digests), np.bool_)
        return 1 - difficulty * (1 - self._accuracies[index] / 2), agrees
