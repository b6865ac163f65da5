"""The core: accepts requests, decides what runs next, and ends every request exactly once.

Role: a state machine. Events come in with `now_us`; effects go out: `submit`, `cancel`, `next`, `advance`, `expire`,
`worker_lost`, `worker_ready`, `wake_at`. The loop drives it with real sockets, simulation on a virtual clock. A
request's life: submit -> pools -> next (a run) -> advance (an exit) -> pools again or ended. What may come in is judged
by `intake.py`, what runs next by the policy, what the device has is kept by `device.py`.

Does not: know sockets, clocks, threads, files, engines or randomness. Messages, sessions, kept answers: `desk.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..clients.wire import Answer, Infer, Proof, Refusal, Stop
from ..policies.exits import Asked, as_conditions
from ..policies.policy import Policy, make_policy
from ..policies.pools import View
from ..policies.rates import Terms
from ..policies.view import NEVER_US, Choice, Run, Served
from .assurance import Assurance
from .backlog import Backlog
from .booking import book_steps
from .config import Limits
from .device import Device, as_it_is, flight_of, pays_ahead
from .endings import answer, decide, failure, give_up_us
from .idle import Idle
from .intake import Intake
from .lateness import Lateness
from .ledger import Ledger
from .losses import Losses, Parts
from .preemption import preempt
from .quarantine import Quarantine, refused
from .records import (
    Effect,
    Ended,
    ExitDone,
    Flight,
    Forget,
    Payload,
    Request,
    Restart,
    RowDone,
    RunFailed,
    RunReturned,
    Yield,
)
from .requests import Requests
from .routes import Routes


class Server:
    """All requests of all tenants, and the device they share."""

    def __init__(
        self,
        limits: Limits,
        policy: Policy | None = None,
        *,
        ahead_us: int = 0,
        tenants: Mapping[str, Terms] | None = None,
    ) -> None:
        """`ahead_us`: how long before a run's end the next one may be posted; 0: only to an idle device.

        `tenants`: what the operator promises each.
        """
        # By key, which for most is the name; `routes` says which of several of one name a tenant's requests go to.
        self.networks: dict[str, Served] = {}
        self.routes = Routes()
        self.ledger = Ledger({} if tenants is None else tenants)
        self.policy = make_policy("stage-edf") if policy is None else policy
        self.limits = limits
        self._hold_us = limits.hold_ms * 1000
        self._requests = Requests()
        self._backlog = Backlog()
        # Tickets of those who wait; live.
        self.waiting: Collection[int] = self._backlog.view().homes
        # Who takes one request after the other may go on with the one that executes.
        self._device = Device(limits, 0 if self.policy.reactive else ahead_us, yields=self.policy.preempts)
        self._lessons, self._entries = self._device.lessons, self.ledger.noted
        self._intake = Intake(limits, self._backlog, self._device, self.policy, self.ledger)
        self.assurance = Assurance(limits, audits=self.policy.preempts)
        self.quarantine = Quarantine(limits)
        parts = Parts(limits, self._requests, self._backlog, self._device, self.assurance, self.quarantine)
        self.idle = Idle(self._device, self.assurance, self.quarantine)
        self._losses = Losses(parts, self._end, self._answer)
        self._lateness = Lateness(parts, self._end, self._answer, demotes=self.policy.demotes)
        self._tickets = self._runs = 0
        self._ask_us = NEVER_US

    # ---- what the loop asks

    @property
    def pending_count(self) -> int:
        return len(self._requests.open)

    @property
    def parked_count(self) -> int:
        """How many requests wait for a worker that is away while others serve on, or are held back for others' sake."""
        return self._backlog.parked_count

    @property
    def busy(self) -> bool:
        """Whether the device has a run."""
        return self._device.running is not None

    def can_run(self, now_us: int) -> bool:
        """Whether `next` may give a run: somebody waits, and the device is ready for another."""
        wanted = bool(self.waiting) or (not self.busy and self.idle.due_at() <= now_us)
        return wanted and self._device.start_us(now_us) is not None

    def view(self) -> View:
        """The queue as policies see it."""
        return self._backlog.view()

    def running(self, run_id: int) -> str | None:
        """The network of this run if it is one the device has; None for runs long lost."""
        flight = self._device.find(run_id)
        return None if flight is None else flight.run.network

    def payloads(self, run: Run) -> list[Payload]:
        """The inputs of a run just chosen, in row order; none where it does not start at segment 0, or is a canary."""
        requests = self._requests.open
        return [requests[row.ticket].payload for row in run.rows if row.ticket in requests] if run.first == 0 else []

    def wake_at(self) -> int:
        """When `expire` or `next` has something to do next; NEVER_US when nothing is due."""
        device = self._device
        if self.waiting:
            wake_us = min(device.wake_at(), device.post_at(), self._ask_us)
        elif device.running is None:
            wake_us = max(self.idle.due_at(), device.power_us)
        else:
            wake_us = device.wake_at()
        return min(wake_us, self._requests.due_at())

    # ---- events

    def submit(
        self, now_us: int, tenant: str, infer: Infer, wanted: Asked, payload: Payload
    ) -> tuple[Refusal | int, list[Effect]]:
        """Accept a request or refuse it at once: a refusal with an offer, or the accepted one's ticket; and effects."""
        self.learn()
        served = self.networks[self.routes.key(tenant, infer.network)]
        if self.policy.reactive:
            wanted = as_conditions(wanted, served)
        wanted = self.assurance.terms(tenant, served, wanted)
        self._tickets += 1
        queued_bytes = self._requests.queued_bytes(tenant) + len(payload)
        newcomer = self._intake.newcomer(now_us, tenant, served, self._tickets)
        barred = self.quarantine.refusal(now_us, tenant, served, payload)
        if barred is not None:
            self.ledger.refuse(tenant, missed=False)
            return refused(infer.id, barred), []
        full = self._intake.full(tenant, queued_bytes, infer)
        verdict = self._intake.plan(now_us, infer, wanted, newcomer) if full is None else full
        if isinstance(verdict, Refusal):
            return verdict, []
        wanted, chosen, waiting = verdict
        # Who was refused leaves the device as idle as it was.
        self.idle.stir(now_us)
        waiting.audit = self.assurance.drawn(infer.id, chosen)
        self.ledger.accept(now_us, tenant, wanted, waiting)
        request = Request(tenant, infer.id, infer, payload, wanted, chosen, waiting)
        self._requests.add(request)
        self._losses.newcomer(now_us, request)
        self._backlog.add(waiting)
        self._device.look_again()
        if wanted.latency_ms is not None:
            self._requests.due(now_us + int(wanted.latency_ms * 1000), waiting.ticket)
        return waiting.ticket, preempt(self._device, self._backlog, now_us, waiting) if self.policy.preempts else []

    def cancel(self, ticket: int) -> list[Effect]:
        """End a request as cancelled, wherever it is; its row of a running batch is computed and dropped."""
        request = self._requests.open.get(ticket)
        if request is None:
            return []
        self._backlog.remove(request.waiting)
        self._device.left(request)
        return self._end(request, failure(request, "cancelled", "cancelled by the client"), forget=True)

    def next(self, now_us: int) -> Run | None:
        """The next run for a device that is idle or about to be, or None; the caller posts it."""
        self._ask_us = NEVER_US
        waited = bool(self.waiting)
        if not waited and (self.busy or self.idle.due_at() > now_us):
            return None
        start_us = self._device.start_us(now_us)
        if start_us is None:
            return None
        self.learn()
        flight = None if self.busy else self.idle.flight(self._runs + 1, now_us, self.networks, waited=waited)
        if flight is not None:
            self._runs += 1
            as_it_is(flight, self._backlog.view().clock)
            self._device.post(flight)
            return flight.run
        if not waited:
            return None
        choice = self.policy.choose(self._backlog.view(), start_us, self._runs + 1)
        if choice is not None:
            self._drop(choice)
            choice = self._device.within_power(choice, now_us)
            if choice.run is not None and (not self.busy or pays_ahead(choice)):
                return self._post(choice, now_us, start_us)
            self._ask_us = choice.wake_us if choice.run is None else NEVER_US
        self._device.looked()
        return None

    def advance(self, now_us: int, done: ExitDone | RunFailed | RunReturned) -> list[Effect]:
        """Take in what the device reports of a run; reports of runs long lost are ignored."""
        self.learn()
        flight = self._device.find(done.run)
        if flight is None:
            return []
        if flight.canary:
            return self.idle.told(now_us, flight, done) + Server.expire(self, now_us)
        if isinstance(done, RunReturned):
            self._device.over(flight, now_us)
            for request in self._requests.of(flight):
                self._losses.put_back(request)
            if flight.audit:
                self.assurance.audits.back(flight.rows)
            # Part of this event, not one of its own: `Recorded` notes each event once.
            return Server.expire(self, now_us)
        if isinstance(done, RunFailed):
            return self._losses.failed(now_us, flight, done) + Server.expire(self, now_us)
        book_steps(now_us, flight, done, requests=self._requests.open, ledger=self.ledger)
        effects = self.assurance.rows_done(now_us, flight, done) if flight.audit else list[Effect]()
        size = len(done.logits) // len(done.rows) if done.rows else 0
        for position, row in enumerate(done.rows):
            logits = done.logits[position * size : (position + 1) * size]
            effects += self._row_done(now_us, flight, done, row, logits)
        if done.finished and flight.rows:
            # The device keeps the run, so that its rows are not lost with the worker.
            effects.append(Restart(f"run {done.run} ended without {len(flight.rows)} of its rows", flight.run.network))
        elif done.finished:
            self._device.done(flight, now_us)
        else:
            self._device.passed(flight, done.exit, now_us)
        return effects

    def expire(self, now_us: int) -> list[Effect]:
        """Act on what is due: deadlines that passed in the queue, a run that takes far too long."""
        effects: list[Effect] = []
        self.learn()
        for request in self._requests.take_due(now_us):
            effects += self._lateness.time_is_up(now_us, request)
        flight = self._device.running
        if flight is not None and flight.yield_at_us is not None and now_us >= flight.yield_at_us:
            flight.yield_at_us, flight.yielding = None, True
            effects.append(Yield(flight.run.id))
        if flight is not None and now_us >= flight.overdue_us:
            took_ms, run = (now_us - flight.posted_us) // 1000, flight.run
            effects.append(Restart(f"run {run.id} of {run.network} has taken {took_ms} ms", run.network))
        return effects

    def worker_ready(self, now_us: int, keys: Collection[str] | None = None) -> None:
        """The device can take runs; of the networks with these `keys` where there are several workers."""
        for key in keys or ():
            self.networks[key].away_until_us = 0
        self._backlog.unpark(keys or ())
        self._device.up(now_us)
        self.idle.canaries.stir(now_us)

    def worker_lost(
        self, now_us: int, ready_us: int, keys: Collection[str] | None = None, *, blame: bool = True
    ) -> list[Effect]:
        """The worker is gone with all features; `ready_us`: when the next one is expected to be ready.

        What was in flight runs again, alone, if its bound and `retries_max` allow, else it gets the answer it already
        has, or a typed error. What merely waited keeps waiting. `blame`: it died, perhaps of what was in flight.
        `keys`: of the networks it had, where other workers go on with others.
        """
        self.learn()
        for key in keys or ():
            self.networks[key].away_until_us = ready_us
        return self._losses.lost(now_us, ready_us, keys, blame=blame)

    def spare(self, keys: Collection[str], *, warm: bool | None) -> None:
        """Whether a spare stands by that could take over from the worker of these networks; None: there is to be none.

        While there is to be one and it is not loaded, nothing runs that may end the worker beside others.
        """
        self.learn()
        self._backlog.stands_by(keys, warm)
        self._device.look_again()

    def open_of(self, keys: Collection[str]) -> tuple[int, list[int]]:
        """What of the networks with these keys has not ended: how many runs, and which requests."""
        runs = sum(flight.run.network in keys for flight in self._device.flights())
        return runs, [ticket for ticket, one in self._requests.open.items() if one.waiting.served.key in keys]

    def forget(self, keys: Collection[str]) -> None:
        """These networks are served no more; nothing of theirs is open."""
        self.assurance.lost(self.assurance.audits.of(keys))
        self._backlog.stands_by(keys, None)
        for key in keys:
            gone = self.networks.pop(key)
            last = all((other.name, other.version) != (gone.name, gone.version) for other in self.networks.values())
            self.idle.forget(gone, last=last)

    def labelled(self, now_us: int, tenant: str, network: str, proof: Proof | None, *, wrong: bool) -> list[Effect]:
        """A tenant has said what the right label of an answer was, and so whether it was `wrong`."""
        served = self.networks[self.routes.key(tenant, network)]
        return self.assurance.labelled(tenant, served, proof, wrong=wrong)

    def learn(self) -> None:
        """Enter what runs took and taught. Every event that reads it does so first, so it makes no difference if it is
        done earlier: once the answers, which need none of it, have left."""
        # Asked in every event, and nearly always there is nothing.
        if self._lessons:
            self._device.learn()
        if self._entries:
            self.ledger.settle()

    def _drop(self, choice: Choice) -> None:
        """Those the policy gives up on wait no longer; they end with the next `expire`, which is due at once."""
        for waiting in choice.dropped:
            self._backlog.remove(waiting)
            self._requests.open[waiting.ticket].dropped = True
            self._requests.due(0, waiting.ticket)

    def _post(self, choice: Choice, now_us: int, start_us: int) -> Run:
        self._runs += 1
        assert choice.run is not None
        for member in choice.members:
            self._backlog.remove(member)
            request = self._requests.open[member.ticket]
            request.started_us = now_us if request.started_us is None else request.started_us
        self._device.post(flight_of(choice, self._requests.open, start_us))
        return choice.run

    # ---- runs

    def _row_done(self, now_us: int, flight: Flight, done: ExitDone, row: RowDone, logits: bytes) -> list[Effect]:
        request = self._requests.open.get(row.ticket)
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
        # Who leaves before the run's end was asked to give way; its features are kept too.
        kept = posted.keep or done.exit < posted.stop
        goes_on = kept and self._backlog.can_hold(self.limits.held_max)
        until_us = give_up_us(request.waiting, self._hold_us) if goes_on and not row.gated else now_us
        reason = decide(request, now_us, kept=goes_on, until_us=until_us)
        if reason is None:
            self._backlog.add(request.waiting)
            self._device.look_again()
            if request.waiting.optional:
                self._requests.due(until_us, row.ticket)
            return []
        if reason == "drop":
            ended = failure(request, "deadline", "its latency bound passed")
        else:
            ended = self._answer(request, reason, now_us)
        held = row.gated and posted.audit
        effects = self._end(request, ended, forget=kept and not row.gated)
        if held and isinstance(ended.reply, Answer):
            return effects + self.assurance.hold(now_us, request)
        return [*effects, Forget((row.ticket,))] if held else effects

    # ---- ending

    def _answer(self, request: Request, stop: Stop, now_us: int) -> Ended:
        return answer(request, stop, now_us, kept=self.assurance.kept(request))

    def _end(self, request: Request, ended: Ended, *, forget: bool) -> list[Effect]:
        """The only place where a request ends."""
        ticket = request.waiting.ticket
        self._requests.remove(request)
        if request.suspect and isinstance(ended.reply, Answer):
            self.quarantine.cleared(request)
        self.ledger.end(request.tenant, request.waiting, ended.reply)
        self._backlog.view().scarcity.ended(request.waiting, ended.reply)
        # The worker holds nothing of a request that never ran.
        held = request.waiting.stage > 0 or self._device.holds(ticket)
        return [ended, Forget((ticket,))] if forget and held else [ended]
