"""A profile as rows: what `delen profile` prints, and what `--json` gives.

Does not: print; `clients/tables.py` does.
"""

from __future__ import annotations

from typing import TypeAlias

from .costs import Costs
from .schema import Profile
from .store import Found

Cell: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Cell]


def profile_rows(profile: Profile) -> list[Row]:
    """One row per exit: cumulative from the input, time at batch 1, time and energy per request at the largest batch.

    Energies are None where unknown; `low` and `high` bound the accuracy with 95 % certainty over `n` samples.
    """
    largest = profile.batches[-1]
    costs = Costs.of(profile, largest)
    rows: list[Row] = []
    for index, quality in enumerate(profile.exits):
        energy_mj, energy_largest_mj = costs.energy_mj(index, 1), costs.energy_mj(index, largest)
        rows.append(
            {
                "exit": index,
                "accuracy": quality.accuracy,
                "low": quality.low,
                "high": quality.high,
                "n": quality.n,
                "p50_us": round(costs.path_us(0, index, 1), 1),
                "p99_us": round(costs.path_p99_us(0, index, 1), 1),
                "batch_largest": largest,
                "p50_us_each_at_largest": round(costs.path_us(0, index, largest) / largest, 1),
                "energy_mj": energy_mj,
                "energy_mj_each_at_largest": None if energy_largest_mj is None else energy_largest_mj / largest,
                "energy_source": profile.energy_source,
                "dominated": costs.dominated[index],
            }
        )
    return rows


def step_rows(profile: Profile) -> list[Row]:
    """One row per segment, head and batch size, as measured: what `--json` and `--all` show."""
    rows: list[Row] = []
    for index in range(len(profile.exits)):
        for kind, table in (("segment", profile.segments), ("head", profile.heads)):
            for batch, cost in zip(profile.batches, table[index], strict=True):
                rows.append(
                    {
                        "step": f"{kind} {index}",
                        "batch": batch,
                        "p50_us": cost.p50_us,
                        "p95_us": cost.p95_us,
                        "p99_us": cost.p99_us,
                        "n": cost.n,
                        "energy_mj": cost.energy_mj,
                    }
                )
    return rows


def profile_summary(profile: Profile, found: Found | None = None) -> dict[str, object]:
    """Everything `delen profile --json` prints: JSON-able, units in the names.

    Args:
        found: where the profile was found; adds `path` and `stale`.
    """
    device = profile.device
    summary: dict[str, object] = {
        "network": profile.network,
        "network_version": profile.network_version,
        "bundle": profile.bundle,
        "board": device.board,
        "processor": device.processor,
        "cores": device.cores,
        "power_mode": device.power_mode,
        "clocks_khz": dict(device.clocks_khz),
        "engine": device.engine,
        "device": device.device,
        "precision": device.precision,
        "threads": device.threads,
        "versions": dict(device.versions),
        "batches": list(profile.batches),
        "energy_source": profile.energy_source,
        "energy_model": profile.energy_model,
        "idle_power_mw": profile.idle_power_mw,
        "memory_bytes": profile.memory_bytes,
        "temperature_c": list(profile.temperature_c),
        "quick": profile.quick,
        "taken_wall": profile.taken_wall,
        "exits": profile_rows(profile),
        "steps": step_rows(profile),
    }
    if found is not None:
        summary |= {"path": str(found.path), "stale": found.stale}
    return summary
