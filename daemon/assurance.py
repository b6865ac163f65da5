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
from ..policies.view import Served
from .audits import Audit, Audits
from .config import Limits
from .endings import forced_at
from .records import Alarm, Effect, ExitDone, Flight, Forget, Request
from .standing import Standing

# Drawn by a hash, so that a journal draws the same again. No secret: a tenant gains nothing by being audited less.
SEED = 0


# A network's name and version.
_Which = tuple[str, str]


class Assurance:
    """All tenants' certificates."""

    def __init__(self, limits: Limits, *, audits: bool) -> None:
        """`audits`: none without, for policies whose runs never give way."""
        self._share = limits.audit_share if limits.audits_max and audits else 0.0
        self.audits = Audits(limits.audits_max)
        # By tenant, then by network and version.
        self._standings: dict[str, dict[_Which, Standing]] = {}

    def terms(self, tenant: str, served: Served, wanted: Asked) -> Asked:
        """Bounds as they can be asked for: without a certificate where that was withdrawn."""
        if wanted.accuracy is None:
            return wanted
        return wanted._replace(withdrawn=True) if self.withdrawn(tenant, served.name, served.version) else wanted

    def drawn(self, request_id: bytes, plan: ExitPlan) -> bool:
        """Whether an answer that gates let go under this plan will be looked at again."""
        return plan.gate is not None and marked(request_id, self._share, SEED)

    def kept(self, request: Request) -> bool:
        """Count an answer; whether its accuracy bound, if any, is kept. What was withdrawn is claimed no more."""
        if request.asked.accuracy is None:
            return True
        standing = self._standing(request.tenant, request.waiting.served)
        if request.plan.proof is not None and standing.withdrawn:
            request.plan = replace(request.plan, certificate="withdrawn", proof=None)
        early, proof, waiting = forced_at(request), request.plan.proof, request.waiting
        if proof is None:
            # What is not certified is at least expected.
            return early is None and waiting.served.costs.accuracy[waiting.last_reached] >= request.asked.accuracy
        return standing.keeps(proof, early)

    def hold(self, now_us: int, request: Request) -> list[Effect]:
        """It was answered and its features are on the device; returns what the device may forget instead."""
        waiting, gate = request.waiting, request.plan.gate
        assert gate is not None, "only gates let a request go that is held here"
        audit = Audit(request.tenant, waiting.served, waiting.stage, request.label, gate.disagreement, now_us)
        given_up = self.audits.hold(waiting.ticket, audit)
        if given_up is None:
            return []
        ticket, old = given_up
        self._standing(old.tenant, old.served).skipped()
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
                tenant, served = found.audit.tenant, found.audit.served
                if self._standing(tenant, served).audited(differs=found.differs, miss_max=found.audit.miss_max):
                    said = "answers differ too often from the last exit's"
                    effects.append(Alarm(tenant, served.name, served.version, said))
        return effects

    def forget(self, gone: Served) -> None:
        """This version of a network is served no more. What was withdrawn stays so, for it may come back."""
        for tenant, which in [(tenant, _which(gone)) for tenant in self._standings]:
            if not self.withdrawn(tenant, *which):
                self._standings[tenant].pop(which, None)

    def withdraw(self, tenant: str, network: str, version: str) -> None:
        """It was withdrawn before this daemon began."""
        self._standings.setdefault(tenant, {})[network, version] = Standing(withdrawn=True)

    def lost(self, tickets: Iterable[int] | None = None) -> None:
        """Audits that cannot be done: these, or all with the worker."""
        for audit in self.audits.lost(tickets):
            self._standing(audit.tenant, audit.served).skipped()

    def labelled(self, tenant: str, served: Served, proof: Proof | None, *, wrong: bool) -> list[Effect]:
        """A tenant has told the right label of an answer that rests on `proof`."""
        miss_max = None if proof is None else 1 - proof.accuracy
        if self._standing(tenant, served).labelled(wrong=wrong, miss_max=miss_max):
            said = "its labels show more wrong answers than was certified"
            return [Alarm(tenant, served.name, served.version, said)]
        return []

    def told(self, tenant: str) -> dict[str, Drift]:
        """For `stats`: by network, of the version that something was learnt of last."""
        return {network: standing.told() for (network, _), standing in self._standings.get(tenant, {}).items()}

    def withdrawn(self, tenant: str, network: str, version: str) -> bool:
        standing = self._standings.get(tenant, {}).get((network, version))
        return standing is not None and standing.withdrawn

    def _standing(self, tenant: str, served: Served) -> Standing:
        standings, which = self._standings.setdefault(tenant, {}), _which(served)
        standing = standings.get(which)
        if standing is None:
            standing = standings[which] = Standing()
        return standing


def _which(served: Served) -> _Which:
    return served.name, served.version
