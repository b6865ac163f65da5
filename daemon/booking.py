"""What a run cost, shared out to the requests in it and their tenants.

Role: every step of a run is charged in equal parts to the rows it ran for, so that the ledger's energy and device time
are the sums over runs; a request that was cancelled meanwhile is still its tenant's to pay. Energies are the
profile's for that step and batch size: known or unknown, never 0 for unknown. What a request was owed (its mandatory
segments, within its tenant's promise) and what it had beyond is told apart, for only the latter counts for fairness.
Source: DESIGN.md 3 (ledger energy = sum over runs), ALGORITHMS of energy attribution.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..clients.wire import EnergySource
from ..policies.view import Served
from .ledger import Ledger, Took
from .records import ExitDone, Flight, Request


def book_steps(
    now_us: int, flight: Flight, served: Served, done: ExitDone, *, requests: Mapping[int, Request], ledger: Ledger
) -> None:
    """Charge what ran since the last report: segments to all rows still in the run, heads to those they looked at."""
    costs, tenants = served.costs, dict[str, Took]()
    rows = {ticket: _row(ticket, flight.owners[ticket], requests, tenants) for ticket in flight.rows}
    looked = [rows[row.ticket] for row in done.rows if row.ticket in rows]
    for step in done.steps:
        head, index, batch, took_us = step.head, step.index, step.batch, step.took_us
        times, energies = (costs.head_us, costs.head_mj) if head else (costs.segment_us, costs.segment_mj)
        flight.observed_us += took_us
        flight.profiled_us += times[index][batch]
        row_us, whole_us = took_us / batch, took_us // batch
        row_mj = 0.0 if energies is None else energies[index][batch] / batch
        for request, took, owed_to in looked if head else rows.values():
            took.device_us += whole_us
            took.energy_mj += row_mj
            if index <= owed_to:
                took.owed_us += row_us
            else:
                took.free_us += row_us
                took.free_mj += row_mj
            if request is not None:
                request.compute_us += took_us
                if request.energy_mj is not None:
                    request.energy_mj = None if energies is None else request.energy_mj + row_mj
                if not head:
                    request.batches.append(batch)
    source: EnergySource = "unknown" if costs.segment_mj is None or costs.head_mj is None else costs.energy_source
    for tenant, took in tenants.items():
        ledger.book(now_us, tenant, took, source)


def _row(
    ticket: int, tenant: str, requests: Mapping[int, Request], tenants: dict[str, Took]
) -> tuple[Request | None, Took, int]:
    """Whose row it is: the request if it has not ended, its tenant's part of the run, the last segment it was owed."""
    took = tenants.get(tenant)
    if took is None:
        took = tenants[tenant] = Took()
    request = requests.get(ticket)
    return request, took, -1 if request is None else request.waiting.owed_to
