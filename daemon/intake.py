"""Whether a request may come in: limits, bounds that fit, and time for it in the queue.

Role: the part of the core before acceptance: refuses with an offer, or makes the `Waiting` that will be queued. What is
beyond its tenant's promise waits for time to spare. Does not: queue anything, or book what it accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replace_plan

from msgspec.structs import replace

from ..clients.wire import Infer, Offer, Refusal, Stop
from ..policies import admission, load
from ..policies.exits import Asked, ExitPlan, Misfit, plan
from ..policies.fairness import Share
from ..policies.policy import Policy
from ..policies.pools import Chunk
from ..policies.rates import Promise
from ..policies.starving import Starving
from ..policies.view import HOP_US_MAX, NEVER_US, Served, Waiting, rounded_up
from .backlog import Backlog
from .config import Limits
from .device import Device
from .ledger import Ledger

# After so long without a run of a network, one request is tried though predictions are against it.
TRIAL_US = 250_000


class Intake:
    """Judges newcomers against the queue, the device and their tenant's promise as they stand."""

    def __init__(self, limits: Limits, backlog: Backlog, device: Device, policy: Policy, ledger: Ledger) -> None:
        self._limits = limits
        self._backlog = backlog
        self._device = device
        self._policy = policy
        self._ledger = ledger
        self._starving = Starving(limits.patience_ms * 1000, limits.wait_ms_max * 1000)

    def newcomer(self, now_us: int, tenant: str, served: Served, ticket: int) -> Newcomer:
        """A request of this tenant, before anything is known of its bounds."""
        share, patience_us = self._ledger.share(tenant), self._limits.patience_ms * 1000
        return Newcomer(tenant, served, share, ticket=ticket, now_us=now_us, patience_us=patience_us)

    def full(self, tenant: str, queued_bytes: int, infer: Infer) -> Refusal | None:
        """A refusal if this tenant may have nothing more waiting; `queued_bytes` with this request's."""
        promise, limits, pending = self._ledger.promises.of(tenant), self._limits, self._ledger.pending(tenant)
        count_max, bytes_max = limits.queued_max, limits.queued_bytes_max
        count_name, bytes_name = "limits.queued_max", "limits.queued_bytes_max"
        if promise is not None:
            own = promise.terms
            if own.queued_max is not None and own.queued_max < count_max:
                count_max, count_name = own.queued_max, "your queued_max"
            if own.queued_bytes_max is not None and own.queued_bytes_max < bytes_max:
                bytes_max, bytes_name = own.queued_bytes_max, "your queued_bytes_max"
        if pending >= count_max:
            said = f"{pending} of your requests wait; {count_name} is {count_max}"
        elif queued_bytes > bytes_max:
            said = f"{queued_bytes} bytes would wait; {bytes_name} is {bytes_max}"
        else:
            return None
        retry_ms = round(load.done_us((load.cost_of(chunk) for chunk in self._backlog.work()), 0) / 1000, 3)
        self._ledger.refuse(tenant, missed=True)
        return Refusal(infer.version, infer.id, "queue_full", said, Offer(retry_after_ms=max(1.0, retry_ms)))

    def plan(
        self, now_us: int, infer: Infer, wanted: Asked, newcomer: Newcomer
    ) -> tuple[Asked, ExitPlan, Waiting] | Refusal:
        """How deep this request will go and how it will wait, or why it cannot be taken and what could.

        It is held to what its tenant's adaptation makes of what was asked.
        """
        promise = self._ledger.promises.of(newcomer.tenant)
        if promise is not None and (wait_us := promise.ceiling_in_us(now_us)):
            said = f"rate_hz_max {promise.terms.rate_hz_max:g} (burst_max {promise.terms.burst_max}) is used up"
            return self._wait(infer, newcomer, "rate", said, wait_us)
        budgets = self._ledger.budgets
        adapted = budgets.asked(now_us, newcomer.tenant, wanted, newcomer.served) if budgets.used else wanted
        if isinstance(adapted, int):
            said = "no answer is worth its energy just now, for what there is must last"
            return self._wait(infer, newcomer, "quota", said, adapted)
        verdict = self._plan(now_us, infer, adapted, newcomer)
        capped = (budgets.used and budgets.capped(newcomer.tenant)) or (promise is not None and promise.energy.capped)
        if capped and not isinstance(verdict, Refusal):
            verdict = self._within_energy(infer, verdict, newcomer, promise)
        return verdict if isinstance(verdict, Refusal) else (adapted, *verdict)

    def _within_energy(
        self, infer: Infer, planned: tuple[ExitPlan, Waiting], newcomer: Newcomer, promise: Promise | None
    ) -> tuple[ExitPlan, Waiting] | Refusal:
        """As planned, or no deeper than it must where its tenant's energy goes no further, or a refusal."""
        chosen, waiting = planned
        most_mj = newcomer.served.costs.most_mj(waiting.target)
        least_mj = newcomer.served.costs.most_mj(waiting.mandatory)
        if most_mj is None or least_mj is None:
            said = f"your energy is capped, and this device knows no energies of {newcomer.served.name}: profile it"
            return self._wait(infer, newcomer, "quota", said, None)
        if self._energy_in_us(newcomer, promise, most_mj)[0] and not waiting.staged:
            chosen, most_mj = _shallowest(chosen, "energy"), least_mj
            waiting.target = waiting.mandatory
        wait_us, name = self._energy_in_us(newcomer, promise, most_mj)
        if wait_us:
            return self._wait(infer, newcomer, "quota", f"{name}: your energy is used up for now", wait_us)
        waiting.most_mj = most_mj
        return chosen, waiting

    def _energy_in_us(self, newcomer: Newcomer, promise: Promise | None, most_mj: float) -> tuple[int, str]:
        """How long until its tenant and the device can pay for so much, 0: now; and what holds it up."""
        now_us = newcomer.now_us
        wait_us, name = (0, "") if promise is None else promise.energy.wait_us(now_us, most_mj)
        return (wait_us, name) if wait_us else self._ledger.budgets.wait_us(now_us, newcomer.tenant, most_mj)

    def _wait(self, infer: Infer, newcomer: Newcomer, code: str, said: str, wait_us: int | None) -> Refusal:
        """Refused by a cap of its tenant's, whatever the load; it may come again after `wait_us`."""
        self._ledger.refuse(newcomer.tenant, missed=True)
        offer = None if wait_us is None else Offer(retry_after_ms=rounded_up(wait_us / 1000))
        return Refusal(infer.version, infer.id, code, said, offer)

    def _plan(self, now_us: int, infer: Infer, wanted: Asked, newcomer: Newcomer) -> tuple[ExitPlan, Waiting] | Refusal:
        promise = self._ledger.promises.of(newcomer.tenant)
        if promise is not None and (wait_us := promise.quota_in_us(now_us)):
            said = f"device_share_max {promise.terms.device_share_max:g}: your quota of device time is used up"
            return self._wait(infer, newcomer, "quota", said, wait_us)
        newcomer.capped = promise is not None and promise.quota is not None
        admits = self._policy.admits
        reserved = self._stand(now_us, wanted, newcomer, promise) if promise is not None and admits else ()
        first = [*self._starving.work(self._backlog.untimed(), now_us), *reserved]
        protected = promise is not None and admits and newcomer.beyond is None and promise.protects
        chosen = plan(wanted, newcomer.served)
        if isinstance(chosen, Misfit):
            queue = self._queue(now_us, newcomer, first)
            tried = self._trial(wanted, newcomer, queue, protected=protected) if admits else None
            if tried is not None:
                return tried
            return self._refused(infer, wanted, newcomer, admission.Refused(chosen.message, chosen.offer), queue)
        if protected and wanted.conditions is None:
            chosen = _shallowest(chosen)
        waiting = newcomer(wanted, chosen)
        if self._policy.reactive:
            waiting.deadline_us = NEVER_US
        if self._policy.by_arrival:
            waiting.due_us = now_us
        if wanted.latency_ms is None or not admits:
            return chosen, waiting
        queue = self._queue(now_us, newcomer, first)
        if queue.fits(waiting) or (protected and queue.fits_on_average(waiting)):
            return chosen, waiting
        return self._refused(infer, wanted, newcomer, admission.refusal(wanted, chosen, queue, newcomer), queue)

    def _stand(self, now_us: int, wanted: Asked, newcomer: Newcomer, promise: Promise) -> Sequence[Chunk]:
        """Note whether this is beyond what its tenant is promised; returns the work that then is kept free for others.

        A share nobody else has a use for just now is not held against anybody; a rate is.
        """
        if not wanted.bounded or promise.within(now_us):
            return ()
        newcomer.beyond = promise
        newcomer.spare = promise.requests is not None or self._ledger.promises.contended(now_us, promise)
        return self._ledger.promises.reserved(now_us, promise, first=newcomer.spare)

    def _trial(
        self, wanted: Asked, newcomer: Newcomer, queue: admission.Queue, *, protected: bool
    ) -> tuple[ExitPlan, Waiting] | None:
        """Take a request that by prediction cannot be in time, but could by the profile.

        After stalls or throttling predictions may be so long that nothing is taken, and so nothing is run that would
        correct them: now and then one request is, in time to spare. Whose next one should not miss is taken if it
        would be in time on average.
        """
        now_us, served, latency_ms = newcomer.now_us, newcomer.served, wanted.latency_ms
        if latency_ms is None or not self._device.ready or served.away_until_us:
            return None
        chosen = plan(wanted._replace(latency_ms=None), served)
        if isinstance(chosen, Misfit):
            return None
        chosen = _shallowest(chosen)
        path_us, usable_us = served.costs.path_us(0, chosen.mandatory, 1), served.guard.usable_us(latency_ms)
        if protected and served.hop_us + path_us * served.correction.mu <= usable_us:
            waiting = newcomer(wanted, chosen)
            if queue.fits_on_average(waiting):
                return chosen, waiting
        # A longer hop than that is the machine's just now, and how long it is only runs can tell.
        if now_us - served.ran_us < TRIAL_US or min(served.hop_us, HOP_US_MAX) + path_us > usable_us:
            return None
        served.ran_us, newcomer.spare = now_us, True
        return chosen, newcomer(wanted, chosen)

    def _refused(
        self,
        infer: Infer,
        wanted: Asked,
        newcomer: Newcomer,
        refused: admission.Refused,
        queue: admission.Queue,
    ) -> Refusal:
        offer, message, code = refused.offer, refused.message, "infeasible"
        if self._policy.admits:
            offer = admission.true_offer(offer, wanted, newcomer.served, queue, newcomer)
        promise = newcomer.beyond
        if not self._device.ready or newcomer.served.away_until_us:
            code = "not_ready"
        elif promise is not None:
            code, message = promise.code, f"{promise.said}, and {message}"
            offer = replace(offer, retry_after_ms=rounded_up(promise.within_in_us(newcomer.now_us) / 1000))
        elif wanted.latency_ms is not None and queue.work():
            until_us = newcomer.now_us + newcomer.served.guard.usable_us(wanted.latency_ms)
            view = self._backlog.view()
            view.refused_until_us = max(view.refused_until_us, until_us)
        self._ledger.refuse(newcomer.tenant, missed=promise is None)
        return Refusal(infer.version, infer.id, code, message, offer)

    def _queue(self, now_us: int, newcomer: Newcomer, first: Sequence[Chunk]) -> admission.Queue:
        """What there is beside this newcomer, as it stands: offers are judged on the same.

        Mandatory work with deadlines, and what goes `first`: what others may still ask within their promises, and who
        has waited too long without a deadline. For work beyond a promise all of that goes first.
        """
        free_us = max(self._device.free_us(now_us), newcomer.served.away_until_us)
        promise = newcomer.beyond
        if promise is None or not newcomer.spare:
            return admission.Queue(self._backlog.timed(), load.in_order([first]), free_us)
        stretch = self._ledger.promises.stretch(now_us, promise)
        return admission.Queue(self._backlog.spare(), [*self._backlog.work(), *first], free_us, stretch)


def _shallowest(chosen: ExitPlan, limit: Stop = "fairness") -> ExitPlan:
    """As deep as its bounds need and no deeper: what has its answer leaves, and no stall can take it back."""
    if chosen.target <= chosen.mandatory:
        return chosen
    return replace_plan(chosen, target=chosen.mandatory, limit=limit)


class Newcomer:
    """Makes a request as it would wait, for any bounds and plan."""

    __slots__ = ("beyond", "capped", "now_us", "patience_us", "served", "share", "spare", "tenant", "ticket")

    def __init__(
        self, tenant: str, served: Served, share: Share, *, ticket: int, now_us: int, patience_us: int
    ) -> None:
        self.tenant = tenant
        self.served = served
        self.share = share
        self.ticket = ticket
        self.now_us = now_us
        self.patience_us = patience_us
        # Its tenant's promise where that is used up, and whether it waits for time to spare then.
        self.beyond: Promise | None = None
        self.spare = False
        # Whether its tenant has a quota, for which the most it may take is counted.
        self.capped = False

    def __call__(self, wanted: Asked, chosen: ExitPlan) -> Waiting:
        latency_ms, conditions = wanted.latency_ms, wanted.conditions is not None
        deadline_us = NEVER_US if latency_ms is None else self.now_us + self.served.guard.usable_us(latency_ms)
        return Waiting(
            ticket=self.ticket,
            served=self.served,
            arrival_us=self.now_us,
            deadline_us=deadline_us,
            due_us=deadline_us if deadline_us < NEVER_US else self.now_us + self.patience_us,
            mandatory=chosen.mandatory,
            target=chosen.target,
            bounded=wanted.bounded,
            objective=wanted.objective,
            share=self.share,
            gates=None if chosen.gate is None else chosen.gate.thresholds,
            beyond=() if chosen.gate is None else chosen.gate.beyond,
            staged=conditions,
            alone=conditions,
            spare=self.spare,
            owed_us=self.served.row_us(chosen.mandatory) if wanted.bounded else 0.0,
            most_us=self._most_us(chosen.target) if self.capped else 0.0,
        )

    def _most_us(self, exit_index: int) -> float:
        return self.served.costs.path_us(0, exit_index, 1) * self.served.correction.mu
