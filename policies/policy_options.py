"""Ranges of numbers that people write into files: which one is wrong, what it is, and what was expected.

Role: for `__post_init__` of options, so that a figure no rule can work with is refused where it is read, not at the
first decision; msgspec makes a ValidationError of it. Does not: know any option.
"""

from __future__ import annotations

import math

import msgspec

# An hour: no request waits longer for its batch, or is bound to more.
WAIT_MS_MAX = 3.6e6


def expect(name: str, value: object, holds: bool, expected: str) -> None:
    """Raises ValueError unless `holds`."""
    if not holds:
        raise ValueError(f"{name} is {value}; expected {expected}")


def expect_within(record: msgspec.Struct, names: tuple[str, ...], low: float, high: float = math.inf) -> None:
    """Raises ValueError unless these fields are finite and from `low` to `high`, both allowed; names the first."""
    expected = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:.10g}"
    for name in names:
        value = getattr(record, name)
        expect(name, value, low <= value <= high and value < math.inf, expected)
