"""What a run cost, shared out to the requests in it and their tenants.

Role: every step of a run is charged in equal parts to the rows it ran for, so that the ledger's energy and device time
are the sums over runs; a request that was cancelled meanwhile is still its tenant's to pay. Energies are the
profile's for that step and batch size: known or unknown, never 0 for unknown. What a request was owed (its mandatory
segments, within its tenant's promise) and what it had beyond is told apart, for only the latter counts for fairness.
Source: DESIGN.md 3 (ledger energy = sum over runs), ALGORITHMS of energy attribution.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from ..policies.attribution import Attribution
from ..profiles.costs import Costs
from .ledger import Ledger, Took
from .records import ExitDone, Flight, Ran, Request


class _Part(NamedTuple):
    """One row's part of some steps. `compute_us`: how long they ran; `device_us`: that over the rows they ran for.

    `energy_mj` and `free_mj` are 0 where `known` says that they are not. `batches`: of its segments.
    """

    compute_us: int
    device_us: int
    owed_us: float
    free_us: float
    energy_mj: float
    free_mj: float
    known: bool
    batches: list[int]


def book_steps(now_us: int, flight: Flight, done: ExitDone, *, requests: Mapping[int, Request], ledger: Ledger) -> None:
    """Charge what ran since the last report: segments to all rows still in the run, heads to those they looked at."""
    costs = flight.served.costs_at(flight.run.clock_khz)
    for step in done.steps:
        times = costs.head_us if step.head else costs.segment_us
        flight.observed_us += step.took_us
        flight.profiled_us += times[step.index][step.batch]
    looked = {row.ticket for row in done.rows}
    # Most rows of a run have the same part in it.
    parts: dict[tuple[int, bool], tuple[_Part, Ran]] = {}
    tenants: dict[str, Took] = {}
    for ticket in flight.rows:
        request, tenant = requests.get(ticket), flight.owners[ticket]
        sort = (-1 if request is None else request.waiting.owed_to, ticket in looked)
        found = parts.get(sort)
        if found is None:
            found = parts[sort] = _part(costs, done, *sort), Ran(now_us, sort[1], done.steps)
        part, ran = found
        took = tenants.get(tenant)
        if took is None:
            took = tenants[tenant] = Took()
        if not flight.audit:
            # An audit is no wish of its tenant's: it shows in the account, and counts against no quota and no share.
            took.owed_us += part.owed_us
            took.free_us += part.free_us
            took.free_mj += part.free_mj
        took.energy_mj += part.energy_mj
        took.device_us += part.device_us
        if request is not None:
            request.compute_us += part.compute_us
            request.batches += part.batches
            request.ran.append(ran)
            if request.energy_mj is not None:
                request.energy_mj = request.energy_mj + part.energy_mj if part.known else None
    source = costs.charged_source
    ledger.ran(flight.served, done.steps)
    if ledger.attribution is not None and source != "unknown":
        _note_steps(now_us, flight, done, looked, ledger.attribution)
    for tenant, took in tenants.items():
        ledger.book(now_us, tenant, took, source)


def _note_steps(now_us: int, flight: Flight, done: ExitDone, looked: set[int], attribution: Attribution) -> None:
    """When each step ran, reckoned back from its report, and what it is charged to whom: until the meter has spoken."""
    costs, owners = flight.served.costs_at(flight.run.clock_khz), flight.owners
    start_us = now_us - sum([step.took_us for step in done.steps])
    for step in done.steps:
        energies = costs.head_mj if step.head else costs.segment_mj
        assert energies is not None
        row_mj, shares = energies[step.index][step.batch] / step.batch, dict[Hashable, float]()
        for ticket in looked if step.head else flight.rows:
            if ticket in owners:
                shares[owners[ticket]] = shares.get(owners[ticket], 0.0) + row_mj
        attribution.ran(start_us, start_us + step.took_us, (flight.run.network, step.index), shares)
        start_us += step.took_us


def _part(costs: Costs, done: ExitDone, owed_to: int, looked: bool) -> _Part:
    """What these steps are to a row that is owed segments up to `owed_to`; its answer was `looked` at, or not."""
    compute_us = device_us = 0
    owed_us = free_us = energy_mj = free_mj = 0.0
    known, batches = True, []
    for step in done.steps:
        head, index, batch, took_us = step.head, step.index, step.batch, step.took_us
        if head and not looked:
            continue
        energies = costs.head_mj if head else costs.segment_mj
        row_mj = 0.0
        if energies is None:
            known = False
        else:
            row_mj = energies[index][batch] / batch
        compute_us += took_us
        device_us += took_us // batch
        energy_mj += row_mj
        if index <= owed_to:
            owed_us += took_us / batch
        else:
            free_us += took_us / batch
            free_mj += row_mj
        if not head:
            batches.append(batch)
    return _Part(compute_us, device_us, owed_us, free_us, energy_mj, free_mj, known, batches)
