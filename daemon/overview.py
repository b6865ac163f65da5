"""What the daemon tells of itself: the ledger's rows, what the device did, and how requests went, page by page.

Role: replies to `stats` and `traces`, each within one header however many tenants there are, so that telling takes the
loop a millisecond at most. Pure. Does not: decide who may see what; the desk says whose rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec
from msgspec.structs import replace

from ..clients.info import NetworkStats, TenantStats
from ..clients.wire import VERSION, Stats, StatsReply, TraceList, Traces
from .server import Server
from .tally import Work
from .traces import TraceRing

# Of a reply's header, which may have 64 KiB, what its rows may take; and most rows in one reply.
ROWS_BYTES_MAX = 48_000
ROWS_MAX = 32


def stats_reply(
    message: Stats, server: Server, names: Sequence[str], *, all_seen: bool, uptime_us: int, worker: tuple[str, int]
) -> StatsReply:
    """The rows behind `message.after`: of these tenants first, then of networks, for who sees all.

    Args:
        names: of the tenants to tell of, in an order that stays.
        worker: its state, and how often it was started again.
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
        worker=worker[0],
        worker_restarts=worker[1],
        tenants=tuple(tenants),
        networks=tuple(networks),
        next=told if told < len(work) + len(names) else 0,
    )


def _rows(
    server: Server, names: Sequence[str], work: Sequence[Work], start: int
) -> Iterator[TenantStats | NetworkStats]:
    accounts = server.ledger.accounts
    for name in names[start:]:
        yield replace(accounts[name].stats(), drift=server.assurance.told(name))
    for each in work[max(0, start - len(names)) :]:
        yield each.told()


def trace_list(message: Traces, ring: TraceRing, now_us: int) -> TraceList:
    """How one tenant's last requests went."""
    page = ring.page(message.after)
    return TraceList(VERSION, message.id, now_us, page.next, page.more, page.lost, page.requests)
