"""The daemon's counts as Prometheus reads them: text format 0.0.4, base units, labels that cannot explode.

Role: `METRICS` is every metric there is; `metrics_page` writes one reply to `stats` in it. Tenants beyond
`tenants_max` share the label `other`, so that a scrape has a bound whatever the daemon serves; no ids, no free text.
Pure. Does not: ask the daemon, or serve the page (gateway.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from .info import EDGES_US, Histogram, NetworkStats, TenantStats
from .wire import StatsReply

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TENANTS_MAX = 64
OTHER = "other"
BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metric(NamedTuple):
    """What is said of a metric: its name, type, meaning and labels, in the order in which values name them."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("delen_up", "gauge", "Whether the daemon answered."),
    Metric("delen_build_info", "gauge", "The gateway's version.", ("version",)),
    Metric("delen_uptime_seconds", "gauge", "Since the daemon began to serve."),
    Metric("delen_worker_ready", "gauge", "Whether the engine's process takes runs."),
    Metric("delen_spare_ready", "gauge", "Whether an engine stands by to take over; absent where none is to."),
    Metric("delen_worker_restarts_total", "counter", "How often the engine's process was started again."),
    Metric("delen_requests_total", "counter", "Requests by how they ended.", ("tenant", "model", "outcome")),
    Metric("delen_queue_depth", "gauge", "Requests accepted and not ended.", ("tenant",)),
    Metric("delen_rejected_total", "counter", "Messages refused, by code.", ("tenant", "reason")),
    Metric("delen_failures_total", "counter", "Requests accepted and not answered, by code.", ("tenant", "reason")),
    Metric("delen_bound_violations_total", "counter", "Answers by bound that did not hold.", ("tenant", "bound")),
    Metric("delen_bounds_met_total", "counter", "Answers whose bounds all held.", ("tenant",)),
    Metric("delen_undeliverable_total", "counter", "Ends whose reader was gone or too slow.", ("tenant",)),
    Metric("delen_beyond_total", "counter", "Requests accepted beyond the tenant's rate or share.", ("tenant",)),
    Metric("delen_exit_total", "counter", "Answers by exit.", ("tenant", "model", "exit")),
    Metric("delen_request_duration_seconds", "histogram", "From reading a request to its answer.", ("tenant", "model")),
    Metric("delen_queue_duration_seconds", "histogram", "From reading to the first run.", ("tenant", "model")),
    Metric("delen_execute_duration_seconds", "histogram", "Runs of a segment.", ("model", "segment")),
    Metric("delen_batch_size", "histogram", "Rows in runs of segments.", ("model",)),
    Metric("delen_slowdown_ratio", "gauge", "How much longer runs take than the profile says.", ("model",)),
    Metric("delen_device_seconds_total", "counter", "Time of the device charged.", ("tenant",)),
    Metric("delen_optional_device_seconds_total", "counter", "Of it, what no bound needed.", ("tenant",)),
    Metric("delen_tenant_energy_joules_total", "counter", "Energy charged, where known.", ("tenant", "source")),
    Metric("delen_energy_joules_total", "counter", "Energy of all tenants; rail `charged`.", ("rail",)),
    Metric("delen_power_watts", "gauge", "What each of the board's sensors reads now.", ("rail",)),
    Metric("delen_temperature_celsius", "gauge", "The board's hottest zone now.", ("zone",)),
    Metric("delen_certificate_withdrawn", "gauge", "Whether drift withdrew certificates.", ("tenant", "model")),
    Metric("delen_audits_total", "counter", "Answers run again to the last exit.", ("tenant", "model")),
    Metric("delen_audits_differed_total", "counter", "Of them, where that said otherwise.", ("tenant", "model")),
)


class Board(NamedTuple):
    """What the gateway read off the board itself."""

    power_watts: Mapping[str, float]
    temperature_celsius: float | None


def metrics_page(
    stats: StatsReply | None, *, version: str, board: Board | None = None, tenants_max: int = TENANTS_MAX
) -> str:
    """One scrape; `stats` None: the daemon did not answer."""
    page = _Page()
    page.add("delen_up", int(stats is not None))
    page.add("delen_build_info", 1, version)
    for rail, watts in board.power_watts.items() if board is not None else ():
        page.add("delen_power_watts", watts, rail)
    if board is not None and board.temperature_celsius is not None:
        page.add("delen_temperature_celsius", board.temperature_celsius, "hottest")
    if stats is not None:
        page.add("delen_uptime_seconds", stats.uptime_us / 1e6)
        page.add("delen_worker_ready", int(stats.worker == "ready"))
        if stats.spare:
            page.add("delen_spare_ready", int(stats.spare == "ready"))
        page.add("delen_worker_restarts_total", stats.worker_restarts)
        for position, row in enumerate(stats.tenants):
            _add_tenant(page, row, row.tenant if position < tenants_max else OTHER)
        for network in stats.networks:
            _add_network(page, network)
    return page.text()


def _add_tenant(page: _Page, row: TenantStats, tenant: str) -> None:
    for model, counts in row.exits.items():
        page.add("delen_requests_total", sum(counts), tenant, model, "answered")
        for index, count in enumerate(counts):
            page.add("delen_exit_total", count, tenant, model, str(index))
    page.add("delen_requests_total", row.refused, tenant, "", "refused")
    page.add("delen_requests_total", row.failed, tenant, "", "failed")
    for name, value in (
        ("delen_queue_depth", row.pending),
        ("delen_bounds_met_total", row.bounds_met),
        ("delen_undeliverable_total", row.undeliverable),
        ("delen_beyond_total", row.beyond),
        ("delen_device_seconds_total", row.device_us / 1e6),
        ("delen_optional_device_seconds_total", row.optional_us / 1e6),
    ):
        page.add(name, value, tenant)
    for metric, by in (
        ("delen_rejected_total", row.refusals),
        ("delen_failures_total", row.failures),
        ("delen_bound_violations_total", row.broken),
    ):
        for key, count in by.items():
            page.add(metric, count, tenant, key)
    for metric, tallies in (
        ("delen_request_duration_seconds", row.latency),
        ("delen_queue_duration_seconds", row.queue),
    ):
        for model, tally in tallies.items():
            page.add_times(metric, tally, tenant, model)
    if row.energy_mj is not None:
        page.add("delen_tenant_energy_joules_total", row.energy_mj / 1e3, tenant, row.energy_source)
        page.add("delen_energy_joules_total", row.energy_mj / 1e3, "charged")
    for model, drift in row.drift.items():
        page.add("delen_certificate_withdrawn", int(drift.withdrawn), tenant, model)
        page.add("delen_audits_total", drift.audits, tenant, model)
        page.add("delen_audits_differed_total", drift.differed, tenant, model)


def _add_network(page: _Page, network: NetworkStats) -> None:
    for index, tally in enumerate(network.segments):
        page.add_times("delen_execute_duration_seconds", tally, network.name, str(index))
    counts = [0] * (len(BATCH_EDGES) + 1)
    for size, runs in enumerate(network.batches, 1):
        counts[sum(size > edge for edge in BATCH_EDGES)] += runs
    rows = sum(size * runs for size, runs in enumerate(network.batches, 1))
    page.add_counts("delen_batch_size", BATCH_EDGES, counts, rows, (network.name,))
    page.add("delen_slowdown_ratio", network.slowdown, network.name)


class _Page:
    """Values by metric and labels; what has the same labels is added up."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {}
        self._counts: dict[str, dict[tuple[str, ...], tuple[Sequence[float], list[int], float]]] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        values = self._values.setdefault(name, {})
        values[labels] = values.get(labels, 0) + value

    def add_times(self, name: str, tally: Histogram, *labels: str) -> None:
        self.add_counts(name, [edge / 1e6 for edge in EDGES_US], tally.counts, tally.sum_us / 1e6, labels)

    def add_counts(
        self, name: str, edges: Sequence[float], counts: Sequence[int], total: float, labels: tuple[str, ...]
    ) -> None:
        known = self._counts.setdefault(name, {})
        _, before, sum_before = known.get(labels, (edges, [0] * len(counts), 0.0))
        known[labels] = edges, [a + b for a, b in zip(before, counts, strict=True)], sum_before + total

    def text(self) -> str:
        lines: list[str] = []
        for metric in METRICS:
            found = [*self._value_lines(metric), *self._count_lines(metric)]
            if found:
                lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *found]
        return "\n".join(lines) + "\n"

    def _value_lines(self, metric: Metric) -> Iterable[str]:
        for labels, value in self._values.get(metric.name, {}).items():
            yield f"{metric.name}{_braces(metric.labels, labels)} {_number(value)}"

    def _count_lines(self, metric: Metric) -> Iterable[str]:
        for labels, (edges, counts, total) in self._counts.get(metric.name, {}).items():
            so_far = 0
            for edge, count in zip((*map(_number, edges), "+Inf"), counts, strict=True):
                so_far += count
                yield f"{metric.name}_bucket{_braces((*metric.labels, 'le'), (*labels, edge))} {so_far}"
            yield f"{metric.name}_sum{_braces(metric.labels, labels)} {_number(total)}"
            yield f"{metric.name}_count{_braces(metric.labels, labels)} {so_far}"


def _braces(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = [f'{name}="{_label(value)}"' for name, value in zip(names, values, strict=True)]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
