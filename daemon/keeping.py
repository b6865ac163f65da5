"""What the daemon keeps on disk while it runs: tenants' counters and the audit log; and the state directory put right.

Role: the loop's one way to the state directory, which waits for no disk: a thread of its own writes and syncs.
Flow: start -> what was damaged is mended and said -> counters are given back to the ledger's caps -> every second in
which they have changed they are written -> close. A change that must be audited is handed in with `record`; whoever
ordered it is told from `then`, once the line is on the disk. In development mode nothing is kept, only mended.

Does not: decide what is audited, or hold up a tenant: a disk that fails is said, and requests are served on.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exits import state_files
from .aborts import leave_aborts
from .audit_log import AuditBusy, AuditLog, Plain
from .counters import Counters, CountersDamaged, from_wall, to_wall
from .served_list import Listed, exchanged, listed, read_list, write_list
from .slot_file import SlotFile
from .withdrawn_list import WITHDRAWN_MAX, Withdrawn, read_withdrawn, still, write_withdrawn

if TYPE_CHECKING:
    from ..exits.bundle import Bundle
    from .ledger import Ledger
    from .log_writer import Log

COUNTERS, AUDIT = "counters", "audit"
# For as many tenants as are remembered, each with a whole day: 2.7 MB at the most.
SLOT_BYTES = 4 * 1024 * 1024
EVERY_US = 1_000_000
# Changes that may wait for the disk.
WAITING_MAX = 64
# How long the end of the daemon waits for the disk.
CLOSE_S_MAX = 5.0
Then = Callable[[str], None]


def _nobody(_fault: str) -> None:
    """Nobody waits for it."""


class StateError(RuntimeError):
    """The state directory cannot be used: why, and what to do."""


class StateBusy(RuntimeError):
    """Another daemon keeps its counters there."""


class Keeping:
    """The state directory of a daemon that runs."""

    def __init__(self, state: Path, note: Log, *, dev: bool, wake: Callable[[], None] = lambda: None) -> None:
        """Mend what is damaged, and open the rest.

        Args:
            note: takes what the operator should know.
            dev: nothing is kept, and many daemons may share the directory.
            wake: called from another thread when `turn` has something to tell.
        Raises:
            StateBusy, StateError: not with `dev`.
        """
        self._state, self._note, self._wake = state, note, wake
        self._audit: AuditLog | None = None
        self._slots: SlotFile | None = None
        self._counters = Counters()
        self._given: set[str] = set()
        self._withdrawn: list[Withdrawn] = []
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._waiting: deque[tuple[Future[Any], Then]] = deque()
        self._due_us = 0
        self._failing = ""
        try:
            for said in state_files.mend(state):
                note(said, level="warning")
        except OSError as error:
            note(f"the state directory {state} cannot be looked through: {_said(error)}", level="warning")
        if not dev:
            self._open(state)

    def _open(self, state: Path) -> None:
        fault = directory_fault(state)
        if fault:
            raise StateError(fault)
        try:
            self._slots = SlotFile(state / COUNTERS, slot_bytes=SLOT_BYTES)
            self._counters = _counters(self._slots.record, state, self._note)
            self._audit = AuditLog(state / AUDIT, _wall_text(), seen=self._counters.audit)
            self._withdrawn, unlisted = read_withdrawn(state)
        except (AuditBusy, BlockingIOError) as error:
            self._shut()
            raise StateBusy(f"another delen daemon keeps its state in {state}; give this one its own") from error
        except OSError as error:
            self._shut()
            said = f"cannot keep state in {state}: {_said(error)}"
            raise StateError(
                f"{said}; make it writable for uid {os.getuid()}, or name another with state_dir"
            ) from error
        for said in (self._audit.fault, self._slots.fault, unlisted):
            if said:
                self._note(said, level="warning")
        self._pool = ThreadPoolExecutor(1, "delen-disk", leave_aborts)

    @property
    def counters(self) -> Counters:
        """As of the last second."""
        return self._counters

    def begin(self, now_us: int, ledger: Ledger, bundles: Iterable[Bundle]) -> None:
        """Give the caps back what their tenants had before; list what is served, and say what is not as it was."""
        if self._pool is None:
            return
        self._give_back(now_us, ledger, time.time())
        now = listed(bundles)
        try:
            before, fault = read_list(self._state)
        except OSError as error:
            before, fault = {}, f"the list of networks cannot be read: {_said(error)}"
        changed = now if now != before else None
        told = partial(self._told, "that the daemon has begun, and what it serves,")
        self.record("daemon", "begin", {"pid": os.getpid()}, told, served=changed)
        for said in [fault, *exchanged(before, now)]:
            if said:
                self._note(said, level="warning")
                self.record("daemon", "exchanged", {"said": said})

    def record(
        self,
        who: str,
        what: str,
        about: Mapping[str, Plain],
        then: Then = _nobody,
        *,
        served: Mapping[str, Listed] | None = None,
    ) -> None:
        """Have one line of audit written, and before it the list of networks that are `served` from now on.

        `then`: called by `turn`, with "" once all of it is on the disk, or with why not.
        """
        first = None if served is None else partial(write_list, self._state, served)
        self._write(who, what, about, then, first)

    def withdrawn(self, bundles: Iterable[Bundle]) -> tuple[tuple[str, str, str], ...]:
        """Certificates that were withdrawn before, by tenant, network and version; those of new samples are not."""
        self._withdrawn = still(self._withdrawn, bundles)
        return tuple((one.tenant, one.network, one.version) for one in self._withdrawn)

    def withdraw(self, tenant: str, bundle: Bundle, reason: str) -> None:
        """Have it remembered that this tenant's certificates for this network do not hold any more."""
        manifest = bundle.manifest
        found = Withdrawn(tenant, manifest.name, manifest.version, bundle.evidence, reason, _wall_text())
        self._withdrawn = [*self._withdrawn, found][-WITHDRAWN_MAX:]
        about = {"tenant": tenant, "network": found.network, "version": found.version, "reason": reason}
        then = partial(self._told, "that a certificate is withdrawn")
        first = partial(write_withdrawn, self._state, self._withdrawn)
        self._write("daemon", "certificate withdrawn", about, then, first)

    def _write(
        self, who: str, what: str, about: Mapping[str, Plain], then: Then, first: Callable[[], None] | None
    ) -> None:
        audit, wall = self._audit, _wall_text()
        if audit is None:
            then("")
            return

        def job() -> None:
            if first is not None:
                first()
            audit.append(wall, who, what, about)

        self._submit(job, then)

    def turn(self, now_us: int, ledger: Ledger) -> None:
        """Tell whose lines are on the disk; once a second, have the counters written if they have changed."""
        while self._waiting and self._waiting[0][0].done():
            job, then = self._waiting.popleft()
            then(self._outcome(job))
        if now_us < self._due_us or self._pool is None:
            return
        self._due_us = now_us + EVERY_US
        if self._writing is not None:
            if not self._writing.done():
                return
            failed, self._writing = self._outcome(self._writing), None
            if failed != self._failing:
                told = f"tenants' counters cannot be kept: {failed}" if failed else "tenants' counters are kept again"
                self._note(told, level="error" if failed else "info")
            self._failing = failed
        if self._taken_in(now_us, ledger) or self._failing:
            assert self._slots is not None
            self._writing = self._pool.submit(self._slots.write, self._counters.encoded())

    def close(self, now_us: int, ledger: Ledger) -> None:
        """Write all that is left, for a while at most; then let go."""
        if self._pool is None:
            return
        self.record("daemon", "end", {})
        self._taken_in(now_us, ledger)
        assert self._slots is not None
        last = self._pool.submit(self._write_last)
        wait([last], CLOSE_S_MAX)
        if last.done():
            self._pool.shutdown()
            self._shut()
        else:
            # The kernel lets go of files and locks when the process is gone; nothing here can be waited for.
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._note("the disk does not answer; the last counters may be lost", level="error")

    def _write_last(self) -> None:
        """On the disk's thread, after the last line of audit, with nobody at the counters any more."""
        assert self._slots is not None
        assert self._audit is not None
        self._counters.audit = self._audit.head
        self._slots.write(self._counters.encoded())

    def _submit(self, job: Callable[[], object], then: Then) -> None:
        if self._pool is None:
            then("")
        elif len(self._waiting) >= WAITING_MAX:
            then(f"{WAITING_MAX} changes wait for the disk already")
        else:
            submitted = self._pool.submit(job)
            self._waiting.append((submitted, then))
            submitted.add_done_callback(lambda _: self._wake())

    def _told(self, what: str, fault: str) -> None:
        if fault:
            self._note(f"{what} cannot be written: {fault}", level="error")

    def _taken_in(self, now_us: int, ledger: Ledger) -> bool:
        """Take in what was booked; returns whether anything was."""
        wall_s = time.time()
        self._give_back(now_us, ledger, wall_s)
        assert self._audit is not None
        head, before = self._audit.head, self._counters.audit
        self._counters.audit = head
        if not self._counters.add(ledger.accounts):
            return head != before
        for tenant in self._given:
            promise = ledger.promises.of(tenant)
            if promise is not None:
                levels = promise.energy.day.levels(now_us)
                self._counters.set_day(tenant, to_wall(levels, now_us=now_us, wall_s=wall_s))
        for tenant, budget in ledger.budgets.lasting():
            self._counters.set_budget(tenant, budget)
        return True

    def _give_back(self, now_us: int, ledger: Ledger, wall_s: float) -> None:
        """To tenants that are there since the last time: at the start, or by a reload."""
        promised = {tenant: promise for tenant in ledger.accounts if (promise := ledger.promises.of(tenant))}
        for tenant in promised.keys() - self._given:
            window = promised[tenant].energy.day
            kept = from_wall(self._counters.of(tenant).day, now_us=now_us, wall_s=wall_s)
            window.restore(now_us, sorted([*kept, *window.levels(now_us)], reverse=True))
        self._given = set(promised)

    def _outcome(self, job: Future[Any]) -> str:
        try:
            job.result()
        except OSError as error:
            return _said(error)
        return ""

    def _shut(self) -> None:
        for held in (self._audit, self._slots):
            if held is not None:
                held.close()


def directory_fault(state: Path) -> str | None:
    """Why what is in a state directory could not be trusted; None: nothing speaks against it, or it is not there."""
    try:
        found = state.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"the state directory {state} cannot be used: {_said(error)}"
    if found.st_uid not in (0, os.getuid()):
        return f"the state directory {state} belongs to uid {found.st_uid}: chown it to uid {os.getuid()}"
    if found.st_mode & 0o002:
        return f"anybody may write in the state directory {state}: chmod o-w {state}"
    return None


def _counters(record: bytes, state: Path, note: Log) -> Counters:
    try:
        return Counters(record)
    except CountersDamaged as error:
        note(f"{state / COUNTERS}: {error}; they begin anew", level="error")
        return Counters()


def _said(error: OSError) -> str:
    return error.strerror or str(error)


def _wall_text() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
