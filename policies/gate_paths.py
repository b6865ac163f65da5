"""Which gates are worth testing: candidates from cheap to dear and from strict to loose, found on one part of the data.

Role: the search before the certificate. From confidences and correctness of samples that no test will see, and what
each exit costs, to `Gates` that nothing beats in both cost and errors there, ordered by their errors. Candidates are
fixed exits, one threshold for all exits, and a threshold per exit.
Flow: `confidence`, `correct` of the `fit` half -> `find_path` -> `certificates.py`, which tests them on the other half.

Does not: promise anything. What it found looks better on these samples than it is.
Source: Pareto Testing, Laufer-Goldshtein et al., ICLR'23, for ordering by a front found on other samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Confidence = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

# Thresholds tried per exit; with 100 the search fits its samples rather than the network, and certifies less.
LEVELS = 40
# Prices of an error, in runs to the end: from "cheapest" to "as few errors as can be"; three steps per doubling.
PRICES = tuple(0.02 * 2.0 ** (step / 3) for step in range(48))
# What is searched on; more samples would place thresholds no better and take longer at load.
SEARCHED_MAX = 20_000
# A path so long is walked in a millisecond or two; thinned evenly beyond.
CANDIDATES_MAX = 200
# Confidences closer to 1 than this are not told apart: the engine computes them as float32.
DOUBT_MIN = 2.0**-16


class Gates(NamedTuple):
    """Leave at the first of the exits 0..last whose confidence exceeds its threshold; at `last` in any case.

    `thresholds`: one per place on the ladder; infinite where no gate is, from `last` on always.
    """

    thresholds: tuple[float, ...]
    last: int

    def leaves(self, confidence: Confidence) -> npt.NDArray[np.intp]:
        """Where each sample leaves: places on the ladder, shape (n,). `confidence`: shape (n, places)."""
        places = np.full(len(confidence), self.last, np.intp)
        for place in range(self.last - 1, -1, -1):
            if self.thresholds[place] < math.inf:
                places[confidence[:, place] > self.thresholds[place]] = place
        return places


class Steps(NamedTuple):
    """What the ladder costs at batch 1: `segment[k]` from place k-1 to place k, `head[k]` there. Any one unit."""

    segment: tuple[float, ...]
    head: tuple[float, ...]

    def to_leave(self, gates: Gates) -> list[float]:
        """Per place, what leaving there costs under these gates: the way, and every head that is asked on it."""
        costs, spent = [], 0.0
        for place, (segment, head) in enumerate(zip(self.segment, self.head, strict=True)):
            spent += segment
            costs.append(spent + head)
            if gates.thresholds[place] < math.inf:
                spent += head
        return costs


def find_path(confidence: Confidence, correct: Flags, steps: Steps) -> list[Gates]:
    """Candidates for certification, from fewest errors on these samples to most.

    For every depth there is a front of its own, so that a bound on time or energy that forbids the last exit leaves
    candidates too.

    Args:
        confidence, correct: shape (n, places on the ladder), of samples that no certificate is judged on.
    Returns:
        At least the fixed exits. No candidate of one depth is beaten there in both cost and errors by another of it.
    Cost: about 30 ms for 5,000 samples of four exits.
    """
    confidence, correct = confidence[:SEARCHED_MAX], correct[:SEARCHED_MAX]
    places = confidence.shape[1]
    levels = [_levels(confidence[:, place]) for place in range(places - 1)]
    bins = [_bins(confidence[:, place], levels[place]) for place in range(places - 1)]
    found: list[tuple[int, float, Gates]] = []
    for last in range(places):
        tried = {_gates([], levels, last, places), *_scalars(confidence, last, places)}
        tried |= {_gates(chosen, levels, last, places) for chosen in _search(bins, correct, steps, last)}
        found += _front([(*_judge(gates, confidence, correct, steps), gates) for gates in sorted(tried)])
    found.sort()
    if len(found) > CANDIDATES_MAX:
        kept = np.linspace(0, len(found) - 1, CANDIDATES_MAX).round().astype(int).tolist()
        found = [found[index] for index in kept]
    return [gates for _, _, gates in found]


def _levels(confidence: Confidence) -> list[float]:
    """Thresholds of one exit, strict to loose, each letting some more pass: none at first, everybody at last.

    They lie where a calibration file's rounding changes (its doubts are float16), so that samples as written and
    requests as computed fall on the same side.
    """
    found = np.quantile((1 - confidence).astype(np.float16), np.linspace(0, 1, LEVELS), method="higher")
    # As np.unique would, which loads numpy.ma for it: a tenth of a daemon's start. They are in order already.
    doubt = found[np.concatenate(([True], found[1:] > found[:-1]))]
    edges = (doubt.astype(np.float64) + np.nextafter(doubt, np.float16(2)).astype(np.float64)) / 2
    return [math.inf, *(1 - edges[(edges >= DOUBT_MIN) & (edges < 1)]).tolist(), -1.0]


def _bins(confidence: Confidence, levels: Sequence[float]) -> npt.NDArray[np.intp]:
    """Per sample, the strictest level that lets it go."""
    return len(levels) - np.searchsorted(np.array(levels[::-1]), confidence, side="left")


def _gates(chosen: Sequence[int], levels: Sequence[Sequence[float]], last: int, places: int) -> Gates:
    """Levels as gates; where everybody leaves is the last exit."""
    thresholds = [levels[place][level] for place, level in enumerate(chosen)]
    last = next((place for place, threshold in enumerate(thresholds) if threshold < 0), last)
    kept = thresholds[:last]
    return Gates((*kept, *[math.inf] * (places - len(kept))), last)


def _scalars(confidence: Confidence, last: int, places: int) -> Iterator[Gates]:
    """One threshold for all exits before `last`."""
    if last:
        for threshold in _levels(confidence[:, :last].ravel())[1:-1]:
            yield Gates((*[threshold] * last, *[math.inf] * (places - last)), last)


def _search(bins: Sequence[npt.NDArray[np.intp]], correct: Flags, steps: Steps, last: int) -> Iterator[tuple[int, ...]]:
    """A level per exit before `last`, for each price of an error: each the best given the deeper ones.

    All samples count at every exit. Counting only those that no earlier gate lets go was tried, by turns until nothing
    changed: it came out within a thousandth, and takes twice the code.
    """
    full = sum(steps.segment[: last + 1]) + steps.head[last]
    wrong = [(~correct[:, place]).astype(np.float64) for place in range(last + 1)]
    for price in PRICES:
        chosen = [0] * last
        # Cost from here to the end, per sample, errors included.
        to_go = steps.head[last] + price * full * wrong[last]
        for place in range(last - 1, -1, -1):
            on, head = steps.segment[place + 1] + to_go, steps.head[place]
            here = price * full * wrong[place]
            costs = np.cumsum(np.bincount(bins[place], weights=here - on, minlength=2))
            # Level 0 has no gate, and so no head to pay for.
            costs[0], costs[1:] = 0.0, costs[1:] + head * len(on)
            level = chosen[place] = int(costs.argmin())
            to_go = on if level == 0 else head + np.where(bins[place] <= level, here, on)
        yield tuple(chosen)


def _judge(gates: Gates, confidence: Confidence, correct: Flags, steps: Steps) -> tuple[int, float]:
    """Errors and mean cost on these samples."""
    leaves = gates.leaves(confidence)
    counts = np.bincount(leaves, minlength=confidence.shape[1])
    right = int(np.count_nonzero(correct[np.arange(len(leaves)), leaves]))
    return len(leaves) - right, float(counts @ np.array(steps.to_leave(gates))) / len(leaves)


def _front(judged: list[tuple[int, float, Gates]]) -> list[tuple[int, float, Gates]]:
    """Those that no other beats in both errors and cost."""
    kept: list[tuple[int, float, Gates]] = []
    for candidate in sorted(judged):
        if not kept or candidate[1] < kept[-1][1]:
            kept.append(candidate)
    return kept
