"""Certificates while they serve: who is audited, what the device does for that in idle time, and what comes of it.

Role: the core's one door to `audits.py` (answers to look at again) and `standing.py` (whether certificates stand), per
tenant and network. Flow: `terms` before a plan is made -> `drawn` once it is -> `kept` when it is answered -> `hold` ->
`flight` on an idle device -> `rows_done` -> perhaps an `Alarm`. Feedback comes in at `labelled`.

Does not: plan exits, end requests, or know clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..clients.info import Drift
from ..clients.wire import Proof
from ..policies.drift import marked
from ..policies.exits import Asked, ExitPlan
from .audits import Audit, Audits
from .config import Limits
from .endings import forced_at
from .records import Alarm, Effect, ExitDone, Flight, Forget, Request
from .standing import Standing

# Drawn by a hash, so that a journal draws the same again. No secret: a tenant gains nothing by being audited less.
SEED = 0


class Assurance:
    """All tenants' certificates."""

    def __init__(self, limits: Limits, *, audits: bool) -> None:
        """`audits`: none without, for policies whose runs never give way."""
        self._share = limits.audit_share if limits.audits_max and audits else 0.0
        self.audits = Audits(limits.audits_max)
        self._standings: dict[str, dict[str, Standing]] = {}

    def terms(self, tenant: str, network: str, wanted: Asked) -> Asked:
        """Bounds as they can be asked for: without a certificate where that was withdrawn."""
        if wanted.accuracy is None:
            return wanted
        return wanted._replace(withdrawn=True) if self.withdrawn(tenant, network) else wanted

    def drawn(self, request_id: bytes, plan: ExitPlan) -> bool:
        """Whether an answer that gates let go under this plan will be looked at again."""
        return plan.gate is not None and marked(request_id, self._share, SEED)

    def kept(self, request: Request) -> bool:
        """Count an answer; whether its accuracy bound, if any, is kept. What was withdrawn is claimed no more."""
        if request.asked.accuracy is None:
            return True
        if request.plan.proof is not None and self.withdrawn(request.tenant, request.waiting.served.name):
            request.plan = replace(request.plan, certificate="withdrawn", proof=None)
        early, proof, waiting = forced_at(request), request.plan.proof, request.waiting
        if proof is None:
            # What is not certified is at least expected.
            return early is None and waiting.served.costs.accuracy[waiting.last_reached] >= request.asked.accuracy
        return self._standing(request.tenant, waiting.served.name).keeps(proof, early)

    def hold(self, now_us: int, request: Request) -> list[Effect]:
        """It was answered and its features are on the device; returns what the device may forget instead."""
        waiting, gate = request.waiting, request.plan.gate
        assert gate is not None, "only gates let a request go that is held here"
        audit = Audit(request.tenant, waiting.served, waiting.stage, request.label, gate.disagreement, now_us)
        given_up = self.audits.hold(waiting.ticket, audit)
        if given_up is None:
            return []
        ticket, old = given_up
        self._standing(old.tenant, old.served.name).skipped()
        return [Forget((ticket,))]

    def rows_done(self, now_us: int, flight: Flight, done: ExitDone) -> list[Effect]:
        """What a run of audits reports: it is counted, and the device forgets them."""
        effects: list[Effect] = []
        self.audits.stir(now_us)
        for row in done.rows:
            if flight.rows.pop(row.ticket, None) is None:
                continue
            found = self.audits.done(row, done.exit)
            if found is not None:
                tenant, network = found.audit.tenant, found.audit.served.name
                standing = self._standing(tenant, network)
                if standing.audited(differs=found.differs, miss_max=found.audit.miss_max):
                    effects.append(Alarm(tenant, network, "answers differ too often from the last exit's"))
        return effects

    def renew(self, network: str) -> None:
        """Another version of it is served: what was found of the old one says nothing of that."""
        for whose in [whose for whose in self._standings if whose[1] == network]:
            del self._standings[whose]

    def lost(self, tickets: Iterable[int] | None = None) -> None:
        """Audits that cannot be done: these, or all with the worker."""
        for audit in self.audits.lost(tickets):
            self._standing(audit.tenant, audit.served.name).skipped()

    def labelled(self, tenant: str, network: str, proof: Proof | None, *, wrong: bool) -> list[Effect]:
        """A tenant has told the right label of an answer that rests on `proof`."""
        miss_max = None if proof is None else 1 - proof.accuracy
        if self._standing(tenant, network).labelled(wrong=wrong, miss_max=miss_max):
            return [Alarm(tenant, network, "its labels show more wrong answers than was certified")]
        return []

    def told(self, tenant: str) -> dict[str, Drift]:
        """For `stats`: by network."""
        return {network: standing.told() for network, standing in self._standings.get(tenant, {}).items()}

    def withdrawn(self, tenant: str, network: str) -> bool:
        standing = self._standings.get(tenant, {}).get(network)
        return standing is not None and standing.withdrawn

    def _standing(self, tenant: str, network: str) -> Standing:
        standings = self._standings.setdefault(tenant, {})
        standing = standings.get(network)
        if standing is None:
            standing = standings[network] = Standing()
        return standing
