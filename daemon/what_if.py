"""What if: the requests of a journal again, under another policy or on a device with another profile.

Role: `record` plays a journal and keeps what came from outside: requests with their bounds, cancels, losses of the
worker, how sure each request was at the exits it reached, and how the device ran against its profile. `imagine` makes
of that a `Simulation` with one thing changed; with nothing changed, it says how true the simulation is.

Where a request goes deeper than it did then, its confidence is that of a held-out sample much like it: one that was
about as sure at the deepest exit it reached. The device is as slow, second by second, as it was then; a network with
another profile is as slow as that says. Does not: simulate (`simulate.py`), or add up (`outcomes.py`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from ..clients.bounds import Bounds
from ..policies.certificates import Certifier
from ..policies.exits import Asked
from ..policies.policy import depth_fault
from ..policies.view import Served
from ..profiles.costs import Costs
from ..profiles.schema import ExitQuality, Profile
from .behaviour import Behaviour
from .canary import TICKET as CANARY
from .journal_records import (
    Advanced,
    Cancelled,
    Chosen,
    Event,
    JournalError,
    Lost,
    NetworkNoted,
    Ready,
    Setup,
    Submitted,
)
from .noise import Noise, NoiseSpec
from .records import ExitDone
from .replay import Replayed, bounds_of, core_of, replay, served_of
from .simulate import Simulation

US_PER_S = 1_000_000
# Less work than this in a second says nothing of how slow the device was.
RAN_US_MIN = 1_000.0
# A held-out sample is drawn from so many that were about as sure.
ALIKE = 16
RESTART_US = 500_000


class Came(NamedTuple):
    """One request: when it came, and which of its network's requests it was."""

    when_us: int
    tenant: str
    network: str
    bounds: Bounds
    row: int


class Cell(NamedTuple):
    """Steps that should take the same time: within one second, of one network, at one batch size."""

    second: int
    network: str
    head: bool
    place: int
    batch: int


class Recording:
    """What came from outside while a journal was written; times count from the first request.

    `confidences`: per network and request, by exit, as far as it got. `steps`: per cell how many ran, and of the time
    each took the sum, the sum of logarithms, and the sum of their squares.
    """

    def __init__(self) -> None:
        self.came: list[Came] = []
        self.cancelled: list[tuple[int, int]] = []
        self.lost_us: list[int] = []
        self.away_us: list[int] = []
        self.confidences: dict[str, list[dict[int, float]]] = {}
        self.steps: dict[Cell, tuple[int, float, float, float]] = {}
        self._networks: dict[int, str] = {}
        self._start_us = self._now_us = 0
        self._lost_us: int | None = None

    def take(self, event: Event, asked: Asked | None) -> None:
        """One event, in order; `asked` with every request."""
        if not isinstance(event, Cancelled):
            self._now_us = event.now_us
        if isinstance(event, Submitted) and asked is not None:
            self._start_us = self._start_us if self.came else event.now_us
            rows = self.confidences.setdefault(event.network, [])
            self.came.append(Came(self._since_us, event.tenant, event.network, bounds_of(asked), len(rows)))
            rows.append({})
        elif isinstance(event, Chosen) and event.run is not None:
            self._networks[event.run.id] = event.run.network
        elif isinstance(event, Advanced):
            if isinstance(event.done, ExitDone) and event.done.run in self._networks:
                self._reached(event.done)
        elif isinstance(event, Cancelled):
            self.cancelled.append((self._since_us, event.ticket - 1))
        elif isinstance(event, Lost):
            self.lost_us.append(self._since_us)
            self._lost_us = event.now_us
        elif isinstance(event, Ready) and self._lost_us is not None:
            self.away_us.append(event.now_us - self._lost_us)
            self._lost_us = None

    @property
    def _since_us(self) -> int:
        return max(0, self._now_us - self._start_us)

    def _reached(self, done: ExitDone) -> None:
        # Tickets count requests from 1, those that were refused too.
        for row in done.rows:
            if row.ticket == CANARY:
                continue
            came = self.came[row.ticket - 1]
            self.confidences[came.network][came.row][done.exit] = row.confidence
        second, network = self._since_us // US_PER_S, self._networks[done.run]
        for step in done.steps:
            if step.took_us > 0:
                cell = Cell(second, network, step.head, step.index, step.batch)
                count, took_us, logs, squares = self.steps.get(cell, (0, 0.0, 0.0, 0.0))
                lg = math.log(step.took_us)
                self.steps[cell] = count + 1, took_us + step.took_us, logs + lg, squares + lg * lg
        if done.finished:
            del self._networks[done.run]


class Change(NamedTuple):
    """What is to be other than it was; nothing, for a simulation of what was.

    `options`: of `policy`, or on top of those that the recorded one had. `profile`: of one of the networks.
    """

    policy: str | None = None
    options: Mapping[str, object] = {}
    profile: Profile | None = None

    def setup(self, then: Setup) -> Setup:
        """The core's, from what it was."""
        if self.policy is not None and self.policy != then.policy:
            return replace(then, policy=self.policy, options=self.options)
        return replace(then, options={**then.options, **self.options})


def record(path: Path) -> tuple[Replayed, Recording]:
    """Play a journal, and keep what came from outside. Raises OSError, JournalError."""
    recording = Recording()
    return replay(path, recording.take), recording


def imagine(replayed: Replayed, recording: Recording, change: Change, *, seed: int = 0) -> Simulation:
    """The journal's requests on a simulated device, ready to run.

    Raises:
        JournalError: the journal holds no such network or another number of exits, or the policy is not known or
            is to serve at an exit that no network has.
    """
    setup = change.setup(replayed.opened.setup)
    networks = {key: _served(noted, setup, change.profile) for key, noted in replayed.networks.items()}
    changed = _keys(replayed, change.profile)
    if change.profile is not None and not changed:
        raise JournalError(
            f"the profile is of network {change.profile.network!r}; the journal has {', '.join(networks) or 'none'}"
        )
    # A canary is due for ever on an idle device: with them nothing would be left to end at.
    core = core_of(replace(setup, canary_ms=0))
    exits = {name: served.costs.exit_count for name, served in networks.items()}
    fault = depth_fault(core.policy, exits)
    # What the daemon itself was told stays as it was, right or wrong.
    if fault and setup != replayed.opened.setup:
        raise JournalError(fault)
    noise = noise_of(recording, replayed.networks, but=changed)
    simulation = Simulation(
        list(networks.values()),
        seed=seed,
        limits=setup.limits,
        noise=noise,
        behaviours=_behaviours(recording, replayed.networks, Random(seed)),
        hop_us=round(fmean([served.hop_us for served in replayed.server.networks.values()] or [0.0])),
        restart_us=round(median(recording.away_us or [RESTART_US])),
        check=False,
        server=core,
    )
    for key in changed:
        # As fast as its new profile says, on a device that is as unsteady as ever.
        simulation.strays[key] = Noise(replace(noise, steps=()), Random(seed))
    ids = [
        simulation.ask(came.when_us, came.tenant, came.bounds, came.network, sample=came.row) for came in recording.came
    ]
    for when_us, index in recording.cancelled:
        simulation.cancel(when_us, ids[index])
    for when_us in recording.lost_us:
        simulation.kill_worker(when_us)
    return simulation


def _keys(replayed: Replayed, profile: Profile | None) -> frozenset[str]:
    """What the network with this profile was called: by more than one name where it was swapped, or a tenant's own."""
    if profile is None:
        return frozenset()
    return frozenset(key for key, noted in replayed.networks.items() if noted.name == profile.network)


def noise_of(
    recording: Recording, networks: Mapping[str, NetworkNoted], *, but: Collection[str] = frozenset()
) -> NoiseSpec:
    """Jitter as it was within single seconds, and the device's mean slowdown in each of them.

    `but`: networks whose times say nothing of the slowdown, as their profile is to be another.
    """
    spread, freedoms = 0.0, 0
    for count, _, logs, squares in recording.steps.values():
        spread += max(0.0, squares - logs * logs / count)
        freedoms += count - 1
    steps = tuple(_slowdowns([cell for cell in recording.steps if cell.network not in but], recording, networks))
    return NoiseSpec(sigma=math.sqrt(spread / freedoms) if freedoms else 0.0, steps=steps)


def _slowdowns(
    counted: Iterable[Cell], recording: Recording, networks: Mapping[str, NetworkNoted]
) -> list[tuple[float, float]]:
    """Per second with enough work in these cells, how many times as long as profiled it took."""
    found = []
    for second, cells in groupby(sorted(counted), lambda cell: cell.second):
        took_us = profiled_us = 0.0
        for cell in cells:
            costs = networks[cell.network].costs
            table = costs.head_us if cell.head else costs.segment_us
            took_us += recording.steps[cell][1]
            profiled_us += recording.steps[cell][0] * table[cell.place][cell.batch]
        if took_us >= RAN_US_MIN and profiled_us > 0:
            found.append((float(second), took_us / profiled_us))
    return found


def _served(noted: NetworkNoted, setup: Setup, profile: Profile | None) -> Served:
    """A network as it was served; with a profile of it, at that one's costs, and gates for the exits they leave."""
    # Each as a network of its own: the simulation knows no versions, and then nobody waited for one of them to go.
    served = served_of(noted, setup)
    served.name = served.key
    if profile is None or profile.network != noted.name:
        return served
    accuracy = noted.costs.accuracy
    if len(profile.exits) != len(accuracy):
        raise JournalError(f"the profile of {noted.name} has {len(profile.exits)} exits, the journal {len(accuracy)}")
    known = tuple(ExitQuality(accuracy=share, low=share, high=share, n=1) for share in accuracy)
    served.costs = Costs.of(replace(profile, exits=known), noted.batch_max)
    if noted.samples is not None:
        served.gates = Certifier.of(noted.samples.calibration(), served.costs)
    return served


def _behaviours(recording: Recording, networks: Mapping[str, NetworkNoted], random: Random) -> dict[str, Behaviour]:
    """Per network a row for each request: what is known of it, filled up from a sample that is like it."""
    found: dict[str, Behaviour] = {}
    for name, rows in recording.confidences.items():
        samples = networks[name].samples
        if samples is None:
            continue
        confidence, correct, agrees, _ = samples.calibration()
        orders = np.argsort(confidence, axis=0, kind="stable")
        ranked = np.take_along_axis(confidence, orders, axis=0)
        chosen = []
        for reached in rows:
            drawn = random.random()
            if not reached:
                chosen.append(int(drawn * samples.n))
                continue
            deepest = max(reached)
            nearest = int(np.searchsorted(ranked[:, deepest], reached[deepest]))
            place = nearest + int(drawn * ALIKE) - ALIKE // 2
            chosen.append(int(orders[min(samples.n - 1, max(0, place)), deepest]))
        filled: list[list[float]] = confidence[chosen].tolist()
        for row, reached in zip(filled, rows, strict=True):
            for exit_index, sure in reached.items():
                row[exit_index] = sure
        found[name] = Behaviour(filled, correct[chosen].tolist(), agrees[chosen].tolist())
    return found
