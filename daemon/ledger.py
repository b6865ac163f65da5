"""What each tenant was promised, charged and given, since the daemon started.

Role: counters that the conservation law is checked on: accepted = answered + failed + pending. Energy that is not
known stays unknown and is never added as 0. `Ledger` keeps them with each tenant's share and promise, which are told of
every acceptance, run and end at one place. Runs and ends are only noted at first, for an answer that is about to leave
need not wait for them: `settle` enters, in order, what decisions read, before the next one; `count` also what only
people read, which may wait for longer. Does not: decide anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..clients.info import EnergySource, TenantStats
from ..clients.wire import Answer, Failure
from ..policies.attribution import Attribution, Settled
from ..policies.exits import Asked
from ..policies.fairness import Share, Shares, Spread, spread
from ..policies.rates import Promises, Terms, Typical
from ..policies.view import Served, Waiting
from .budgeting import Budgets
from .records import StepDone
from .tally import Tally, Work

KEPT_LATENCIES = 512
# Where nobody says when there is time for it, in simulation or with runs that no turn stays with, so many wait at most.
UNCOUNTED_MAX = 256
WORST_FIRST: tuple[EnergySource, ...] = ("unknown", "modelled", "measured")


@dataclass(slots=True)
class Took:
    """What one tenant had of a run: device time it was owed, time beyond that, the energy of the latter; and of all."""

    owed_us: float = 0.0
    free_us: float = 0.0
    free_mj: float = 0.0
    energy_mj: float = 0.0
    device_us: int = 0


@dataclass
class Account:
    """One tenant's row."""

    tenant: str
    accepted: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    bounds_met: int = 0
    bounds_broken: int = 0
    energy_mj: float = 0.0
    energy_sources: set[EnergySource] = field(default_factory=set)
    unsettled_mj: float = 0.0
    device_us: int = 0
    undeliverable: int = 0
    beyond: int = 0
    optional_us: float = 0.0
    latencies_us: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))
    exits: dict[str, list[int]] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    latency: dict[str, Tally] = field(default_factory=dict)
    queue: dict[str, Tally] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        return self.accepted - self.answered - self.failed

    @property
    def energy_source(self) -> EnergySource:
        unsettled: EnergySource = "modelled" if self.unsettled_mj else "unknown"
        return next((source for source in WORST_FIRST if source in self.energy_sources), unsettled)

    def count_answer(self, answer: Answer, exit_count: int) -> None:
        """What an answer was like; its energy and device time were booked with the runs."""
        if answer.broken:
            self.bounds_broken += 1
        else:
            self.bounds_met += 1
        for name in answer.broken:
            self.broken[name] = self.broken.get(name, 0) + 1
        self.latencies_us.append(answer.total_us)
        network = answer.network
        exits = self.exits.get(network)
        if exits is None:
            exits = self.exits[network] = [0] * exit_count
            self.latency[network], self.queue[network] = Tally(), Tally()
        # Another version may have more.
        exits += [0] * (exit_count - len(exits))
        exits[answer.exit] += 1
        self.latency[network].add(answer.total_us)
        self.queue[network].add(answer.queue_us)

    def count_failure(self, code: str) -> None:
        """Why a request that was accepted could not be answered."""
        self.failures[code] = self.failures.get(code, 0) + 1

    def book_refusal(self, code: str) -> None:
        """Count by its code a message that was refused; what was refused of requests is in `refused`."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def count_run(self, energy_mj: float | None, took_us: int, source: EnergySource, *, settles: bool = False) -> None:
        """Charge this tenant's share of a run: mJ, and device time split over the rows that used it.

        `settles`: a meter will say what it really was.
        """
        known = energy_mj is not None and source != "unknown"
        self.energy_mj += energy_mj if known and energy_mj is not None else 0.0
        if settles and source == "modelled" and energy_mj is not None:
            # What it is will be known in a second or two.
            self.unsettled_mj += energy_mj
        else:
            # A sum is as well known as its worst part.
            self.energy_sources.add(source if known else "unknown")
        self.device_us += took_us

    def settle(self, modelled_mj: float, measured_mj: float | None) -> None:
        """Of what was charged, so much has turned out to be so much; None: that will never be known."""
        self.unsettled_mj = max(0.0, self.unsettled_mj - modelled_mj)
        self.energy_sources.add("modelled" if measured_mj is None else "measured")
        if measured_mj is not None:
            self.energy_mj += measured_mj - modelled_mj

    def stats(self) -> TenantStats:
        ordered = sorted(self.latencies_us)
        return TenantStats(
            tenant=self.tenant,
            accepted=self.accepted,
            answered=self.answered,
            refused=self.refused,
            failed=self.failed,
            pending=self.pending,
            bounds_met=self.bounds_met,
            bounds_broken=self.bounds_broken,
            energy_mj=None if self.energy_source == "unknown" else self.energy_mj,
            energy_source=self.energy_source,
            device_us=self.device_us,
            latency_p50_us=_percentile(ordered, 50),
            latency_p99_us=_percentile(ordered, 99),
            exits={network: tuple(counts) for network, counts in self.exits.items()},
            beyond=self.beyond,
            optional_us=round(self.optional_us),
            undeliverable=self.undeliverable,
            refusals=self.refusals.copy(),
            failures=self.failures.copy(),
            broken=self.broken.copy(),
            latency={network: tally.told() for network, tally in self.latency.items()},
            queue={network: tally.told() for network, tally in self.queue.items()},
            unsettled_mj=self.unsettled_mj,
        )


class Ledger:
    """Every tenant's account, share and promise.

    `promises`, and shares that are at hand already, are as `settle` last left them.
    """

    def __init__(self, tenants: Mapping[str, Terms]) -> None:
        """`tenants`: those the operator configured. If there are none, all share one part of the device."""
        self.promises = Promises(tenants)
        self.budgets = Budgets()
        # Whose energy it was by the meter, where there is one; and what that said beyond all runs.
        self.attribution: Attribution | None = None
        self.idle_mj: float | None = None
        self._accounts: dict[str, Account] = {}
        self._shares: dict[str, Share] = {}
        self._tenants = tenants
        self._common = Share("")
        self._fair = Shares()
        self.noted: list[Callable[[], None]] = []
        self._uncounted: list[Callable[[], None]] = []
        self._work: dict[str, Work] = {}

    def settle(self) -> None:
        """Enter what was noted and decisions read: shares, promises, budgets, and how many requests are pending."""
        if self.noted:
            _enter(self.noted)
            if len(self._uncounted) >= UNCOUNTED_MAX:
                _enter(self._uncounted)

    def count(self) -> None:
        """Enter all that was noted. No decision reads what this does beyond `settle`, so it may be done at any time."""
        self.settle()
        _enter(self._uncounted)

    @property
    def accounts(self) -> dict[str, Account]:
        """By tenant, as of now."""
        self.count()
        return self._accounts

    @property
    def work(self) -> dict[str, Work]:
        """What the device did, by network, as of now."""
        self.count()
        return self._work

    def account(self, tenant: str) -> Account:
        """One tenant's row, as of now."""
        self.count()
        return self._account(tenant)

    def pending(self, tenant: str) -> int:
        """How many of its requests have not ended."""
        self.settle()
        return self._account(tenant).pending

    def _account(self, tenant: str) -> Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(tenant)
        return account

    def share(self, tenant: str) -> Share:
        self.settle()
        return self._share(tenant)

    def _share(self, tenant: str) -> Share:
        share = self._shares.get(tenant)
        if share is None:
            terms = self._tenants.get(tenant)
            share = Share(tenant, 1.0 if terms is None else terms.weight) if self._tenants else self._common
            self._shares[tenant] = share
        return share

    def spread(self) -> Spread | None:
        """How evenly the configured tenants fared beyond what they were owed; None if there are none."""
        return spread(self.share(tenant) for tenant in self._tenants) if self._tenants else None

    def change(self, tenants: Mapping[str, Terms]) -> None:
        """The operator promises these from now on; accounts stay."""
        self.settle()
        self.promises.change(tenants)
        self._tenants = tenants
        for name, share in self._shares.items():
            if name in tenants and share is not self._common:
                share.weight = tenants[name].weight

    def accept(self, now_us: int, tenant: str, wanted: Asked, waiting: Waiting) -> None:
        """A request came in."""
        self.settle()
        account = self._account(tenant)
        account.accepted += 1
        account.beyond += waiting.spare
        if waiting.most_mj:
            self.budgets.accept(tenant, waiting)
        self._fair.enter(waiting.share)
        promise = self.promises.of(tenant)
        if promise is not None:
            promised = waiting.bounded and not waiting.spare
            typical = None
            if promised and wanted.latency_ms is not None:
                usable_us = waiting.served.guard.usable_us(wanted.latency_ms)
                typical = Typical(waiting.served, waiting.mandatory, usable_us)
            promise.accept(now_us, waiting, promised=promised, typical=typical)

    def refuse(self, tenant: str, *, missed: bool) -> None:
        """A request was refused. `missed`: within what its tenant is promised."""
        self.settle()
        self._account(tenant).refused += 1
        promise = self.promises.of(tenant)
        if missed and promise is not None and promise.firm is not None:
            promise.firm.note(met=False)

    def book(self, now_us: int, tenant: str, took: Took, source: EnergySource) -> None:
        """A tenant's part of a run; `source`: of its energies, `Costs.charged_source`."""
        # Nearly all have none of these, and `_book` would find nothing to do.
        if took.free_us or self.budgets.used or self.promises.of(tenant) is not None:
            self.noted.append(partial(self._book, now_us, tenant, took, known=source != "unknown"))
        # A meter that comes later says nothing of this run.
        settles = self.attribution is not None
        self._uncounted.append(partial(self._count_run, tenant, took, source, settles=settles))

    def ran(self, served: Served, steps: Sequence[StepDone]) -> None:
        """What the device reported of a run, whoever's."""
        self._uncounted.append(partial(self._ran, served, steps))

    def settle_energy(self, settled: Settled) -> list[tuple[str, float]]:
        """What tenants were charged for a stretch of time becomes what was measured over it.

        Returns:
            by how much more, of those whose energy is capped: for `correct`, since decisions change by it.
        """
        self.count()
        more: list[tuple[str, float]] = []
        for owner, modelled_mj in settled.modelled_mj.items():
            tenant, measured_mj = str(owner), settled.measured_mj.get(owner)
            self._account(tenant).settle(modelled_mj, measured_mj)
            promise = self.promises.of(tenant)
            capped = self.budgets.capped(tenant) or (promise is not None and promise.energy.capped)
            if measured_mj is not None and capped:
                more.append((tenant, measured_mj - modelled_mj))
        if settled.measured_mj or settled.idle_mj:
            self.idle_mj = (self.idle_mj or 0.0) + settled.idle_mj
        return more

    def correct(self, now_us: int, tenant: str, more_mj: float) -> None:
        """This tenant took so much more than it was charged: what is left of its energy is less."""
        self.budgets.spend(now_us, tenant, more_mj)
        promise = self.promises.of(tenant)
        if promise is not None:
            promise.energy.book(now_us, more_mj)

    def end(self, tenant: str, waiting: Waiting, reply: Answer | Failure) -> None:
        """A request has ended."""
        self.noted.append(partial(self._end, tenant, waiting, reply))
        self._uncounted.append(partial(self._count_end, tenant, reply, len(waiting.served.costs.accuracy)))

    def _count_run(self, tenant: str, took: Took, source: EnergySource, *, settles: bool) -> None:
        account, energy_mj = self._account(tenant), None if source == "unknown" else took.energy_mj
        account.count_run(energy_mj, took.device_us, source, settles=settles)
        account.optional_us += took.free_us

    def _count_end(self, tenant: str, reply: Answer | Failure, exit_count: int) -> None:
        if isinstance(reply, Failure):
            self._account(tenant).count_failure(reply.code)
        else:
            self._account(tenant).count_answer(reply, exit_count)

    def _book(self, now_us: int, tenant: str, took: Took, *, known: bool) -> None:
        if took.free_us:
            self._fair.charge(self._share(tenant), took.free_us, took.free_mj if known else None)
        promise = self.promises.of(tenant)
        if promise is not None:
            promise.book(now_us, took.owed_us, took.free_us)
            promise.energy.book(now_us, took.energy_mj if known else 0.0)
        if known and self.budgets.used:
            self.budgets.spend(now_us, tenant, took.energy_mj)

    def _ran(self, served: Served, steps: Sequence[StepDone]) -> None:
        work = self._work.get(served.name)
        if work is None:
            work = self._work[served.name] = Work(served)
        work.add(served, steps)

    def _end(self, tenant: str, waiting: Waiting, reply: Answer | Failure) -> None:
        account, accuracy, share = self._account(tenant), waiting.served.costs.accuracy, waiting.share
        self._fair.leave(share)
        if self.budgets.used or waiting.most_mj:
            self.budgets.ended(tenant, waiting, reply)
        promised = waiting.bounded and not waiting.spare
        if isinstance(reply, Failure):
            account.failed += 1
        else:
            account.answered += 1
            gained = accuracy[reply.exit] - (accuracy[waiting.mandatory] if promised else 0.0)
            if gained > 0:
                share.gained += gained
        promise = self.promises.of(tenant)
        if promise is not None:
            promise.end(waiting, promised=promised)
            if promise.firm is not None and promised and not _taken_back(reply):
                promise.firm.note(met=isinstance(reply, Answer) and not reply.broken)


def _enter(noted: list[Callable[[], None]]) -> None:
    """Do what was noted, in order and each once: of one that fails, what comes after it is there for the next call."""
    done = 0
    try:
        for enter in noted:
            done += 1
            enter()
    finally:
        del noted[:done]


def _taken_back(reply: Answer | Failure) -> bool:
    return isinstance(reply, Failure) and reply.code == "cancelled"


def _percentile(ordered: list[int], percent: int) -> int:
    """Nearest rank; 0 when nothing was answered yet."""
    return ordered[-(-percent * len(ordered) // 100) - 1] if ordered else 0
