"""delend's one loop: the only driver of the core with real sockets and a real clock.

Role: one thread, one poller. Every turn reads the clock once, drains what has arrived, lets the core decide, acts.
Flow of a turn: worker -> `Server.advance`, next run, replies; endpoints -> `Desk.handle`; due times -> `Server.expire`;
then the next run is posted, if the device is free or about to be.

Does not: decide anything (the core does), or import an engine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import zmq

from ..clients.wire import encode
from . import hosting
from .access import open_endpoints
from .acknowledged import once_audited, once_written
from .change import Changes
from .clock import clock_us
from .clock_watch import ClockWatch
from .config import Config
from .crew import MESSAGES_MAX, Crew, Lane
from .desk import Desk, Outgoing
from .door import Door
from .energy_watch import EnergyWatch
from .journal import Journal
from .keeping import Keeping
from .lifecycle import Lifecycle
from .log_writer import Log
from .memory import settle
from .notify import Notifier
from .pipe import PipeClosed, ToFront
from .pressure import TAKEN_BYTES_MAX
from .recorded import core, setup_of
from .records import Alarm, Effect, Ended, ExitDone, Forget, Restart, RunFailed, RunReturned, Told, Wanted, Yield
from .reload import Parts, Reloader, Reread
from .sockets import Endpoints
from .supervisor import WorkerFailed
from .wakeups import Wakeups
from .watchdog import Books
from .worker_early import Early

# How often what nobody waits for is looked at: whether memory is short, counters have changed.
LIVE_EVERY_US = 50_000
OF_RUNS = (ExitDone, RunFailed, RunReturned)


class Loop:
    """The daemon's sockets, worker and core, and the turn that moves them."""

    def __init__(
        self, config: Config, state: Path, note: Log, reread: Reread | None = None, early: Early | None = None
    ) -> None:
        self._config = config
        self._state = state
        self._note = note
        self._wakeups = Wakeups()
        # First, since it mends what is read next.
        self._keeping = Keeping(state, note, dev=config.dev, wake=self._wakeups.rouse)
        self._crew = Crew(config, state, hosting.host(config, state), note, early)
        self._crew.clocks = ClockWatch(config, state, note, wake=self._wakeups.rouse)
        most = config.limits.journal_bytes_max
        self._journal = Journal(Path(config.journal), bytes_max=most, note=note) if config.journal else None
        wall = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        setup = setup_of(config, self._keeping.withdrawn(self._crew.bundles()))
        self._server = core(setup, self._journal, self._crew.samples, now_us=clock_us(), wall=wall)
        self._desk = Desk(self._server, config.tenants, config.limits, os.urandom(8).hex())
        known = self._server, self._desk, self._keeping.counters
        self._energy = EnergyWatch(config, known, note, time.time, clock_us())
        self._keeping.begin(clock_us(), self._server.ledger, self._crew.bundles())
        self._changes = Changes(config, state, self._crew, self._server, self._desk)
        self._endpoints: Endpoints | None = None
        self._reloader = Reloader(config, reread, note)
        self._poller = zmq.Poller()
        self._worker_fds: set[int] = set()
        # When workers are to be looked after though they say nothing; 0: something has changed, so in this turn.
        # `_live_us`: when operator and service manager are, while there are turns; `_own_us`: even if there are none.
        self._crew_us = self._live_us = self._own_us = 0
        self._seen_through: int | None = None
        self._books = Books(note)
        self._run_count = 0
        self._lifecycle = Lifecycle(Notifier.from_environment(os.environ, os.getpid()), config.limits, note)

    # ---- life

    def start(self) -> None:
        """Start the worker, wait until it serves every network, then bind: nobody is asked before it can answer."""
        self._wakeups.catch(self._lifecycle)
        self._poller.register(self._wakeups.fd, zmq.POLLIN)
        now_us = clock_us()
        self._crew.start(now_us)
        self._watch_worker()
        while self._crew.state != "ready" and not self.stopping:
            if self._wakeups.fd in dict(self._poller.poll(100)):
                self._wakeups.read()
            now_us = clock_us()
            self._lifecycle.starting(now_us, f"loading {', '.join(self._config.networks)}")
            if self._crew.tick(now_us):
                raise WorkerFailed(f"not ready after limits.start_ms_max = {self._config.limits.start_ms_max} ms")
            try:
                for lane in self._crew.lanes:
                    while (message := lane.receive()) is not None:
                        self._arrange(now_us, lane, message)
            except PipeClosed as error:
                raise WorkerFailed("the worker process ended while starting; see its message above") from error
        if self.stopping:
            return
        settle()
        self._desk.started_us = now_us
        self._endpoints = open_endpoints(self._config, time.time(), self._note)
        self._endpoints.watch(self._poller)
        self._lifecycle.ready(self._server, self._desk)

    @property
    def stopping(self) -> bool:
        """Whether it was told to end, and has no more turns to make for that."""
        return self._lifecycle.phase == "over" or (self._lifecycle.phase == "starting" and self._lifecycle.ending)

    def run(self) -> None:
        """Turn until told to end, and what was accepted has its answers."""
        while not self.stopping:
            self.turn()

    def close(self) -> None:
        self._changes.stop()
        self._crew.stop()
        if self._journal is not None:
            self._journal.close()
        if self._endpoints is not None:
            self._endpoints.close()
        self._keeping.close(clock_us(), self._server.ledger)
        self._lifecycle.close()
        self._energy.close()
        self._wakeups.close()

    def turn(self) -> None:
        """Wait for something to happen, and act on it."""
        assert self._endpoints is not None
        ready = dict(self._poller.poll(self._timeout_ms()))
        now_us = clock_us()
        if self._wakeups.fd in ready:
            self._wakeups.read()
            self._crew_us = self._live_us = 0
        # The device first: while tenants' messages are read, it should have something to do.
        if not self._worker_fds.isdisjoint(ready):
            now_us = self._drain_worker(now_us)
            self._crew_us = 0
        if self._endpoints.wants(ready, now_us):
            self._attend(now_us)
        for door in self._endpoints.doors(ready):
            now_us = self._receive(now_us, door)
        self._act(now_us, self._server.expire(now_us))
        self._post(now_us)
        if now_us >= self._crew_us:
            self._tend(now_us)
        tidied = self._see_through()
        # What nobody waits for comes last.
        self._server.learn()
        if not tidied:
            self._tidy(now_us)
        if not self._server.pending_count:
            for lane in self._crew.tidy():
                self._lost(now_us, lane, "it ended")
        if now_us >= self._live_us or self._desk.taken_bytes >= TAKEN_BYTES_MAX or self._lifecycle.ending:
            self._live(now_us)

    # ---- parts of a turn

    def _tend(self, now_us: int) -> None:
        """Look after workers: those that start, end, stand by, and take over from others."""
        for lane, reason in self._crew.tick(now_us):
            self._lost(now_us, lane, reason)
        once_audited(self._keeping, self._changes.tick(now_us), self._crew.bundles, self._send)
        if self._crew.tell(self._server):
            self._desk.worker = self._crew.told()
            self._post(now_us)
        self._say()
        self._watch_worker()
        worker_us, change_us = self._crew.wake_at(), self._changes.wake_at()
        self._crew_us = change_us if worker_us is None else min(worker_us, change_us)

    def _live(self, now_us: int) -> None:
        """What operator and service manager want, after what tenants want."""
        lifecycle, server = self._lifecycle, self._server
        if lifecycle.reload_wanted:
            assert self._endpoints is not None
            lifecycle.reloading(time.monotonic_ns() // 1000)
            parts = Parts(server, self._desk, self._endpoints, self._desk.networks)
            reloaded = self._reloader.reload(time.time(), parts, partial(self._act, now_us))
            once_written(self._keeping, reloaded, self._note, partial(lifecycle.ready, server, self._desk))
        self._keeping.turn(now_us, server.ledger)
        lifecycle.turn(now_us, server, self._desk)
        if lifecycle.phase == "over":
            said = "the daemon ended before this could be answered (limits.drain_ms_max)"
            self._act(now_us, self._desk.cut_off("shutting_down", said))
        self._books.turn(now_us, server)
        lifecycle.watch(now_us, server, self._crew, self._run_count)
        lifecycle.tell(now_us, server, self._desk)
        self._energy.turn(now_us)
        self._own_us = min(lifecycle.wake_at(), self._energy.wake_at())
        self._live_us = min(now_us + LIVE_EVERY_US, self._own_us)

    def _attend(self, now_us: int) -> None:
        """Handshakes, and connections that are too many or have lost their rights."""
        assert self._endpoints is not None
        attended = self._endpoints.attend(now_us, time.time())
        for text in attended.notes:
            self._note(text, level="warning")
        for rejected in attended.rejected:
            self._keeping.record("stranger", "login rejected", rejected._asdict())
        for tenant, route in attended.lost:
            self._act(now_us, self._desk.leave(tenant, route))

    def _receive(self, now_us: int, door: Door) -> int:
        """Read what has come by this door. Returns the time: what came while the first was handled, came later."""
        assert self._endpoints is not None
        tenant, first = door.tenant, True
        for route, user, frames in self._endpoints.receive(door, self._config.limits.receive_count_max):
            now_us, first = now_us if first else clock_us(), False
            handle = self._desk.handle if self._endpoints.allows(door, user) else self._desk.turned_away
            outgoing, effects = handle(now_us, tenant, route, frames)
            if outgoing:
                self._send(outgoing)
            self._act(now_us, effects)
        until_us = self._desk.cooling_until(tenant)
        if until_us is not None and until_us > now_us:
            self._endpoints.pause(tenant, until_us)
            self._note(f"tenant {tenant}: too many malformed messages; not read for a while", level="warning")
        return now_us

    def _drain_worker(self, now_us: int) -> int:
        """Read what workers say. Returns the time: no run has taken longer than until its report is read."""
        for lane in tuple(self._crew.lanes):
            try:
                # In a turn no more than a worker in its right mind would say.
                for _ in range(MESSAGES_MAX):
                    message = lane.receive()
                    if message is None:
                        break
                    now_us = clock_us()
                    if isinstance(message, OF_RUNS):
                        self._advance(now_us, lane, message)
                        if not self._server.busy:
                            # Nobody has anything to report; to ask costs as much as a message.
                            break
                    else:
                        self._arrange(now_us, lane, message)
            except (PipeClosed, WorkerFailed) as error:
                self._lost(now_us, lane, str(error) or "it ended")
        return now_us

    def _advance(self, now_us: int, lane: Lane, done: ExitDone | RunFailed | RunReturned) -> None:
        network = self._server.running(done.run)
        if network is None:
            return
        lane.check_own(network)
        if isinstance(done, ExitDone):
            done = lane.with_logits(done, network)
        effects = self._server.advance(now_us, done)
        # First something to do for the device, then the answers.
        if self._server.waiting:
            self._post(now_us)
        self._act(now_us, effects)

    def _act(self, now_us: int, effects: Sequence[Effect]) -> None:
        if not effects:
            return
        self._send(self._desk.settle(now_us, effects))
        for effect in effects:
            if isinstance(effect, Ended):
                continue
            if isinstance(effect, Yield):
                self._crew.ask_yield(effect.run)
            elif isinstance(effect, Restart):
                self._lost(now_us, self._crew.lane_of(effect.key), effect.reason)
            elif isinstance(effect, Alarm):
                self._note(effect.said, level="warning")
                self._keeping.withdraw(effect.tenant, self._crew.bundle(effect.network, effect.version), effect.reason)
            elif isinstance(effect, Told):
                self._note(effect.text, level="warning")
            elif isinstance(effect, Wanted):
                self._send(self._changes.begin(now_us, effect))
                self._crew_us = 0
            elif isinstance(effect, Forget):
                self._crew.drop(effect.tickets)

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        assert self._endpoints is not None
        for message in outgoing:
            tensors = () if message.tensor is None else (message.tensor,)
            if not self._endpoints.send(message.tenant, message.route, encode(message.reply, tensors)):
                self._server.ledger.account(message.tenant).undeliverable += 1

    def _post(self, now_us: int) -> None:
        run = self._server.next(now_us)
        if run is None:
            return
        try:
            self._crew.post(run, self._server.payloads(run))
        except PipeClosed:
            # This run it never had, so it did not die of it.
            effects = self._server.advance(now_us, RunReturned(run.id))
            self._lost(now_us, self._crew.lane_of(run.network), "it ended")
            self._act(now_us, effects)
            return
        self._run_count += 1
        # By the engine's time alone: the hop is long because of sleeping, which must not be a reason to sleep.
        engine_us = run.predicted_us - self._server.networks[run.network].hop_us
        self._seen_through = run.id if engine_us <= self._config.spin_us else None

    def _see_through(self) -> bool:
        """Stay with a short run until it is over: going to sleep and being woken would take longer than it does.

        One run only, and no longer than twice `spin_us`, so that nobody else waits longer than for a turn. Returns
        whether this turn's tidying was done: while the worker works there is time for it, where nobody else waits.
        """
        run_id, self._seen_through = self._seen_through, None
        if run_id is None:
            return False
        now_us = clock_us()
        until_us = now_us + 2 * self._config.spin_us
        alone = self._server.pending_count == 1
        if alone:
            self._tidy(now_us)
        while (now_us := clock_us()) < until_us:
            # Where other processes have the other cores, the worker may be waiting for this one, or who was answered.
            os.sched_yield()
            if self._server.running(run_id) is None:
                break
            now_us = self._drain_worker(now_us)
            if self._server.waiting:
                self._post(now_us)
        return alone

    def _tidy(self, now_us: int) -> None:
        """What nobody waits for and no decision reads."""
        self._server.ledger.count()
        self._desk.learn(now_us)

    def _lost(self, now_us: int, lane: Lane, reason: str) -> None:
        """A worker is gone."""
        effects = self._crew.lost(now_us, lane, reason, self._server)
        self._desk.worker = self._crew.told()
        self._say()
        # Its descriptor is closed, and may be another's by the next turn.
        self._watch_worker()
        self._crew_us = 0
        self._act(now_us, effects)

    def _arrange(self, now_us: int, lane: Lane, message: ToFront) -> None:
        if self._crew.arrange(now_us, lane, message, self._server, self._desk):
            self._desk.worker = self._crew.told()
        self._say()
        self._crew_us = 0

    def _say(self) -> None:
        """What happened to workers."""
        notes, self._crew.notes = self._crew.notes, []
        for text in notes:
            self._note(text, level="warning")

    # ---- waiting

    def _timeout_ms(self) -> int:
        """How long nothing is due, in whole milliseconds; at most a second."""
        if self._seen_through is not None:
            # Posted while another was seen through, and as short: tenants have been waited for long enough.
            return 0
        assert self._endpoints is not None
        now_us, server = clock_us(), self._server
        due_us = min(server.wake_at(), self._crew_us, self._own_us, self._endpoints.wake_at())
        if due_us >= now_us + 1_000_000:
            return 1000
        # A policy that holds the device for a fuller batch has said when at the latest; anything else may wait.
        late_us = 0 if server.pending_count and server.can_run(now_us) else 999
        return max(0, min(1000, (due_us - now_us + late_us) // 1000))

    def _watch_worker(self) -> None:
        fds = self._crew.filenos()
        if fds != self._worker_fds:
            for fd in self._worker_fds:
                self._poller.unregister(fd)
            for fd in fds:
                self._poller.register(fd, zmq.POLLIN)
            self._worker_fds = fds
