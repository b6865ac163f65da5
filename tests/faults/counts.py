"""How often each promise is put to the test: in CI, which has minutes, and by `make soak`, which has an hour.

Role: the one table of counts, and `count(name)`, the figure in force here. Flow: a test asks for its count; the
summary at the end of the run (`figures.py`) says which counts were asked for and what they were. `randomness(name)`
gives a test its generator and says the seed, which pytest shows where the test fails; `DELEN_SEED` plays another.

Does not: test anything. The soak's counts are those the daemon's promises are stated with.
"""

from __future__ import annotations

import os
import sys
from random import Random
from typing import NamedTuple

# Read while tests are collected: from then on no test sees a DELEN_* setting of whoever runs it.
SOAK = os.environ.get("DELEN_SOAK", "") not in ("", "0")
SEED = int(os.environ.get("DELEN_SEED", "1"))


class Count(NamedTuple):
    """How many of something: in CI, and in a soak."""

    ci: int
    soak: int


COUNTS: dict[str, Count] = {
    "P1 requests": Count(50_000, 1_000_000),
    "P2 overload, seconds": Count(4, 30),
    "P4 each way to hurt, seconds": Count(3, 60),
    "P5 deaths of each kind": Count(5, 100),
    "P6 kills of the front": Count(15, 300),
    "P7 malformed requests of each class": Count(1_000, 10_000),
    "P7 good requests": Count(20_000, 1_000_000),
    "P9 networks": Count(8, 8),
    "P9 swaps of each network": Count(8, 256),
    # CI's million would be of a bare libzmq. Each of these meets a whole daemon while a healthy tenant asks beside it:
    # 13,000 a second, so 80 s of the six minutes for everything. The million is the soak's; more than that is another
    # DELEN_SEED, night after night.
    "P10 ZMTP cases, NULL": Count(100_000, 1_000_000),
    "P10 ZMTP cases, CURVE": Count(20_000, 400_000),
    "P10 examples of each property": Count(10_000, 100_000),
    "P10 request sequences": Count(2_000, 50_000),
    "P10 bundle mutants": Count(500, 13_000),
    "P13 bad configurations": Count(200, 200),
    "P13 starts with a bad configuration": Count(8, 200),
    "P13 reloads": Count(50, 1_000),
    "45 ends under load": Count(2, 20),
    "50 starved, seconds": Count(3, 30),
    "P15 bad handshakes, seconds": Count(3, 60),
}

# What was asked for in this run, in the order it was.
used: dict[str, int] = {}


def count(name: str) -> int:
    """How many of `name` to do here. Raises KeyError for one that is not in the table."""
    row = COUNTS[name]
    used[name] = row.soak if SOAK else row.ci
    return used[name]


def randomness(name: str, number: int = 0) -> Random:
    """A generator of a test's own; `number` tells its parts apart. The seed is said, so that a failure shows it."""
    sys.stderr.write(f"{name}: part {number}, DELEN_SEED={SEED}\n")
    return Random(f"{SEED} {name} {number}")
