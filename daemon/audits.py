"""Audits: answers that a gate let go are run to the last exit in idle time, to see whether the gates still hold.

Role: which answered requests wait for that with features on the device, the runs they become, and what comes of them.
Flow: a marked request leaves by its gate -> `hold` -> `flight` once nothing else waits -> `done`, which says if the
last exit agrees. What cannot be held any more is given up and counted: audits never take anybody's time or memory.

Does not: judge what was found (`standing.py`), or know anything of the answer but its label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from ..policies.batches import BLOCK_US_MAX
from ..policies.view import NEVER_US, Row, Run, Served
from .records import Flight, RowDone

# Audits begin after the device had nothing to do for so long: whoever asks again at once finds it free.
IDLE_US = 2_000
# With requests always at its heels the device is never idle for long: then the next pause will do, after this wait.
PATIENCE_US = 100_000


class Audit(NamedTuple):
    """An answer to look at again. `stage`: segments finished; `miss_max`: how often such answers may differ.

    `held_us`: since when it waits.
    """

    tenant: str
    served: Served
    stage: int
    label: int
    miss_max: float
    held_us: int


class Found(NamedTuple):
    """What one audit showed: whether the last exit gave another label than the answer had."""

    audit: Audit
    differs: bool


class Audits:
    """The audits of all tenants that wait or run."""

    def __init__(self, held_max: int) -> None:
        self._held_max = held_max
        self._waiting: dict[int, Audit] = {}
        self._running: dict[int, Audit] = {}
        self._quiet_us = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._waiting or ticket in self._running

    def hold(self, ticket: int, audit: Audit) -> tuple[int, Audit] | None:
        """Let this one wait; returns the one that is given up for it, where no more may be held."""
        self._waiting[ticket] = audit
        if len(self._waiting) <= self._held_max:
            return None
        oldest = next(iter(self._waiting))
        return oldest, self._waiting.pop(oldest)

    def stir(self, now_us: int) -> None:
        """Something came or ended: the device is not idle yet."""
        self._quiet_us = now_us + IDLE_US

    def wake_at(self) -> int:
        """When the next may begin, if nothing else happens until then."""
        if not self._waiting:
            return NEVER_US
        return min(self._quiet_us, next(iter(self._waiting.values())).held_us + PATIENCE_US)

    def flight(
        self, run_id: int, start_us: int, reaches: Callable[[int, Served, int, int], int | None]
    ) -> Flight | None:
        """The next run on an idle device, of those that wait: of one network and stage, the oldest first.

        `reaches`: how far the device's power goes, by time, network, stage and rows; None where it goes nowhere.
        """
        first = next(iter(self._waiting.values()))
        served, stage, last = first.served, first.stage, _last(first.served)
        alike = [ticket for ticket, audit in self._waiting.items() if audit.served is served and audit.stage == stage]
        # As best effort: whoever comes waits for no more than a segment, so that must not be long.
        most = min(served.batch_useful[last], served.batch_within(stage, last, BLOCK_US_MAX))
        tickets = alike[:most]
        stop = reaches(start_us, served, stage, len(tickets))
        if stop is None:
            return None
        rows = tuple([Row(ticket, stop, (), (), stop < last) for ticket in tickets])
        run = Run(run_id, served.key, stage, rows, 0, (), served.time_us(stage, stop, len(rows)))
        for ticket in tickets:
            self._running[ticket] = self._waiting.pop(ticket)
        return Flight(
            run=run,
            rows={row.ticket: row for row in rows},
            owners={ticket: self._running[ticket].tenant for ticket in tickets},
            posted_us=start_us,
            ends_us=start_us + run.predicted_us,
            likely_us=start_us + run.predicted_us,
            must_us=start_us,
            ask_us=start_us,
            served=served,
            bounded=False,
            timed=False,
            overdue_us=NEVER_US,
            audit=True,
        )

    def done(self, row: RowDone, exit_index: int) -> Found | None:
        """A row of such a run has left it: what it showed, or None where it gave way and waits again."""
        audit = self._running.pop(row.ticket)
        if exit_index < _last(audit.served):
            self._waiting[row.ticket] = audit._replace(stage=exit_index + 1)
            return None
        return Found(audit, row.label != audit.label)

    def back(self, tickets: Iterable[int]) -> None:
        """A run was taken back before it began: they wait again."""
        for ticket in tickets:
            self._waiting[ticket] = self._running.pop(ticket)

    def of(self, keys: Collection[str]) -> list[int]:
        """Tickets of those of these networks."""
        return [
            ticket
            for audits in (self._waiting, self._running)
            for ticket in audits
            if audits[ticket].served.key in keys
        ]

    def lost(self, tickets: Iterable[int] | None = None) -> list[Audit]:
        """These failed, or all went with the worker; returns them."""
        gone = [*self._waiting, *self._running] if tickets is None else list(tickets)
        return [found for ticket in gone if (found := self._take(ticket)) is not None]

    def _take(self, ticket: int) -> Audit | None:
        return self._waiting.pop(ticket, None) or self._running.pop(ticket, None)


def _last(served: Served) -> int:
    """The exit that calibration compared with: the last there is, on the ladder or not."""
    return len(served.costs.accuracy) - 1
