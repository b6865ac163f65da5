"""What the core is told of energy: another adaptation, a battery's state, what steps turn out to take; and its journal.

Role: these are events by which decisions change, so each goes into the journal where there is one, and a journal that
is played again comes here too. Does not: find any of it out.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..clients.adaptation import Adaptation
from ..clients.info import NetworkInfo
from ..clients.wire import VERSION, Adapt, Adapted, Refusal
from ..policies.horizon import Harvest, Horizon
from ..profiles.costs import Costs, Table
from .journal_records import AdaptedTo, Batteried, Corrected, EnergyRecord
from .recorded import Recorded
from .server import Server


def tell(server: Server, record: EnergyRecord) -> None:
    """From now on this holds."""
    if isinstance(server, Recorded):
        server.noted(record)
    server.learn()
    if isinstance(record, AdaptedTo):
        server.ledger.budgets.adapt(record.now_us, record.tenant, record.adaptation)
    elif isinstance(record, Batteried):
        harvest = tuple(Harvest(until_us, power_mw) for until_us, power_mw in record.harvest)
        horizon = Horizon(record.energy_mj, record.until_us, reserve_mj=record.reserve_mj)
        server.ledger.budgets.battery(record.now_us, horizon, harvest)
    elif isinstance(record, Corrected):
        for tenant, more_mj in record.more_mj:
            server.ledger.correct(record.now_us, tenant, more_mj)
    else:
        served = server.networks[record.network]
        served.recost(
            scaled(served.costs, record.factors),
            {khz: scaled(costs, record.factors) for khz, costs in served.at_khz.items()},
        )


def scaled(costs: Costs, factors: tuple[float, ...]) -> Costs:
    """The same costs, with the energy of each segment and its head times its factor."""
    if costs.segment_mj is None or costs.head_mj is None:
        return costs
    return costs.with_energies(_times(costs.segment_mj, factors), _times(costs.head_mj, factors))


def _times(table: Table, factors: tuple[float, ...]) -> Table:
    return [[mj * factor for mj in row] for row, factor in zip(table, factors, strict=True)]


def adapted(
    server: Server, now_us: int, tenant: str, message: Adapt, networks: Sequence[NetworkInfo]
) -> Adapted | Refusal:
    """Let this tenant's requests adapt so, if that can be; how it stands then. `networks`: that it may use."""
    wanted = message.adaptation
    if wanted is not None:
        fault = unfit(wanted, networks, battery=server.ledger.budgets.device is not None)
        if fault is not None:
            return Refusal(VERSION, message.id, "adaptation", fault)
        tell(server, AdaptedTo(now_us, tenant, wanted))
    server.learn()
    budgets = server.ledger.budgets
    return Adapted(VERSION, message.id, budgets.adaptation(tenant), budgets.standing(now_us, tenant))


def unfit(wanted: Adaptation, networks: Sequence[NetworkInfo], *, battery: bool) -> str | None:
    """Why this cannot be had of these networks, in words for the tenant; None: it can."""
    by_name = {network.name: network for network in networks}
    for name, said in wanted.conditions.items():
        network = by_name.get(name)
        if network is None:
            return (
                f"conditions for {name!r:.80}, which is no network of yours; yours are: {', '.join(by_name) or 'none'}"
            )
        if len(said) != len(network.exits):
            return f"conditions for {len(said)} exits; {name} has {len(network.exits)}"
    if wanted.exit is not None and all(wanted.exit >= len(network.exits) for network in networks):
        most = max([len(network.exits) for network in networks], default=0)
        return f"exit {wanted.exit}; your networks have at most {most} exits, counted from 0"
    if wanted.policy == "battery" and wanted.energy_j is None and wanted.power_w is None and not battery:
        return "battery: this device is told of no battery; give energy_j and for_s, or power_w"
    if wanted.policy == "battery" or wanted.energy_j is not None or wanted.power_w is not None:
        unknown = [network.name for network in networks if any(each.energy_mj is None for each in network.exits)]
        if unknown:
            return f"no energies are known here of {', '.join(unknown)}, so none can be kept to; profile them first"
    return None
