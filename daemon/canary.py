"""Canaries: one known input to a network now and then, to see that engine and device still work as they did.

Role: in idle time, and soon where the quarantine doubts a network, a run that belongs to nobody: an input of zeros to
the last exit. It must come back, and say what it said the first time. Flow: `flight` gives the run -> the device ->
`told`, which says what was found. A hang is noticed like any other run's: it is overdue.

Does not: know why a network is doubted, or act on what it finds (`server.py`). The first canary of all is the worker's
own, before it says that a network is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..policies.view import NEVER_US, Row, Run, Served
from .records import ExitDone, Flight, RunFailed

# Nobody's ticket.
TICKET = -1
# The same input may come out a little different on another run: never by so much.
DRIFT_MAX = 0.02
# A doubted network is tried again no sooner than this, whatever else waits; twice as late after each canary it failed,
# lest one that stays broken take the device from those that are well.
DOUBT_US, DOUBLED_MAX = 100_000, 16


class Verdict(NamedTuple):
    """What a canary showed: that the network is well, or what is wrong with it."""

    fault: str = ""
    failed_in_a_row: int = 0


class Canaries:
    """Whose turn it is, and what each network said first."""

    def __init__(self, every_us: int = 0) -> None:
        """`every_us`: of idleness; 0: none."""
        self._every_us = every_us
        self._due_us = NEVER_US
        self._doubt_us = 0
        self._said: dict[str, tuple[int, float]] = {}
        self._failed: dict[str, int] = {}
        self._turn: list[str] = []

    def stir(self, now_us: int) -> None:
        """The device does something, which shows as much as a canary would."""
        if self._every_us:
            self._due_us = now_us + self._every_us

    def due_at(self, *, doubt: bool) -> int:
        """When the next is due on an idle device. `doubt`: some network is doubted."""
        return min(self._due_us, self._doubt_us) if doubt and self._every_us else self._due_us

    def flight(self, run_id: int, now_us: int, networks: Mapping[str, Served], doubted: set[str]) -> Flight | None:
        """The next canary's run, a doubted network's first; None if there is nothing to run it on."""
        due: set[str] = set()
        if doubted and now_us >= self._doubt_us:
            due = doubted & networks.keys()
            failed = min((self._failed.get(key, 0) for key in due), default=0)
            self._doubt_us = now_us + min(self._every_us, DOUBT_US << min(failed, DOUBLED_MAX))
            due = {key for key in due if not networks[key].away_until_us}
        if not due and now_us < self._due_us:
            return None
        if not self._every_us:
            return None
        # In turn, so that one that never gets well does not keep the others from theirs.
        self._turn = [key for key in self._turn if key in networks] + [key for key in networks if key not in self._turn]
        key = next((key for key in self._turn if key in due or (not due and not networks[key].away_until_us)), None)
        if key is None:
            self.stir(now_us)
            return None
        self._turn.remove(key)
        self._turn.append(key)
        self.stir(now_us)
        served = networks[key]
        rows = (Row(TICKET, served.exit_last, (), (), False),)
        took_us = served.time_us(0, served.exit_last, 1)
        return Flight(
            run=Run(run_id, key, 0, rows, 0, (), took_us),
            rows={TICKET: rows[0]},
            owners={},
            posted_us=now_us,
            ends_us=now_us + took_us,
            likely_us=now_us + took_us,
            must_us=now_us,
            ask_us=now_us,
            served=served,
            bounded=False,
            timed=False,
            overdue_us=NEVER_US,
            canary=True,
        )

    def told(self, flight: Flight, done: ExitDone | RunFailed) -> Verdict | None:
        """What a report says of its network; None while it is not over, or where it gave way to somebody."""
        key = flight.served.key
        if isinstance(done, RunFailed):
            return self._bad(key, done.message)
        found = next((row for row in done.rows if row.ticket == TICKET), None)
        if not done.finished or found is None or done.exit < flight.served.exit_last:
            return None
        label, confidence = self._said.setdefault(key, (found.label, found.confidence))
        # Beyond a half, another label cannot be a matter of the last digits.
        other = found.label != label and found.confidence > 0.5 + DRIFT_MAX
        if other or abs(found.confidence - confidence) > DRIFT_MAX:
            said = f"to the same input it said {label} with {confidence:.3f}, and now {found.label} with "
            return self._bad(key, f"{said}{found.confidence:.3f}")
        self._failed.pop(key, None)
        return Verdict()

    def _bad(self, key: str, fault: str) -> Verdict:
        failed = self._failed[key] = self._failed.get(key, 0) + 1
        return Verdict(fault, failed)

    def forget(self, key: str) -> None:
        """This network is served no more."""
        self._said.pop(key, None)
        self._failed.pop(key, None)
