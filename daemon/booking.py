"""What a run cost, shared out to the requests in it and their tenants.

Role: every step of a run is charged in equal parts to the rows it ran for, so that the ledger's energy and device time
are the sums over runs; a request that was cancelled meanwhile is still its tenant's to pay. Energies are the
profile's for that step and batch size: known or unknown, never 0 for unknown. What a request was owed (its mandatory
segments, within its tenant's promise) and what it had beyond is told apart, for only the latter counts for fairness.
Source: DESIGN.md 3 (ledger energy = sum over runs), ALGORITHMS of energy attribution.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..policies.view import Served
from .ledger import Account, Ledger, Took
from .records import ExitDone, Flight, Request


def book_steps(
    now_us: int, flight: Flight, served: Served, done: ExitDone, *, requests: Mapping[int, Request], ledger: Ledger
) -> None:
    """Charge what ran since the last report: segments to all rows still in the run, heads to those they looked at."""
    costs, owners = served.costs, flight.owners
    tenants: dict[str, tuple[Account, Took]] = {}
    for step in done.steps:
        times, energies = (costs.head_us, costs.head_mj) if step.head else (costs.segment_us, costs.segment_mj)
        flight.observed_us += step.took_us
        flight.profiled_us += times[step.index][step.batch]
        row_us = step.took_us / step.batch
        row_mj = None if energies is None else energies[step.index][step.batch] / step.batch
        looked = [row.ticket for row in done.rows if row.ticket in flight.rows]
        for ticket in looked if step.head else list(flight.rows):
            tenant, request = owners[ticket], requests.get(ticket)
            found = tenants.get(tenant)
            if found is None:
                found = tenants[tenant] = ledger.account(tenant), Took()
            account, took = found
            account.book_run(row_mj, step.took_us // step.batch, costs.energy_source)
            if request is not None and request.waiting.owes(step.index):
                took.owed_us += row_us
            else:
                took.free_us += row_us
                took.free_mj = None if row_mj is None or took.free_mj is None else took.free_mj + row_mj
            if request is None:
                continue
            request.compute_us += step.took_us
            if request.energy_mj is not None:
                request.energy_mj = None if row_mj is None else request.energy_mj + row_mj
            if not step.head:
                request.batches.append(step.batch)
    for tenant, (_, took) in tenants.items():
        ledger.book(now_us, tenant, took)
