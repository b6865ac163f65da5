"""Tenants' adaptations, and the budgets of energy they keep to: their own, and the device's battery.

Role: the part of the ledger that knows what is still to be had. Flow: `asked` and `wait_us` before a request comes in
-> `accept` -> `spend` as its runs are booked -> `ended`. Pure. Does not: read a battery (`battery.py`), or refuse.
"""

from __future__ import annotations

from ..clients.adaptation import Adaptation, Adapting
from ..clients.wire import Answer, Failure
from ..policies.adapting import Adapted
from ..policies.budgets import Budget
from ..policies.exits import Asked
from ..policies.horizon import Harvest, Horizon
from ..policies.view import Served, Waiting


class Budgets:
    """All tenants', and the device's. `device`: its battery, None where it has none that is to last."""

    def __init__(self) -> None:
        self.device: Budget | None = None
        # Whether anybody adapts or has a budget: where nobody does, no request need ask.
        self.used = False
        self._adapted: dict[str, Adapted] = {}
        self._reserved_mj: dict[str, float] = {}
        # Energy that is to last until a time, whoever restarts: which, and how much of it was had before.
        self._lasting: dict[str, tuple[str, float]] = {}
        # Whose holds now, rather than what they have said since.
        self.lasts: set[str] = set()

    def adapt(self, now_us: int, tenant: str, adaptation: Adaptation) -> None:
        """From now on this holds for the tenant's requests; those that are in keep what they came in with."""
        if tenant in self.lasts:
            self._lasting[tenant] = self._drawn(tenant)
            self.lasts.discard(tenant)
        if adaptation == Adaptation():
            self._adapted.pop(tenant, None)
        else:
            self.used = True
            adapted = self._adapted[tenant] = Adapted(now_us, adaptation)
            # Of those that are in, as much as they may take is still to come.
            adapted.power.reserve(self._reserved_mj.get(tenant, 0.0))

    def last(self, tenant: str, which: str, had_mj: float) -> None:
        """What was just adapted is the rest of energy that is known by these words; so much of it was had before."""
        self._lasting[tenant] = which, had_mj
        self.lasts.add(tenant)

    def lasting(self) -> list[tuple[str, tuple[str, float]]]:
        """By tenant, which energy is to last until a time, and how much of it was had: what a restart must know."""
        return [(tenant, self._drawn(tenant)) for tenant in self._lasting]

    def _drawn(self, tenant: str) -> tuple[str, float]:
        which, had_mj = self._lasting[tenant]
        adapted = self._adapted.get(tenant) if tenant in self.lasts else None
        return which, had_mj + (0.0 if adapted is None or adapted.budget is None else adapted.budget.spent_mj)

    def battery(self, now_us: int, horizon: Horizon, harvest: tuple[Harvest, ...]) -> None:
        """What the device's battery has now, until when it is to last, and what it is expected to get."""
        device = self.device
        if device is None or device.horizon is None:
            device, self.used = Budget(now_us, horizon), True
            self.device = device
        assert device.horizon is not None
        device.horizon.until_us, device.horizon.reserve_mj = horizon.until_us, horizon.reserve_mj
        device.know(now_us, horizon.energy_mj, harvest)

    def adaptation(self, tenant: str) -> Adaptation:
        """What holds for this tenant."""
        adapted = self._adapted.get(tenant)
        return Adaptation() if adapted is None else adapted.adaptation

    def standing(self, now_us: int, tenant: str) -> Adapting:
        """How far it has got."""
        adapted = self._adapted.get(tenant)
        return Adapting() if adapted is None else adapted.standing(now_us, self.device)

    def asked(self, now_us: int, tenant: str, wanted: Asked, served: Served) -> Asked | int:
        """What a request is held to; or how long until it may be worth its energy."""
        adapted = self._adapted.get(tenant)
        if adapted is None:
            return wanted
        found = adapted.asked(now_us, wanted, served, self.device)
        if found is not None:
            return found
        budget = adapted.budget or self.device
        return 1_000_000 if budget is None else budget.worth_in_us(now_us)

    def capped(self, tenant: str) -> bool:
        """Whether anything of this tenant must be paid for."""
        adapted = self._adapted.get(tenant)
        own = adapted is not None and (adapted.budget is not None or adapted.power.capped)
        return own or self.device is not None

    def wait_us(self, now_us: int, tenant: str, most_mj: float) -> tuple[int, str]:
        """How long until a request of at most `most_mj` can be paid for, 0: now; and what holds it up."""
        adapted, reserved_mj = self._adapted.get(tenant), self._reserved_mj
        if adapted is not None:
            own = adapted.budget
            if own is not None and own.horizon is not None:
                left_us = own.horizon.until_us - now_us
                if left_us <= 0:
                    return 3_600_000_000, "the time your energy was for is over; say a new one with adapt"
                if not own.lasts(reserved_mj.get(tenant, 0.0) + most_mj):
                    return left_us, f"energy_j {adapted.adaptation.energy_j:g}"
            wait_us, said = adapted.power.wait_us(now_us, most_mj)
            if wait_us:
                return wait_us, said.replace("power_w_max", "power_w")
        device = self.device
        if device is not None and not device.lasts(sum(reserved_mj.values()) + most_mj):
            return device.worth_in_us(now_us), "the device's battery is down to its reserve"
        return 0, ""

    def accept(self, tenant: str, waiting: Waiting) -> None:
        """A request came in."""
        if waiting.most_mj:
            self._reserved_mj[tenant] = self._reserved_mj.get(tenant, 0.0) + waiting.most_mj
            adapted = self._adapted.get(tenant)
            if adapted is not None:
                adapted.power.reserve(waiting.most_mj)

    def spend(self, now_us: int, tenant: str, spent_mj: float) -> None:
        """Its part of a run; less than 0 where it turns out to have been less."""
        adapted = self._adapted.get(tenant)
        if adapted is not None:
            adapted.power.book(now_us, spent_mj)
            if adapted.budget is not None:
                adapted.budget.spend(now_us, spent_mj)
        if self.device is not None:
            self.device.spend(now_us, spent_mj)

    def ended(self, tenant: str, waiting: Waiting, reply: Answer | Failure) -> None:
        """A request has ended."""
        adapted = self._adapted.get(tenant)
        if waiting.most_mj:
            self._reserved_mj[tenant] = max(0.0, self._reserved_mj.get(tenant, 0.0) - waiting.most_mj)
            if adapted is not None:
                adapted.power.release(waiting.most_mj)
        if adapted is not None and isinstance(reply, Answer):
            adapted.told(waiting, reply)
