"""What a run cost, shared out to the requests in it and their tenants.

Role: every step of a run is charged in equal parts to the rows it ran for, so that the ledger's energy and device time
are the sums over runs; a request that was cancelled meanwhile is still its tenant's to pay. Energies are the
profile's for that step and batch size: known or unknown, never 0 for unknown.
Source: DESIGN.md 3 (ledger energy = sum over runs), ALGORITHMS of energy attribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..policies.view import Served
from .ledger import Account
from .records import ExitDone, Flight, Request


def book_steps(
    flight: Flight,
    served: Served,
    done: ExitDone,
    requests: Mapping[int, Request],
    account: Callable[[str], Account],
) -> None:
    """Charge what ran since the last report: segments to all rows still in the run, heads to those they looked at."""
    costs = served.costs
    for step in done.steps:
        times, energies = (costs.head_us, costs.head_mj) if step.head else (costs.segment_us, costs.segment_mj)
        flight.observed_us += step.took_us
        flight.profiled_us += times[step.index][step.batch]
        share_mj = None if energies is None else energies[step.index][step.batch] / step.batch
        looked = [row.ticket for row in done.rows if row.ticket in flight.rows]
        for ticket in looked if step.head else list(flight.rows):
            account(flight.owners[ticket]).book_run(share_mj, step.took_us // step.batch, costs.energy_source)
            request = requests.get(ticket)
            if request is None:
                continue
            request.compute_us += step.took_us
            if request.energy_mj is not None:
                request.energy_mj = None if share_mj is None else request.energy_mj + share_mj
            if not step.head:
                request.batches.append(step.batch)
