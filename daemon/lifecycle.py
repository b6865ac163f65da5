"""What the operator and the service manager want of the process, once a turn, after what tenants want of it.

Role: signals become wishes here, and wishes what the loop does next. SIGTERM or SIGINT: take in nothing new, finish
what was accepted, at most `limits.drain_ms_max`, end the rest with a typed error; said again: do so at once. SIGHUP:
read the configuration again (`reload.py`). The manager is told that the daemon is ready, what it does, and, as long
as `watchdog.py` finds nothing wrong, that it works.
Flow: starting -> serving -> draining -> over. When over, the loop ends what is left (`Desk.cut_off`).

Does not: read a clock, or touch tenants' sockets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from ..policies.view import NEVER_US
from .config import Limits
from .desk import Desk
from .notify import Notifier
from .pressure import Pressure
from .server import Server
from .watchdog import Watchdog, Worker

Phase = Literal["starting", "serving", "draining", "over"]
STATUS_EVERY_US = 1_000_000
# What the manager grants beyond its own start-up time as long as this loop turns; `limits.start_ms_max` is the bound.
START_GRANTED_US = 15_000_000


class Lifecycle:
    """From the first sign of life to the last."""

    def __init__(self, notifier: Notifier, limits: Limits, note: Callable[[str], None]) -> None:
        self.phase: Phase = "starting"
        self.reload_wanted = False
        self._notifier = notifier
        self._limits = limits
        self._note = note
        self._watchdog = None if notifier.watchdog_us is None else Watchdog(notifier.watchdog_us)
        self._pressure = Pressure(limits)
        self._fault: str | None = None
        self._ends_wanted = 0
        self._drained_us = NEVER_US
        self._status_us = 0

    # ---- wishes; called from signal handlers, so nothing is done here

    def end(self, _number: int = 0, _frame: object = None) -> None:
        """The process should end. Said twice: at once."""
        self._ends_wanted += 1
        self.reload_wanted = False

    def reload(self, _number: int = 0, _frame: object = None) -> None:
        """The configuration should be read again."""
        self.reload_wanted = not self.ending

    def hang_up(self, had_terminal: bool, _number: int = 0, _frame: object = None) -> None:
        """SIGHUP: a terminal that goes away takes its daemon with it; from anybody else it means a reload."""
        if had_terminal and not os.isatty(0):
            self.end()
        else:
            self.reload()

    @property
    def ending(self) -> bool:
        """Whether somebody wants the process to end."""
        return self._ends_wanted > 0

    # ---- phases

    def starting(self, now_us: int, what: str) -> None:
        """Not ready yet, and busy with it."""
        if now_us >= self._status_us:
            self._status_us = now_us + STATUS_EVERY_US
            self._notifier.status(what)
            self._notifier.extend(START_GRANTED_US)

    def ready(self, server: Server, desk: Desk) -> None:
        """Everything is served; also after a reload."""
        if self.phase == "starting":
            self.phase = "serving"
        self._notifier.ready(status_line(server, desk))

    def reloading(self, now_us: int) -> None:
        """The wish is being carried out."""
        self.reload_wanted = False
        self._notifier.reloading(now_us)

    def turn(self, now_us: int, server: Server, desk: Desk) -> None:
        """Begin to drain where that is wanted, and notice when it is over; take in no more than there is memory for."""
        said = self._pressure.look(now_us, desk)
        if said is not None:
            self._note(said)
        if not self._ends_wanted or self.phase == "over":
            return
        if self.phase != "draining":
            self.phase, desk.closing = "draining", True
            self._drained_us = now_us + self._limits.drain_ms_max * 1000
            pending = server.pending_count
            said = f"ending; {pending} requests to finish, for at most {self._limits.drain_ms_max} ms"
            said = f"{said} (limits.drain_ms_max)"
            self._notifier.stopping(said)
            if pending:
                self._note(f"{said}; said again, at once")
        if self._ends_wanted > 1:
            self._drained_us = now_us
        if not server.pending_count or now_us >= self._drained_us:
            self.phase = "over"

    def watch(self, now_us: int, server: Server, worker: Worker, run_count: int) -> None:
        """At the end of a turn: tell the manager that all is well, if it is."""
        if self._watchdog is None or now_us < self._watchdog.wake_at():
            return
        fault = self._watchdog.look(now_us, server, worker, run_count)
        if fault is None:
            self._notifier.alive()
        elif fault != self._fault:
            self._note(f"the watchdog is not told that all is well: {fault}")
        self._fault = fault

    def tell(self, now_us: int, server: Server, desk: Desk) -> None:
        """Keep the status line true, at most once a second."""
        if not self._notifier.listening or now_us < self._status_us or self.phase != "serving":
            return
        self._status_us = now_us + STATUS_EVERY_US
        self._notifier.status(status_line(server, desk, self._fault))

    def wake_at(self) -> int:
        """When one of these has something to do; NEVER_US when none has."""
        if self.reload_wanted:
            return 0
        return min(self._drained_us, self._watchdog.wake_at() if self._watchdog is not None else NEVER_US)

    def close(self) -> None:
        self._notifier.close()


def status_line(server: Server, desk: Desk, fault: str | None = None) -> str:
    """The daemon in one line, for `systemctl status`."""
    accounts = server.ledger.accounts
    answered = sum(account.answered for account in accounts.values())
    refused = sum(account.refused for account in accounts.values())
    served = ", ".join(desk.networks) or "nothing yet"
    said = f"serving {served} to {len(desk.configured())} tenants; {answered} answered, {refused} refused"
    said = f"{said}, {server.pending_count} pending; worker {desk.worker.state}"
    return said if fault is None else f"NOT WELL: {fault}; {said}"
