"""Who has had how much of the device beyond what was owed, against what is theirs.

Role: one `Share` per tenant. Its virtual time orders optional and best-effort work, so that depth is shared by weight;
mandatory work never looks at it, so fairness breaks no deadline. Source: energy-time fairness (Dělen's authors,
SEC'23); differs: the larger of time and energy counts instead of a blend of both, and only work that is not owed.

Flow: `enter` and `leave` as a tenant's requests come and end -> `charge` as runs are booked -> `worth`, by which the
policy weighs what a run would gain -> `spread`, the report. Does not: look at requests, or at a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

# A tenant this far ahead of the one furthest behind, in optional device time per weight, counts half: a few runs'
# length, so that batches still form, and shares are even over a second.
LEAD_US = 20_000
# So far behind the others one may start after a pause: who asks little and seldom need not queue with a flood.
CREDIT_US = 200_000
# How far behind one may fall: who asked for nothing optional for long has no claim to all of it afterwards.
LAG_US_MAX = 1_000_000


@dataclass(eq=False, slots=True)
class Share:
    """One tenant's part of the device.

    `virtual_us`: time had beyond what was owed, or energy had as time at the mean power, whichever is more, over
    `weight`. `level`: 1 for the tenant furthest behind, less the further one leads; `worth`: that times `weight`.
    `gained`: accuracy had beyond the mandatory exit, summed over answers. `energy_mj`: None where any of it is unknown.
    `pending`: requests that have not ended.
    """

    tenant: str
    weight: float = 1.0
    virtual_us: float = 0.0
    time_us: float = 0.0
    energy_mj: float | None = 0.0
    gained: float = 0.0
    pending: int = 0
    level: float = 1.0
    worth: float = field(init=False)

    def __post_init__(self) -> None:
        self.worth = self.weight


class Shares:
    """All tenants' shares, and how far each leads."""

    def __init__(self) -> None:
        self._active: dict[Share, None] = {}
        self._time_us = 0.0
        self._energy_mj = 0.0

    def enter(self, share: Share) -> None:
        """A request of this tenant was accepted; who had none waiting starts little behind the others."""
        share.pending += 1
        if share.pending == 1:
            if self._active:
                least_us = min([other.virtual_us for other in self._active])
                share.virtual_us = max(share.virtual_us, least_us - CREDIT_US)
            self._active[share] = None
            self._weigh()

    def leave(self, share: Share) -> None:
        """A request of this tenant has ended."""
        share.pending -= 1
        if not share.pending:
            del self._active[share]

    def charge(self, share: Share, took_us: float, energy_mj: float | None) -> None:
        """Book device time, and energy where it is known, of work that nobody was owed."""
        share.time_us += took_us
        share.energy_mj = None if energy_mj is None or share.energy_mj is None else share.energy_mj + energy_mj
        counted_us = took_us
        if energy_mj is not None:
            self._time_us += took_us
            self._energy_mj += energy_mj
            # The mean power of all such work so far is what energy is measured against: no setting, and one tenant's
            # hungry network counts for what it draws above it.
            if self._energy_mj > 0:
                counted_us = max(took_us, energy_mj * self._time_us / self._energy_mj)
        share.virtual_us += counted_us / share.weight
        self._weigh()

    def _weigh(self) -> None:
        active = self._active
        if len(active) == 1:
            [alone] = active
            alone.level, alone.worth = 1.0, alone.weight
            return
        if not active:
            return
        virtual = [share.virtual_us for share in active]
        least_us = max(min(virtual), max(virtual) - LAG_US_MAX)
        for share in active:
            if share.virtual_us < least_us:
                share.virtual_us = least_us
            share.level = 2 ** ((least_us - share.virtual_us) / LEAD_US)
            share.worth = share.weight * share.level


class Spread(msgspec.Struct, frozen=True):
    """How evenly tenants fared, per weight: Jain's index of each, 1 for even, 1/n for one who has all.

    Of device time beyond the mandatory exits, of the energy of that, and of accuracy gained by it. None: not known.
    """

    time: float
    energy: float | None
    accuracy: float


def spread(shares: Iterable[Share]) -> Spread:
    """Of these tenants; meaningful for those who all wanted more than they got."""
    found = list(shares)
    energies = [share.energy_mj / share.weight for share in found if share.energy_mj is not None]
    return Spread(
        jain([share.time_us / share.weight for share in found]),
        jain(energies) if len(energies) == len(found) else None,
        jain([share.gained / share.weight for share in found]),
    )


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index (1984): the square of the sum over n times the sum of squares; 1 where all are 0."""
    squares = math.fsum(value * value for value in values)
    return math.fsum(values) ** 2 / (len(values) * squares) if squares > 0 else 1.0
