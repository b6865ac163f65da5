"""What the meter's standing means for what tenants ask and are told.

Role: a network's figures are called `measured` only while a meter reads: without one, those of a profile that was
measured are a model of this moment. What a request is charged is modelled in any case (`Costs.charged_source`); what a
tenant took is measured once it is settled. Energy bounds are kept by the model, or refused while no meter reads. Pure.
Does not: know sensors or processes (`sampler.py`).
"""

from __future__ import annotations

from msgspec.structs import replace

from ..clients.info import EnergySource, MeterInfo, NetworkInfo
from ..clients.wire import VERSION, Infer, Refusal
from ..policies.exits import Asked


class Metering:
    """How the meter stands, and what follows. `refuses`: energy bounds, while it does not read."""

    def __init__(self) -> None:
        self.info = MeterInfo()
        self.refuses = False

    def tell(self, info: MeterInfo) -> None:
        """How the meter stands now."""
        self.info = info

    @property
    def reads(self) -> bool:
        return self.info.state == "reading"

    def refusal(self, infer: Infer, wanted: Asked) -> Refusal | None:
        """For a request whose energy bound nobody could check; None where that is no matter."""
        if not self.refuses or self.reads or not _bounds_energy(wanted):
            return None
        how = "there is no power meter" if self.info.state == "none" else f"the power meter is {self.info.state}"
        said = f"energy_mj: {how}, and this daemon keeps energy bounds by measurement alone; ask without one"
        return Refusal(VERSION, infer.id, "energy_unknown", said)

    def source(self, source: EnergySource) -> EnergySource:
        """Where a figure comes from that is the profile's: as that says while the meter reads."""
        return "modelled" if source == "measured" and not self.reads else source

    def network(self, info: NetworkInfo) -> NetworkInfo:
        if self.reads or not any(entry.energy_source == "measured" for entry in info.exits):
            return info
        exits = tuple(replace(entry, energy_source=self.source(entry.energy_source)) for entry in info.exits)
        return replace(info, exits=exits)


def _bounds_energy(wanted: Asked) -> bool:
    if wanted.energy_mj is not None:
        return True
    sets = [each for each in wanted.conditions or () if each is not None]
    return any(test.metric == "energy" for each in sets for test in (*each.all_of, *each.any_of))
