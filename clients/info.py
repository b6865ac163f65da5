"""What the daemon tells of its networks and tenants: records that travel inside the messages of `wire.py`.

Role: vocabulary, pure and importable by every room, like `wire.py`. Does not: hold messages, or do anything.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from .bounds import Record

EnergySource: TypeAlias = Literal["measured", "modelled", "unknown"]


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


class TenantStats(Record, frozen=True):
    """One tenant's row of the ledger, since the daemon started. Percentiles are of the last answers kept.

    `beyond`: requests accepted beyond its rate or share. `optional_us`: of `device_us`, what its bounds did not need,
    audits apart. `drift`: by network, for tenants whose accuracy is certified.
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
