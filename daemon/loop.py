"""delend's one loop: the only driver of the core with real sockets and a real clock.

Role: one thread, one poller. Every turn reads the clock once, drains what has arrived, lets the core decide, acts.
Flow of a turn: worker -> `Server.advance`, next run, replies; endpoints -> `Desk.handle`; due times -> `Server.expire`;
then the next run is posted, if the device is free or about to be.

Does not: decide anything (the core does), or import an engine.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import zmq

from ..clients.wire import encode
from ..policies.view import NEVER_US
from ..profiles.store import state_directory
from . import hosting
from .access import open_endpoints
from .acknowledged import once_audited, once_written
from .change import Changes
from .config import Config
from .crew import Crew, Lane
from .desk import Desk, Outgoing
from .door import Door
from .journal import Journal
from .keeping import Keeping
from .lifecycle import Lifecycle
from .log_writer import Log
from .memory import settle
from .notify import Notifier
from .pipe import PipeClosed, ToFront
from .recorded import core, setup_of
from .records import Alarm, Effect, ExitDone, Forget, Restart, RunFailed, RunReturned, Told, Wanted, Yield
from .reload import Parts, Reloader
from .sockets import Endpoints, RuntimeLock
from .supervisor import WorkerFailed
from .watchdog import books_fault
from .worker_early import Early

BOOKS_EVERY_US = 1_000_000
Reread: TypeAlias = Callable[[], Config]
# Goes on while the machine sleeps, as its tenants' patience does.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def serve(
    config: Config,
    note: Log,
    on_ready: Callable[[], None] | None = None,
    reread: Reread | None = None,
    early: Early | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, and all it has accepted is answered.

    Args:
        note: takes what the operator should know, line by line.
        on_ready: called once, when every network is served and all endpoints are bound.
        reread: gives the configuration as it stands at a reload. early: the first worker's process, if it runs already.
    Raises:
        AlreadyRunning, EndpointError: the runtime directory. BundleError, ProfileError, ConfigError, WorkerFailed:
        what cannot be served, and why.
    """
    state = state_directory(os.environ, os.getuid(), flag=Path(config.state_dir) if config.state_dir else None)
    # A watchdog that ends this process does it with SIGABRT; the log should show where the loop was.
    faulthandler.enable()
    lock = RuntimeLock(Path(config.runtime_dir))
    try:
        loop = Loop(config, state, note, reread, early)
        try:
            loop.start()
            if on_ready is not None and not loop.stopping:
                on_ready()
            loop.run()
        finally:
            loop.close()
    finally:
        lock.release()


class Loop:
    """The daemon's sockets, worker and core, and the turn that moves them."""

    def __init__(
        self, config: Config, state: Path, note: Log, reread: Reread | None = None, early: Early | None = None
    ) -> None:
        self._config = config
        self._state = state
        self._note = note
        self._signals, self._wake = socket.socketpair()
        # First, since it mends what is read next.
        self._keeping = Keeping(state, note, dev=config.dev, wake=self._rouse)
        self._crew = Crew(config, state, hosting.host(config, state), note, early)
        most = config.limits.journal_bytes_max
        self._journal = Journal(Path(config.journal), bytes_max=most, note=note) if config.journal else None
        wall = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        setup = setup_of(config, self._keeping.withdrawn(self._crew.bundles()))
        self._server = core(setup, self._journal, self._crew.samples, now_us=_clock_us(), wall=wall)
        self._desk = Desk(self._server, config.tenants, config.limits, os.urandom(8).hex())
        self._keeping.begin(_clock_us(), self._server.ledger, self._crew.bundles())
        self._changes = Changes(config, state, self._crew, self._server, self._desk)
        self._endpoints: Endpoints | None = None
        self._reloader = Reloader(config, reread, note)
        self._poller = zmq.Poller()
        self._worker_fds: list[int] = []
        self._seen_through: int | None = None
        self._run_count = self._books_us = 0
        self._lifecycle = Lifecycle(Notifier.from_environment(os.environ, os.getpid()), config.limits, note)

    # ---- life

    def start(self) -> None:
        """Start the worker, wait until it serves every network, then bind: nobody is asked before it can answer."""
        self._catch_signals()
        now_us = _clock_us()
        self._crew.start(now_us)
        self._watch_worker()
        while self._crew.state != "ready" and not self.stopping:
            if self._signals.fileno() in dict(self._poller.poll(100)):
                self._signals.recv(64)
            now_us = _clock_us()
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
        self._keeping.close(_clock_us(), self._server.ledger)
        self._lifecycle.close()
        signal.set_wakeup_fd(-1)
        self._signals.close()
        self._wake.close()

    def _rouse(self) -> None:
        """Have a turn made soon; from any thread."""
        with suppress(OSError):
            self._wake.send(b"\0")

    def turn(self) -> None:
        """Wait for something to happen, and act on it."""
        assert self._endpoints is not None
        ready = dict(self._poller.poll(self._timeout_ms()))
        now_us = _clock_us()
        if self._signals.fileno() in ready:
            self._signals.recv(64)
        # The device first: while tenants' messages are read, it should have something to do.
        if any(fd in ready for fd in self._crew.filenos()):
            self._drain_worker(now_us)
        if self._endpoints.wants(ready, now_us):
            self._attend(now_us)
        for door in self._endpoints.doors():
            if door.socket in ready:
                self._receive(now_us, door)
        self._act(now_us, self._server.expire(now_us))
        self._post(now_us)
        for lane, reason in self._crew.tick(now_us):
            self._lost(now_us, lane, reason)
        if self._crew.tell(self._server):
            self._post(now_us)
        once_audited(self._keeping, self._changes.tick(now_us), self._crew.bundles, self._send)
        self._say()
        self._watch_worker()
        self._see_through()
        # What nobody waits for comes last.
        self._server.learn()
        if not self._server.pending_count:
            for lane in self._crew.tidy():
                self._lost(now_us, lane, "it ended")
        self._live(now_us)

    # ---- parts of a turn

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
            said = "the daemon ended before this could be answered"
            self._act(now_us, self._desk.cut_off("shutting_down", said))
        if now_us >= self._books_us:
            # That nobody's request is lost or answered twice is looked at while it runs too, not in tests alone.
            self._books_us = now_us + BOOKS_EVERY_US
            fault = books_fault(server)
            if fault is not None:
                self._note(f"a fault of delen's own, please report it: {fault}", level="error", key="books")
        lifecycle.watch(now_us, server, self._crew, self._run_count)
        lifecycle.tell(now_us, server, self._desk)

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

    def _receive(self, now_us: int, door: Door) -> None:
        assert self._endpoints is not None
        tenant = door.tenant
        for route, user, frames in self._endpoints.receive(door, self._config.limits.receive_count_max):
            handle = self._desk.handle if self._endpoints.allows(door, user) else self._desk.turned_away
            outgoing, effects = handle(now_us, tenant, route, frames)
            self._send(outgoing)
            self._act(now_us, effects)
        until_us = self._desk.cooling_until(tenant)
        if until_us is not None and until_us > now_us:
            self._endpoints.pause(tenant, until_us)
            self._note(f"tenant {tenant}: too many malformed messages; not read for a while", level="warning")

    def _drain_worker(self, now_us: int) -> None:
        for lane in tuple(self._crew.lanes):
            try:
                for message in lane.messages():
                    if isinstance(message, ExitDone | RunFailed | RunReturned):
                        self._advance(now_us, lane, message)
                    else:
                        self._arrange(now_us, lane, message)
            except (PipeClosed, WorkerFailed) as error:
                self._lost(now_us, lane, str(error) or "it ended")

    def _advance(self, now_us: int, lane: Lane, done: ExitDone | RunFailed | RunReturned) -> None:
        network = self._server.running(done.run)
        if network is None:
            return
        lane.check_own(network)
        if isinstance(done, ExitDone):
            done = lane.with_logits(done, network)
        effects = self._server.advance(now_us, done)
        # First something to do for the device, then the answers.
        self._post(now_us)
        self._act(now_us, effects)

    def _act(self, now_us: int, effects: Sequence[Effect]) -> None:
        if not effects:
            return
        self._send(self._desk.settle(now_us, effects))
        for effect in effects:
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

    def _see_through(self) -> None:
        """Stay with a short run until it is over: going to sleep and being woken would take longer than it does.

        One run only, and no longer than twice `spin_us`, so that nobody else waits longer than for a turn.
        """
        run_id, self._seen_through = self._seen_through, None
        if run_id is None:
            return
        until_us = _clock_us() + 2 * self._config.spin_us
        while (now_us := _clock_us()) < until_us and self._server.running(run_id) is not None:
            self._drain_worker(now_us)
            # Where other processes have the other cores, the worker may be waiting for this one.
            os.sched_yield()
            self._post(now_us)

    def _lost(self, now_us: int, lane: Lane, reason: str) -> None:
        """A worker is gone."""
        effects = self._crew.lost(now_us, lane, reason, self._server)
        self._desk.worker = self._crew.told()
        self._say()
        self._act(now_us, effects)

    def _arrange(self, now_us: int, lane: Lane, message: ToFront) -> None:
        if self._crew.arrange(now_us, lane, message, self._server, self._desk):
            self._desk.worker = self._crew.told()
        self._say()

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
        now_us = _clock_us()
        due_us = self._server.wake_at()
        worker_us = self._crew.wake_at()
        if worker_us is not None:
            due_us = min(due_us, worker_us)
        due_us = min(due_us, self._lifecycle.wake_at(), self._changes.wake_at())
        if self._endpoints is not None:
            due_us = min(due_us, self._endpoints.wake_at())
        if due_us >= NEVER_US:
            return 1000
        # A policy that holds the device for a fuller batch has said when at the latest; anything else may wait.
        late_us = 0 if self._server.can_run(now_us) else 999
        return max(0, min(1000, (due_us - now_us + late_us) // 1000))

    def _watch_worker(self) -> None:
        fds = self._crew.filenos()
        if fds != self._worker_fds:
            for fd in self._worker_fds:
                self._poller.unregister(fd)
            for fd in fds:
                self._poller.register(fd, zmq.POLLIN)
            self._worker_fds = fds

    def _catch_signals(self) -> None:
        self._wake.setblocking(False)
        self._signals.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._lifecycle.end)
        signal.signal(signal.SIGHUP, partial(self._lifecycle.hang_up, os.isatty(0)))
        self._poller.register(self._signals.fileno(), zmq.POLLIN)


def _clock_us() -> int:
    return time.clock_gettime_ns(CLOCK) // 1000
