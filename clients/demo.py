"""The demo's story: who asks for what, how often, and what came of it, by phase.

Role: from the networks as this device's profile has them to five tenants with different bounds and a burst in the
middle (`cast`), and from their outcomes to figures (`result`). Flow: `cast` -> one process per tenant
(`demo_tenant.py`, run by `demo_run.py`) -> outcomes -> `result` -> table and plot.

Does not: start processes, draw or print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from .info import ExitInfo, NetworkInfo
from .load import Outcome
from .load_report import LoadReport, report

# Each third lasts this long: enough for percentiles, short enough to watch.
PHASE_S = 12.0
PHASES = ("before", "burst", "after")
# A latency bound of three times what the last exit takes in the worst hundredth, and never below this.
LATENCY_FACTOR, LATENCY_MS_MIN = 3.0, 15.0
# More than this many requests a second would measure Python's clients on a small board, not the daemon.
RATE_HZ_MAX = 2_000.0


class Role(msgspec.Struct, frozen=True):
    """One tenant of the demo. `rates_hz`: before, in and after the burst. `inputs`: file of images and labels."""

    name: str
    network: str
    bounds: dict[str, float]
    rates_hz: tuple[float, float, float]
    inputs: str
    seed: int
    phase_s: float


class PhaseFigures(msgspec.Struct, frozen=True):
    """One tenant in one third. Shares are percentages of answers; None where there was none."""

    requests: int
    answered: int
    refused: int
    failed: int
    met_pct: float | None
    met_daemon_pct: float | None
    p50_ms: float
    p99_ms: float
    accuracy: float | None
    expected_accuracy: float | None
    energy_mj: float | None
    exits: list[int]


class TenantFigures(msgspec.Struct, frozen=True):
    """One tenant over the whole demo; latencies by its own clock, from send to receipt.

    `met_pct`: of its answers, the share whose bounds all held (None without bounds); `energy_mj`: mean per answer.
    """

    name: str
    network: str
    bounds: dict[str, float]
    requests: int
    answered: int
    refused: int
    failed: int
    met_pct: float | None
    met_pct_burst: float | None
    met_daemon_pct: float | None
    p50_ms: float
    p99_ms: float
    accuracy: float | None
    energy_mj: float | None
    energy_source: str
    exits: list[int]
    phases: dict[str, PhaseFigures]


class DemoReport(msgspec.Struct, frozen=True):
    """What `delen demo --json` prints. `utilisation`: offered load by phase, 1 being all the last exits sustain."""

    tenants: list[TenantFigures]
    utilisation: dict[str, float]
    claims: list[str]
    held: bool
    seconds: float
    phase_s: float


def cast(networks: Mapping[str, NetworkInfo], inputs: Mapping[str, str], phase_s: float = PHASE_S) -> list[Role]:
    """Five tenants over `fashion` and `digits`, their bounds and rates fitted to what this device can do.

    Rates are shares of what the last exit sustains alone, so that the burst offers at least twice that anywhere.
    """
    fashion, digits = networks["fashion"], networks["digits"]
    exits = [item for item in fashion.exits if not item.dominated]
    tight_ms = _latency_ms(exits[-1])
    energies = [item.energy_mj for item in exits if item.energy_mj is not None]
    plain: list[tuple[str, NetworkInfo, dict[str, float], tuple[float, float]]] = [
        ("camera", fashion, {"latency_ms": tight_ms}, (0.20, 1.80)),
        ("inspector", fashion, {"accuracy": math.floor(exits[-1].accuracy * 100 - 0.5) / 100}, (0.12, 0.25)),
        ("archive", fashion, {}, (0.12, 0.12)),
        ("door", digits, {"latency_ms": _latency_ms(digits.exits[-1])}, (0.002, 0.004)),
    ]
    if len(energies) == len(exits):
        # A little more than the second exit takes, well below the next.
        plain.insert(2, ("sensor", fashion, {"energy_mj": round(energies[1] * 1.1, 3)}, (0.10, 0.25)))
    scale = _scale(plain)
    return [
        Role(
            name=name,
            network=info.name,
            bounds=bounds,
            rates_hz=(base * full, peak * full, base * full),
            inputs=inputs[info.name],
            seed=index,
            phase_s=phase_s,
        )
        for index, (name, info, bounds, (base, peak)) in enumerate(plain)
        for full in (scale * sustained_hz(info),)
    ]


def sustained_hz(info: NetworkInfo) -> float:
    """How many requests a second the last exit could serve one by one, if nothing else took time."""
    last = [item for item in info.exits if not item.dominated][-1]
    return 1e6 / max(1, last.latency_p50_us)


def utilisation(roles: Sequence[Role], networks: Mapping[str, NetworkInfo]) -> dict[str, float]:
    """Offered load in each phase, as a share of what the device sustains if all go to the last exit."""
    return {
        phase: round(sum(role.rates_hz[index] / sustained_hz(networks[role.network]) for role in roles), 3)
        for index, phase in enumerate(PHASES)
    }


def figures(role: Role, outcomes: Sequence[Outcome], exit_count: int) -> TenantFigures:
    """One tenant's figures, whole and by phase; a request belongs to the phase it was due in."""
    by_phase: dict[str, list[Outcome]] = {phase: [] for phase in PHASES}
    for outcome in outcomes:
        by_phase[PHASES[min(2, int(outcome.due_us / (role.phase_s * 1e6)))]].append(outcome)
    phases = {phase: _phase(report(part), bool(role.bounds), exit_count) for phase, part in by_phase.items()}
    whole = report(outcomes)
    everything = _phase(whole, bool(role.bounds), exit_count)
    return TenantFigures(
        name=role.name,
        network=role.network,
        bounds=role.bounds,
        requests=everything.requests,
        answered=everything.answered,
        refused=everything.refused,
        failed=everything.failed,
        met_pct=everything.met_pct,
        met_pct_burst=phases["burst"].met_pct,
        met_daemon_pct=everything.met_daemon_pct,
        p50_ms=everything.p50_ms,
        p99_ms=everything.p99_ms,
        accuracy=everything.accuracy,
        energy_mj=everything.energy_mj,
        energy_source=whole.energy_source,
        exits=everything.exits,
        phases=phases,
    )


def claims(tenants: Sequence[TenantFigures]) -> tuple[list[str], bool]:
    """What the demo set out to show, in sentences with the figures, and whether all of it held."""
    said, held = [], True
    for tenant in tenants:
        for phase in PHASES if tenant.bounds else ():
            part = tenant.phases[phase]
            if part.met_pct is None:
                continue
            ok = part.met_pct >= 99.0
            held = held and ok
            said.append(
                f"{'held' if ok else 'BROKEN'}: {tenant.name} missed {100 - part.met_pct:.2f} % of its bound "
                f"{phase_words(phase)}, by its own clock; the daemon counted {100 - (part.met_daemon_pct or 0):.2f} %"
            )
    return said, held


def phase_words(phase: str) -> str:
    return {"before": "before the burst", "burst": "during the burst", "after": "after the burst"}[phase]


def _phase(part: LoadReport, bounded: bool, exit_count: int) -> PhaseFigures:
    return PhaseFigures(
        requests=part.requests,
        answered=part.answered,
        refused=part.refused,
        failed=part.failed,
        met_pct=_percent(part.met) if bounded else None,
        met_daemon_pct=_percent(part.met_daemon) if bounded else None,
        p50_ms=part.from_send.p50_us / 1000,
        p99_ms=part.from_send.p99_us / 1000,
        accuracy=part.accuracy,
        expected_accuracy=part.expected_accuracy,
        energy_mj=None if part.energy_mj is None else part.energy_mj / max(1, part.answered),
        exits=[part.exits.get(index, 0) for index in range(exit_count)],
    )


def _latency_ms(last: ExitInfo) -> float:
    return round(max(LATENCY_MS_MIN, LATENCY_FACTOR * last.latency_p99_us / 1000), 1)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 3)


def _scale(plain: Sequence[tuple[str, NetworkInfo, dict[str, float], tuple[float, float]]]) -> float:
    """1, or less where a fast device would be asked for more than RATE_HZ_MAX."""
    peak: float = sum(shares[1] * sustained_hz(info) for _, info, _, shares in plain)
    return min(1.0, RATE_HZ_MAX / peak)
