"""What the daemon tells of itself: the ledger's rows, what the device did, and how requests went, page by page.

Role: replies to `stats` and `traces`, each within one header however many tenants there are, so that telling takes the
loop a millisecond at most. Pure. Does not: decide who may see what; the desk says whose rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec
from msgspec.structs import replace

from ..clients.info import DeviceEnergy, EnergySource, MeterInfo, NetworkStats, TenantStats
from ..clients.wire import VERSION, Stats, StatsReply, TraceList, Traces
from .ledger import WORST_FIRST
from .server import Server
from .tally import Work
from .traces import TraceRing

# Of a reply's header, which may have 64 KiB, what its rows may take; and most rows in one reply.
ROWS_BYTES_MAX = 48_000
ROWS_MAX = 32


def stats_reply(
    message: Stats,
    server: Server,
    names: Sequence[str],
    *,
    all_seen: bool,
    uptime_us: int,
    device: tuple[str, int, str, MeterInfo, DeviceEnergy],
) -> StatsReply:
    """The rows behind `message.after`: of these tenants first, then of networks, for who sees all.

    Args:
        names: of the tenants to tell of, in an order that stays.
        device: the worker's state, how often it was started again, its spare, how the meter stands, and energy.
    """
    work = list(server.ledger.work.values()) if all_seen else []
    networks: list[NetworkStats] = []
    tenants: list[TenantStats] = []
    start, size = max(0, message.after), 0
    for row in islice(_rows(server, names, work, start), ROWS_MAX):
        size += len(msgspec.msgpack.encode(row))
        if (networks or tenants) and size > ROWS_BYTES_MAX:
            break
        if isinstance(row, NetworkStats):
            networks.append(row)
        else:
            tenants.append(row)
    told = start + len(networks) + len(tenants)
    return StatsReply(
        version=VERSION,
        id=message.id,
        uptime_us=uptime_us,
        queued=server.pending_count,
        worker=device[0],
        worker_restarts=device[1],
        tenants=tuple(tenants),
        networks=tuple(networks),
        next=told if told < len(work) + len(names) else 0,
        spare=device[2],
        meter=device[3],
        energy=device[4],
    )


def _rows(
    server: Server, names: Sequence[str], work: Sequence[Work], start: int
) -> Iterator[TenantStats | NetworkStats]:
    accounts = server.ledger.accounts
    for name in names[start:]:
        yield replace(accounts[name].stats(), drift=server.assurance.told(name))
    for each in work[max(0, start - len(names)) :]:
        yield each.told()


def device_energy(server: Server, now_us: int) -> DeviceEnergy:
    """What the device drew for everybody and beside, and what its battery allows."""
    ledger = server.ledger
    accounts, battery = list(ledger.accounts.values()), ledger.budgets.device
    sources: set[EnergySource] = {account.energy_source for account in accounts if account.energy_sources}
    horizon = None if battery is None else battery.horizon
    told = DeviceEnergy(
        runs_mj=sum([account.energy_mj for account in accounts]),
        source=next((source for source in WORST_FIRST if source in sources), "unknown"),
        idle_mj=ledger.idle_mj,
        idle_mw=None if ledger.attribution is None else ledger.attribution.idle_mw,
        power_w_max=server.limits.power_w_max or None,
    )
    if battery is None or horizon is None:
        return told
    left_s, allowed_mw = max(0.0, (horizon.until_us - now_us) / 1e6), battery.allow_mw(now_us)
    allowed_w = allowed_mw / 1000 if math.isfinite(allowed_mw) else None
    return replace(told, battery_j=horizon.left_mj / 1000, battery_w=allowed_w, battery_s=left_s)


def trace_list(message: Traces, ring: TraceRing, now_us: int) -> TraceList:
    """How one tenant's last requests went."""
    page = ring.page(message.after)
    return TraceList(VERSION, message.id, now_us, page.next, page.more, page.lost, page.requests)
