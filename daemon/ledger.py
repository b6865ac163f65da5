"""What each tenant was promised, charged and given, since the daemon started.

Role: counters that the conservation law is checked on: accepted = answered + failed + pending. Energy that is not
known stays unknown and is never added as 0.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..clients.wire import Answer, EnergySource, TenantStats

KEPT_LATENCIES = 512
WORST_FIRST: tuple[EnergySource, ...] = ("unknown", "modelled", "measured")


@dataclass
class Account:
    """One tenant's row."""

    tenant: str
    accepted: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    bounds_met: int = 0
    bounds_broken: int = 0
    energy_mj: float = 0.0
    energy_sources: set[EnergySource] = field(default_factory=set)
    device_us: int = 0
    undeliverable: int = 0
    latencies_us: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))
    exits: dict[str, list[int]] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        return self.accepted - self.answered - self.failed

    @property
    def energy_source(self) -> EnergySource:
        return next((source for source in WORST_FIRST if source in self.energy_sources), "unknown")

    def book_answer(self, answer: Answer, exit_count: int) -> None:
        """Count an answer; its energy and device time were booked with the runs."""
        self.answered += 1
        if answer.broken:
            self.bounds_broken += 1
        else:
            self.bounds_met += 1
        self.latencies_us.append(answer.total_us)
        self.exits.setdefault(answer.network, [0] * exit_count)[answer.exit] += 1

    def book_run(self, energy_mj: float | None, took_us: int, source: EnergySource) -> None:
        """Charge this tenant's share of a run: mJ, and device time split over the rows that used it."""
        known = energy_mj is not None and source != "unknown"
        self.energy_mj += energy_mj if known and energy_mj is not None else 0.0
        # A sum is as well known as its worst part.
        self.energy_sources.add(source if known else "unknown")
        self.device_us += took_us

    def stats(self) -> TenantStats:
        ordered = sorted(self.latencies_us)
        return TenantStats(
            tenant=self.tenant,
            accepted=self.accepted,
            answered=self.answered,
            refused=self.refused,
            failed=self.failed,
            pending=self.pending,
            bounds_met=self.bounds_met,
            bounds_broken=self.bounds_broken,
            energy_mj=None if self.energy_source == "unknown" else self.energy_mj,
            energy_source=self.energy_source,
            device_us=self.device_us,
            latency_p50_us=_percentile(ordered, 50),
            latency_p99_us=_percentile(ordered, 99),
            exits={network: tuple(counts) for network, counts in self.exits.items()},
        )


def _percentile(ordered: list[int], percent: int) -> int:
    """Nearest rank; 0 when nothing was answered yet."""
    return ordered[-(-percent * len(ordered) // 100) - 1] if ordered else 0
