"""One network on one board at several clocks or power modes: which figures hold at which, and what lies between.

Role: `Clocked` takes the profiles of one network on one device and gives the one for a power mode and GPU clock, read
between the clocks that were measured. Beyond them nothing is said: neither a voltage nor a memory clock that was never
tried can be read off a curve. Flow: profile files -> `Clocked.of` -> `at`, `steps` -> `costs.py`.

Between two clocks times go straight over 1/f (time = fixed + cycles / f), energies straight in both logarithms. With
each of the TX2's clocks left out in turn, that is right within 1.5 % for times and 6.6 % for energies at worst, 0.5 and
2.1 % on average; the gaps are then twice as wide as in use.

Does not: read files or boards, or choose a clock (`policies/clock.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from .schema import Cost, Device, Profile, ProfileError

GPU = "gpu0"
GPU_MAX = "gpu0_max"
# What is said beyond this is no clock of a GPU.
KHZ_MAX = 10**8


def gpu_khz(device: Device) -> int | None:
    """The GPU clock a profile's figures belong to: the limit that was set, since under load it runs there."""
    khz = device.clocks_khz.get(GPU_MAX, device.clocks_khz.get(GPU))
    return khz if khz is not None and 0 < khz <= KHZ_MAX else None


class Clocked:
    """Profiles of one network on one device by power mode and GPU clock."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        """As `of` checked them."""
        self._modes: dict[str, dict[int, Profile]] = {}
        for profile in sorted(profiles, key=lambda one: one.taken_wall):
            mode = self._modes.setdefault(profile.device.power_mode or "", {})
            mode[gpu_khz(profile.device) or 0] = profile

    @classmethod
    def of(cls, profiles: Sequence[Profile]) -> Clocked:
        """Of two with the same mode and clock the later counts.

        Raises:
            ProfileError: there is none, or they are not of one network, in one version, on one board and engine.
        """
        if not profiles:
            raise ProfileError("no profile of this network on this board; measure one with `delen profile`")
        first = profiles[0]
        for other in profiles[1:]:
            fault = mismatch(first, other)
            if fault:
                raise ProfileError(f"profiles of {first.network} do not belong together: {fault}")
        return cls(profiles)

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of power modes, "" where none is known; in the order of the profiles."""
        return tuple(self._modes)

    def steps(self, mode: str = "") -> tuple[int, ...]:
        """The GPU clocks measured in this mode, kHz, rising; empty where no profile says its clock."""
        return tuple(sorted(khz for khz in self._of(mode) if khz))

    def measured(self, mode: str = "") -> list[Profile]:
        """Its profiles in this mode, by clock."""
        return [profile for _, profile in sorted(self._of(mode).items())]

    def at(self, khz: int | None = None, mode: str = "") -> Profile:
        """The profile at this GPU clock; None: the highest measured.

        Raises:
            ProfileError: no such mode, or a clock below or above all that were measured; which there are.
        """
        known = self._of(mode)
        if khz is None:
            return known[max(known)]
        if khz in known:
            return known[khz]
        steps = self.steps(mode)
        if not steps:
            raise ProfileError(f"{self._name(mode)} says no GPU clock, so nothing is known of {_mhz(khz)}")
        above = next((step for step in steps if step >= khz), None)
        below = next((step for step in reversed(steps) if step <= khz), None)
        if above is None or below is None:
            raise ProfileError(
                f"{self._name(mode)} was measured from {_mhz(steps[0])} to {_mhz(steps[-1])}; "
                f"{_mhz(khz)} is outside, and nothing is read beyond what was measured: profile it at that clock"
            )
        return between(known[below], known[above], khz)

    def _of(self, mode: str) -> dict[int, Profile]:
        if mode not in self._modes:
            names = ", ".join(name or "(unnamed)" for name in self._modes)
            raise ProfileError(f"{self._name('')} has no figures in power mode {mode!r}; there are {names}")
        return self._modes[mode]

    def _name(self, mode: str) -> str:
        first = next(iter(next(iter(self._modes.values())).values()))
        return f"{first.network} on {first.device.board}" + (f" in mode {mode}" if mode else "")


def mismatch(one: Profile, other: Profile) -> str | None:
    """Why two profiles are not of the same thing at two settings, in words; None when they are."""
    for what, mine, theirs in (
        ("network", one.network, other.network),
        ("version of the network", one.network_version, other.network_version),
        ("bundle", one.bundle, other.bundle),
        ("board", one.device.board, other.device.board),
        ("engine", one.device.engine, other.device.engine),
        ("precision", one.device.precision, other.device.precision),
        ("number of exits", len(one.exits), len(other.exits)),
    ):
        if mine != theirs:
            return f"{what} is {mine!r} in one and {theirs!r} in another"
    return None


def between(low: Profile, high: Profile, khz: int) -> Profile:
    """Figures at a clock between those of two profiles. Raises ProfileError: they cover different batch sizes."""
    low_khz, high_khz = gpu_khz(low.device), gpu_khz(high.device)
    assert low_khz is not None
    assert high_khz is not None
    if (low.energy_source, low.energy_model) != (high.energy_source, high.energy_model):
        raise ProfileError(
            f"energies of {low.network} are {low.energy_source} ({low.energy_model}) at {_mhz(low_khz)} and "
            f"{high.energy_source} ({high.energy_model}) at {_mhz(high_khz)}; measure both with the same meter"
        )
    if low.batches != high.batches:
        raise ProfileError(
            f"{low.network} was measured at batches {list(low.batches)} with {_mhz(low_khz)} and {list(high.batches)} "
            f"with {_mhz(high_khz)}; measure both alike"
        )
    part = (1 / low_khz - 1 / khz) / (1 / low_khz - 1 / high_khz)
    part_mj = math.log(khz / low_khz) / math.log(high_khz / low_khz)

    def mixed(mine: Cost, theirs: Cost) -> Cost:
        return Cost(
            p50_us=_line(mine.p50_us, theirs.p50_us, part),
            p95_us=_line(mine.p95_us, theirs.p95_us, part),
            p99_us=_line(mine.p99_us, theirs.p99_us, part),
            n=min(mine.n, theirs.n),
            energy_mj=_power(mine.energy_mj, theirs.energy_mj, part_mj),
        )

    def table(pick: Callable[[Profile], tuple[tuple[Cost, ...], ...]]) -> tuple[tuple[Cost, ...], ...]:
        rows = zip(pick(low), pick(high), strict=True)
        return tuple(tuple(mixed(*pair) for pair in zip(mine, theirs, strict=True)) for mine, theirs in rows)

    said = f"{high.energy_model}; between {_mhz(low_khz)} and {_mhz(high_khz)}".removeprefix("; ")
    return replace(
        high,
        device=at_clock(high.device, khz),
        segments=table(lambda profile: profile.segments),
        heads=table(lambda profile: profile.heads),
        idle_power_mw=_power(low.idle_power_mw, high.idle_power_mw, part_mj),
        energy_model=said,
    )


def conservative(profile: Profile, khz: int) -> Profile:
    """Figures that are not too good at a clock nobody measured; for the time until somebody does.

    Slower: nothing takes longer than in proportion to the clock, nor draws more than before, so energies grow with
    times. Faster: nothing takes longer; power at most follows the cube of the clock, as if voltage rose with it.
    Raises ProfileError: the profile does not say its clock.
    """
    before_khz = gpu_khz(profile.device)
    if before_khz is None:
        raise ProfileError(f"the profile of {profile.network} does not say its GPU clock, so it cannot be scaled")
    slower = max(1.0, before_khz / khz)
    dearer = slower if khz <= before_khz else (khz / before_khz) ** 3
    return replace(
        scaled(profile, slower, dearer),
        device=at_clock(profile.device, khz),
        idle_power_mw=None if profile.idle_power_mw is None else profile.idle_power_mw * max(1.0, dearer / slower),
        energy_model=f"{profile.energy_model}; at most, {_mhz(khz)} never measured".removeprefix("; "),
    )


def scaled(profile: Profile, times: float, energies: float) -> Profile:
    """The same with all times and energies multiplied."""

    def one(cost: Cost) -> Cost:
        energy_mj = None if cost.energy_mj is None else cost.energy_mj * energies
        return replace(
            cost,
            p50_us=cost.p50_us * times,
            p95_us=cost.p95_us * times,
            p99_us=cost.p99_us * times,
            energy_mj=energy_mj,
        )

    return replace(
        profile,
        segments=tuple(tuple(map(one, row)) for row in profile.segments),
        heads=tuple(tuple(map(one, row)) for row in profile.heads),
    )


def at_clock(device: Device, khz: int) -> Device:
    """The same device with its GPU held at this clock."""
    return replace(device, clocks_khz={**device.clocks_khz, GPU: khz, GPU_MAX: khz})


def _line(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


def _power(low: float | None, high: float | None, part: float) -> float | None:
    if low is None or high is None:
        return None
    if low <= 0 or high <= 0:
        return _line(low, high, part)
    return low * math.exp(part * math.log(high / low))


def _mhz(khz: int) -> str:
    return f"{khz / 1000:g} MHz"
