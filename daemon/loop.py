"""delend's one loop: the only driver of the core with real sockets and a real clock.

Role: one thread, one poller. Every turn reads the clock once, drains what has arrived, lets the core decide, acts.
Flow of a turn: worker -> `Server.advance`, next run, replies; endpoints -> `Desk.handle`; due times -> `Server.expire`;
then the next run is posted, if the device is free or about to be.

Does not: decide anything (the core does), or import an engine.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import zmq

from ..clients.wire import encode
from ..policies.view import NEVER_US
from ..profiles.store import state_directory
from . import hosting
from .config import Config
from .desk import Desk, Outgoing, WorkerState
from .journal import Journal
from .pipe import PipeClosed, ToFront
from .recorded import core, setup_of
from .records import Alarm, Effect, ExitDone, Forget, Restart, RunFailed, RunReturned, Yield
from .sockets import Endpoints, RuntimeLock
from .supervisor import Supervisor, WorkerFailed

Note = Callable[[str], None]
# The collector looks at so many new objects at a time, half a millisecond, and never at those that stayed: going
# through all answers kept for clients stopped everything for 10 to 40 ms. The core makes no cycles (test_cycles.py).
GC_THRESHOLDS = (1_000, 1_000_000, 1_000_000)


def serve(config: Config, note: Note, on_ready: Callable[[], None] | None = None) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    Args:
        note: takes one line for the operator.
        on_ready: called once, when every network is served and all endpoints are bound.
    Raises:
        AlreadyRunning, EndpointError: the runtime directory. BundleError, ProfileError, ConfigError, WorkerFailed:
        what cannot be served, and why.
    """
    state = state_directory(os.environ, os.getuid(), flag=Path(config.state_dir) if config.state_dir else None)
    lock = RuntimeLock(Path(config.runtime_dir))
    try:
        loop = Loop(config, state, note)
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

    def __init__(self, config: Config, state: Path, note: Note) -> None:
        self._config = config
        self._state = state
        self._note = note
        self._hosted = hosting.host(config, state)
        self._supervisor = Supervisor(config, self._hosted)
        self._journal = (
            Journal(Path(config.journal), bytes_max=config.limits.journal_bytes_max, note=note)
            if config.journal
            else None
        )
        samples = partial(hosting.samples, self._hosted)
        wall = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._server = core(setup_of(config), self._journal, samples, now_us=_clock_us(), wall=wall)
        self._desk = Desk(self._server, config.tenants, config.limits, os.urandom(8).hex())
        self._endpoints: Endpoints | None = None
        self._poller = zmq.Poller()
        self._worker_fd: int | None = None
        self._seen_through: int | None = None
        self.stopping = False
        self._signals, self._wake = socket.socketpair()

    # ---- life

    def start(self) -> None:
        """Start the worker, wait until it serves every network, then bind: nobody is asked before it can answer."""
        self._catch_signals()
        now_us = _clock_us()
        self._supervisor.start(now_us)
        self._watch_worker()
        while self._supervisor.state != "ready" and not self.stopping:
            self._poller.poll(100)
            now_us = _clock_us()
            if self._supervisor.tick(now_us):
                raise WorkerFailed(f"not ready after limits.start_ms_max = {self._config.limits.start_ms_max} ms")
            try:
                while (message := self._supervisor.receive()) is not None:
                    self._arrange(message, now_us)
            except PipeClosed as error:
                raise WorkerFailed("the worker process ended while starting; see its message above") from error
        if self.stopping:
            return
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._desk.started_us = now_us
        names = [tenant.name for tenant in self._config.tenants]
        self._endpoints = Endpoints(Path(self._config.runtime_dir), names, self._config.limits)
        for router in self._endpoints.sockets().values():
            self._poller.register(router, zmq.POLLIN)

    def run(self) -> None:
        """Turn until told to stop."""
        while not self.stopping:
            self.turn()

    def close(self) -> None:
        self._supervisor.stop()
        if self._journal is not None:
            self._journal.close()
        if self._endpoints is not None:
            self._endpoints.close()
        signal.set_wakeup_fd(-1)
        self._signals.close()
        self._wake.close()

    def turn(self) -> None:
        """Wait for something to happen, and act on it."""
        assert self._endpoints is not None
        ready = dict(self._poller.poll(self._timeout_ms()))
        now_us = _clock_us()
        if self._signals.fileno() in ready:
            self._signals.recv(64)
        # The device first: while tenants' messages are read, it should have something to do.
        if self._supervisor.fileno() in ready:
            self._drain_worker(now_us)
        for tenant, router in self._endpoints.sockets().items():
            if router in ready:
                self._receive(now_us, tenant)
        self._act(now_us, self._server.expire(now_us))
        self._post(now_us)
        if self._supervisor.tick(now_us):
            self._lost(now_us, "it took too long to start")
        self._watch_worker()
        self._see_through()
        # What nobody waits for comes last.
        self._server.learn()
        if not self._server.pending_count:
            self._tidy(now_us)

    # ---- parts of a turn

    def _receive(self, now_us: int, tenant: str) -> None:
        assert self._endpoints is not None
        for route, frames in self._endpoints.receive(tenant, self._config.limits.receive_count_max):
            outgoing, effects = self._desk.handle(now_us, tenant, route, frames)
            self._send(outgoing)
            self._act(now_us, effects)

    def _drain_worker(self, now_us: int) -> None:
        try:
            while (message := self._supervisor.receive()) is not None:
                if isinstance(message, ExitDone | RunFailed | RunReturned):
                    self._advance(now_us, message)
                else:
                    self._arrange(message, now_us)
        except PipeClosed:
            self._lost(now_us, "it ended")
        except WorkerFailed as error:
            self._lost(now_us, str(error))

    def _advance(self, now_us: int, done: ExitDone | RunFailed | RunReturned) -> None:
        network = self._server.running(done.run)
        if network is None:
            return
        if isinstance(done, ExitDone):
            done = self._supervisor.with_logits(done, network)
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
                self._supervisor.ask_yield(effect.run)
            elif isinstance(effect, Restart):
                self._lost(now_us, effect.reason)
            elif isinstance(effect, Alarm):
                said = f"{effect.network} for tenant {effect.tenant}: certificate withdrawn, {effect.reason}"
                self._note(
                    f"{said}; its inputs have changed: recalibrate: delen calibrate {effect.network} --data DATA"
                )
            elif isinstance(effect, Forget):
                self._supervisor.drop(effect.tickets)

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
            self._supervisor.post(run, self._server.payloads(run))
        except PipeClosed:
            self._lost(now_us, "it ended")
            return
        # By the engine's time alone: the hop is long because of sleeping, which must not be a reason to sleep.
        engine_us = run.predicted_us - self._server.networks[run.network].hop_us
        self._seen_through = run.id if engine_us <= self._config.spin_us else None

    def _tidy(self, now_us: int) -> None:
        try:
            self._supervisor.tidy()
        except PipeClosed:
            self._lost(now_us, "it ended")

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

    def _lost(self, now_us: int, reason: str) -> None:
        """The worker is gone: start another, and let the core sort out what it was running."""
        if self._supervisor.state == "waiting":
            return
        self._note(f"the worker is lost ({reason}); starting another")
        self._unwatch_worker()
        ready_us = self._supervisor.lost(now_us)
        self._desk.worker = WorkerState(self._supervisor.state, self._supervisor.restarts)
        self._act(now_us, self._server.worker_lost(now_us, ready_us))

    def _arrange(self, message: ToFront, now_us: int) -> None:
        notes: list[str] = []
        find = partial(hosting.find, state=self._state, notes=notes)
        all_ready = self._supervisor.arrange(message, find, now_us)
        for name in self._supervisor.profiles.keys() - self._server.networks.keys() if all_ready else ():
            profile = self._supervisor.profiles[name]
            bundle = self._hosted[name].bundle
            view = hosting.served(bundle, profile, self._config.limits.batch_max)
            view.correction = hosting.follows(self._config, profile)
            self._server.networks[name] = view
            self._desk.networks[name] = hosting.info(bundle, profile, view)
            if profile.quick:
                failed = hosting.keep(profile, self._state)
                notes += [failed] if failed else []
        if all_ready:
            promised = hosting.overcommitted(self._config, self._server.networks)
            notes += [promised] if promised else []
            self._server.worker_ready(now_us)
            self._desk.worker = WorkerState("ready", self._supervisor.restarts)
        for text in notes:
            self._note(text)

    # ---- waiting

    def _timeout_ms(self) -> int:
        """How long nothing is due, in whole milliseconds; at most a second."""
        if self._seen_through is not None:
            # Posted while another was seen through, and as short: tenants have been waited for long enough.
            return 0
        now_us = _clock_us()
        due_us = self._server.wake_at()
        worker_us = self._supervisor.wake_at()
        if worker_us is not None:
            due_us = min(due_us, worker_us)
        if due_us >= NEVER_US:
            return 1000
        # A policy that holds the device for a fuller batch has said when at the latest; anything else may wait.
        late_us = 0 if self._server.can_run(now_us) else 999
        return max(0, min(1000, (due_us - now_us + late_us) // 1000))

    def _watch_worker(self) -> None:
        fd = self._supervisor.fileno()
        if fd != self._worker_fd:
            self._unwatch_worker()
            if fd is not None:
                self._poller.register(fd, zmq.POLLIN)
            self._worker_fd = fd

    def _unwatch_worker(self) -> None:
        if self._worker_fd is not None:
            self._poller.unregister(self._worker_fd)
            self._worker_fd = None

    def _catch_signals(self) -> None:
        self._wake.setblocking(False)
        self._signals.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._poller.register(self._signals.fileno(), zmq.POLLIN)

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopping = True


def _clock_us() -> int:
    return time.monotonic_ns() // 1000
