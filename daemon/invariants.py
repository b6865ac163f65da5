"""What must hold of the core whatever happens, watched by somebody who counts for himself.

Role: `Simulation` tells a `Watch` everything that passes between core and driver, and asks it after every event; what
does not hold is an AssertionError that names seed and time. The watch keeps books of its own from what it is told, so
that a fault of the core cannot hide in the core's books. Invariants: DESIGN.md 3, numbered below as there.

1 Every accepted request ends exactly once. 2 Accepted = answered + failed + pending, and whoever is pending waits or is
in a run. 3 Queues, runs and batches keep within their limits. 4 Nothing is said to be met that was not. 5 Exits only
deepen. 6 The ledger's energy is the sum over runs. 7 A decision depends only on its inputs. 8 The core never asks to be
woken at a time that has passed without anything to do.

Does not: change anything, or run outside simulation.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NoReturn

from ..clients.wire import Answer, Infer
from ..policies.exits import Asked
from ..policies.pools import View
from ..policies.power_cap import MJ_PER_W, WINDOW_US
from ..policies.view import Run
from ..profiles.costs import Costs
from .config import Limits
from .records import Ended, ExitDone, RunFailed, RunReturned
from .server import Server

# Decisions that are taken twice: one in so many.
DECISIONS_PER_CHECK = 8
# Turns at one time in which nothing came in: a run ends, another is posted, its yield is asked for.
IDLE_TURNS_MAX = 8
COUNTED = ["accepted", "answered", "failed", "refused"]


@dataclass(eq=False, slots=True)
class _Promise:
    """An accepted request that has not ended: what it was promised, and how far the device has brought it."""

    tenant: str
    network: str
    wanted: Asked
    sent_us: int
    payload_bytes: int
    stage: int = 0
    deepest: int = -1
    energy_mj: float = 0.0
    audit: bool = False


class Watch:
    """Books of what the core was given and what it gave."""

    def __init__(self, server: Server, limits: Limits, seed: int) -> None:
        self._server = server
        self._limits = limits
        self._seed = seed
        self._now_us = 0
        self._open: dict[int, _Promise] = {}
        self._tickets: dict[tuple[str, bytes], int] = {}
        # Answered by a gate, and to be looked at again: the device keeps features of them.
        self._audits: dict[int, _Promise] = {}
        self._runs: dict[int, tuple[Run, set[int]]] = {}
        self._kept: set[int] = set()
        self._queued_bytes: dict[str, int] = {}
        # Tenants whose counts have changed since they were last compared.
        self._touched: set[str] = set()
        self._counts: dict[str, list[int]] = {}
        self._energy_mj = 0.0
        self._decisions = 0
        self._idle_turns, self._turn_us = 0, 0
        # What was drawn in the last second: when it was over, how much, and the dearest segment in it with its head.
        self._drawn: deque[tuple[int, float, float]] = deque()

    # ---- what is told

    def accepted(self, ticket: int, tenant: str, infer: Infer, wanted: Asked, payload_bytes: int) -> None:
        """A request was let in under this ticket."""
        if ticket in self._open or (tenant, infer.id) in self._tickets:
            self._fail(f"1: ticket {ticket} or id {infer.id!r} was let in twice")
        key = self._server.routes.key(tenant, infer.network)
        self._open[ticket] = _Promise(tenant, key, wanted, self._now_us, payload_bytes)
        self._tickets[tenant, infer.id] = ticket
        queued_bytes = self._queued_bytes[tenant] = self._queued_bytes.get(tenant, 0) + payload_bytes
        if queued_bytes > self._limits.queued_bytes_max:
            self._fail(f"3: {queued_bytes} bytes of {tenant} wait")
        self._count(tenant, "accepted")

    def refused(self, tenant: str) -> None:
        """A request was not let in."""
        self._count(tenant, "refused")

    def posted(self, run: Run) -> None:
        """The device is given a run."""
        served, tickets = self._server.networks[run.network], {row.ticket for row in run.rows}
        said = f"run {run.id} of {run.network} from segment {run.first}"
        if len(self._runs) >= 2:
            self._fail(f"3: {said} is the third the device has")
        if not 0 < len(run.rows) <= served.batch_max:
            self._fail(f"3: {said} has {len(run.rows)} rows")
        if len(tickets) < len(run.rows) or any(rows & tickets for _, rows in self._runs.values()):
            self._fail(f"2: {said} has a row twice, or one that another run has")
        for row in run.rows:
            promise = self._open.get(row.ticket) or self._audits.get(row.ticket)
            if promise is None or promise.network != run.network:
                self._fail(f"1: {said} holds {row.ticket}, which has ended or is of another network")
            if promise.stage != run.first or (row.ticket in self._kept) != (run.first > 0):
                self._fail(f"5: {said} holds {row.ticket}, which is at stage {promise.stage}")
            # Conditions are asked at every exit, also at those that are dominated; audits go to the last there is.
            anywhere = promise.wanted.conditions is not None or row.ticket in self._audits
            if row.stop < run.first or not (anywhere or row.stop in served.ladder):
                self._fail(f"5: {said} stops at exit {row.stop}")
        self._runs[run.id] = run, tickets

    def begun(self, run: Run) -> None:
        """The device has started on it: what it held of these requests is used up."""
        self._kept.difference_update([row.ticket for row in run.rows])

    def reported(self, done: ExitDone | RunFailed | RunReturned) -> None:
        """The device says how far a run is."""
        if done.run not in self._runs:
            return
        run, rows = self._runs[done.run]
        if not isinstance(done, ExitDone):
            del self._runs[done.run]
            if isinstance(done, RunFailed):
                for promise in self._promises(rows):
                    promise.stage = 0
                for ticket in rows & self._audits.keys():
                    del self._audits[ticket]
            return
        self._book(done, rows, self._server.networks[run.network].costs_at(run.clock_khz))
        audited = {row.ticket for row in run.rows if row.audit}
        for row in done.rows:
            told = self._open.get(row.ticket) or self._audits.get(row.ticket)
            if told is not None:
                told.deepest = max(told.deepest, done.exit)
                told.stage = done.exit + 1 if row.left else told.stage
                told.audit = row.gated and row.ticket in audited
            if done.exit + 1 == len(self._server.networks[run.network].costs.accuracy):
                self._audits.pop(row.ticket, None)
        rows.difference_update([row.ticket for row in done.rows if row.left])
        if done.finished:
            del self._runs[done.run]

    def holds(self, ticket: int) -> None:
        """The device keeps features of this request."""
        self._kept.add(ticket)

    def forgot(self, tickets: tuple[int, ...]) -> None:
        """The device has let go of them."""
        self._kept.difference_update(tickets)
        for ticket in tickets:
            self._audits.pop(ticket, None)

    def lost(self) -> None:
        """The device is gone with all it had."""
        self._runs.clear()
        self._kept.clear()
        self._audits.clear()
        for promise in self._open.values():
            promise.stage = 0

    def ended(self, effect: Ended) -> None:
        """A request ended."""
        ticket = self._tickets.pop((effect.tenant, effect.id), None)
        if ticket is None or effect.reply.id != effect.id:
            self._fail(f"1: {effect.id!r} of {effect.tenant} ended, and is not open")
        promise, reply = self._open.pop(ticket), effect.reply
        self._queued_bytes[promise.tenant] -= promise.payload_bytes
        if not isinstance(reply, Answer):
            self._count(promise.tenant, "failed")
            return
        self._count(promise.tenant, "answered")
        if promise.audit:
            self._audits[ticket] = promise
        total_us = self._now_us - promise.sent_us
        unmet = _unmet(promise.wanted, reply, total_us)
        if reply.total_us != total_us or not unmet <= set(reply.broken):
            self._fail(f"4: {reply} took {total_us} us and breaks {sorted(unmet)}")
        if reply.exit != promise.deepest:
            self._fail(f"5: {reply} is not of exit {promise.deepest}")
        if reply.energy_mj is not None and not _same(reply.energy_mj, promise.energy_mj):
            self._fail(f"6: {reply} took {promise.energy_mj} mJ")

    # ---- what is asked

    def has(self, run_id: int) -> bool:
        """Whether the core knows that the device has this run."""
        return run_id in self._runs

    def now(self, now_us: int) -> None:
        """Time goes on, never back."""
        if now_us < self._now_us:
            self._fail(f"time went back to {now_us}")
        self._now_us = now_us

    def decide_twice(self, now_us: int) -> None:
        """7: with the same queue and time the policy decides the same, and leaves the queue as it was."""
        self._decisions += 1
        if self._decisions % DECISIONS_PER_CHECK:
            return
        view, policy = self._server.view(), self._server.policy
        before = _shown(view)
        first, second = policy.choose(view, now_us, 0), policy.choose(view, now_us, 0)
        if first != second:
            self._fail(f"7: {policy.name} decided {first} and then {second}")
        if _shown(view) != before:
            self._fail(f"7: {policy.name} changed the queue it was shown")

    def after(self, *, idle: bool) -> None:
        """After every event; `idle`: nothing came in at this time."""
        self._idle_turns = self._idle_turns + 1 if idle and self._now_us == self._turn_us else 0
        self._turn_us = self._now_us
        if self._idle_turns > IDLE_TURNS_MAX:
            self._fail("8: the core asks to be woken again and again")
        accounts = self._server.ledger.accounts
        for tenant in self._touched:
            account, counted = accounts[tenant], self._counts[tenant]
            booked = [account.accepted, account.answered, account.failed, account.refused]
            if booked != counted:
                self._fail(f"2: of {tenant} {booked} are booked {COUNTED}; they were {counted}")
            if account.pending > self._limits.queued_max:
                self._fail(f"3: {account.pending} of {tenant} wait")
        self._touched.clear()
        booked_mj = sum([account.energy_mj for account in accounts.values()])
        if not _same(booked_mj, self._energy_mj):
            self._fail(f"6: {booked_mj} mJ are booked, {self._energy_mj} mJ were spent")
        if not self._kept <= self._open.keys() | self._audits.keys():
            ended = sorted(self._kept - self._open.keys() - self._audits.keys())
            self._fail(f"3: the device holds features of {ended}, which have ended")
        if self._server.wake_at() <= self._now_us:
            # Those a policy gave up on end in the next turn, at this same time.
            return
        runs = sum([len(rows & self._open.keys()) for _, rows in self._runs.values()])
        waits = sum([len(pool.members) for pool in self._server.view().pools()]) + self._server.parked_count
        if not waits + runs == len(self._open) == self._server.pending_count:
            pending = self._server.pending_count
            self._fail(f"2: {len(self._open)} are open and {pending} pending; {runs} run, {waits} wait")

    def over(self) -> None:
        """Nothing is left to happen, so nobody may wait, and the device may hold nothing."""
        self._touched.update(self._counts)
        self.after(idle=False)
        if self._open or self._runs:
            self._fail(f"1: requests {sorted(self._open)[:9]} never ended, nor runs {sorted(self._runs)}")
        if self._kept:
            self._fail(f"3: the device still holds features of {sorted(self._kept)[:9]}")

    # ---- books

    def _book(self, done: ExitDone, rows: set[int], costs: Costs) -> None:
        before_mj = self._energy_mj
        self._book_steps(done, rows, costs)
        if self._limits.power_w_max:
            self._drawn.append((self._now_us, self._energy_mj - before_mj, _largest_mj(done, costs)))
            while self._drawn[0][0] <= self._now_us - WINDOW_US:
                self._drawn.popleft()
            drawn_mj, largest_mj = sum([mj for _, mj, _ in self._drawn]), max([mj for *_, mj in self._drawn])
            if drawn_mj > max(self._limits.power_w_max * MJ_PER_W, largest_mj) + 1e-6:
                self._fail(f"9: {drawn_mj:.1f} mJ within a second; the cap is {self._limits.power_w_max:g} W")

    def _book_steps(self, done: ExitDone, rows: set[int], costs: Costs) -> None:
        for step in done.steps:
            energies = costs.head_mj if step.head else costs.segment_mj
            if energies is None or costs.energy_source == "unknown":
                continue
            spent_mj = energies[step.index][step.batch]
            self._energy_mj += spent_mj
            for promise in self._promises({row.ticket for row in done.rows} & rows if step.head else rows):
                promise.energy_mj += spent_mj / step.batch

    def _promises(self, tickets: set[int]) -> list[_Promise]:
        return [self._open[ticket] for ticket in tickets if ticket in self._open]

    def _count(self, tenant: str, name: str) -> None:
        self._counts.setdefault(tenant, [0] * len(COUNTED))[COUNTED.index(name)] += 1
        self._touched.add(tenant)

    def _fail(self, what: str) -> NoReturn:
        raise AssertionError(f"seed {self._seed}, at {self._now_us} us: {what}")


def _largest_mj(done: ExitDone, costs: Costs) -> float:
    """The dearest segment of these steps, with its head."""
    if costs.segment_mj is None or costs.head_mj is None:
        return 0.0
    whole = [costs.segment_mj[s.index][s.batch] + costs.head_mj[s.index][s.batch] for s in done.steps if not s.head]
    return max(whole, default=0.0)


def _same(booked_mj: float, spent_mj: float) -> bool:
    return math.isclose(booked_mj, spent_mj, rel_tol=1e-6, abs_tol=1e-6)


def _unmet(wanted: Asked, reply: Answer, total_us: int) -> set[str]:
    """The bounds that this answer does not keep."""
    unmet: set[str] = set()
    if wanted.latency_ms is not None and total_us > wanted.latency_ms * 1000:
        unmet.add("latency_ms")
    # A certificate may bear that some are stopped early; whether it does is counted over many.
    if wanted.accuracy is not None and reply.proof is None and reply.expected_accuracy < wanted.accuracy:
        unmet.add("accuracy")
    if wanted.energy_mj is not None and (reply.energy_mj is None or reply.energy_mj > wanted.energy_mj):
        unmet.add("energy_mj")
    return unmet


def _shown(view: View) -> list[tuple[object, ...]]:
    """All that policies see of every request that waits."""
    return [
        (each.ticket, each.stage, each.expected, each.due_us, each.deadline_us, each.mandatory, each.target, each.gates)
        for pool in view.pools()
        for each in pool.members
    ]
