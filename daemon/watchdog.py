"""Whether the daemon works, worked out anew each time: what the watchdog message to the service manager stands for.

Role: `Watchdog.look` names the first thing that is wrong, or None. A thread that says "alive" by a timer says nothing;
here a message goes out only after a whole turn of the loop, and only if what should have happened in it has. A daemon
that fails this for the manager's whole watchdog time is ended by it, with its stacks in the log, and started again.

1 The books balance: accepted = answered + failed + pending, and pending are those that the core has open.
2 What was due at the core has been done. 3 So it has at the worker: one that starts too long, or waits to be started.
4 Nobody waits beyond what they are due at for a device that is ready, idle, and has been given nothing in between,
unless the policy says until when it holds them.

Does not: read a clock, send anything, or repair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..policies.view import NEVER_US
from .server import Server

if TYPE_CHECKING:
    from .log_writer import Log

# A turn may be late by a page fault or a busy machine, never by this.
LATE_US_MAX = 1_000_000
# Of the manager's patience: so that one message may be lost, and one look be unlucky.
LOOKS_PER_WATCHDOG = 4
BOOKS_EVERY_US = 1_000_000


class Worker(Protocol):
    """As much of the supervisor as matters here."""

    def wake_at(self) -> int | None:
        """When there is something to do for it; None when never."""
        ...


class Watchdog:
    """When to look next, and what was seen the last time."""

    def __init__(self, watchdog_us: int) -> None:
        """`watchdog_us`: the manager's patience."""
        self._every_us = max(1, watchdog_us // LOOKS_PER_WATCHDOG)
        self._next_us = 0
        self._idle_since_run: int | None = None

    def wake_at(self) -> int:
        """When the next look is due."""
        return self._next_us

    def look(self, now_us: int, server: Server, worker: Worker, run_count: int) -> str | None:
        """Look at everything, at the end of a turn.

        Args:
            run_count: runs posted since the start; that it rises is progress.
        Returns:
            What is wrong, for the log; None when nothing is.
        Cost: 20 us at 64 tenants.
        """
        self._next_us = now_us + self._every_us
        return (
            books_fault(server)
            or _late("the core", server.wake_at(), now_us)
            or _late("the worker", worker.wake_at(), now_us)
            or self._idle_fault(now_us, server, run_count)
        )

    def _idle_fault(self, now_us: int, server: Server, run_count: int) -> str | None:
        """Work and a device for it, twice in a row, with no run in between, and past its time."""
        before, self._idle_since_run = self._idle_since_run, None
        if server.busy or not server.can_run(now_us):
            return None
        view = server.view()
        due_us = min((pool.members[0].due_us for pool in view.pools()), default=now_us)
        if now_us - due_us < LATE_US_MAX:
            return None
        self._idle_since_run = run_count
        if before != run_count:
            return None
        choice = server.policy.choose(view, now_us, 0)
        if choice is not None and choice.run is None and choice.wake_us < NEVER_US:
            return None
        return f"a request is {(now_us - due_us) // 1000} ms past its time, and the device idle and ready"


class Books:
    """That nobody's request is lost or answered twice is looked at while the daemon runs too, not in tests alone."""

    def __init__(self, note: Log) -> None:
        self._note = note
        self._due_us = 0

    def turn(self, now_us: int, server: Server) -> None:
        """Look if that is due; whether there is a watchdog or not."""
        if now_us < self._due_us:
            return
        self._due_us = now_us + BOOKS_EVERY_US
        fault = books_fault(server)
        if fault is not None:
            self._note(f"a fault of delen's own, please report it: {fault}", level="error", key="books")


def books_fault(server: Server) -> str | None:
    """Whose requests and ends do not add up, in words; None when all do."""
    pending = 0
    for tenant, account in server.ledger.accounts.items():
        if account.pending < 0:
            return f"tenant {tenant} was given {-account.pending} ends more than it has requests"
        pending += account.pending
    if pending != server.pending_count:
        return f"the books have {pending} requests pending, the core {server.pending_count}"
    return None


def _late(who: str, due_us: int | None, now_us: int) -> str | None:
    if due_us is None or now_us - due_us < LATE_US_MAX:
        return None
    return f"what was due at {who} is {(now_us - due_us) // 1000} ms late"
