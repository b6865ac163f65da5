"""A made-up profile of the shipped `digits` network, as the tests of several rooms need one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from delen.profiles.schema import FORMAT, Cost, Device, ExitQuality, Profile

BATCHES = (1, 2, 4, 8)
ACCURACIES = (0.85, 0.95, 0.97)
SEGMENTS_US = (100.0, 200.0, 400.0)
HEAD_US = 10.0


def cost(us: float, energy_mj: float | None = 1.0) -> Cost:
    return Cost(p50_us=us, p95_us=us * 1.2, p99_us=us * 1.5, n=100, energy_mj=energy_mj)


def device() -> Device:
    return Device(
        board="test board",
        processor="test processor",
        cores=2,
        power_mode="15W",
        clocks_khz={"cpu0": 729_600, "cpu0_max": 1_510_400},
        engine="replay",
        device="cpu",
        precision="fp32",
        threads=1,
        versions={"replay": "1"},
    )


def sample_profile(
    *,
    segments_us: Sequence[float] = SEGMENTS_US,
    accuracies: Sequence[float] = ACCURACIES,
    heads_us: Sequence[float] | None = None,
    bundle: str = "0" * 64,
    energy: bool = True,
) -> Profile:
    """Costs grow by half of themselves with each further row of a batch; energies are 7.5 mW of the time."""

    def row(us: float) -> tuple[Cost, ...]:
        times = [us * (1 + 0.5 * (batch - 1)) for batch in BATCHES]
        return tuple(cost(time_us, time_us * 0.0075 if energy else None) for time_us in times)

    heads_us = heads_us if heads_us is not None else [HEAD_US] * len(segments_us)
    return Profile(
        format=FORMAT,
        network="digits",
        network_version="1",
        bundle=bundle,
        device=device(),
        batches=BATCHES,
        segments=tuple(row(us) for us in segments_us),
        heads=tuple(row(us) for us in heads_us),
        exits=tuple(
            ExitQuality(accuracy=value, low=max(0.0, value - 0.02), high=min(1.0, value + 0.02), n=360)
            for value in accuracies
        ),
        energy_source="modelled" if energy else "unknown",
        energy_model="made up",
        idle_power_mw=None,
        memory_bytes=1_000_000,
        temperature_c=(None, None),
        quick=False,
        taken_wall="2025-01-01T00:00:00+00:00",
    )


def changed_device(profile: Profile, **changes: object) -> Profile:
    return msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, **changes))
