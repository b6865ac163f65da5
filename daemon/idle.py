"""What the device does though nobody waits: canaries that are due, and answers to look at again.

Role: the part of the core that fills idle time, and acts on what canaries show. A doubted network's canary goes first,
and before requests too: nobody can use that network until it is well. Does not: touch requests.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..policies.view import Served
from .assurance import Assurance
from .canary import Canaries
from .device import Device
from .quarantine import Quarantine
from .records import Effect, ExitDone, Flight, Restart, RunFailed, RunReturned, Told

# A fresh engine may help a network that fails canary after canary; tried less and less often.
RESTARTS_AFTER = (2, 8, 64)


class Idle:
    """Runs that belong to nobody. `canaries`: none, unless somebody sets others."""

    def __init__(self, device: Device, assurance: Assurance, quarantine: Quarantine) -> None:
        self.canaries = Canaries()
        self._device = device
        self._assurance = assurance
        self._audits = assurance.audits
        self._quarantine = quarantine

    def stir(self, now_us: int) -> None:
        """Somebody came: the device is not idle yet."""
        self._assurance.audits.stir(now_us)
        self.canaries.stir(now_us)

    def due_at(self) -> int:
        """When an idle device has something to do; NEVER_US when nothing is due."""
        audit_us = self._audits.wake_at()
        if not self._device.ready:
            return audit_us
        canary_us = self.canaries.due_at(doubt=self._quarantine.doubting)
        return canary_us if canary_us < audit_us else audit_us

    def flight(self, run_id: int, now_us: int, networks: Mapping[str, Served], *, waited: bool) -> Flight | None:
        """The next such run for a device that is ready and has none. `waited`: somebody waits for it."""
        audits, doubting = self._assurance.audits, self._quarantine.doubting
        if waited and not doubting:
            return None
        flight = None
        if self._device.has_power(now_us, networks.values()):
            flight = self.canaries.flight(run_id, now_us, networks, self._quarantine.doubted() if doubting else set())
        if flight is None and not waited and audits.wake_at() <= now_us:
            flight = audits.flight(run_id, now_us, self._device.reaches)
        return flight

    def forget(self, gone: Served, *, last: bool) -> None:
        """This network is served no more; `last`: nor is this version of it by any other worker."""
        self.canaries.forget(gone.key)
        self._quarantine.forget(gone.key)
        if last:
            self._quarantine.renew(gone)
            self._assurance.forget(gone)

    def told(self, now_us: int, flight: Flight, done: ExitDone | RunFailed | RunReturned) -> list[Effect]:
        """A canary is over, or gave way: whoever is well is barred no more, whoever is not is for everybody."""
        self._device.over(flight, now_us)
        self.canaries.stir(now_us)
        verdict = None if isinstance(done, RunReturned) else self.canaries.told(flight, done)
        if verdict is None:
            return []
        name, key = flight.served.name, flight.served.key
        if not verdict.fault:
            well = self._quarantine.passed(key)
            return [Told(f"network {name} has answered its canary: it is barred no more")] if well else []
        self._quarantine.failed(now_us, key)
        effects: list[Effect] = [Told(f"network {name} has not answered its canary as it should: {verdict.fault}")]
        if verdict.failed_in_a_row in RESTARTS_AFTER:
            effects.append(Restart(f"network {name} failed {verdict.failed_in_a_row} canaries in a row", key))
        return effects
