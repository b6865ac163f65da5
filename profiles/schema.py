"""What a network costs and how good it is on one device: the record, its checks, and its place on disk.

Role: `Profile` is what measuring writes and the daemon reads. Flow: `measure.py` -> `Profile` -> JSON in the state
directory -> `costs.py` -> policies. Loading refuses what cannot be right (units, order, gaps) and says which field.

Does not: measure, interpolate, or decide which exits are dominated (`costs.py`).
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from ..clients.info import EnergySource

FORMAT = 1


class ProfileError(ValueError):
    """A profile that cannot be used: which file, which field, what was expected, what to do."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Cost(_Record, frozen=True, kw_only=True):
    """Of one segment or head at one batch size: microseconds over `n` runs after warm-up, and mJ for the whole batch.

    `energy_mj` is None where neither a meter nor a model gave one: unknown is never 0.
    """

    p50_us: float
    p95_us: float
    p99_us: float
    n: int
    energy_mj: float | None


class ExitQuality(_Record, frozen=True, kw_only=True):
    """Accuracy of one exit over `n` labelled samples, with its 95 % interval (Clopper-Pearson)."""

    accuracy: float
    low: float
    high: float
    n: int


class Device(_Record, frozen=True, kw_only=True):
    """What the figures belong to. Two profiles compare only where all of this is equal.

    `power_mode` and `clocks_khz` are what the board said, None or empty where it says nothing.
    """

    board: str
    processor: str
    cores: int
    power_mode: str | None
    clocks_khz: dict[str, int]
    engine: str
    device: str
    precision: str
    threads: int
    versions: dict[str, str]


class Profile(_Record, frozen=True, kw_only=True):
    """One network on one device. `segments[k][i]` and `heads[k][i]` are at batch size `batches[i]`.

    `bundle`: digest of the bundle measured. `energy_model`: how energies were made, in words a reader can check.
    `idle_power_mw`: what the device draws when nothing runs; booked apart from requests. `temperature_c`: at start
    and end, None where no sensor. `quick`: a short measurement at load, to be read with wider margins.
    """

    format: int
    network: str
    network_version: str
    bundle: str
    device: Device
    batches: tuple[int, ...]
    segments: tuple[tuple[Cost, ...], ...]
    heads: tuple[tuple[Cost, ...], ...]
    exits: tuple[ExitQuality, ...]
    energy_source: EnergySource
    energy_model: str
    idle_power_mw: float | None
    memory_bytes: int
    temperature_c: tuple[float | None, float | None]
    quick: bool
    taken_wall: str


def profile_fault(profile: Profile) -> str | None:
    """What cannot be right in a profile, in words; None when nothing is wrong."""
    if profile.format != FORMAT:
        return f"format is {profile.format}; this delen reads {FORMAT}: measure again with `delen profile`"
    if not profile.batches or profile.batches[0] != 1 or list(profile.batches) != sorted(set(profile.batches)):
        return f"batches is {list(profile.batches)}; expected ascending sizes that start at 1"
    count = len(profile.exits)
    if not count or len(profile.segments) != count or len(profile.heads) != count:
        return f"{len(profile.segments)} segments, {len(profile.heads)} heads, {count} exits; expected as many of each"
    for kind, table in (("segments", profile.segments), ("heads", profile.heads)):
        for index, row in enumerate(table):
            if len(row) != len(profile.batches):
                return f"{kind}[{index}] has {len(row)} costs; expected one for each of {len(profile.batches)} batches"
            for batch, cost in zip(profile.batches, row, strict=True):
                fault = _cost_fault(cost, profile.energy_source)
                if fault:
                    return f"{kind}[{index}] at batch {batch}: {fault}"
    for index, quality in enumerate(profile.exits):
        if not 0 <= quality.low <= quality.accuracy <= quality.high <= 1:
            return f"exits[{index}]: accuracy {quality.accuracy}, interval {quality.low}..{quality.high}: out of order"
    return None


def _cost_fault(cost: Cost, source: EnergySource) -> str | None:
    times = (cost.p50_us, cost.p95_us, cost.p99_us)
    if not all(math.isfinite(value) and value >= 0 for value in times) or list(times) != sorted(times):
        return f"p50, p95, p99 are {times} us; expected finite, not negative, ascending"
    if cost.n < 1:
        return f"n is {cost.n}; expected at least 1"
    if (cost.energy_mj is None) != (source == "unknown"):
        return f"energy_mj is {cost.energy_mj} while energy_source is {source!r}"
    if cost.energy_mj is not None and not (math.isfinite(cost.energy_mj) and cost.energy_mj >= 0):
        return f"energy_mj is {cost.energy_mj}; expected a finite number, not negative"
    return None


def read_profile(path: Path) -> Profile:
    """Read and check one profile file. Raises ProfileError naming the file and the fault."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"cannot read profile {path}: {error.strerror}") from error
    return parse_profile(data, path)


def parse_profile(data: bytes, path: Path) -> Profile:
    """Check what a profile file holds; `path` is for what is said. Raises ProfileError."""
    try:
        profile = msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"{path} is not a profile: {error}; delete it or measure again with `delen profile`"
        ) from error
    fault = profile_fault(profile)
    if fault:
        raise ProfileError(f"{path}: {fault}; delete it or measure again with `delen profile`")
    return profile
