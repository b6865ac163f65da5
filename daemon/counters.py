"""What each tenant has had over restarts: energy and device time in all, energy of the last day, how requests ended.

Role: pure. `Counters` adds what the ledger's accounts have gained since it last looked, and makes one record of all
tenants, which `keeping.py` writes every second and reads at the start. What was booked after the last record is lost
with the process or the power: at most a second of it, and the time the disk takes.

The hours of a tenant's last day are kept by wall time, since a monotonic clock begins anew with every boot. A clock
that was set back makes them count from now on, so that no energy is given twice; one that went ahead lets go of them.
Does not: refuse anything; the caps of `policies/energy_caps.py` do, with what is given back to them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..policies.energy_caps import HOUR_US
from .audit_log import NOWHERE, Head
from .ledger import Account

FORMAT = 1
# Tenants that are served no more are remembered, since one that comes back has spent it all the same; so many in all.
TENANTS_MAX = 2048


class CountersDamaged(ValueError):
    """A record that is whole, but not one of this delen's."""


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tenant's. `energy_mj`: of runs whose energy is known. `day`: (wall time an hour began at, s; mJ in it).

    `budget`: of energy that is to last until a time: which, and how much of it has been had, mJ.
    """

    tenant: str
    energy_mj: float = 0.0
    device_us: int = 0
    accepted: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    day: tuple[tuple[int, float], ...] = ()
    budget: tuple[str, float] = ("", 0.0)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it, as it is written. `audit`: where the audit log ended."""

    format: int
    totals: tuple[Totals, ...]
    audit: Head = NOWHERE


class Counters:
    """All tenants' totals: as kept, with what this daemon has booked since."""

    def __init__(self, record: bytes = b"") -> None:
        """`record`: as `encoded` made it; empty: none. Raises CountersDamaged."""
        kept = decoded(record)
        self._totals = {totals.tenant: totals for totals in kept.totals}
        self._booked: dict[str, Totals] = {}
        # Where the audit log ended; see there.
        self.audit = kept.audit

    def add(self, accounts: Mapping[str, Account]) -> bool:
        """Take in what accounts have gained since the last call; returns whether any has."""
        changed = False
        for name, account in accounts.items():
            booked, now = self._booked.get(name), _booked(account)
            if now != booked:
                kept = self._totals.pop(name, None) or Totals(name)
                # Last in the order: the first are those who have had nothing for longest.
                self._totals[name] = _grown(kept, booked or Totals(name), now)
                self._booked[name] = now
                changed = True
        while len(self._totals) > TENANTS_MAX:
            del self._totals[next(iter(self._totals))]
        return changed

    def set_day(self, tenant: str, day: tuple[tuple[int, float], ...]) -> None:
        """The hours of its last day, as `to_wall` gives them."""
        kept = self._totals.get(tenant)
        if kept is not None:
            self._totals[tenant] = msgspec.structs.replace(kept, day=day)

    def set_budget(self, tenant: str, budget: tuple[str, float]) -> None:
        """What was had of its energy that is to last until a time."""
        kept = self._totals.get(tenant)
        if kept is not None:
            self._totals[tenant] = msgspec.structs.replace(kept, budget=budget)

    def of(self, tenant: str) -> Totals:
        """As of the last `add`."""
        return self._totals.get(tenant) or Totals(tenant)

    def encoded(self) -> bytes:
        return msgspec.json.encode(Record(FORMAT, tuple(self._totals.values()), self.audit))


def decoded(record: bytes) -> Record:
    """What a record says; nothing of an empty one. Raises CountersDamaged."""
    if not record:
        return Record(FORMAT, ())
    try:
        kept = msgspec.json.decode(record, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CountersDamaged(f"the kept counters cannot be read: {error}") from error
    if kept.format != FORMAT:
        raise CountersDamaged(f"the kept counters have format {kept.format}; this delen reads {FORMAT}")
    return kept


def to_wall(levels: Sequence[tuple[int, float]], *, now_us: int, wall_s: float) -> tuple[tuple[int, float], ...]:
    """(hours ago, mJ), by a monotonic clock that shows `now_us` -> (wall time the hour began at, s; mJ)."""
    hour = now_us // HOUR_US
    return tuple((round(wall_s - (now_us - (hour - ago) * HOUR_US) / 1e6), amount_mj) for ago, amount_mj in levels)


def from_wall(day: Sequence[tuple[int, float]], *, now_us: int, wall_s: float) -> list[tuple[int, float]]:
    """The other way, oldest first. Where the boot was another, hours fall together with the nearest of this one's."""
    hour = now_us // HOUR_US
    found = [(hour - round((now_us - (wall_s - began_s) * 1e6) / HOUR_US), amount_mj) for began_s, amount_mj in day]
    return sorted(((max(0, ago), amount_mj) for ago, amount_mj in found), reverse=True)


def _booked(account: Account) -> Totals:
    """What this daemon's own ledger has of a tenant."""
    return Totals(
        account.tenant,
        energy_mj=account.energy_mj,
        device_us=account.device_us,
        accepted=account.accepted,
        answered=account.answered,
        failed=account.failed,
        refused=account.refused,
    )


def _grown(kept: Totals, booked: Totals, now: Totals) -> Totals:
    return Totals(
        kept.tenant,
        energy_mj=kept.energy_mj + now.energy_mj - booked.energy_mj,
        device_us=kept.device_us + now.device_us - booked.device_us,
        accepted=kept.accepted + now.accepted - booked.accepted,
        answered=kept.answered + now.answered - booked.answered,
        failed=kept.failed + now.failed - booked.failed,
        refused=kept.refused + now.refused - booked.refused,
        day=kept.day,
        budget=kept.budget,
    )
