"""What the engine is not given for now: inputs that killed it, and networks it keeps failing on.

Role: the core's memory of what went wrong. A worker's death makes suspects of the inputs it was running: they run alone
from then on, so that innocent rows of the batch are not blamed, and one that is alone in a second death is poison.
A tenant whose inputs end the engine again and again, each another one that is never answered, has all refused.
Faults that the engine reports of one network bar it for the tenant they hit, and for everybody once they hit two.
Flow: worker dies -> `died`; a suspect is answered -> `cleared`; engine fault -> `faulted`; canary -> `passed` or
`failed`; newcomer -> `refusal`, then `suspects`.

Does not: end requests or run canaries. An input's digest is made only after a death, and for its tenant's newcomers.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from ..clients.wire import VERSION, Offer, Refusal
from ..policies.view import Served, rounded_up
from .config import Limits
from .records import Payload, Request

# Of a tenant and a network: by the network's key where it is about workers, by name and version where about inputs.
_Whose = tuple[str, str]
# Who has asked within this time is likely to ask again before a worker that dies now is replaced.
BESIDE_US = 10_000_000


class _Suspect:
    """An input that was running when a worker died: how often, and until when that is remembered."""

    __slots__ = ("deaths", "until_us")

    def __init__(self) -> None:
        self.deaths = self.until_us = 0


class _Death(NamedTuple):
    """A worker's, with nobody's inputs in it but one tenant's: those of them that have not been answered since."""

    until_us: int
    inputs: set[bytes]


class Quarantine:
    """Suspects and poison by tenant and network, and the networks that are barred."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._suspects: dict[_Whose, OrderedDict[bytes, _Suspect]] = {}
        self._deaths: dict[_Whose, deque[_Death]] = {}
        self._faults: dict[_Whose, deque[int]] = {}
        self._barred: dict[_Whose, int] = {}
        self._down: dict[str, int] = {}
        # Whether any network is doubted.
        self.doubting = False
        # When tenants last asked, by network's key.
        self._asked: dict[str, dict[str, int]] = {}

    # ---- inputs

    def died(self, now_us: int, requests: Iterable[Request]) -> list[Request]:
        """The worker died while it ran these. Returns those that are poison now; the others are to be run alone."""
        counted: set[tuple[_Whose, bytes]] = set()
        poison: list[Request] = []
        until_us = now_us + self._limits.poison_ms * 1000
        for request in requests:
            whose, digest = _whose(request.tenant, request.waiting.served), _digest(request.payload)
            known = self._suspects.setdefault(whose, OrderedDict())
            suspect = known.setdefault(digest, _Suspect())
            known.move_to_end(digest)
            if (whose, digest) not in counted:
                # The same input twice in one batch has killed one worker, not two.
                counted.add((whose, digest))
                suspect.deaths += 1
            suspect.until_us = until_us
            request.suspect = request.waiting.alone = True
            if suspect.deaths >= self._limits.poison_deaths:
                poison.append(request)
            if len(known) > self._limits.suspects_max:
                known.popitem(last=False)
        if len({whose for whose, _ in counted}) == 1:
            [whose] = {whose for whose, _ in counted}
            deaths = self._deaths.setdefault(whose, deque(maxlen=self._limits.suspect_deaths_max))
            deaths.append(_Death(until_us, {digest for _, digest in counted}))
        return poison

    def cleared(self, request: Request) -> None:
        """A suspect has been answered: it was not its input that the worker died of."""
        whose, digest = _whose(request.tenant, request.waiting.served), _digest(request.payload)
        known = self._suspects.get(whose)
        if known is not None:
            known.pop(digest, None)
            if not known:
                del self._suspects[whose]
        for death in list(self._deaths.get(whose, ())):
            death.inputs.discard(digest)
            if not death.inputs:
                self._deaths[whose].remove(death)

    def suspects(self, now_us: int, request: Request) -> bool:
        """Whether this newcomer's input must run alone; it is marked then."""
        key = request.waiting.served.key
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = {}
        asked[request.tenant] = now_us
        if not self._suspects:
            return request.suspect
        known = self._known(now_us, request.tenant, request.waiting.served)
        if known and _digest(request.payload) in known:
            request.suspect = request.waiting.alone = True
        return request.suspect

    def others(self, now_us: int, tenant: str, keys: Iterable[str] | None) -> bool:
        """Whether anybody but this tenant has used these networks lately; None: any."""
        since_us = now_us - BESIDE_US
        asked = self._asked.values() if keys is None else [self._asked[key] for key in keys if key in self._asked]
        return any(name != tenant and when_us > since_us for told in asked for name, when_us in told.items())

    # ---- networks

    def faulted(self, now_us: int, request: Request) -> bool:
        """The engine failed on this request, which ran alone; True if its network is barred by that."""
        served, limits = request.waiting.served, self._limits
        whose = request.tenant, served.key
        faults = self._faults.setdefault(whose, deque(maxlen=limits.faults_max))
        faults.append(now_us)
        window_us = limits.fault_window_ms * 1000
        if len(faults) < limits.faults_max or faults[0] <= now_us - window_us:
            return False
        faults.clear()
        self._barred[whose] = now_us + window_us
        self.doubting = True
        if sum(key == served.key and until_us > now_us for (_, key), until_us in self._barred.items()) > 1:
            self._down[served.key] = now_us + window_us
        return True

    def passed(self, key: str) -> bool:
        """The network has answered its canary as it should: nobody is kept from it any more. True if somebody was."""
        down = self._down.pop(key, None) is not None
        barred = [whose for whose in self._barred if whose[1] == key]
        for whose in barred:
            del self._barred[whose]
        self.doubting = bool(self._barred or self._down)
        return down or bool(barred)

    def failed(self, now_us: int, key: str) -> None:
        """The network has not: it is barred for everybody."""
        self._down[key] = now_us + self._limits.fault_window_ms * 1000
        self.doubting = True

    def forget(self, key: str) -> None:
        """This network is served no more."""
        self.passed(key)
        self._asked.pop(key, None)
        for whose in [whose for whose in self._faults if whose[1] == key]:
            del self._faults[whose]

    def renew(self, gone: Served) -> None:
        """This version of a network is served no more, by any worker."""
        for remembered in (self._suspects, self._deaths):
            for whose in [whose for whose in remembered if whose == _whose(whose[0], gone)]:
                del remembered[whose]

    def doubted(self) -> set[str]:
        """The keys of networks that should show by a canary that they are well."""
        return {*self._down, *(key for _, key in self._barred)}

    # ---- newcomers

    def refusal(self, now_us: int, tenant: str, served: Served, payload: Payload) -> tuple[str, str, Offer] | None:
        """Code, text and offer for a request that is not run for now; None if nothing is against it."""
        if self.doubting:
            until_us = max(self._barred.get((tenant, served.key), 0), self._down.get(served.key, 0))
            if until_us > now_us:
                said = f"the engine has failed on {served.name} too often (limits.faults_max is"
                said = f"{said} {self._limits.faults_max}) or on its canary; it is tried again until it is well"
                retry_ms = min((until_us - now_us) / 1000, float(self._limits.canary_ms))
                return "quarantined", said, Offer(retry_after_ms=rounded_up(retry_ms))
        known = self._known(now_us, tenant, served)
        if not known:
            return None
        limits, deadly = self._limits, self._limits.poison_deaths
        found = known.get(_digest(payload))
        poison = [suspect.until_us for suspect in known.values() if suspect.deaths >= deadly]
        deaths = [death.until_us for death in self._deaths.get(_whose(tenant, served), ()) if death.until_us > now_us]
        if found is not None and found.deaths >= deadly:
            said, until_us = f"this input ended the engine {found.deaths} times (limits.poison_deaths)", found.until_us
        elif len(poison) >= limits.poison_inputs_max:
            said = f"{len(poison)} of your inputs ended the engine of {served.name} (limits.poison_inputs_max)"
            until_us = min(poison)
        elif len(deaths) >= limits.suspect_deaths_max:
            said = f"your inputs alone ended the engine of {served.name} {len(deaths)} times"
            said, until_us = f"{said} (limits.suspect_deaths_max)", min(deaths)
        else:
            return None
        return (
            "poison",
            f"{said}; it is not run again for now, limits.poison_ms is {limits.poison_ms}",
            Offer(retry_after_ms=rounded_up((until_us - now_us) / 1000)),
        )

    def _known(self, now_us: int, tenant: str, served: Served) -> OrderedDict[bytes, _Suspect] | None:
        """What is remembered of this tenant's inputs to this network; what is over is forgotten."""
        if not self._suspects:
            return None
        known = self._suspects.get(_whose(tenant, served))
        while known and next(iter(known.values())).until_us <= now_us:
            known.popitem(last=False)
        return known


def refused(request_id: bytes, verdict: tuple[str, str, Offer]) -> Refusal:
    """The refusal that says so."""
    code, said, offer = verdict
    return Refusal(VERSION, request_id, code, said, offer)


def _whose(tenant: str, served: Served) -> _Whose:
    return tenant, f"{served.name} {served.version}"


def _digest(payload: Payload) -> bytes:
    return blake2b(payload, digest_size=16).digest()
