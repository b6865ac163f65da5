"""Curves that may only rise: fitting one to noisy figures, and reading one between and beyond its points.

Role: a larger batch never costs less; where a measurement says so, it is noise. Pure. `measure.py` fits before it
writes a profile, `costs.py` reads whatever profile it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising sequence nearest to `values` in weighted least squares. O(n).

    Source: pool adjacent violators (Ayer et al. 1955): neighbours out of order take their weighted mean.
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        mean, total, length = value, weight, 1
        while pools and pools[-1][0] > mean:
            before, weight_before, length_before = pools.pop()
            mean = (before * weight_before + mean * total) / (weight_before + total)
            total += weight_before
            length += length_before
        pools.append((mean, total, length))
    return [mean for mean, _, length in pools for _ in range(length)]


def dense(sizes: Sequence[int], values: Sequence[float], size_max: int) -> list[float]:
    """Read a curve at every size 0..size_max; index 0 is unused and 0.

    Straight lines between the given sizes, exact at them where they rise; a value below an earlier one is lifted to
    it. Beyond the last size the line goes on by the larger of its last and its mean slope, so that one flat pair does
    not promise free work; a single point is taken as proportional to size. `sizes` ascend from 1.
    """
    risen = list(accumulate(values, max))
    table = [0.0]
    for left, right, low, high in zip(sizes, sizes[1:], risen, risen[1:], strict=False):
        table += [low + (high - low) * (size - left) / (right - left) for size in range(left, right)]
    last, top = sizes[-1], risen[-1]
    slope = top
    if len(sizes) > 1:
        slope = max((top - risen[-2]) / (last - sizes[-2]), (top - risen[0]) / (last - sizes[0]))
    table += [top + slope * (size - last) for size in range(last, max(last, size_max) + 1)]
    return table[: size_max + 1]
