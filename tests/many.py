"""Seeds by the hundred: the first few with every run of the tests, the others with those that take their time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def many(seeds: Sequence[int], quick: int) -> list[object]:
    """Values for `parametrize`: all but the first so many are slow."""
    return [*seeds[:quick], *(pytest.param(seed, marks=pytest.mark.slow) for seed in seeds[quick:])]
