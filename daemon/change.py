"""Other networks for a daemon that serves: one is added, swapped for another version, or taken away, under load.

Role: one change at a time. The new set is loaded by workers of its own, beside those that serve; until all of them
have warmed up and answered their canaries, nothing changes, and a fault on the way leaves everything as it was. Then
new requests go to the new workers, and the old ones finish what they have and end: every answer is of the version its
request was let in for, and says so. What takes long (checking files, certificates) is done on a thread of its own,
which touches nothing that serves.
Flow: `begin` -> bundle checked -> newcomers loaded -> networks made ready for policies -> routes changed -> `Managed`.

Does not: judge who may ask for that (`desk.py`), or outlive a restart: the configuration says what is served then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..clients.wire import VERSION, Managed, Refusal
from ..exits.bundle import BundleError
from ..policies.view import NEVER_US, Served
from ..profiles.schema import ProfileError
from . import hosting
from .aborts import leave_aborts
from .config import Config, ConfigError
from .crew import Crew, Lane, own_key
from .desk import Desk, Outgoing
from .memory_budget import MemoryShort, free_bytes, memory_fault, needed_bytes
from .partings import with_reason
from .pipe import PipeClosed
from .records import Wanted
from .server import Server
from .supervisor import WorkerFailed
from .worker_process import Hosted

# How often a thread's work, and what old workers still have, is looked at.
LOOK_US = 5_000
SWITCH_S = 0.000_5


class _Failed(Exception):
    """The change cannot be made, and why."""


@dataclass(eq=False)
class _Change:
    """A change under way. `name`, `version`: of what it brings, once that is known; `then`: what follows `work`."""

    wanted: Wanted
    name: str
    version: str = ""
    newcomers: list[Lane] = field(default_factory=list)
    work: Future[Any] | None = None
    then: Callable[[int, Any], None] | None = None
    done: bool = False


class Changes:
    """The change under way, if there is one."""

    def __init__(self, config: Config, state: Path, crew: Crew, server: Server, desk: Desk) -> None:
        self._config = config
        self._state = state
        self._crew = crew
        self._server = server
        self._desk = desk
        self._generation = 1
        self._now: _Change | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._looked_us = 0

    def wake_at(self) -> int:
        """When `tick` has something to do; NEVER_US when never."""
        wake_us = self._looked_us + LOOK_US if self._now is not None or self._old() else NEVER_US
        clocks = self._crew.clocks
        return wake_us if clocks is None else min(wake_us, clocks.wake_at())

    def begin(self, now_us: int, wanted: Wanted) -> list[Outgoing]:
        """Start a change. Returns a refusal, or nothing: how it ends is told by `tick`."""
        message, served = wanted.message, self._served()
        if self._now is not None and (wanted.tenant, message.id) == (
            self._now.wanted.tenant,
            self._now.wanted.message.id,
        ):
            # Said again: by a client that has connected anew, or is impatient.
            assert self._now is not None
            self._now.wanted = wanted
            return []
        fault = None
        if self._now is not None or self._old():
            fault = "busy", "another change is under way; ask again when it is done"
        elif message.action not in ("add", "swap", "remove"):
            fault = "malformed", f"action {message.action!r:.40}; expected add, swap or remove"
        elif message.action == "remove" and message.network not in served:
            fault = "unknown_network", f"no network {message.network!r:.80} is served"
        elif message.action == "remove" and len(served) == 1:
            fault = "bundle", f"{message.network} is the last network; add another before it goes"
        if fault is not None:
            return [_told(wanted, Refusal(VERSION, message.id, *fault))]
        self._now, self._looked_us = _Change(wanted, message.network), now_us
        if message.action != "remove":
            self._do(lambda: hosting.bring(self._config, self._state, message.network), self._brought)
            return []
        try:
            self._start(now_us, {name: hosted for name, hosted in served.items() if name != message.network})
        except OSError as error:
            return self._give_up(now_us, str(error))
        return []

    def tick(self, now_us: int) -> list[Outgoing]:
        """Go on with it. Returns the end of a change, for who asked for it."""
        outgoing: list[Outgoing] = []
        if now_us >= self._looked_us + LOOK_US:
            self._looked_us = now_us
            outgoing = self._retire(now_us) + self._step(now_us)
        if self._crew.clocks is not None:
            # Last, so that what has just begun to serve costs what it does at the present clock.
            self._crew.clocks.turn(now_us, self._server, self._crew.known, self._desk.networks)
        return outgoing

    def _step(self, now_us: int) -> list[Outgoing]:
        change = self._now
        if change is None:
            return []
        try:
            if change.work is not None:
                if change.work.done():
                    work, change.work = change.work, None
                    assert change.then is not None
                    change.then(now_us, work.result())
            else:
                self._hear(now_us, change)
        except (BundleError, ConfigError, ProfileError, WorkerFailed, OSError, MemoryError, _Failed) as error:
            return self._give_up(now_us, str(error) or "no memory for it")
        if not change.done:
            return []
        self._now = None
        reply = Managed(VERSION, change.wanted.message.id, change.name, change.version)
        return [_told(change.wanted, reply)]

    def stop(self) -> None:
        """The daemon ends."""
        for lane in self._now.newcomers if self._now is not None else ():
            lane.stop()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    # ---- steps

    def _do(self, work: Callable[[], Any], then: Callable[[int, Any], None]) -> None:
        """Work that takes long, on a thread of its own; `then` goes on with what comes of it, in the loop's."""
        assert self._now is not None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "change", leave_aborts)
            # The loop would wait five milliseconds for a thread that computes, each time it has slept.
            sys.setswitchinterval(SWITCH_S)
        self._now.work, self._now.then = self._thread.submit(work), then

    def _brought(self, now_us: int, hosted: Hosted) -> None:
        """The bundle is sound: does it fit what is asked for?"""
        assert self._now is not None
        change, served = self._now, self._served()
        action, manifest = change.wanted.message.action, hosted.bundle.manifest
        if action == "add" and manifest.name in served:
            raise _Failed(f"{manifest.name} is served already; say swap to serve another version of it")
        if action == "swap" and manifest.name not in served:
            raise _Failed(f"no network {manifest.name!r} is served; say add")
        change.name, change.version = manifest.name, manifest.version
        self._start(now_us, {**served, manifest.name: hosted})

    def _start(self, now_us: int, hosted: Mapping[str, Hosted]) -> None:
        """Start a worker with the new set for everybody, and for each tenant that has its own.

        Raises OSError; MemoryShort, which is one, before anything is loaded.
        """
        assert self._now is not None
        self._generation += 1
        workers = hosting.workers_of(self._config, hosted)
        self._fits([own for _, own in workers])
        for tenant, own in workers:
            keys = {f"{own_key(name, tenant)}#{self._generation}": each for name, each in own.items()}
            newcomer = Lane(self._config, keys, tenant, self._crew.make)
            self._now.newcomers.append(newcomer)
            for key, each in keys.items():
                old = self._key_of(tenant, each)
                if old is not None:
                    # The same bundle costs what it costs: nothing is measured again.
                    newcomer.profiles[key] = self._crew.lane_of(old).profiles[old]
            newcomer.start(now_us)

    def _fits(self, workers: Sequence[Mapping[str, Hosted]]) -> None:
        """Old and new workers are there at once, until the old have nothing left to do. Raises MemoryShort."""
        kept_bytes = needed_bytes(self._config, [lane.hosted for lane in self._crew.lanes])
        fault = memory_fault(self._config, workers, free_bytes(self._config), kept_bytes=kept_bytes)
        if fault:
            raise MemoryShort(f"the networks {fault}")

    def _hear(self, now_us: int, change: _Change) -> None:
        """Messages of the newcomers, until all are ready. Raises WorkerFailed, ProfileError, _Failed."""
        for lane in change.newcomers:
            try:
                while (message := lane.receive()) is not None:
                    self._crew.hear(now_us, lane, message)
            except PipeClosed as error:
                raise _Failed("the new worker ended while it loaded") from error
            if lane.state != "ready" and lane.tick(now_us):
                said = f"not loaded within limits.start_ms_max = {self._config.limits.start_ms_max} ms"
                if self._crew.door is not None:
                    said = f"{said}; a change needs one more engine than what serves: systemctl start delen-engine@1"
                raise _Failed(said)
        if all(lane.state == "ready" for lane in change.newcomers):
            self._do(partial(self._views, tuple(change.newcomers)), self._commit)

    def _views(self, newcomers: Sequence[Lane]) -> list[tuple[Lane, str, Served]]:
        """All that they serve, as policies see it; on the thread, since certificates take long."""
        views = []
        for lane in newcomers:
            for key, hosted in lane.hosted.items():
                before = self._key_of(lane.tenant, hosted)
                like = None if before is None else self._server.networks[before]
                views.append((lane, key, self._crew.view(lane, key, like)))
                if before is None:
                    self._crew.keep(lane, key)
        return views

    def _commit(self, now_us: int, views: list[tuple[Lane, str, Served]]) -> None:
        """New requests go to the new workers from now on."""
        assert self._now is not None
        change, old = self._now, self._old_names()
        for lane in change.newcomers:
            if lane.gone_by_now():
                raise _Failed("the new worker ended before it could take over")
        for lane in self._crew.lanes:
            lane.step_back(now_us)
        self._crew.lanes[:0] = change.newcomers
        for lane, key, view in views:
            self._crew.serve(lane, key, view, self._server, self._desk)
            old.discard((lane.tenant, view.name))
        for lane in change.newcomers:
            self._server.worker_ready(now_us, lane.keys)
        for tenant, name in old:
            self._server.routes.close(name, tenant)
            if tenant is None:
                self._desk.networks.pop(name, None)
        change.newcomers, change.done = [], True

    def _retire(self, now_us: int) -> list[Outgoing]:
        """Old workers that have nothing left to do end. Returns the ends of what none of them will do any more."""
        outgoing: list[Outgoing] = []
        for lane in self._old():
            runs, tickets = self._server.open_of(lane.keys)
            if tickets and lane.hopeless:
                # Its bundle may be gone by now, so that no worker could load it again.
                effects = [effect for ticket in tickets for effect in self._server.cancel(ticket)]
                said = "the engine died, and this version of the network is served no more; ask again"
                outgoing += self._desk.settle(now_us, with_reason(effects, code="engine_crashed", message=said))
            elif not runs and not tickets:
                self._server.forget(lane.keys)
                self._crew.retire(now_us, lane)
        return outgoing

    def _give_up(self, now_us: int, reason: str) -> list[Outgoing]:
        """The change cannot be made; what serves, serves on."""
        assert self._now is not None
        change, self._now = self._now, None
        for lane in change.newcomers:
            self._crew.dismiss(now_us, lane)
        said = f"{change.wanted.message.action} of {change.name!r:.200} failed, all is served as before: {reason}"
        self._crew.notes.append(said)
        return [_told(change.wanted, Refusal(VERSION, change.wanted.message.id, "bundle", said))]

    # ---- what there is

    def _old(self) -> list[Lane]:
        return [lane for lane in self._crew.lanes if lane.retiring]

    def _served(self) -> dict[str, Hosted]:
        """What is served to everybody, by name."""
        [lane] = [lane for lane in self._crew.lanes if lane.tenant is None and not lane.retiring]
        return {hosted.bundle.manifest.name: hosted for hosted in lane.hosted.values()}

    def _old_names(self) -> set[tuple[str | None, str]]:
        return {
            (lane.tenant, hosted.bundle.manifest.name) for lane in self._crew.lanes for hosted in lane.hosted.values()
        }

    def _key_of(self, tenant: str | None, hosted: Hosted) -> str | None:
        """What this very network is called where this tenant is served."""
        lanes = (lane for lane in self._crew.lanes if lane.tenant == tenant)
        return next((key for lane in lanes for key, each in lane.hosted.items() if each is hosted), None)


def _told(wanted: Wanted, reply: Managed | Refusal) -> Outgoing:
    return Outgoing(wanted.tenant, wanted.route, reply)
