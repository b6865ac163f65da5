"""The worker process: owns the engine and the device, does what the front says, and may die at any time.

Role: `python -m delen.daemon.worker FD SETTINGS`, started by the front with one end of a socket pair; `FD ENGINE` where
it says its settings later, see `worker_early.py`; or `--socket PATH`, started by systemd, see `worker_service.py`.
Loads and warms up networks, takes quick profiles, carries out runs. Nothing that matters lives only here.
Flow: Attach -> Up; Load -> Loaded | Failed; Measure -> Measured | Failed; Post -> ExitDone ... | RunFailed |
RunReturned. A second Post waits in the pipe while the first runs.

Does not: know tenants, bounds or requests; open sockets or files of its own beside the bundles it is told to load.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from ..exits.bundle import Bundle, BundleError, load_bundle
from ..exits.calibrations import at_temperatures
from ..exits.runner import EngineFault, Loaded, Runner
from ..profiles.board import describe_device
from ..profiles.measure import QUICK, measure
from ..profiles.meters import WATTS_PER_CORE, CpuModel, Meter, MeterError, SensorMeter, best_meter
from ..profiles.schema import ProfileError
from .arena import Arena
from .clock import clock_us
from .engines import make_replay, make_runner, preload
from .execute import Executor, Network
from .memory_budget import short_of_memory
from .notify import Notifier
from .pipe import Attach, Begin, Drop, Failed, Load, Measure, Measured, Pipe, PipeClosed, Post, ToWorker, Up
from .pipe import Loaded as LoadedReply
from .records import RunFailed
from .worker_service import Alive, begin, connect

# After a fault of the device nothing it says can be trusted: end, and let the front start a fresh process.
EXIT_DEVICE = 70
# A quick profile's windows: idle, and one at work. With 2 s of timing that leaves some for loading, of 5 s in all.
WINDOW_S_MAX = 1.0


class Settings(msgspec.Struct, frozen=True):
    """What the front starts a worker with. `spin_us`: how long to look for the next run before sleeping."""

    engine: str
    device: str
    threads: int
    spin_us: int


class Worker:
    """One worker's state: the engine, what it has loaded, and the pipe to the front."""

    def __init__(self, pipe: Pipe, settings: Settings | Begin, alive: Alive | None = None) -> None:
        self._pipe = pipe
        self._alive = Alive() if alive is None else alive
        self._spin_us, self._spin_until_us = settings.spin_us, 0
        engine, device, threads = settings.engine, settings.device, settings.threads
        busy = self._alive.busy
        self._runner: Runner | None = None if engine == "replay" else make_runner(engine, device, threads, busy)
        self._executor: Executor | None = None
        self._replays: dict[str, Runner] = {}

    def serve(self) -> None:
        """Handle messages until the front goes away. Raises PipeClosed then."""
        while True:
            message = self._receive()
            if isinstance(message, Post):
                self._run(message)
                self._spin_until_us = clock_us() + self._spin_us
            elif isinstance(message, Drop):
                self._attached().drop(message.tickets)
            else:
                assert isinstance(message, Load | Measure), "the front begins and attaches once"
                self._alive.busy(f"loading {message.name}")
                self._load(message) if isinstance(message, Load) else self._measure(message)
                self._alive.done(f"runs {', '.join(self._attached().networks) or 'nothing'}")
            self._alive.worked(clock_us())

    def _receive(self) -> ToWorker:
        """The front's next message. Shortly after a run the next one is likely: look for it before going to sleep."""
        while clock_us() < self._spin_until_us:
            try:
                return self._pipe.receive_at_worker(socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
        self._alive.wait(self._pipe.fileno())
        return self._pipe.receive_at_worker()

    def _attached(self) -> Executor:
        assert self._executor is not None, "the front attaches the arena before anything else"
        return self._executor

    def attach(self, message: Attach, fd: int) -> None:
        """Take the front's first message: map the arena, and say that this process is there."""
        self._executor = Executor(Arena(fd, message.size), clock_us)
        os.close(fd)
        if self._runner is not None:
            self._pipe.send(Up(describe_device(self._runner)))

    def _load(self, message: Load) -> None:
        executor = self._attached()
        try:
            bundle = load_bundle(Path(message.directory))
            if bundle.digest != message.digest:
                raise BundleError(f"{message.directory} changed since the daemon checked it; restart the daemon")
            bundle = at_temperatures(bundle, message.temperatures)
            runner = self._runner_for(message, bundle)
            short = None if message.profile else short_of_memory(bundle, message.batch_max)
            if short is not None:
                raise EngineFault("memory", short)
            loaded = runner.load(bundle, message.batch_max)
            _warm_up(loaded, bundle, message.batch_max)
        except MemoryError:
            said = f"no memory to load {message.name}; load fewer networks, or smaller ones"
            self._pipe.send(Failed(message.name, "memory", said))
            return
        except (BundleError, ProfileError) as error:
            self._pipe.send(Failed(message.name, "unsupported", str(error)))
            return
        except EngineFault as fault:
            self._pipe.send(Failed(message.name, fault.kind, str(fault)))
            return
        executor.networks[message.name] = Network(bundle, loaded, message.need)
        # As in the front: no run should wait for the collector to walk what never goes away.
        gc.collect()
        gc.freeze()
        self._pipe.send(LoadedReply(message.name))

    def _runner_for(self, message: Load, bundle: Bundle) -> Runner:
        if self._runner is not None:
            return self._runner
        runner = self._replays[message.name] = make_replay(Path(message.profile), bundle, time.sleep)
        self._pipe.send(Up(describe_device(runner)))
        return runner

    def _measure(self, message: Measure) -> None:
        network = self._attached().networks[message.name]
        runner = self._runner or self._replays[message.name]
        try:
            profile = measure(runner, network.bundle, meter=_meter(message, runner.device), budget=QUICK)
        except EngineFault as fault:
            self._pipe.send(Failed(message.name, fault.kind, str(fault)))
            return
        self._pipe.send(Measured(message.name, msgspec.json.encode(profile)))

    def _run(self, message: Post) -> None:
        try:
            executor = self._attached()
            executor.drop(message.drop)
            for done in executor.run(message.run):
                self._pipe.send(done)
        except MemoryError:
            self._pipe.send(RunFailed(message.run.id, "memory", f"no memory for a batch of {len(message.run.rows)}"))
        except EngineFault as fault:
            if fault.kind == "device":
                raise
            self._pipe.send(RunFailed(message.run.id, fault.kind, str(fault)))


def _meter(message: Measure, device: str) -> Meter:
    """A real meter where the board has one, else the processor's model with the operator's watts or the default."""
    watts = WATTS_PER_CORE if message.watts is None else message.watts
    try:
        meter = best_meter(watts=watts, said=message.meter, device=device)
        if not isinstance(meter, SensorMeter) or meter.window_s_min <= WINDOW_S_MAX:
            return meter
        # A start would wait for two of them with each network; once it serves, the meter corrects the model's figures.
        meter.close()
        return CpuModel(watts, why=f"{meter.model} wants windows of {meter.window_s_min:g} s, too long for a start")
    except MeterError:
        # The sampler tells the operator; a profile that says it is modelled is better than no network.
        return best_meter(watts=watts, said="none")


def _warm_up(loaded: Loaded[object], bundle: Bundle, batch_max: int) -> None:
    """Every segment and head once, alone and at full batch: no first request pays for lazy set-up.

    It is the network's first canary too: whoever cannot say anything of an input of zeros is not served.

    Raises:
        EngineFault: `output`, or what the engine raises.
    """
    manifest = bundle.manifest
    classes = len(manifest.classes)
    for batch in (1, batch_max):
        features = loaded.place(np.zeros((batch, *manifest.input.shape), manifest.input.dtype))
        for index in range(len(manifest.segments)):
            features = loaded.segment(index, features)
            logits = loaded.head(index, features)
            if logits.shape != (batch, classes) or not np.isfinite(logits).all():
                said = f"head {index} gave {logits.shape} numbers for {batch} inputs of zeros, or some not finite"
                raise EngineFault("output", f"{said}; expected ({batch}, {classes}). Export it again, and check it")
    loaded.finish()


def _settings(pipe: Pipe, said: str) -> Settings | Begin:
    """What this worker is to be: as it was started with, or as the front says later. Raises PipeClosed."""
    if said.startswith("{"):
        return msgspec.json.decode(said, type=Settings)
    preload(said)
    message = pipe.receive_at_worker()
    assert isinstance(message, Begin)
    return message


def main(arguments: list[str]) -> int:
    """Run until the front goes away. Exit codes: 0 the front closed, 70 the engine or device failed."""
    how, said = arguments
    if how == "--socket":
        alive = Alive(Notifier.from_environment(os.environ, os.getpid()))
        pipe = connect(Path(said), alive)
    else:
        # The terminal's interrupt is the front's to handle; it ends its worker.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        alive = Alive()
        pipe = Pipe(socket.socket(fileno=int(how)))
    try:
        settings = begin(pipe) if how == "--socket" else _settings(pipe, said)
        worker = Worker(pipe, settings, alive)
        worker.attach(*pipe.receive_attach())
        worker.serve()
    except PipeClosed:
        return 0
    except EngineFault as fault:
        with contextlib.suppress(PipeClosed):
            pipe.send(Failed("", fault.kind, str(fault)))
        return EXIT_DEVICE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
