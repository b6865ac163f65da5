"""What the daemon tells of its networks and tenants: records that travel inside the messages of `wire.py`.

Role: vocabulary, pure and importable by every room, like `wire.py`. Does not: hold messages, or do anything.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from .bounds import Record

EnergySource: TypeAlias = Literal["measured", "modelled", "unknown"]
# How a meter's last reading was: believed, or why not; `none`: there is no meter.
MeterState: TypeAlias = Literal["reading", "missing", "frozen", "absurd", "slow", "backwards", "none"]
# Times are counted up to each of these, and in a last count beyond: 1, 2 and 5 of each decade, 100 us to 10 s.
EDGES_US = (
    *(100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000),
    *(100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000),
)


class Offer(Record, frozen=True):
    """What would be feasible now, said with a refusal: each value alone, other bounds as they were asked."""

    latency_ms: float | None = None
    accuracy: float | None = None
    energy_mj: float | None = None
    retry_after_ms: float | None = None


class Proof(Record, frozen=True):
    """What an accuracy is certified by: at least `accuracy` of the answers are right, with probability `certainty`.

    `n`: held-out samples it was tested on; `conditional`: also among the answers given at any exit or before. Valid for
    inputs exchangeable with the calibration samples.
    """

    accuracy: float
    certainty: float
    n: int
    conditional: bool = False


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


class DeviceEnergy(Record, frozen=True):
    """What the device drew since the daemon began to count. `source`: of `runs_mj`, what requests, audits and canaries
    were charged; `idle_mj`: what the meter said beyond that, None without one.

    `idle_mw`: what is drawn without work, as far as that is known. `battery_j`, `battery_w`: what its battery has left
    and may give to last; `battery_s`: until when; None: no battery is told of. `power_w_max`: what runs may draw.
    """

    runs_mj: float = 0.0
    source: EnergySource = "unknown"
    idle_mj: float | None = None
    idle_mw: float | None = None
    battery_j: float | None = None
    battery_w: float | None = None
    battery_s: float | None = None
    power_w_max: float | None = None


class MeterInfo(Record, frozen=True):
    """The device's power meter now. `model`: what it is and covers; `for_us`: how long it has been in this state.

    `power_mw`: what it says is drawn, None where it says nothing that is believed.
    """

    state: MeterState = "none"
    source: EnergySource = "unknown"
    model: str = ""
    power_mw: float | None = None
    for_us: int = 0


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
    its answers, in all and until their first run, by network. `unsettled_mj`: of `energy_mj`, what was charged by the
    profile a moment ago and is not measured yet; `energy_source` is of the rest.
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
    unsettled_mj: float = 0.0
