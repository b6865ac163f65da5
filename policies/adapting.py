"""A tenant's adaptation policy at work: what it makes of a request's bounds, and what it learns.

Role: between bounds and the plan: `Adapted.asked` narrows the exits a request may and must go to, as far as its bounds
leave a choice. One per tenant that has a policy; those that have none never come here. Pure.

Does not: keep hard caps (`energy_caps.py`), or decide what runs next.
"""

from __future__ import annotations

from ..clients.adaptation import Adaptation, Adapting
from ..clients.wire import Answer, Stop
from .alert import Alert
from .budgets import Budget, worth_it
from .energy_caps import EnergyCap
from .exits import Asked, Misfit, plan
from .horizon import Horizon
from .view import Served, Waiting

# Of the device's time, how much `load` plans to use; and over how long it counts who asks.
USE_MAX, COUNTED_US = 0.7, 2_000_000.0


class Adapted:
    """One tenant's. `budget`: its own, None where the device's is to last, or nothing is."""

    __slots__ = ("_alert", "_exit", "_seen_us", "_work", "adaptation", "budget", "power")

    def __init__(self, now_us: int, adaptation: Adaptation) -> None:
        self.adaptation = adaptation
        self.budget = _budget(now_us, adaptation)
        self.power = EnergyCap(adaptation.power_w, None)
        self._alert = Alert()
        self._exit: int | None = None
        # For `load`: what was asked for of late, in requests and as a fading sum.
        self._seen_us, self._work = now_us, 0.0

    def asked(self, now_us: int, wanted: Asked, served: Served, device: Budget | None) -> Asked | None:
        """What a request is held to under this policy; None: nothing of it is worth its energy just now.

        `device`: the budget of the whole device, for whoever has none of their own.
        """
        said = self._asked(now_us, wanted, served, device)
        if said is None or said is wanted:
            return said
        if isinstance(plan(said, served), Misfit):
            # Its own bounds leave no such choice.
            return wanted
        return said

    def _asked(self, now_us: int, wanted: Asked, served: Served, device: Budget | None) -> Asked | None:
        policy = self.adaptation.policy
        if policy == "conditions":
            said = self.adaptation.conditions.get(served.name)
            free = wanted.conditions is None and wanted.accuracy is None and wanted.energy_mj is None
            return wanted._replace(conditions=said) if said is not None and free else wanted
        if wanted.conditions is not None or policy == "none":
            return wanted
        if policy == "fixed":
            assert self.adaptation.exit is not None
            return self._to(wanted, min(self.adaptation.exit, len(served.costs.accuracy) - 1))
        if policy == "alert":
            return self._to(wanted, self._alert.exit(wanted, served))
        if policy == "load":
            return self._to(wanted, self._under_load(now_us, served))
        budget = device if self.adaptation.energy_j is None and self.adaptation.power_w is None else self.budget
        worth = served.worth
        if budget is None or worth is None:
            return wanted
        chosen = plan(wanted, served)
        if isinstance(chosen, Misfit):
            return wanted
        bounded = wanted.bounded
        most = chosen.target if wanted.objective == "accuracy" else chosen.mandatory
        found = worth_it(worth, budget.price(now_us, worth), chosen.mandatory, most)
        if found is None:
            # Whoever has bounds is answered while there is energy: caps refuse, prices only make shallower.
            return self._to(wanted, chosen.mandatory) if bounded else None
        return self._to(wanted, found)

    def told(self, waiting: Waiting, reply: Answer) -> None:
        """A request was answered."""
        if self.adaptation.policy == "alert":
            self._alert.observe(waiting.served.costs.path_us(0, reply.exit, 1), reply.total_us)

    def standing(self, now_us: int, device: Budget | None) -> Adapting:
        """As its tenant is told."""
        own = self.budget
        budget = device if own is None and self.adaptation.policy == "battery" else own
        if budget is None:
            return Adapting(self.adaptation.policy, exit=self._exit)
        horizon, allowed_mw = budget.horizon, budget.allow_mw(now_us)
        return Adapting(
            self.adaptation.policy,
            None if horizon is None else horizon.left_mj / 1000,
            None if horizon is None else max(0.0, (horizon.until_us - now_us) / 1e6),
            allowed_mw / 1000 if allowed_mw < float("inf") else None,
            budget.spent_mj / 1000,
            self._exit,
            own is None,
        )

    def _to(self, wanted: Asked, exit_index: int) -> Asked:
        self._exit = exit_index
        deepest = exit_index if wanted.deepest is None else min(exit_index, wanted.deepest)
        fixed = self.adaptation.policy == "fixed"
        why: Stop = "energy" if self.adaptation.policy == "battery" else "objective"
        return wanted._replace(deepest=deepest, least=deepest if fixed else 0, at_deepest=why)

    def _under_load(self, now_us: int, served: Served) -> int:
        """The deepest exit at which what is asked of late would use no more than its part of the device."""
        passed_us = now_us - self._seen_us
        self._seen_us = now_us
        self._work = self._work * max(0.0, 1 - passed_us / COUNTED_US) + 1
        rate_hz = self._work / COUNTED_US * 1e6
        for exit_index in reversed(served.ladder):
            if rate_hz * served.row_us(exit_index) * served.correction.mu <= USE_MAX * 1e6:
                return exit_index
        return served.ladder[0]


def _budget(now_us: int, adaptation: Adaptation) -> Budget | None:
    if adaptation.energy_j is None and adaptation.power_w is None:
        return None
    horizon = None
    if adaptation.energy_j is not None and adaptation.for_s is not None:
        horizon = Horizon(adaptation.energy_j * 1000, now_us + int(adaptation.for_s * 1e6))
    power_mw = float("inf") if adaptation.power_w is None else adaptation.power_w * 1000
    return Budget(now_us, horizon, power_mw)
