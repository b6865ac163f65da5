"""What the daemon tells of its networks and tenants: records that travel inside the messages of `wire.py`.

Role: vocabulary, pure and importable by every room, like `wire.py`. Does not: hold messages, or do anything.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from .bounds import Record

EnergySource: TypeAlias = Literal["measured", "modelled", "unknown"]
# Times are counted up to each of these, and in a last count beyond: 1, 2 and 5 of each decade, 100 us to 10 s.
EDGES_US = (
    *(100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000),
    *(100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000),
)


class Preprocessing(Record, frozen=True):
    """How a picture becomes the network's input: resized to its shape, then (value * scale - mean) / std."""

    colour: Literal["gray", "rgb", "none"] = "none"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class ExitInfo(Record, frozen=True):
    """One exit as its profile has it on this device; times and energies are cumulative from the input, batch 1.

    `gmac`: billions of multiply-adds of one input, cumulative too; None where nobody counted.
    """

    index: int
    accuracy: float
    latency_p50_us: int
    latency_p99_us: int
    energy_mj: float | None
    energy_source: EnergySource
    dominated: bool
    gmac: float | None


class NetworkInfo(Record, frozen=True):
    """A network that this tenant may use. `shape` is one input's, without batch."""

    name: str
    version: str
    classes: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    preprocessing: Preprocessing
    exits: tuple[ExitInfo, ...]
    batch_max: int
    engine: str
    profile: str
    certifiable: Certifiable | None = None


class Certifiable(Record, frozen=True):
    """What can be certified of a network here at `certainty`, from `n` held-out samples.

    `best`: the highest accuracy bound that is accepted, without others beside it; `exits`: of each exit for all
    requests, by a test of its own, 0 for those never chosen.
    """

    certainty: float
    n: int
    best: float
    exits: tuple[float, ...]


class Drift(Record, frozen=True):
    """Whether one tenant's certificates for one network still stand.

    `withdrawn`: an alarm has fired. `audits`: answers run again to the last exit, `differed`: where that said something
    else, `skipped`: for want of idle time. `labels`: that the tenant sent, `wrong`: answers they disagree with.
    """

    withdrawn: bool
    audits: int
    differed: int
    skipped: int
    labels: int
    wrong: int


class Histogram(Record, frozen=True):
    """How many values were at most each of `EDGES_US` and above the one before, last those above all; and their sum."""

    counts: tuple[int, ...]
    sum_us: int


class NetworkStats(Record, frozen=True):
    """What the device did for one network, for all tenants: times of each segment's runs, and runs by batch size.

    `batches`: from 1. `slowdown`: how much longer runs take just now than the profile says.
    """

    name: str
    version: str
    segments: tuple[Histogram, ...]
    batches: tuple[int, ...]
    slowdown: float = 1.0


class StepTrace(Record, frozen=True, array_like=True):
    """One segment or head that ran for a request: when it began, after the request came, and on how many rows."""

    head: bool
    index: int
    batch: int
    start_us: int
    took_us: int


class RequestTrace(Record, frozen=True):
    """The way of one request that has ended. `number`: counts this tenant's; `arrival_us`: by the daemon's own clock.

    `outcome`: `answered`, or the code of its error. `queue_us`: until its first run began; None: none did. Beginnings
    of steps are reckoned back from when they were reported.
    """

    number: int
    id: bytes
    network: str
    outcome: str
    arrival_us: int
    total_us: int
    queue_us: int | None = None
    exit: int | None = None
    stop: str = ""
    broken: tuple[str, ...] = ()
    traceparent: str = ""
    steps: tuple[StepTrace, ...] = ()


class TenantStats(Record, frozen=True):
    """One tenant's row of the ledger, since the daemon started. Percentiles are of the last answers kept.

    `beyond`: requests accepted beyond its rate or share. `optional_us`: of `device_us`, what its bounds did not need,
    audits apart. `drift`: by network, for tenants whose accuracy is certified. `undeliverable`: ends whose reader was
    gone or too slow. `refusals`, `failures`: by code, of all its messages; `broken`: by bound. `latency`, `queue`: of
    its answers, in all and until their first run, by network.
    """

    tenant: str
    accepted: int
    answered: int
    refused: int
    failed: int
    pending: int
    bounds_met: int
    bounds_broken: int
    energy_mj: float | None
    energy_source: EnergySource
    device_us: int
    latency_p50_us: int
    latency_p99_us: int
    exits: dict[str, tuple[int, ...]]
    beyond: int = 0
    optional_us: int = 0
    drift: dict[str, Drift] = msgspec.field(default_factory=dict)
    undeliverable: int = 0
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    broken: dict[str, int] = msgspec.field(default_factory=dict)
    latency: dict[str, Histogram] = msgspec.field(default_factory=dict)
    queue: dict[str, Histogram] = msgspec.field(default_factory=dict)
