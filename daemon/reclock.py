"""What a network costs once the device's clock or power mode has changed: told to the core, and to its journal.

Role: the events by which costs of a served network change, and by which a clock that a run wished is in force; the same
for the daemon (`clock_watch.py`), for simulation and for a journal that is played again. Predictions begin anew with
wide margins, since what was learnt was learnt elsewhere. Does not: find out what has changed, or what it costs.
"""

from __future__ import annotations

from ..policies.clock import device_clock
from ..policies.correction_rivals import correction
from ..profiles.costs import Costs
from .journal_records import ClockConfirmed, Reclocked, Setup
from .recorded import Recorded
from .server import Server


def reclock(server: Server, record: Reclocked, setup: Setup) -> None:
    """From now on this network costs what the record says; `setup`: how the core follows its times."""
    if isinstance(server, Recorded):
        server.reclocked(record)
    served, view = server.networks[record.network], server.view()
    served.renew(
        Costs.of_tables(record.costs),
        {khz: Costs.of_tables(tables) for khz, tables in record.at_khz.items()},
        correction(setup.correction, miss_target=setup.miss_target, p95_over_p50=record.p95_over_p50),
    )
    if server.ledger.attribution is not None:
        server.ledger.attribution.renew(record.network)
    before, clock = view.clock, None
    if record.clock_khz:
        clock = device_clock(server.networks.values(), record.switch_us, record.dwell_us)
    if clock is not None:
        clock.now_khz = record.clock_khz if before is None else before.now_khz
        clock.wished_khz = 0 if before is None else before.wished_khz
        clock.since_us = record.now_us
    view.clock = clock


def confirm(server: Server, record: ClockConfirmed) -> None:
    """The device's clock is this from now on, as whoever sets it says."""
    if isinstance(server, Recorded):
        server.clocked(record)
    clock = server.view().clock
    if clock is not None:
        clock.confirm(record.khz, record.now_us)
