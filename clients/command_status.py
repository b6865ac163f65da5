"""`delen networks` and `delen ps`: what may be asked for, and what was given to whom.

Does not: ask the daemon more often than once per refresh.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from .options import OVER_ZERO, connect, connection_options
from .tables import (
    Column,
    count,
    histogram,
    joules,
    json_option,
    millijoules,
    milliseconds,
    out,
    percent,
    print_json,
    print_table,
    say,
    show,
    table,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .info import DeviceEnergy, Drift, MeterInfo, NetworkInfo, TenantStats
    from .wire import StatsReply


@click.command("networks")
@connection_options
@json_option
def networks_command(as_json: bool, **options: Any) -> None:
    """List the networks this tenant may use, with what each exit is worth and costs on this device."""
    with connect(options["tenant"], options["endpoint"], options["timeout_s"], options["wait_s"]) as client:
        networks = client.networks()
    if as_json:
        print_json({"networks": networks})
        return
    for info in networks:
        shape = "x".join(str(side) for side in info.shape)
        title = f"{info.name} {info.version}  {info.dtype} {shape}  {len(info.classes)} classes  on {info.engine}"
        print_table([_exit_row(info, index) for index in range(len(info.exits))], _EXIT_COLUMNS, title)
        say(f"costs: {info.profile}")
        if info.certifiable is not None:
            known = info.certifiable
            said = f"at {percent(known.certainty)} certainty, from {count(known.n)} samples and for inputs like them"
            say(f"certified {said}: accuracy up to {percent(known.best)}")


def _exit_row(info: NetworkInfo, index: int) -> dict[str, Any]:
    entry = info.exits[index]
    return {
        "exit": entry.index,
        "accuracy": entry.accuracy,
        "certified": info.certifiable.exits[index] or None if info.certifiable is not None else None,
        "p50": entry.latency_p50_us,
        "p99": entry.latency_p99_us,
        "energy": None if entry.energy_source == "unknown" else entry.energy_mj,
        "source": entry.energy_source,
        "gmac": entry.gmac,
        "note": "dominated: never chosen" if entry.dominated else "",
    }


_EXIT_COLUMNS = (
    Column("exit", "exit"),
    Column("accuracy", "accuracy", percent),
    Column("certified", "certified", percent),
    Column("p50", "p50 ms", milliseconds),
    Column("p99", "p99 ms", milliseconds),
    Column("energy", "mJ", millijoules),
    Column("source", "energy", justify="left"),
    Column("gmac", "GMAC", lambda value: f"{value:.3g}"),
    Column("note", "", justify="left"),
)


@click.command("ps")
@click.option("--watch", is_flag=True, help="Keep showing it until interrupted.")
@click.option("--every-s", type=OVER_ZERO, default=1.0, show_default=True, help="How often --watch looks.")
@connection_options
@json_option
def ps_command(watch: bool, every_s: float, as_json: bool, **options: Any) -> None:
    """Show every tenant's requests: answered, refused, late, exits taken, energy.

    Not delivered: ends whose reader was gone or too slow. Beyond: accepted beyond the tenant's rate or share. Optional:
    the part of its device time that no bound needed.

    In development mode all tenants are shown, otherwise the one that asks. With --watch --json, one line per look.
    """
    with connect(options["tenant"], options["endpoint"], options["timeout_s"], options["wait_s"]) as client:
        if not watch:
            _show(client.stats(), as_json=as_json)
        elif as_json or not out().is_terminal:
            while True:
                _show(client.stats(), as_json=as_json)
                time.sleep(every_s)
        else:
            from rich.live import Live

            with Live(_screen(client.stats()), console=out(), auto_refresh=False, screen=False) as live:
                while True:
                    time.sleep(every_s)
                    live.update(_screen(client.stats()), refresh=True)


def _show(stats: StatsReply, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "uptime_us": stats.uptime_us,
                "queued": stats.queued,
                "worker": stats.worker,
                "worker_restarts": stats.worker_restarts,
                "spare": stats.spare,
                "tenants": stats.tenants,
                "networks": stats.networks,
                "meter": stats.meter,
                "energy": stats.energy,
            }
        )
    else:
        show(_screen(stats))


def _screen(stats: StatsReply) -> RenderableType:
    restarts = f", {stats.worker_restarts} restarts" if stats.worker_restarts else ""
    spare = f", spare {stats.spare}" if stats.spare else ""
    title = f"up {_duration(stats.uptime_us)}  queued {stats.queued}  worker {stats.worker}{restarts}{spare}"
    title = f"{title}  {_meter(stats.meter)}{_drawn(stats.energy)}"
    rows = [row for tenant in stats.tenants for row in _tenant_rows(tenant)]
    columns = [each for each in _TENANT_COLUMNS if each.key not in _RARE or any(row.get(each.key) for row in rows)]
    return table(rows, columns, title)


def _tenant_rows(tenant: TenantStats) -> list[dict[str, Any]]:
    """One row per tenant; a second and further networks of a tenant get a row that holds their exits only."""
    bounded = tenant.bounds_met + tenant.bounds_broken
    first: dict[str, Any] = {
        "tenant": tenant.tenant,
        "answered": tenant.answered,
        "pending": tenant.pending,
        "refused": tenant.refused,
        "failed": tenant.failed,
        "undelivered": tenant.undeliverable or None,
        "beyond": tenant.beyond or None,
        "optional": tenant.optional_us / tenant.device_us if tenant.device_us else None,
        "met": tenant.bounds_met / bounded if bounded else None,
        "p50": tenant.latency_p50_us if tenant.answered else None,
        "p99": tenant.latency_p99_us if tenant.answered else None,
        "energy": None if tenant.energy_source == "unknown" else tenant.energy_mj,
        "source": tenant.energy_source,
        "network": None,
        "exits": None,
        "certificate": None,
    }
    exits = [
        {"network": name, "exits": counts, "certificate": _standing(tenant.drift.get(name))}
        for name, counts in sorted(tenant.exits.items())
    ]
    return [{**first, **(exits[0] if exits else {})}, *exits[1:]]


def _standing(drift: Drift | None) -> str | None:
    """Whether certificates stand, and what that rests on; None where none were asked for."""
    if drift is None:
        return None
    told = [f"{drift.differed} of {drift.audits} audits differ"] if drift.audits else []
    told += [f"{drift.wrong} of {drift.labels} labels say wrong"] if drift.labels else []
    return f"{'WITHDRAWN' if drift.withdrawn else 'stands'}{': ' if told else ''}{', '.join(told)}"


def _meter(meter: MeterInfo) -> str:
    if meter.state == "none":
        return "no power meter"
    if meter.power_mw is None:
        return f"power meter {meter.state.upper()} for {_duration(meter.for_us)}"
    return f"drawing {meter.power_mw / 1000:.2f} W"


def _drawn(energy: DeviceEnergy) -> str:
    """What the device drew in all, idle apart; and what its battery has left."""
    told = ""
    if energy.idle_mj is not None:
        told = f"  runs {joules(energy.runs_mj / 1000)} {energy.source}, idle {joules(energy.idle_mj / 1000)}"
    if energy.battery_j is not None and energy.battery_s is not None:
        told = f"{told}  battery {joules(energy.battery_j)} to last {_duration(int(energy.battery_s * 1e6))}"
    return told


def _duration(value_us: int) -> str:
    seconds = value_us // 1_000_000
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds % 60:02} s" if minutes else f"{seconds} s"
    )


# Shown where there is something to show.
_RARE = ("undelivered", "beyond", "optional")
_TENANT_COLUMNS = (
    Column("tenant", "tenant", justify="left"),
    Column("answered", "answered", count),
    Column("pending", "pending", count),
    Column("refused", "refused", count),
    Column("failed", "failed", count),
    Column("undelivered", "not delivered", count),
    Column("beyond", "beyond", count),
    Column("met", "bounds met", percent),
    Column("p50", "p50 ms", milliseconds),
    Column("p99", "p99 ms", milliseconds),
    Column("optional", "optional", percent),
    Column("energy", "mJ", millijoules),
    Column("source", "energy", justify="left"),
    Column("network", "network", justify="left"),
    Column("exits", "exits", histogram, justify="left"),
    Column("certificate", "certificate", justify="left"),
)
