"""The core with a journal beside it: does what `Server` does, and writes down what it was told and what it said.

Role: `Recorded` stands in for `Server` in `loop.py` and in simulation; neither knows the difference. Networks are noted
when the worker is ready, or with their first request. Does not: change any decision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from zlib import crc32

from msgspec.structs import replace

from ..clients.wire import Infer, Proof, Refusal
from ..policies.exits import Asked
from ..policies.policy import make_policy
from ..policies.view import Run
from .canary import Canaries
from .config import Config
from .journal import Journal
from .journal_records import (
    FORMAT,
    Advanced,
    AskedNoted,
    Cancelled,
    Chosen,
    ClockConfirmed,
    EnergyRecord,
    Expired,
    Labelled,
    Lost,
    NetworkNoted,
    Opened,
    Ready,
    Reclocked,
    Recosted,
    Retired,
    Samples,
    Setup,
    Spared,
    Submitted,
    heard,
)
from .records import Effect, ExitDone, Payload, RunFailed, RunReturned
from .server import Server

# Distinct bounds remembered; beyond them the same ones are noted again.
ASKED_MAX = 4096
# So much of an input tells it from others: enough for most, and bounded for the largest.
INPUT_BYTES_NOTED = 64 * 1024


def setup_of(config: Config, withdrawn: tuple[tuple[str, str, str], ...] = ()) -> Setup:
    """What the daemon's core is made from. `withdrawn`: certificates by tenant, network and version."""
    return Setup(
        config.limits,
        config.policy,
        config.policy_options,
        config.ahead_us,
        config.correction,
        config.miss_target,
        {tenant.name: tenant.plain() for tenant in config.tenants},
        config.limits.canary_ms,
        withdrawn,
    )


def core(
    setup: Setup, journal: Journal | None, samples: Callable[[str], Samples | None], *, now_us: int, wall: str
) -> Server:
    """The daemon's core, with a journal if there is one; `now_us` and `wall`: both clocks, now."""
    if journal is not None:
        return Recorded(journal, setup, samples, now_us=now_us, wall=wall)
    policy = make_policy(setup.policy, setup.options)
    server = Server(setup.limits, policy, ahead_us=setup.ahead_us, tenants=setup.tenants)
    _set_up(server, setup)
    return server


def _set_up(server: Server, setup: Setup) -> None:
    server.idle.canaries = Canaries(setup.canary_ms * 1000)
    for which in setup.withdrawn:
        server.assurance.withdraw(*which)


class Recorded(Server):
    """A core that keeps a journal. Cost: 6 us and 144 bytes per request (scenario e2, 100/s, CPython 3.11, x86)."""

    def __init__(
        self,
        journal: Journal,
        setup: Setup,
        samples: Callable[[str], Samples | None] = lambda _name: None,
        *,
        now_us: int = 0,
        wall: str = "",
    ) -> None:
        """`samples`: of a network, by its name, for those who ask what would have been."""
        policy = make_policy(setup.policy, setup.options)
        super().__init__(setup.limits, policy, ahead_us=setup.ahead_us, tenants=setup.tenants)
        _set_up(self, setup)
        self._journal = journal
        self._samples = samples
        # By key, with the margin that each had at its load.
        self._noted: dict[str, float] = {}
        self._idle: int | None = None
        self._asked: dict[Asked, int] = {}
        self._asked_count = 0
        # Who keeps no journal need not load what reads mail headers.
        from importlib.metadata import version

        journal.write(Opened(FORMAT, version("delen"), now_us, wall, setup))

    def submit(
        self, now_us: int, tenant: str, infer: Infer, wanted: Asked, payload: Payload
    ) -> tuple[Refusal | int, list[Effect]]:
        """As `Server`."""
        self._idle = None
        verdict, effects = super().submit(now_us, tenant, infer, wanted, payload)
        if self._journal.open:
            key = self.routes.key(tenant, infer.network)
            if key not in self._noted:
                self._note_network(key)
            said = verdict.code if isinstance(verdict, Refusal) else "accepted"
            asked, size = self._number(wanted), len(payload)
            alike = crc32(payload[:INPUT_BYTES_NOTED])
            record = Submitted(now_us, tenant, key, infer.id, asked, size, said, heard(effects), alike)
            self._journal.write(record)
        return verdict, effects

    def cancel(self, ticket: int) -> list[Effect]:
        """As `Server`."""
        self._idle = None
        effects = super().cancel(ticket)
        if effects:
            self._journal.write(Cancelled(ticket, heard(effects)))
        return effects

    def next(self, now_us: int) -> Run | None:
        """As `Server`."""
        asked, waited = self.can_run(now_us), len(self._backlog)
        run = super().next(now_us)
        if not asked or (run is None and waited == self._idle == len(self._backlog)):
            # No question, or the same again with the same answer: nothing has come or gone since.
            return run
        self._journal.write(Chosen(now_us, run))
        self._idle = len(self._backlog) if run is None else None
        return run

    def advance(self, now_us: int, done: ExitDone | RunFailed | RunReturned) -> list[Effect]:
        """As `Server`."""
        self._idle = None
        effects = super().advance(now_us, done)
        if self._journal.open:
            told = replace(done, logits=b"") if isinstance(done, ExitDone) else done
            self._journal.write(Advanced(now_us, told, heard(effects)))
        return effects

    def expire(self, now_us: int) -> list[Effect]:
        """As `Server`."""
        due = now_us >= self.wake_at()
        effects = super().expire(now_us)
        if due or effects:
            self._idle = None
            self._journal.write(Expired(now_us, heard(effects)))
        self._journal.tick(now_us)
        return effects

    def worker_ready(self, now_us: int, keys: Collection[str] | None = None) -> None:
        """As `Server`."""
        self._idle = None
        super().worker_ready(now_us, keys)
        for name in self.networks:
            if name not in self._noted:
                self._note_network(name)
        self._journal.write(Ready(now_us, None if keys is None else tuple(keys)))

    def worker_lost(
        self, now_us: int, ready_us: int, keys: Collection[str] | None = None, *, blame: bool = True
    ) -> list[Effect]:
        """As `Server`."""
        self._idle = None
        effects = super().worker_lost(now_us, ready_us, keys, blame=blame)
        self._journal.write(Lost(now_us, ready_us, heard(effects), blame, None if keys is None else tuple(keys)))
        return effects

    def spare(self, keys: Collection[str], *, warm: bool | None) -> None:
        """As `Server`."""
        self._idle = None
        super().spare(keys, warm=warm)
        self._journal.write(Spared(tuple(keys), warm))

    def forget(self, keys: Collection[str]) -> None:
        """As `Server`."""
        super().forget(keys)
        for key in keys:
            self._noted.pop(key, None)
        self._journal.write(Retired(tuple(keys)))

    def reclocked(self, record: Reclocked) -> None:
        """What `reclock` has just told this core."""
        if record.network not in self._noted:
            self._note_network(record.network)
        self._journal.write(record)

    def clocked(self, record: ClockConfirmed) -> None:
        """What `confirm` is about to tell this core."""
        self._idle = None
        self._journal.write(record)

    def noted(self, record: EnergyRecord) -> None:
        """What `budget_events.tell` is about to tell this core."""
        if isinstance(record, Recosted) and record.network not in self._noted:
            self._note_network(record.network)
        self._idle = None
        self._journal.write(record)

    def labelled(self, now_us: int, tenant: str, network: str, proof: Proof | None, *, wrong: bool) -> list[Effect]:
        """As `Server`."""
        effects = super().labelled(now_us, tenant, network, proof, wrong=wrong)
        key = self.routes.key(tenant, network)
        self._journal.write(Labelled(now_us, tenant, key, proof, wrong, heard(effects)))
        return effects

    def _number(self, wanted: Asked) -> int:
        number = self._asked.get(wanted)
        if number is None:
            if len(self._asked) >= ASKED_MAX:
                self._asked.clear()
            number = self._asked[wanted] = self._asked_count
            self._asked_count += 1
            self._journal.write(AskedNoted(wanted))
        return number

    def _note_network(self, key: str) -> None:
        # Nothing of it has run yet, so hop and correction are as they were at its load; unless it goes on with another
        # worker where it was before.
        served = self.networks[key]
        like = next((old for old in self._noted if self.networks[old].correction is served.correction), "")
        margin = self._noted[key] = self._noted[like] if like else served.correction.margin
        self._journal.write(
            NetworkNoted(
                name=served.name,
                version=served.version,
                batch_max=served.batch_max,
                hop_us=served.hop_us,
                gmac=served.gmac,
                guard=(served.guard.fixed_us, served.guard.share, served.guard.hold_share),
                margin=margin,
                costs=served.costs.tables(),
                gates=None if served.gates is None else served.gates.proofs,
                samples=self._samples(key),
                key="" if key == served.name else key,
                like=like,
                ran_us=served.ran_us if like else 0,
            )
        )
