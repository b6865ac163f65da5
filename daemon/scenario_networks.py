"""Networks of a scenario: from published latencies, a batching curve or a profile to what the core serves.

Role: `networks_of` makes a `Served` per network, and the `Behaviour` of its bundle's held-out samples where one is
named. Does not: read scenarios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ..exits.bundle import Bundle, find_bundle, load_bundle, shipped_directory
from ..policies.correction_rivals import correction
from ..policies.policy_options import expect
from ..policies.view import Guard, Served
from ..profiles.assumed import assumed_cost, assumed_profile
from ..profiles.boards import clocked, parse_spec
from ..profiles.clocked import scaled
from ..profiles.costs import Costs
from ..profiles.schema import Cost, Profile, read_profile
from . import hosting
from .behaviour import Behaviour
from .noise import NoiseSpec

# The 95th percentile of a normal distribution.
P95_SIGMAS = 1.645


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One network and what it costs, in one of three ways.

    `device`: a board there are published figures of, at a clock or in a mode, as in `jetson-tx2@726MHz`
    (`profiles/boards.py`); without a clock at the highest, where a policy may pick among all that were measured.

    `profile`: a profile file beside the scenario, of the bundle `bundle`; gates and inputs behave as its held-out
    samples; with `alpha`, batches cost what that says and not what was measured, as on another engine. Else
    `latency_ms`, cumulative to the end of each segment at batch size `batch`, and how a batch of B compares with it:
    `fixed` + `per_row` x B; for batch 1 figures `alpha`, which is `fixed` = alpha and `per_row` = 1 - alpha.
    `head_ms`: of each head, at that batch size, where it is not counted in. `accuracy`: per exit, a share.
    `energy_mj`: cumulative like `latency_ms`, of one request at that batch size; `head_mj`: of each head.

    `p95_over_p50`: what a profile of it would have shown, for corrections that believe it; left out, what the noise
    that it will meet would show. `slower`: it takes so many times as long on this device.
    """

    name: str
    profile: str = ""
    bundle: str = ""
    device: str = ""
    latency_ms: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()
    energy_mj: tuple[float, ...] = ()
    head_ms: tuple[float, ...] = ()
    head_mj: tuple[float, ...] = ()
    p95_over_p50: float | None = None
    slower: float = 1.0
    batch: int = 1
    fixed: float = 0.4
    per_row: float = 0.6
    alpha: float | None = None
    batch_max: int = 32


class Plan(NamedTuple):
    """How the core is to see all networks: its correction, the guard on latency bounds, a first hop, and the noise."""

    correction: str
    guard_us: int
    guard_share: float
    hold_share: float
    hop_us: float
    noise: NoiseSpec

    @property
    def p95_over_p50(self) -> float:
        """What a profile taken in this noise would show: jitter and drift, but neither steps nor stalls."""
        return math.exp(P95_SIGMAS * math.hypot(self.noise.sigma, self.noise.ar1_sigma))


def networks_of(
    networks: Sequence[Network], plan: Plan, directory: Path
) -> tuple[list[Served], Mapping[str, Behaviour]]:
    """What the core serves, and how inputs behave. Raises ValueError: what does not fit together."""
    served: list[Served] = []
    behaviours: dict[str, Behaviour] = {}
    for network in networks:
        check_network(network)
        made, ratio = _made(network, plan, directory)
        made.hop_us, made.guard = plan.hop_us, Guard(plan.guard_us, plan.guard_share, plan.hold_share)
        made.correction = correction(plan.correction, p95_over_p50=ratio)
        served.append(made)
        if network.bundle:
            behaviours[network.name] = _behaviour(network.bundle)
    return served, behaviours


def _made(network: Network, plan: Plan, directory: Path) -> tuple[Served, float]:
    if network.device:
        return _from_device(network)
    return _from_profile(network, directory) if network.profile else _from_latencies(network, plan)


def _from_device(network: Network) -> tuple[Served, float]:
    """Figures of a board; with costs at all its clocks where none is said."""
    spec = parse_spec(network.device)
    known = clocked(spec.board, network.name)
    mode = known.modes[0] if spec.mode is None else spec.mode
    profile = known.at(spec.clock_khz, mode)
    khz = () if spec.clock_khz else known.steps(mode)
    at_khz = {step: _slower_costs(known.at(step, mode), network) for step in khz}
    costs = _slower_costs(profile, network)
    made = Served(network.name, "1", costs, None, network.batch_max, 0.0, at_khz=at_khz if len(khz) > 1 else {})
    return made, hosting.p95_over_p50(profile)


def _slower_costs(profile: Profile, network: Network) -> Costs:
    return Costs.of(scaled(profile, network.slower, 1.0), network.batch_max)


def _from_profile(network: Network, directory: Path) -> tuple[Served, float]:
    profile = _profile(directory / network.profile)
    if network.slower != 1 or network.alpha is not None:
        profile = _changed(profile, network)
    view = _served(network.bundle, profile, network.batch_max)
    made = Served(network.name, view.version, view.costs, view.gates, view.batch_max, view.hop_us, gmac=view.gmac)
    return made, hosting.p95_over_p50(profile)


def _changed(profile: Profile, network: Network) -> Profile:
    """The profile of a slower device, or of one where batches pay off otherwise."""
    alpha, sizes = network.alpha, profile.batches
    if alpha is not None:
        sizes = tuple(range(1, network.batch_max + 1))

    def row(costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
        if alpha is None:
            return tuple(_scaled(cost, network.slower, 1.0) for cost in costs)
        growth = [alpha + (1 - alpha) * size for size in sizes]
        return tuple(_scaled(costs[0], network.slower * by, by) for by in growth)

    return replace(
        profile,
        batches=sizes,
        segments=tuple(row(costs) for costs in profile.segments),
        heads=tuple(row(costs) for costs in profile.heads),
    )


def _scaled(cost: Cost, by: float, energy_by: float) -> Cost:
    energy_mj = None if cost.energy_mj is None else cost.energy_mj * energy_by
    return replace(cost, p50_us=cost.p50_us * by, p95_us=cost.p95_us * by, p99_us=cost.p99_us * by, energy_mj=energy_mj)


@lru_cache(maxsize=16)
def _profile(path: Path) -> Profile:
    return read_profile(path)


@lru_cache(maxsize=16)
def _bundle(name: str) -> Bundle:
    return load_bundle(find_bundle(name, [shipped_directory()]))


_views: dict[tuple[str, bytes, int], Served] = {}


def _served(bundle: str, profile: Profile, batch_max: int) -> Served:
    # Gates take a while to tabulate, and every run of a scenario needs the same.
    key = (bundle, msgspec.msgpack.encode(profile), batch_max)
    if key not in _views:
        _views[key] = hosting.served(_bundle(bundle), profile, batch_max)
    return _views[key]


@lru_cache(maxsize=16)
def _behaviour(bundle: str) -> Behaviour:
    calibration = _bundle(bundle).calibration()
    if calibration is None:
        raise ValueError(f"bundle {bundle} has no calibration to draw inputs from")
    return Behaviour(calibration.confidence.tolist(), calibration.correct.tolist(), calibration.agrees.tolist())


def _from_latencies(network: Network, plan: Plan) -> tuple[Served, float]:
    ratio = plan.p95_over_p50 if network.p95_over_p50 is None else network.p95_over_p50
    fixed = network.fixed if network.alpha is None else network.alpha
    per_row = network.per_row if network.alpha is None else 1 - network.alpha
    batches = tuple(range(1, network.batch_max + 1))
    zeros = (0.0,) * len(network.latency_ms)

    def row(ms: float, share_mj: float) -> tuple[Cost, ...]:
        us = 1000 * ms * network.slower
        known_mj = share_mj if network.energy_mj else None
        sizes = [(us * (fixed + per_row * size), None if known_mj is None else known_mj * size) for size in batches]
        return tuple(assumed_cost(us, mj, p95_over_p50=ratio) for us, mj in sizes)

    trunk = zip(_differences(network.latency_ms), _differences(network.energy_mj or zeros), strict=True)
    rows = tuple(row(ms, share_mj) for ms, share_mj in trunk)
    each_head = zip(network.head_ms or zeros, network.head_mj or zeros, strict=True)
    heads = tuple(row(ms, share_mj) for ms, share_mj in each_head)
    profile = assumed_profile(network.name, batches, rows, heads, network.accuracy)
    costs = Costs.of(profile, network.batch_max)
    return Served(network.name, "1", costs, None, network.batch_max, 0.0), ratio


def check_network(network: Network) -> None:
    """Raises ValueError: a figure no network can have; which, and what was expected."""
    name = f"network {network.name}"
    ratio, alpha = network.p95_over_p50, network.alpha
    if not 0 < network.slower < math.inf or (ratio is not None and not 1 <= ratio < math.inf):
        raise ValueError(
            f"{name}: slower is {network.slower}, p95_over_p50 {ratio}; expected above 0, and 1 or more, both finite"
        )
    expect(f"{name}: batch_max", network.batch_max, network.batch_max >= 1, "1 or more")
    expect(f"{name}: batch", network.batch, network.batch >= 1, "1 or more")
    expect(f"{name}: alpha", alpha, alpha is None or 0 <= alpha <= 1, "a share, 0 to 1")
    for key, value in (("fixed", network.fixed), ("per_row", network.per_row)):
        expect(f"{name}: {key}", value, 0 <= value < math.inf, "a finite number, 0 or more")
    expect(f"{name}: fixed + per_row", 0, network.fixed + network.per_row > 0, "more than 0, or batches cost nothing")
    if network.device:
        parse_spec(network.device)
        clocked(parse_spec(network.device).board, network.name)
        return
    if network.profile:
        if not network.bundle:
            raise ValueError(f"{name} has a profile; name its bundle too")
        return
    _check_exits(network)


def _check_exits(network: Network) -> None:
    exits = len(network.latency_ms)
    counts = {len(network.energy_mj), len(network.head_ms), len(network.head_mj)}
    if not exits or len(network.accuracy) != exits or not counts <= {0, exits}:
        raise ValueError(
            f"network {network.name} has {exits} latencies, {len(network.accuracy)} accuracies, "
            f"{len(network.energy_mj)} energies, {len(network.head_ms)} and {len(network.head_mj)} figures of heads; "
            "expected as many of each, or a profile"
        )
    for key, expected in (("latency_ms", "rising, above 0"), ("energy_mj", "rising, 0 or more")):
        values = getattr(network, key)
        rising = all(0 <= before <= value < math.inf for before, value in pairwise((0.0, *values)))
        fits = rising and (key == "energy_mj" or values[0] > 0)
        expect(f"network {network.name}: {key}", values, fits, expected)
    for key in ("head_ms", "head_mj"):
        values = getattr(network, key)
        fits = all(0 <= value < math.inf for value in values)
        expect(f"network {network.name}: {key}", values, fits, "finite numbers, 0 or more")
    fits = all(0 < value <= 1 for value in network.accuracy)
    expect(f"network {network.name}: accuracy", network.accuracy, fits, "shares above 0 and at most 1")


def _differences(cumulative: Sequence[float]) -> list[float]:
    """What each segment adds."""
    return [value - before for before, value in zip((0.0, *cumulative), cumulative, strict=False)]
