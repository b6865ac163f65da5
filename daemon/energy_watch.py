"""Energy, as the loop turns: meter, battery, what was charged made true, and how tenants' requests adapt.

Role: keeps the loop short; each part is its own module. An adaptation that the operator configured holds from the start
and whenever the configuration says another; in between tenants may say their own. Does not: wait for anybody.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from ..clients.adaptation import Adaptation
from .battery import BatteryWatch
from .budget_events import tell
from .config import Config
from .counters import Counters
from .desk import Desk
from .journal_records import AdaptedTo
from .rights import TenantConfig
from .sampler import Sampler
from .server import Server
from .settling import LOOK_US, Settling

EVERY_US = 1_000_000
# A board without a clock of its own begins in 1970, until somebody tells it the time: then times are reckoned anew.
JUMP_S = 30.0
# Less than any request takes.
ENERGY_J_MIN = 1e-9
NOTHING: tuple[object, ...] = (Adaptation(), None)


class EnergyWatch:
    """All of it."""

    def __init__(
        self,
        config: Config,
        core: tuple[Server, Desk, Counters],
        note: Callable[[str], None],
        wall: Callable[[], float],
        now_us: int,
    ) -> None:
        self._server, self._desk, self._counters = core
        self._note, self._wall = note, wall
        self.sampler = Sampler(config, self._desk.metering, note, now_us)
        metering = self._desk.metering
        self._settling = Settling(self._server, self.sampler.track, lambda: metering.reads, now_us)
        self._battery = BatteryWatch(config.battery, self._server, note, wall)
        self._adapted: dict[str, tuple[object, ...]] = {}
        self._offset_s = 0.0
        self._due_us = self._turn_us = self._wake_us = now_us
        self.turn(now_us)

    def turn(self, now_us: int) -> None:
        """Nothing where nothing is due: it is asked at every turn of the loop, and so by every request."""
        if now_us < self._turn_us:
            return
        self.sampler.turn(now_us)
        self._settling.turn(now_us)
        self._battery.turn(now_us)
        if now_us >= self._due_us:
            self._due_us = now_us + EVERY_US
            self._adapt(now_us)
        self._wake_us = min(self.sampler.wake_at(), self._battery.wake_at())
        self._turn_us = min(self._wake_us, self._due_us, now_us + LOOK_US)

    def wake_at(self) -> int:
        """When `turn` has something to do, as far as it cannot wait for another event."""
        return self._wake_us

    def close(self) -> None:
        self.sampler.close()
        self._battery.close()

    def _adapt(self, now_us: int) -> None:
        tenants = {tenant.name: tenant for tenant in self._desk.configured()}
        offset_s, lasts = self._wall() - now_us / 1e6, self._server.ledger.budgets.lasts
        jumped = abs(offset_s - self._offset_s) > JUMP_S
        self._offset_s = offset_s if jumped else self._offset_s
        for name, tenant in tenants.items():
            said = (tenant.adaptation, tenant.energy_until)
            if self._adapted.get(name, NOTHING) != said or (jumped and name in lasts):
                self._adapted[name] = said
                self._tell(now_us, tenant)
        for gone in self._adapted.keys() - tenants.keys():
            del self._adapted[gone]

    def _tell(self, now_us: int, tenant: TenantConfig) -> None:
        fault = tenant.adaptation_fault(self._wall())
        if fault is not None:
            self._note(f"tenant {tenant.name}: {fault}")
        adaptation = tenant.adapted(self._wall())
        if tenant.energy_until is None or adaptation.energy_j is None:
            tell(self._server, AdaptedTo(now_us, tenant.name, adaptation))
            return
        # A restart gives nobody again what was had before it.
        which = f"{adaptation.energy_j:g} J until {tenant.energy_until.isoformat()}"
        lasting = dict(self._server.ledger.budgets.lasting())
        kept, had_mj = lasting.get(tenant.name) or self._counters.of(tenant.name).budget
        had_mj = had_mj if kept == which else 0.0
        left_j = max(ENERGY_J_MIN, adaptation.energy_j - had_mj / 1000)
        tell(self._server, AdaptedTo(now_us, tenant.name, replace(adaptation, energy_j=left_j)))
        self._server.ledger.budgets.last(tenant.name, which, had_mj)
