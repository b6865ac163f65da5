"""All workers of the daemon: one for everybody, one for each tenant that has its own, and those on their way out.

Role: the loop's view of workers. A `Lane` is a supervised worker with its networks, by keys (`routes.py`). Runs go to
the lane of their network, and a worker's death touches nothing of another's. One run executes at a time all the same:
they share the device. Flow: `start` -> `arrange` until all are ready -> `post`, `lost`, `tick`.

Does not: poll, read clocks, or decide what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..exits.bundle import Bundle
from ..policies.view import Run, Served
from . import hosting
from .clock_watch import ClockWatch, Known
from .config import Config
from .desk import Desk, WorkerState
from .journal_records import Samples
from .log_writer import Log
from .pipe import PipeClosed, ToFront
from .records import Effect, Payload
from .server import Server
from .supervisor import State, Supervisor
from .worker_early import Early
from .worker_guest import WorkerDoor
from .worker_process import Hosted, WorkerProcess
from .worker_words import Words

Make: TypeAlias = Callable[[Config, Mapping[str, Hosted], int], WorkerProcess]

# Of one worker in one turn; two runs of all exits say fewer.
MESSAGES_MAX = 256


class Lane(Supervisor):
    """One supervised worker. `tenant`: whose alone it is. `retiring`: nothing new comes, it finishes what it has."""

    def __init__(
        self, config: Config, hosted: Mapping[str, Hosted], tenant: str | None = None, make: Make = WorkerProcess
    ) -> None:
        """`make`: where workers come from; raises OSError."""
        super().__init__(config, hosted, spare=config.spare, make=make)
        self.tenant = tenant
        self.retiring = False
        # What the core has been told of its spare, see `Server.spare`.
        self._told: bool | None = None

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self.hosted)

    def step_back(self, now_us: int) -> None:
        """Others take over: nothing new comes, and a spare is memory that they may need."""
        self.retiring = True
        self.spare_no_more(now_us)

    def tell(self, server: Server) -> bool:
        """Tell the core of the spare, if there is anything new. Whether there was."""
        spare = self.spare
        warm = None if spare is None else spare == "ready"
        if warm == self._told:
            return False
        self._told = warm
        server.spare(self.keys, warm=warm)
        return True

    def check_own(self, key: str) -> None:
        """It speaks of a run of this network. Raises PipeClosed: another worker's, so nothing it says is believed."""
        if key not in self.hosted:
            raise PipeClosed("it spoke of a run that it was not given")


class Crew:
    """The lanes that serve, and those that are on their way out."""

    def __init__(
        self,
        config: Config,
        state: Path,
        hosted: Mapping[str, Hosted],
        note: Log | None = None,
        early: Early | None = None,
    ) -> None:
        """`state`: the directory of profiles. `hosted`: by name. `note`: takes what workers say; None: stderr does.

        `early`: a worker's process that has been started already, where there is a `note`.
        """
        self.door = WorkerDoor(Path(config.worker_socket), config.worker_user) if config.worker == "socket" else None
        # A worker that is started by others says what it has to say to them.
        self._words = None if note is None or self.door is not None else Words(note, early)
        if self._words is None and early is not None:
            early.dismiss()
        begin = WorkerProcess if self._words is None else self._words.begin
        self.make: Make = begin if self.door is None else self.door.guest
        self.lanes = [
            Lane(config, {own_key(name, tenant): each for name, each in own.items()}, tenant, self.make)
            for tenant, own in hosting.workers_of(config, hosted)
        ]
        self.notes: list[str] = []
        self.clocks: ClockWatch | None = None
        self._config = config
        self._state = state
        self._gone: list[Lane] = []
        self._restarts_gone = 0

    # ---- life

    def start(self, now_us: int) -> None:
        """Start every worker. Raises OSError."""
        for lane in self.lanes:
            lane.start(now_us)

    def stop(self) -> None:
        for lane in (*self.lanes, *self._gone):
            lane.stop()
        if self.door is not None:
            self.door.close()
        if self._words is not None:
            self._words.close()
        if self.clocks is not None:
            self.clocks.close()

    @property
    def state(self) -> State:
        """Of the worker that is furthest from ready."""
        states = {lane.state for lane in self.lanes if not lane.retiring}
        return "waiting" if "waiting" in states else "starting" if "starting" in states else "ready"

    @property
    def restarts(self) -> int:
        """Of all workers since the start, also of those that serve no more."""
        return self._restarts_gone + sum(lane.restarts for lane in self.lanes)

    def told(self) -> WorkerState:
        """What `stats` says of them."""
        spares = [lane.spare for lane in self.lanes if lane.spare is not None]
        spare = "" if not spares else "ready" if set(spares) == {"ready"} else "starting"
        return WorkerState(self.state, self.restarts, spare)

    def wake_at(self) -> int | None:
        """When `tick` has something to do; None when never."""
        wake_us: int | None = None
        for lane in (*self.lanes, *self._gone) if self._gone else self.lanes:
            due_us = lane.wake_at()
            if due_us is not None and (wake_us is None or due_us < wake_us):
                wake_us = due_us
        return wake_us

    def tick(self, now_us: int) -> list[tuple[Lane, str]]:
        """Let time pass for all; returns those to be counted lost, and why."""
        late = [(lane, "it took too long to start") for lane in self.lanes if lane.tick(now_us)]
        for lane in self._gone:
            lane.tick(now_us)
        for lane in (*self.lanes, *self._gone):
            self.notes += lane.take_notes()
        self._gone = [lane for lane in self._gone if lane.dying]
        if self.door is not None and self.door.strangers:
            uids = ", ".join(str(uid) for uid in sorted(set(self.door.strangers)))
            self.notes.append(f"uid {uids} came to the engine's socket and was turned away")
            self.door.strangers.clear()
        return late

    def lost(self, now_us: int, lane: Lane, reason: str, server: Server) -> list[Effect]:
        """A lane's worker is gone: start another, and let the core sort out what it was running."""
        if lane.state == "waiting":
            return []
        whose = f"tenant {lane.tenant}'s worker" if lane.tenant is not None else "the worker"
        self.notes.append(
            f"{whose} is lost ({reason}); {'the spare takes over' if lane.spare == 'ready' else 'starting another'}"
        )
        ready_us = lane.lost(now_us)
        # The spare is the worker now; what this one died of must not be what the next one runs first.
        lane.tell(server)
        effects = server.worker_lost(now_us, ready_us, lane.keys)
        if lane.state == "ready":
            server.worker_ready(now_us, lane.keys)
        return effects

    def tell(self, server: Server) -> bool:
        """Tell the core which spares stand by; whether there was anything new, so that something may run now."""
        told = [lane.tell(server) for lane in self.lanes]
        return any(told)

    def retire(self, now_us: int, lane: Lane) -> None:
        """This lane has nothing left to do."""
        self.lanes.remove(lane)
        self._restarts_gone += lane.restarts
        self.dismiss(now_us, lane)

    def dismiss(self, now_us: int, lane: Lane) -> None:
        """End a lane's workers; they are looked after until they are gone."""
        lane.retire(now_us)
        self._gone.append(lane)

    # ---- messages

    def filenos(self) -> set[int]:
        """The descriptors to poll; several workers may wait at one door."""
        return {fd for lane in self.lanes for fd in lane.filenos()}

    def lane_of(self, key: str) -> Lane:
        """Who has the network with this key."""
        for lane in self.lanes:
            if key in lane.hosted:
                return lane
        raise KeyError(key)

    def arrange(self, now_us: int, lane: Lane, message: ToFront, server: Server, desk: Desk) -> bool:
        """Take in a message of a start; True once all that lane has is served. Raises WorkerFailed, ProfileError."""
        if not self.hear(now_us, lane, message):
            return False
        for key in sorted(lane.keys - server.networks.keys()):
            self.serve(lane, key, self.view(lane, key), server, desk)
            self.keep(lane, key)
        promised = hosting.overcommitted(self._config, server.networks)
        self.notes += [promised] if promised else []
        server.worker_ready(now_us, lane.keys)
        return True

    def hear(self, now_us: int, lane: Lane, message: ToFront) -> bool:
        """Take in a message of a start; True once that lane is ready. Raises WorkerFailed, ProfileError."""
        return lane.arrange(message, partial(hosting.find, state=self._state, notes=self.notes), now_us)

    def view(self, lane: Lane, key: str, like: Served | None = None) -> Served:
        """A network as policies see it. `like`: as it is served already, of the same bundle."""
        if like is not None:
            return replace(like, key=key, away_until_us=0)
        profile = lane.profiles[key]
        view = hosting.served(lane.hosted[key].bundle, profile, self._config.limits.batch_max)
        view.key, view.correction = key, hosting.follows(self._config, profile)
        return view

    def serve(self, lane: Lane, key: str, view: Served, server: Server, desk: Desk) -> None:
        """New requests to this network go to this lane from now on."""
        profile = lane.profiles[key]
        server.networks[key] = view
        server.routes.lead(view.name, key, lane.tenant)
        if lane.tenant is None:
            desk.networks[view.name] = hosting.info(lane.hosted[key].bundle, profile, view)

    def keep(self, lane: Lane, key: str) -> None:
        """Store a profile that was measured just now; waits for the disk."""
        if lane.tenant is None and lane.profiles[key].quick:
            failed = hosting.keep(lane.profiles[key], self._state)
            if failed:
                # Not `+=`, which is no one step: the loop may take the notes meanwhile.
                self.notes.append(failed)

    def post(self, run: Run, payloads: Sequence[Payload]) -> None:
        """Hand a run to its lane, at the clock it says. Raises PipeClosed."""
        if self.clocks is not None:
            self.clocks.hold(run)
        self.lane_of(run.network).post(run, payloads)

    def drop(self, tickets: tuple[int, ...]) -> None:
        """These requests are over; whoever has features of them may forget them."""
        for lane in self.lanes:
            lane.drop(tickets)

    def tidy(self) -> list[Lane]:
        """Tell all what they may forget; returns those that are gone."""
        gone = []
        for lane in self.lanes:
            try:
                lane.tidy()
            except PipeClosed:
                gone.append(lane)
        return gone

    def ask_yield(self, run_id: int) -> None:
        """Ask this run to give way, wherever it is."""
        for lane in self.lanes:
            lane.ask_yield(run_id)

    def known(self, key: str) -> Known:
        """A network as its lane loaded it."""
        lane = self.lane_of(key)
        return Known(lane.hosted[key].bundle, lane.profiles[key])

    def bundles(self) -> list[Bundle]:
        """What everybody is served."""
        [lane] = [lane for lane in self.lanes if lane.tenant is None and not lane.retiring]
        return [hosted.bundle for hosted in lane.hosted.values()]

    def bundle(self, name: str, version: str) -> Bundle:
        """This version of a network, that somebody has."""
        all_of_them = (hosted.bundle for lane in self.lanes for hosted in lane.hosted.values())
        return next(one for one in all_of_them if (one.manifest.name, one.manifest.version) == (name, version))

    def samples(self, key: str) -> Samples | None:
        """What a network's calibration file holds, for a journal."""
        return hosting.samples(self.lane_of(key).hosted, key)


def own_key(name: str, tenant: str | None) -> str:
    """The key of a network, or of one that a tenant has to itself."""
    return name if tenant is None else f"{name}@{tenant}"
