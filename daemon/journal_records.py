"""What a journal holds: the records of everything a core is made from, was told, and said.

Role: the vocabulary between `recorded.py`, which makes them, `journal.py`, which keeps them, and `replay.py`, which
plays them. Does not: read or write files.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..clients.adaptation import Adaptation
from ..clients.wire import Answer, Proof
from ..exits.calibration_file import Calibration
from ..policies.exits import Asked
from ..policies.gates import Proofs
from ..policies.rates import Terms
from ..policies.view import Run
from ..profiles.costs import CostTables
from .config import Limits
from .records import Alarm, Effect, Ended, ExitDone, Forget, RunFailed, RunReturned, Told, Wanted, Yield

FORMAT = 2


class JournalError(ValueError):
    """The file cannot be used as a journal: where in it, what was expected."""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    pass


class Heard(_Record, frozen=True):
    """An effect of the core, as much of it as makes two of them the same.

    `what`: an answer's stop, an error's code, or the effect's own name. `numbers`: exit and total_us of an answer; else
    the run or tickets. `id`: the request's, where one ended.
    """

    what: str
    numbers: tuple[int, ...]
    id: bytes = b""


class Setup(_Record, frozen=True):
    """All that a core is made from. `correction`, `miss_target`: of every network; `tenants`: what each is promised.

    `canary_ms`: of idleness before each canary; 0: none. `withdrawn`: certificates by tenant, network and version that
    do not hold from the start.
    """

    limits: Limits = Limits()
    policy: str = "stage-edf"
    options: Mapping[str, Any] = {}
    ahead_us: int = 0
    correction: str = "conformal"
    miss_target: float = 0.01
    tenants: Mapping[str, Terms] = {}
    canary_ms: int = 0
    withdrawn: tuple[tuple[str, str, str], ...] = ()


class Opened(_Record, frozen=True, tag=0):
    """The first record. `delen`: the version that decided; `now_us`, `wall`: the core's clock, and the calendar."""

    format: int
    delen: str
    now_us: int
    wall: str
    setup: Setup


class Samples(_Record, frozen=True):
    """Held-out samples of a network, packed: how sure and how right each exit was.

    `doubt`: 1 - confidence as float16, shape (n, exits), little-endian; `correct`, `agrees`: as many bits; `fit`: n
    bits; all deflated.
    """

    n: int
    exits: int
    doubt: bytes
    correct: bytes
    agrees: bytes
    fit: bytes

    @classmethod
    def of(cls, samples: Calibration) -> Samples:
        """Pack them."""
        doubt = (1 - samples.confidence.astype(np.float64)).astype("<f2")
        flags = (samples.correct, samples.agrees, samples.fit)
        correct, agrees, fit = (zlib.compress(np.packbits(flag).tobytes()) for flag in flags)
        n, exits = doubt.shape
        return cls(n, exits, zlib.compress(doubt.tobytes()), correct, agrees, fit)

    def calibration(self) -> Calibration:
        """The samples again. Raises JournalError."""
        count = self.n * self.exits
        try:
            doubt = np.frombuffer(_unpacked(self.doubt, 2 * count), "<f2").astype(np.float32)
            correct, agrees = (_flags(packed, count) for packed in (self.correct, self.agrees))
            fit = _flags(self.fit, self.n)
        except (zlib.error, ValueError) as error:
            raise JournalError(f"a network's samples cannot be unpacked: {error}") from error
        shape = self.n, self.exits
        return Calibration((1 - doubt).reshape(shape), correct.reshape(shape), agrees.reshape(shape), fit)


def _flags(packed: bytes, count: int) -> npt.NDArray[np.bool_]:
    bits = np.frombuffer(_unpacked(packed, -(-count // 8)), np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def _unpacked(packed: bytes, size: int) -> bytes:
    """Never unpacks beyond what is expected."""
    opened = zlib.decompressobj()
    data = opened.decompress(packed, size)
    if len(data) != size or not opened.eof:
        raise ValueError(f"expected {size} bytes")
    return data


class NetworkNoted(_Record, frozen=True, tag=1):
    """A network, as policies see it before its first request. `margin`: of its correction, which has seen nothing.

    `key`: what events call it, where that is not its name: another version, or a tenant's own. `like`: the key of one
    that was there before it, of the same bundle, whose correction is this one's too; `ran_us`: when that ran last.
    """

    name: str
    version: str
    batch_max: int
    hop_us: float
    gmac: tuple[float, ...] | None
    guard: tuple[int, float, float]
    margin: float
    costs: CostTables
    gates: Proofs | None
    samples: Samples | None
    key: str = ""
    like: str = ""
    ran_us: int = 0

    @property
    def known_as(self) -> str:
        """What events call it."""
        return self.key or self.name


class AskedNoted(_Record, frozen=True, tag=2):
    """Bounds that requests have; they name them by their place among all of these, from 0."""

    asked: Asked


class Submitted(_Record, frozen=True, tag=3):
    """A request came. `said`: `accepted`, or the code it was refused with. `payload_bytes`: of its input.

    `input`: a number that is another for another input, since the core tells those apart that killed the engine.
    """

    now_us: int
    tenant: str
    network: str
    id: bytes
    asked: int
    payload_bytes: int
    said: str
    heard: tuple[Heard, ...]
    input: int = 0


class Cancelled(_Record, frozen=True, tag=4):
    """The request with this ticket is no longer wanted."""

    ticket: int
    heard: tuple[Heard, ...]


class Chosen(_Record, frozen=True, tag=5):
    """The core was asked for a run, and this is what it decided."""

    now_us: int
    run: Run | None


class Advanced(_Record, frozen=True, tag=6):
    """The device reported on a run; logits are left out."""

    now_us: int
    done: ExitDone | RunFailed | RunReturned
    heard: tuple[Heard, ...]


class Expired(_Record, frozen=True, tag=7):
    """Something was due."""

    now_us: int
    heard: tuple[Heard, ...]


class Lost(_Record, frozen=True, tag=8):
    """The worker died; when the next one is expected."""

    now_us: int
    ready_us: int
    heard: tuple[Heard, ...]
    blame: bool = True
    keys: tuple[str, ...] | None = None


class Ready(_Record, frozen=True, tag=9):
    """The worker takes runs; of these networks, where there are several workers."""

    now_us: int
    keys: tuple[str, ...] | None = None


class Spared(_Record, frozen=True, tag=13):
    """Whether a spare stands by for the worker of these networks; None: there is to be none."""

    keys: tuple[str, ...]
    warm: bool | None


class Labelled(_Record, frozen=True, tag=11):
    """A tenant sent the right label of an answer."""

    now_us: int
    tenant: str
    network: str
    proof: Proof | None
    wrong: bool
    heard: tuple[Heard, ...]


class Retired(_Record, frozen=True, tag=12):
    """These networks are served no more, by key; nothing of theirs is open."""

    keys: tuple[str, ...]


class Reclocked(_Record, frozen=True, tag=14):
    """The device's clock or power mode has changed, or may be set: what this network costs from now on.

    `at_khz`: at each clock that a policy may set. `clock`: the clock as it is, kHz; 0: it is not set by policies.
    """

    now_us: int
    network: str
    costs: CostTables
    at_khz: dict[int, CostTables]
    p95_over_p50: float
    clock_khz: int
    switch_us: int
    dwell_us: int


class AdaptedTo(_Record, frozen=True, tag=15):
    """This adaptation holds for a tenant's requests from now on."""

    now_us: int
    tenant: str
    adaptation: Adaptation


class Batteried(_Record, frozen=True, tag=16):
    """What the device's battery has, keeps in reserve and must last until; `harvest`: (until, us; mW) to come."""

    now_us: int
    energy_mj: float
    reserve_mj: float
    until_us: int
    harvest: tuple[tuple[int, float], ...]


class Recosted(_Record, frozen=True, tag=17):
    """A meter says that steps of this network take so many times the energy they are known with, by segment."""

    now_us: int
    network: str
    factors: tuple[float, ...]


class Corrected(_Record, frozen=True, tag=18):
    """By the meter, these tenants took so much more than they were charged, mJ; of those whose energy is capped."""

    now_us: int
    more_mj: tuple[tuple[str, float], ...]


class ClockConfirmed(_Record, frozen=True, tag=19):
    """The GPU's clock that a run wished is in force."""

    now_us: int
    khz: int


class Closed(_Record, frozen=True, tag=10):
    """The last record: why the journal ends here."""

    reason: str


Event = Submitted | Cancelled | Chosen | Advanced | Expired | Lost | Ready | Labelled
EnergyRecord = AdaptedTo | Batteried | Recosted | Corrected
ClockRecord = Reclocked | ClockConfirmed
Record = Opened | NetworkNoted | AskedNoted | Event | Spared | Retired | Closed | ClockRecord | EnergyRecord


def heard(effects: list[Effect]) -> tuple[Heard, ...]:
    """Effects of the core as a journal keeps them: what makes two of them the same."""
    return tuple([_heard(effect) for effect in effects]) if effects else ()


def _heard(effect: Effect) -> Heard:
    if isinstance(effect, Ended):
        reply = effect.reply
        if isinstance(reply, Answer):
            return Heard(reply.stop, (reply.exit, reply.total_us), effect.id)
        return Heard(reply.code, (), effect.id)
    if isinstance(effect, Alarm):
        return Heard(f"alarm: {effect.tenant}, {effect.network}", ())
    assert not isinstance(effect, Wanted), "the core does not change what is served"
    if isinstance(effect, Told):
        return Heard(f"told: {effect.text}", ())
    if isinstance(effect, Forget):
        return Heard("forget", effect.tickets)
    return Heard("yield", (effect.run,)) if isinstance(effect, Yield) else Heard(f"restart: {effect.reason}", ())
