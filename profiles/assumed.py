"""A profile of figures that were not measured here: published ones, or made up for a simulation or a benchmark.

Role: from costs to a `Profile` that says what it is. Does not: read files, or check what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

from .schema import FORMAT, Cost, Device, ExitQuality, Profile

_NO_DEVICE = Device(
    board="assumed",
    processor="assumed",
    cores=1,
    power_mode=None,
    clocks_khz={},
    engine="replay",
    device="cpu",
    precision="fp32",
    threads=1,
    versions={},
)


def assumed_cost(us: float, energy_mj: float | None = None, *, p95_over_p50: float = 1.0) -> Cost:
    """A cost whose tail is a ratio: 1 for none. `energy_mj`: of the whole batch, None where unknown."""
    late_us = us * p95_over_p50
    return Cost(p50_us=us, p95_us=late_us, p99_us=late_us, n=1, energy_mj=energy_mj)


def assumed_profile(
    network: str,
    batches: Sequence[int],
    segments: Sequence[Sequence[Cost]],
    heads: Sequence[Sequence[Cost]],
    accuracy: Sequence[float],
) -> Profile:
    """`segments[k][i]`, `heads[k][i]`: at batch size `batches[i]`; `accuracy`: of each exit, a share."""
    known = all(cost.energy_mj is not None for row in (*segments, *heads) for cost in row)
    return Profile(
        format=FORMAT,
        network=network,
        network_version="1",
        bundle="",
        device=_NO_DEVICE,
        batches=tuple(batches),
        segments=tuple(map(tuple, segments)),
        heads=tuple(map(tuple, heads)),
        exits=tuple(ExitQuality(accuracy=right, low=0.0, high=1.0, n=1) for right in accuracy),
        energy_source="modelled" if known else "unknown",
        energy_model="assumed",
        idle_power_mw=None,
        memory_bytes=0,
        temperature_c=(None, None),
        quick=False,
        taken_wall="",
    )
