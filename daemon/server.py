"""The core: accepts requests, decides what runs next, and ends every request exactly once.

Role: a state machine. Events come in with `now_us`; effects go out: `submit`, `cancel`, `next`, `advance`, `expire`,
`worker_lost`, `worker_ready`, `wake_at`. The loop drives it with real sockets, simulation on a virtual clock. A
request's life: submit -> pools -> next (a run) -> advance (an exit) -> pools again or ended.

Does not: know sockets, clocks, threads, files, engines or randomness. Messages, sessions, kept answers: `desk.py`.
"""

from __future__ import annotations

from heapq import heappop, heappush

from ..clients.wire import Failure, Infer, Offer, Refusal
from ..policies import admission, edf, load
from ..policies.exits import Asked, ExitPlan, Misfit, plan, usable_us
from ..policies.view import NEVER_US, Run, Served, View, Waiting
from .backlog import Backlog
from .booking import book_steps
from .config import Limits
from .endings import answer, decide, failure
from .ledger import Account
from .records import Effect, Ended, ExitDone, Flight, Forget, Payload, Request, Restart, RowDone, RunFailed, Yield

# How fast the estimate of a run's overhead follows: one part in twenty per run; capped, since a stall is not overhead.
HOP_GAIN, HOP_US_MAX = 0.05, 2_000.0


class Server:
    """All requests of all tenants, and the device they share."""

    def __init__(self, limits: Limits) -> None:
        self.networks: dict[str, Served] = {}
        self.accounts: dict[str, Account] = {}
        self._limits = limits
        self._requests: dict[int, Request] = {}
        self._backlog = Backlog()
        self._deadlines: list[tuple[int, int]] = []
        self._queued_bytes: dict[str, int] = {}
        self._flight: Flight | None = None
        self._ready_us: int | None = None
        self._ready = False
        self._tickets = 0
        self._runs = 0

    # ---- what the loop asks

    @property
    def pending_count(self) -> int:
        return len(self._requests)

    def account(self, tenant: str) -> Account:
        account = self.accounts.get(tenant)
        if account is None:
            account = self.accounts[tenant] = Account(tenant)
        return account

    @property
    def busy(self) -> bool:
        """Whether the device has a run."""
        return self._flight is not None

    @property
    def can_run(self) -> bool:
        """Whether `next` would give a run: somebody waits for a device that is ready and idle."""
        return self._ready and self._flight is None and len(self._backlog) > 0

    def view(self) -> View:
        """The queue as policies see it."""
        return self._backlog.view()

    def running(self, run_id: int) -> str | None:
        """The network of this run if it is the one the device has; None for runs long lost."""
        flight = self._flight
        return flight.run.network if flight is not None and flight.run.id == run_id else None

    def payloads(self, run: Run) -> list[Payload]:
        """The inputs of a run just chosen, in row order; none where it does not start at segment 0."""
        return [self._requests[row.ticket].payload for row in run.rows] if run.first == 0 else []

    def wake_at(self) -> int:
        """When `expire` has something to do next; NEVER_US when nothing is due."""
        while self._deadlines and self._deadlines[0][1] not in self._requests:
            heappop(self._deadlines)
        due = self._deadlines[0][0] if self._deadlines else NEVER_US
        return min(due, self._overdue_us(self._flight)) if self._flight is not None else due

    # ---- events

    def submit(
        self, now_us: int, tenant: str, infer: Infer, wanted: Asked, payload: Payload
    ) -> tuple[Refusal | int, list[Effect]]:
        """Accept a request or refuse it at once.

        Returns:
            A refusal with an offer, or the ticket of the accepted request; and effects.
        """
        served = self.networks[infer.network]
        account = self.account(tenant)
        verdict = self._full(tenant, account, len(payload), infer) or self._plan(now_us, infer, wanted, served)
        if isinstance(verdict, Refusal):
            account.refused += 1
            return verdict, []
        waiting = self._waiting(now_us, served, wanted, verdict)
        self._accept(Request(tenant, infer.id, infer, payload, wanted, verdict, waiting))
        return waiting.ticket, self._preempt(now_us, waiting)

    def cancel(self, ticket: int) -> list[Effect]:
        """End a request as cancelled, wherever it is; its row of a running batch is computed and dropped."""
        request = self._requests.get(ticket)
        if request is None:
            return []
        self._backlog.remove(request.waiting)
        return self._end(request, failure(request, "cancelled", "cancelled by the client"), forget=True)

    def next(self, now_us: int) -> Run | None:
        """The next run for an idle device, or None; the caller posts it."""
        if not self.can_run:
            return None
        choice = edf.choose(self.view(), now_us, self._runs + 1)
        if choice is None:
            return None
        self._runs += 1
        for member in choice.members:
            self._backlog.remove(member)
            request = self._requests[member.ticket]
            request.started_us = now_us if request.started_us is None else request.started_us
        owners = {member.ticket: self._requests[member.ticket].tenant for member in choice.members}
        self._flight = _flight(choice, owners, now_us)
        return choice.run

    def advance(self, now_us: int, done: ExitDone | RunFailed) -> list[Effect]:
        """Take in what the device reports of the running run; reports of runs long lost are ignored."""
        flight = self._flight
        if flight is None or flight.run.id != done.run:
            return []
        if isinstance(done, RunFailed):
            return self._run_failed(flight, done)
        served = self.networks[flight.run.network]
        book_steps(flight, served, done, self._requests, self.account)
        effects: list[Effect] = []
        size = len(done.logits) // len(done.rows) if done.rows else 0
        for position, row in enumerate(done.rows):
            logits = done.logits[position * size : (position + 1) * size]
            effects += self._row_done(now_us, flight, done, row, logits)
        if done.finished:
            effects += self._run_over(now_us, flight, served)
        return effects

    def expire(self, now_us: int) -> list[Effect]:
        """Act on what is due: deadlines that passed in the queue, a run that takes far too long."""
        effects: list[Effect] = []
        while self._deadlines and self._deadlines[0][0] <= now_us:
            _, ticket = heappop(self._deadlines)
            request = self._requests.get(ticket)
            if request is not None:
                effects += self._deadline_passed(now_us, request)
        flight = self._flight
        if flight is not None and now_us >= self._overdue_us(flight):
            took_ms = (now_us - flight.posted_us) // 1000
            effects.append(Restart(f"run {flight.run.id} of {flight.run.network} has taken {took_ms} ms"))
        return effects

    def worker_ready(self, now_us: int) -> None:
        """The device can take runs."""
        self._ready, self._ready_us = True, now_us

    def worker_lost(self, now_us: int, ready_us: int) -> list[Effect]:
        """The worker died with all features; `ready_us`: when the next one is expected to be ready.

        What was in flight runs again if its bound and `retries_max` allow, else it gets the answer it already has, or
        a typed error. What merely waited keeps waiting.
        """
        self._ready, self._ready_us = False, ready_us
        flight, self._flight = self._flight, None
        effects: list[Effect] = []
        self._backlog.restart()
        for ticket in flight.rows if flight is not None else ():
            request_lost = self._requests.get(ticket)
            if request_lost is not None:
                effects += self._rerun(now_us, request_lost, ready_us)
        return effects

    # ---- accepting

    def _full(self, tenant: str, account: Account, size: int, infer: Infer) -> Refusal | None:
        limits = self._limits
        queued_bytes = self._queued_bytes.get(tenant, 0)
        if account.pending >= limits.queued_max:
            said = f"{account.pending} of your requests wait; limits.queued_max is {limits.queued_max}"
        elif queued_bytes + size > limits.queued_bytes_max:
            said = f"{queued_bytes + size} bytes would wait; limits.queued_bytes_max is {limits.queued_bytes_max}"
        else:
            return None
        retry_ms = round(load.done_us((chunk.cost for chunk in self._backlog.work()), 0) / 1000, 3)
        return Refusal(infer.version, infer.id, "queue_full", said, Offer(retry_after_ms=max(1.0, retry_ms)))

    def _plan(self, now_us: int, infer: Infer, wanted: Asked, served: Served) -> ExitPlan | Refusal:
        """How deep this request will go, or why it cannot be taken and what could."""
        chosen = plan(wanted, served)
        if isinstance(chosen, ExitPlan) and wanted.latency_ms is None:
            return chosen
        queue = admission.Queue(self._backlog.work(), self._free_us(now_us))
        refused = chosen if isinstance(chosen, Misfit) else admission.admit(wanted, chosen, served, queue, now_us)
        if isinstance(chosen, ExitPlan) and refused is None:
            return chosen
        assert refused is not None
        offer = admission.true_offer(refused.offer, wanted, served, queue, now_us)
        code = "infeasible" if self._ready or isinstance(chosen, Misfit) else "not_ready"
        return Refusal(infer.version, infer.id, code, refused.message, offer)

    def _waiting(self, now_us: int, served: Served, wanted: Asked, chosen: ExitPlan) -> Waiting:
        self._tickets += 1
        deadline = NEVER_US if wanted.latency_ms is None else now_us + usable_us(wanted.latency_ms)
        return Waiting(
            ticket=self._tickets,
            served=served,
            arrival_us=now_us,
            deadline_us=deadline,
            due_us=min(deadline, now_us + self._limits.patience_ms * 1000) if deadline == NEVER_US else deadline,
            mandatory=chosen.mandatory,
            target=chosen.target,
            bounded=wanted.bounded,
            objective=wanted.objective,
            gate=None if chosen.gate is None else chosen.gate.threshold,
            staged=wanted.conditions is not None,
            alone=wanted.conditions is not None,
        )

    def _accept(self, request: Request) -> None:
        waiting, latency_ms = request.waiting, request.asked.latency_ms
        self.account(request.tenant).accepted += 1
        self._queued_bytes[request.tenant] = self._queued_bytes.get(request.tenant, 0) + len(request.payload)
        self._requests[waiting.ticket] = request
        self._backlog.add(waiting)
        if latency_ms is not None:
            heappush(self._deadlines, (waiting.arrival_us + int(latency_ms * 1000), waiting.ticket))

    def _preempt(self, now_us: int, urgent: Waiting) -> list[Effect]:
        """Ask the running run to yield at its next exit: best effort to anybody bounded, untimed work to a deadline.

        A run with deadlines of its own is left alone: whoever was admitted after it can wait for its end.
        """
        flight = self._flight
        if flight is None or flight.yielding or not urgent.bounded:
            return []
        if flight.bounded:
            if flight.timed or urgent.deadline_us == NEVER_US:
                return []
            if load.slack_us(self._backlog.work(), max(now_us, flight.ends_us)) >= 0:
                return []
        flight.yielding = True
        return [Yield(flight.run.id)]

    def _free_us(self, now_us: int) -> int:
        """When a request with a deadline could start: work without one gives way at its next exit."""
        if not self._ready:
            return max(now_us, self._ready_us if self._ready_us is not None else now_us)
        flight = self._flight
        if flight is None:
            return now_us
        ends_us = max(now_us, flight.ends_us)
        return ends_us if flight.timed else min(ends_us, now_us + flight.blocks_us)

    # ---- runs

    def _overdue_us(self, flight: Flight) -> int:
        allowed = max(self._limits.run_ms_min * 1000, int(self._limits.run_factor_max * flight.run.predicted_us))
        return flight.posted_us + allowed

    def _row_done(self, now_us: int, flight: Flight, done: ExitDone, row: RowDone, logits: bytes) -> list[Effect]:
        request = self._requests.get(row.ticket)
        posted = flight.rows.get(row.ticket)
        if posted is None:
            return []
        if row.left:
            del flight.rows[row.ticket]
        if request is None:
            return []
        if done.exit >= request.waiting.last_reached:
            # Shallower only on the way back after a lost worker, and the deeper answer is still at hand.
            request.label, request.confidence, request.logits = row.label, row.confidence, logits
            request.waiting.last_reached = done.exit
        if not row.left:
            return []
        request.gated = row.gated
        request.waiting.move_to(done.exit + 1)
        reason = decide(request, now_us)
        if reason is None:
            self._backlog.add(request.waiting)
            return []
        held = not row.gated and (posted.keep or done.exit < posted.stop)
        reply = (
            answer(request, reason, now_us)
            if reason != "drop"
            else failure(request, "deadline", "its latency bound passed")
        )
        return self._end(request, reply, forget=held)

    def _run_over(self, now_us: int, flight: Flight, served: Served) -> list[Effect]:
        self._flight = None
        served.correction.observe(flight.profiled_us, flight.observed_us)
        overhead = min(HOP_US_MAX, max(0.0, now_us - flight.posted_us - flight.observed_us))
        served.hop_us += HOP_GAIN * (overhead - served.hop_us)
        if flight.rows:
            return [Restart(f"run {flight.run.id} ended without {len(flight.rows)} of its rows")]
        return []

    def _run_failed(self, flight: Flight, failed: RunFailed) -> list[Effect]:
        """A run the engine refused: rows that shared it are tried again alone, a lone one ends with an error."""
        self._flight = None
        effects: list[Effect] = []
        for ticket in flight.rows:
            request = self._requests.get(ticket)
            if request is None:
                continue
            if len(flight.run.rows) == 1:
                effects += self._end(request, failure(request, "engine", failed.message), forget=True)
            else:
                request.waiting.alone = True
                request.waiting.move_to(0)
                self._backlog.add(request.waiting)
        return effects

    # ---- deadlines and losses

    def _deadline_passed(self, now_us: int, request: Request) -> list[Effect]:
        waiting = request.waiting
        if self._flight is not None and waiting.ticket in self._flight.rows:
            return []
        self._backlog.remove(waiting)
        if request.asked.on_miss == "drop":
            return self._end(
                request, failure(request, "deadline", "its latency bound passed in the queue"), forget=True
            )
        if waiting.last_reached >= 0:
            return self._end(request, answer(request, "deadline", now_us), forget=True)
        # Late already: the first exit still runs, marked, as soon as nobody becomes late by it.
        request.late = True
        waiting.deadline_us, waiting.due_us = NEVER_US, now_us
        waiting.mandatory = waiting.target = waiting.served.ladder[0]
        waiting.move_to(waiting.stage)
        waiting.gate, waiting.staged = None, False
        self._backlog.add(waiting)
        return []

    def _rerun(self, now_us: int, request: Request, ready_us: int) -> list[Effect]:
        waiting = request.waiting
        waiting.move_to(0)
        request.retries += 1
        needs_us = waiting.served.time_us(0, waiting.mandatory, 1)
        if request.retries <= self._limits.retries_max and ready_us + needs_us <= waiting.deadline_us:
            self._backlog.add(waiting)
            return []
        if waiting.last_reached >= 0 and request.asked.on_miss == "answer":
            return self._end(request, answer(request, "deadline", now_us), forget=False)
        said = "the engine died while it ran, and there is no time to run it again"
        if request.retries > self._limits.retries_max:
            most = self._limits.retries_max
            said = f"the engine died {request.retries} times while it ran; limits.retries_max is {most}"
        return self._end(request, failure(request, "engine_crashed", said), forget=False)

    # ---- ending

    def _end(self, request: Request, ended: Ended, *, forget: bool) -> list[Effect]:
        """The only place where a request ends."""
        ticket = request.waiting.ticket
        del self._requests[ticket]
        self._queued_bytes[request.tenant] -= len(request.payload)
        account = self.account(request.tenant)
        if isinstance(ended.reply, Failure):
            account.failed += 1
        else:
            account.book_answer(ended.reply, len(request.waiting.served.costs.accuracy))
        # The worker holds nothing of a request that never ran.
        held = request.waiting.stage > 0 or (self._flight is not None and ticket in self._flight.rows)
        return [ended, Forget((ticket,))] if forget and held else [ended]


def _flight(choice: edf.Choice, owners: dict[int, str], now_us: int) -> Flight:
    run, first = choice.run, choice.members[0]
    deepest = max(row.stop for row in run.rows)
    return Flight(
        run=run,
        rows={row.ticket: row for row in run.rows},
        owners=owners,
        posted_us=now_us,
        ends_us=now_us + run.predicted_us,
        blocks_us=first.served.blocks_us(run.first, deepest, len(run.rows)),
        bounded=first.bounded,
        timed=first.deadline_us < NEVER_US,
    )
