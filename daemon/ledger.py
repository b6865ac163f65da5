"""What each tenant was promised, charged and given, since the daemon started.

Role: counters that the conservation law is checked on: accepted = answered + failed + pending. Energy that is not
known stays unknown and is never added as 0. `Ledger` keeps them with each tenant's share and promise, which are told of
every acceptance, run and end at one place. Runs and ends are only noted at first, for an answer that is about to leave
need not wait for them: `settle` enters them, in order, before anything is read. Does not: decide anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..clients.info import EnergySource, TenantStats
from ..clients.wire import Answer, Failure
from ..policies.exits import Asked
from ..policies.fairness import Share, Shares, Spread, spread
from ..policies.rates import Promises, Terms, Typical
from ..policies.view import Served, Waiting
from .records import StepDone
from .tally import Tally, Work

KEPT_LATENCIES = 512
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
        return next((source for source in WORST_FIRST if source in self.energy_sources), "unknown")

    def book_answer(self, answer: Answer, exit_count: int) -> None:
        """Count an answer; its energy and device time were booked with the runs."""
        self.answered += 1
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

    def book_failure(self, code: str) -> None:
        """Count a request that was accepted and could not be answered."""
        self.failed += 1
        self.failures[code] = self.failures.get(code, 0) + 1

    def book_refusal(self, code: str) -> None:
        """Count by its code a message that was refused; what was refused of requests is in `refused`."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def book_run(self, energy_mj: float | None, took_us: int, source: EnergySource) -> None:
        """Charge this tenant's share of a run: mJ, and device time split over the rows that used it."""
        known = energy_mj is not None and source != "unknown"
        self.energy_mj += energy_mj if known and energy_mj is not None else 0.0
        # A sum is as well known as its worst part.
        self.energy_sources.add(source if known else "unknown")
        self.device_us += took_us

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
        )


class Ledger:
    """Every tenant's account, share and promise.

    `promises`, and shares that are at hand already, are as `settle` last left them.
    """

    def __init__(self, tenants: Mapping[str, Terms]) -> None:
        """`tenants`: those the operator configured. If there are none, all share one part of the device."""
        self.promises = Promises(tenants)
        self._accounts: dict[str, Account] = {}
        self._shares: dict[str, Share] = {}
        self._tenants = tenants
        self._common = Share("")
        self._fair = Shares()
        self._noted: list[Callable[[], None]] = []
        self._work: dict[str, Work] = {}

    def settle(self) -> None:
        """Enter what was noted."""
        if self._noted:
            for enter in self._noted:
                enter()
            self._noted.clear()

    @property
    def accounts(self) -> dict[str, Account]:
        """By tenant, as of now."""
        self.settle()
        return self._accounts

    @property
    def work(self) -> dict[str, Work]:
        """What the device did, by network, as of now."""
        self.settle()
        return self._work

    def account(self, tenant: str) -> Account:
        self.settle()
        return self._account(tenant)

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
        account = self.account(tenant)
        account.accepted += 1
        account.beyond += waiting.spare
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
        self.account(tenant).refused += 1
        promise = self.promises.of(tenant)
        if missed and promise is not None and promise.firm is not None:
            promise.firm.note(met=False)

    def book(self, now_us: int, tenant: str, took: Took, source: EnergySource) -> None:
        """A tenant's part of a run; `source`: where its energies come from."""
        self._noted.append(partial(self._book, now_us, tenant, took, source))

    def ran(self, served: Served, steps: Sequence[StepDone]) -> None:
        """What the device reported of a run, whoever's."""
        self._noted.append(partial(self._ran, served, steps))

    def end(self, tenant: str, waiting: Waiting, reply: Answer | Failure) -> None:
        """A request has ended."""
        self._noted.append(partial(self._end, tenant, waiting, reply))

    def _book(self, now_us: int, tenant: str, took: Took, source: EnergySource) -> None:
        account, known = self._account(tenant), source != "unknown"
        account.book_run(took.energy_mj if known else None, took.device_us, source)
        if took.free_us:
            account.optional_us += took.free_us
            self._fair.charge(self._share(tenant), took.free_us, took.free_mj if known else None)
        promise = self.promises.of(tenant)
        if promise is not None:
            promise.book(now_us, took.owed_us, took.free_us)
            promise.energy.book(now_us, took.energy_mj if known else 0.0)

    def _ran(self, served: Served, steps: Sequence[StepDone]) -> None:
        work = self._work.get(served.name)
        if work is None:
            work = self._work[served.name] = Work(served)
        work.add(served, steps)

    def _end(self, tenant: str, waiting: Waiting, reply: Answer | Failure) -> None:
        account, accuracy, share = self._account(tenant), waiting.served.costs.accuracy, waiting.share
        self._fair.leave(share)
        promised = waiting.bounded and not waiting.spare
        if isinstance(reply, Failure):
            account.book_failure(reply.code)
        else:
            account.book_answer(reply, len(accuracy))
            gained = accuracy[reply.exit] - (accuracy[waiting.mandatory] if promised else 0.0)
            if gained > 0:
                share.gained += gained
        promise = self.promises.of(tenant)
        if promise is not None:
            promise.end(waiting, promised=promised)
            if promise.firm is not None and promised and not _taken_back(reply):
                promise.firm.note(met=isinstance(reply, Answer) and not reply.broken)


def _taken_back(reply: Answer | Failure) -> bool:
    return isinstance(reply, Failure) and reply.code == "cancelled"


def _percentile(ordered: list[int], percent: int) -> int:
    """Nearest rank; 0 when nothing was answered yet."""
    return ordered[-(-percent * len(ordered) // 100) - 1] if ordered else 0
