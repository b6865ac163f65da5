"""How the demo looks on a terminal: the live table, a line per second where there is none, and the summary.

Does not: run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from .demo import PHASES, DemoReport, Role, TenantFigures
from .demo_tenant import Second
from .tables import Column, histogram, millijoules, table

_LIVE = (
    Column("name", "tenant", justify="left"),
    Column("asks", "asks for", justify="left"),
    Column("rate", "req/s", lambda value: f"{value:.0f}"),
    Column("p50_ms", "p50 ms", lambda value: f"{value:.1f}"),
    Column("p99_ms", "p99 ms", lambda value: f"{value:.1f}"),
    Column("met", "bound met", lambda value: _met(value)),
    Column("exits", "exits", histogram, justify="left"),
    Column("accuracy", "accuracy", lambda value: f"{100 * value:.1f} %"),
    Column("energy", "mJ/answer", millijoules),
    Column("source", "energy is", justify="left"),
)
_SUMMARY = (
    Column("name", "tenant", justify="left"),
    Column("phase", "when", justify="left"),
    *_LIVE[2:5],
    Column("met", "met (client)", lambda value: _met(value)),
    Column("met_daemon", "met (daemon)", lambda value: _met(value)),
    Column("refused", "refused"),
    *_LIVE[6:9],
)


def asks_for(bounds: dict[str, float]) -> str:
    """A tenant's bounds in words."""
    if not bounds:
        return "best effort"
    words = {"latency_ms": "{} ms", "accuracy": "accuracy {}", "energy_mj": "{} mJ"}
    return ", ".join(words[name].format(f"{value:g}") for name, value in bounds.items())


class Screen:
    """The live table: the newest second of every tenant."""

    def __init__(self, roles: Sequence[Role], utilisation: dict[str, float], exit_counts: dict[str, int]) -> None:
        self._roles = roles
        self._utilisation = utilisation
        self._exit_counts = exit_counts
        self._latest: dict[str, Second] = {}

    def take(self, second: Second) -> None:
        self._latest[second.name] = second

    def phase(self) -> str:
        """Which third the demo is in."""
        newest = max((second.second for second in self._latest.values()), default=0)
        return PHASES[min(2, int(newest / self._roles[0].phase_s))]

    def render(self) -> RenderableType:
        newest = max((second.second for second in self._latest.values()), default=0)
        total = int(3 * self._roles[0].phase_s)
        phase = self.phase()
        head = Text.assemble(
            (f"{min(newest + 1, total):>3} of {total} s  ", "bold"),
            (f"{phase}: ", "bold magenta" if phase == "burst" else "bold"),
            f"offered {self._utilisation[phase]:.2f}x what the last exits sustain",
        )
        return Group(head, table([self._row(role) for role in self._roles], _LIVE))

    def line(self) -> str:
        """The same in one line, for a log."""
        parts = [
            f"{name} {s.report.requests}/s p99 {s.report.from_send.p99_us / 1000:.1f} ms"
            for name, s in self._latest.items()
        ]
        return f"{self.phase()}: " + ", ".join(parts)

    def _row(self, role: Role) -> dict[str, Any]:
        row: dict[str, Any] = {"name": role.name, "asks": f"{role.network}, {asks_for(role.bounds)}"}
        second = self._latest.get(role.name)
        if second is None:
            return row
        part = second.report
        energy = None if part.energy_mj is None or not part.answered else part.energy_mj / part.answered
        exits = [part.exits.get(index, 0) for index in range(self._exit_counts[role.network])]
        met = None if part.met is None or not role.bounds else 100 * part.met
        return row | {
            "rate": part.requests,
            "p50_ms": part.from_send.p50_us / 1000,
            "p99_ms": part.from_send.p99_us / 1000,
            "met": met,
            "exits": exits,
            "accuracy": part.accuracy,
            "energy": energy,
            "source": part.energy_source,
        }


def summary(report: DemoReport) -> RenderableType:
    """Every tenant by phase, and what was claimed."""
    rows = [row for tenant in report.tenants for row in _phases(tenant, report.phase_s)]
    offered = ", ".join(f"{phase} {report.utilisation[phase]:.2f}x" for phase in PHASES)
    lines = [Text(claim, style="" if claim.startswith("held") else "bold red") for claim in report.claims]
    source = {tenant.energy_source for tenant in report.tenants}
    notes = Text(f"offered load, of what the last exits sustain: {offered}; energy is {' and '.join(sorted(source))}")
    return Group(table(rows, _SUMMARY, "What every tenant got"), notes, *lines)


def _phases(tenant: TenantFigures, phase_s: float) -> list[dict[str, Any]]:
    rows = []
    for phase in PHASES:
        part = tenant.phases[phase]
        rows.append(
            {
                "name": f"{tenant.name} ({tenant.network}, {asks_for(tenant.bounds)})" if phase == PHASES[0] else "",
                "phase": phase,
                "rate": part.requests / phase_s,
                "p50_ms": part.p50_ms,
                "p99_ms": part.p99_ms,
                "met": part.met_pct,
                "met_daemon": part.met_daemon_pct,
                "refused": part.refused,
                "exits": part.exits,
                "accuracy": part.accuracy,
                "energy": part.energy_mj,
            }
        )
    return rows


def _met(value: float) -> Text:
    style = "green" if value >= 99 else "yellow" if value >= 95 else "red"
    return Text(f"{value:.2f} %", style=style)
