"""What is known of gates and fixed exits that may be promised: counts per candidate, and the plan made of one.

Role: the records between the search (`gate_paths.py`), the test (`certificates.py`), the core, and a journal. Small
whole numbers only, so that a journal rebuilds every later decision to the last bit.
Flow: `count_candidate` at load -> `Candidate` -> `Certifier` -> `CertifiedPlan` -> a request.

Does not: test anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import msgspec
import numpy as np

from ..exits.calibration_file import Calibration
from .gate_paths import Gates


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """One way to leave, and what it did on held-out samples. Tuples have one entry per exit of the network.

    `thresholds`: leave where confidence exceeds it; infinite where no gate is. `last`: leave there at the latest.
    `shares`: of all samples that leave there. On the samples it was found on: `fit_halted` left there, `fit_wrong`
    of them wrong. On those it is judged on: `halted`, `wrong` alike; `disagreed`: let go by a gate with another answer
    than the last exit's; `excess`: of those that went beyond this exit, wrong at it and right where they left.
    """

    thresholds: tuple[float, ...]
    last: int
    shares: tuple[float, ...]
    fit_halted: tuple[int, ...]
    fit_wrong: tuple[int, ...]
    halted: tuple[int, ...]
    wrong: tuple[int, ...]
    disagreed: int
    excess: tuple[int, ...]

    @property
    def gated(self) -> bool:
        return any(threshold < math.inf for threshold in self.thresholds)

    @property
    def errors(self) -> int:
        return sum(self.wrong)

    @property
    def let_go(self) -> int:
        """How many of the samples it is judged on a gate let go."""
        return sum(self.halted) - self.halted[self.last]


class Proofs(msgspec.Struct, frozen=True, array_like=True):
    """All that certificates of one network rest on. `fit_n`, `n`: samples to search on, and to test on.

    `gates`: in the order of their tests, fewest errors first, as the search saw them; fixed exits are among them.
    `fixed`: every exit of the ladder, deepest first: a sequence of its own, for requests that gates are not for.
    """

    fit_n: int
    n: int
    gates: tuple[Candidate, ...]
    fixed: tuple[Candidate, ...]


class CertifiedPlan(msgspec.Struct, frozen=True):
    """How a request may leave, and what that is worth; valid for inputs exchangeable with the calibration samples.

    `thresholds`, `last`: as `Candidate` has them. `accuracy`: at least so many answers are right, at `certainty`;
    `conditional`: also among those that left at any exit or before. `n`, `errors`: of the test behind it; `shares`: of
    requests, per exit they leave at. `time_us`, `energy_mj`: expected per request at batch 1; None where unknown.
    `disagreement`: of answers that a gate let go, upper bound of how many are not the last exit's, at 99.8 %; drift is
    judged by it. 1 where no gate is.

    `forced[k]`: upper bound of how much accuracy a request loses by being stopped at exit k, for other reasons than its
    input, after no gate up to there let it go; empty where none may be, for then it breaks. All of them and the plan
    hold together at `certainty`, as long as the shares stopped so, each times its loss, add up to no more than
    `reserve`.
    """

    thresholds: tuple[float, ...]
    last: int
    accuracy: float
    certainty: float
    conditional: bool
    n: int
    errors: int
    shares: tuple[float, ...]
    time_us: float
    energy_mj: float | None
    disagreement: float
    forced: tuple[float, ...]
    reserve: float

    @property
    def gated(self) -> bool:
        return any(threshold < math.inf for threshold in self.thresholds)

    @property
    def measured(self) -> float:
        """The share that was right on the samples of the test."""
        return 1 - self.errors / self.n

    @property
    def beyond(self) -> tuple[float, ...]:
        """Per exit, the share of requests that go beyond it."""
        return tuple(1 - left for left in accumulate(self.shares))


def count_candidate(gates: Gates, ladder: Sequence[int], samples: Calibration) -> Candidate:
    """What these gates do on all samples: the `fit` rows apart from the others, which alone are for tests.

    Args:
        gates: by places on `ladder`, the exits that may be chosen.
    Cost: O(n), 0.3 ms at 10,000 samples of four exits.
    """
    exits = samples.confidence.shape[1]
    columns = list(ladder)
    leaves = np.array(columns)[gates.leaves(samples.confidence[:, columns])]
    rows = np.arange(len(leaves))
    right = samples.correct[rows, leaves]
    # Four counts in one pass: exit x (right or wrong) x (searched on or tested on).
    tallies = np.bincount(leaves * 4 + right * 2 + samples.fit, minlength=4 * exits).reshape(exits, 2, 2)
    test = ~samples.fit
    regrets = ~samples.correct & (right & test)[:, None]
    excess = [int(np.count_nonzero(regrets[:, place] & (leaves > place))) for place in range(exits)]
    thresholds = [math.inf] * exits
    for exit_index, threshold in zip(ladder, gates.thresholds, strict=True):
        thresholds[exit_index] = threshold
    halted = tallies.sum(axis=1)
    return Candidate(
        thresholds=tuple(thresholds),
        last=ladder[gates.last],
        shares=tuple((halted.sum(axis=1) / len(leaves)).tolist()),
        fit_halted=tuple(halted[:, 1].tolist()),
        fit_wrong=tuple(tallies[:, 0, 1].tolist()),
        halted=tuple(halted[:, 0].tolist()),
        wrong=tuple(tallies[:, 0, 0].tolist()),
        disagreed=int(np.count_nonzero(test & (leaves < ladder[gates.last]) & ~samples.agrees[rows, leaves])),
        excess=tuple(excess),
    )
