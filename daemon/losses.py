"""Requests whose run came to nothing: the worker died under them, or the engine failed, or the run was taken back.

Role: the part of the core that decides who is tried again, alone or with others, and who ends with which error. Where
others use the same worker, suspects are tried when its death would hurt them least, see `backlog.py`.
Flow: `Server.worker_lost` -> `lost`; `Server.advance` -> `failed`; both -> `put_back`, or an end.

Does not: know why a worker died; the quarantine remembers what was running then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from ..clients.wire import Stop
from .assurance import Assurance
from .backlog import Backlog
from .config import Limits
from .device import Device
from .endings import crashed, engine_failure, failure, give_up_us
from .quarantine import Quarantine
from .records import Effect, Ended, Flight, Request, RunFailed, Told
from .requests import Requests


class Parts(NamedTuple):
    """What the core is made of, as far as losses touch it."""

    limits: Limits
    requests: Requests
    backlog: Backlog
    device: Device
    assurance: Assurance
    quarantine: Quarantine


class End(Protocol):
    """`Server`'s way to end a request."""

    def __call__(self, request: Request, ended: Ended, *, forget: bool) -> list[Effect]: ...


Answers = Callable[[Request, Stop, int], Ended]


class Losses:
    """Puts requests back, or ends them."""

    def __init__(self, parts: Parts, end: End, answer: Answers) -> None:
        """`answer`: makes the answer a request has at hand."""
        self._parts = parts
        self._end = end
        self._answer = answer
        self._hold_us = parts.limits.hold_ms * 1000
        # With which networks one shared the worker that was lost; all of them where that is not said.
        self._beside: dict[str, Collection[str]] = {}

    def newcomer(self, now_us: int, request: Request) -> None:
        """Somebody comes: to be run with care, if a worker died of this input."""
        if self._parts.quarantine.suspects(now_us, request):
            self._doubt(now_us, request, self._beside.get(request.waiting.served.key))

    def lost(self, now_us: int, ready_us: int, keys: Collection[str] | None, *, blame: bool) -> list[Effect]:
        """A worker is gone with all features. `blame`: it died, so perhaps of what it was running.

        `keys`: the networks it had, where there are other workers; None: it was the only one.
        """
        limits, requests, backlog, device, assurance, quarantine = self._parts
        effects: list[Effect] = []
        if keys is None:
            running, posted = device.lost(ready_us)
            backlog.restart()
            assurance.lost()
        else:
            running, posted = device.lost_of(keys, now_us)
            backlog.park(keys)
            assurance.lost(assurance.audits.of(keys))
        hit = requests.of(running)
        # Who cancels what kills the worker has killed it all the same.
        left = [] if running is None else [one for one in running.left if one.waiting.ticket in running.rows]
        poison = quarantine.died(now_us, [*hit, *left]) if blame else []
        self._beside.update(dict.fromkeys(keys or (), keys or ()))
        for request in [*hit, *self._alike([*hit, *left])] if blame else []:
            self._doubt(now_us, request, keys)
        for request in hit:
            if request in poison:
                effects.append(Told(f"an input of tenant {request.tenant} to {request.waiting.served.name} is poison"))
                said = f"the engine died {limits.poison_deaths} times while it ran this input (limits.poison_deaths)"
                effects += self._end(request, failure(request, "poison", said), forget=False)
            else:
                effects += self._rerun(now_us, request, ready_us)
        for request in requests.of(posted):
            request.waiting.move_to(0)
            self.put_back(request)
        for culprit in poison:
            effects += self._accomplices(culprit)
        return effects

    def _doubt(self, now_us: int, request: Request, keys: Collection[str] | None) -> None:
        """Run it when that hurts others least, if there are any who use these networks."""
        requests, quarantine, limits = self._parts.requests, self._parts.quarantine, self._parts.limits
        if request.waiting.doubtful or not quarantine.others(now_us, request.tenant, keys):
            return
        waits = self._parts.backlog.remove(request.waiting)
        request.waiting.doubtful = request.waiting.alone = request.suspect = True
        if waits:
            self._parts.backlog.add(request.waiting)
        request.tried_by_us = now_us + limits.suspect_ms * 1000
        requests.due(request.tried_by_us, request.waiting.ticket)

    def _alike(self, hit: Collection[Request]) -> list[Request]:
        """Whoever waits with an input that was running, of the same tenant."""
        known = {(one.tenant, one.waiting.served.key, bytes(one.payload)) for one in hit}
        tenants = {one.tenant for one in hit}
        found = [one for one in self._parts.requests.open.values() if one.tenant in tenants and one not in hit]
        return [one for one in found if (one.tenant, one.waiting.served.key, bytes(one.payload)) in known]

    def _accomplices(self, culprit: Request) -> list[Effect]:
        """Whoever waits with the same input of the same tenant must not cost another worker."""
        requests, backlog = self._parts.requests, self._parts.backlog
        tenant, served, payload = culprit.tenant, culprit.waiting.served, culprit.payload
        same = [
            request
            for request in requests.open.values()
            if request.tenant == tenant and request.waiting.served is served and request.payload == payload
        ]
        effects: list[Effect] = []
        for request in same:
            backlog.remove(request.waiting)
            said = "another request of yours with this input ended the engine too often (limits.poison_deaths)"
            effects += self._end(request, failure(request, "poison", said), forget=False)
        return effects

    def failed(self, now_us: int, flight: Flight, failed: RunFailed) -> list[Effect]:
        """A run the engine refused: rows that shared it are tried again alone, a lone one ends with an error."""
        parts, effects = self._parts, list[Effect]()
        parts.device.over(flight, now_us)
        if flight.audit:
            parts.assurance.lost(flight.rows)
        for request in parts.requests.of(flight):
            if len(flight.run.rows) > 1:
                request.waiting.alone = True
                request.waiting.move_to(0)
                self.put_back(request)
                continue
            ended, own_fault = engine_failure(request, failed)
            effects += self._end(request, ended, forget=True)
            if not own_fault and parts.quarantine.faulted(now_us, request):
                said = f"network {request.waiting.served.name} is barred for tenant {request.tenant}"
                effects.append(Told(f"{said} until it answers its canary: {failed.message}"))
        return effects

    def put_back(self, request: Request) -> None:
        """Into the queue again, from a run that did not happen; what came due meanwhile is due again."""
        parts, waiting, latency_ms = self._parts, request.waiting, request.asked.latency_ms
        parts.backlog.add(waiting)
        parts.device.look_again()
        if waiting.optional:
            parts.requests.due(give_up_us(waiting, self._hold_us), waiting.ticket)
        elif latency_ms is not None:
            parts.requests.due(waiting.arrival_us + int(latency_ms * 1000), waiting.ticket)

    def _rerun(self, now_us: int, request: Request, ready_us: int) -> list[Effect]:
        waiting, retries_max = request.waiting, self._parts.limits.retries_max
        waiting.move_to(0)
        request.retries += 1
        needs_us = waiting.served.time_us(0, waiting.mandatory, 1)
        if request.retries <= retries_max and ready_us + needs_us <= waiting.deadline_us:
            self.put_back(request)
            return []
        # What it gets now does not clear its input: that has not run through.
        request.suspect = False
        if waiting.last_reached >= 0 and request.asked.on_miss == "answer":
            return self._end(request, self._answer(request, "deadline", now_us), forget=False)
        return self._end(request, crashed(request, retries_max), forget=False)
