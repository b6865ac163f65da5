"""The front's side of the worker process: start it, bring it to ready, notice its death, start it again.

Role: a small state machine per worker: starting -> loading -> ready, or waiting (backing off). It turns the worker's
messages into what the loop needs: profiles, readiness, reports of runs. A network that fails to load is a fault of the
configuration at start and a reason to back off later.
Does not: read clocks (times are passed in) or decide what runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from ..exits.bundle import Bundle
from ..policies.view import Run
from ..profiles.schema import Device, Profile
from .arena import Arena, Need
from .config import Config
from .pipe import Attach, Drop, Failed, Load, Loaded, Measure, Measured, Pipe, PipeClosed, Post, ToFront, Up
from .records import ExitDone

State = Literal["starting", "ready", "waiting"]


class WorkerFailed(RuntimeError):
    """The worker cannot serve this configuration: which network, why."""


@dataclass(eq=False)
class Hosted:
    """A network as front and worker share it. `profile_file`: what the replay engine replays."""

    bundle: Bundle
    need: Need
    profile_file: str = ""


FindProfile: TypeAlias = Callable[[Hosted, Device], Profile | None]


class Supervisor:
    """One worker process and its restarts."""

    def __init__(self, config: Config, hosted: dict[str, Hosted]) -> None:
        self.state: State = "waiting"
        self.restarts = 0
        self.device: Device | None = None
        self.profiles: dict[str, Profile] = {}
        self._config = config
        self._hosted = hosted
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._arena: Arena | None = None
        self._missing: set[str] = set()
        self._unneeded: list[int] = []
        self._started_us = 0
        self._took_us = 1_000_000
        self._retry_us = 0
        self._deaths_in_a_row = 0

    # ---- life

    def start(self, now_us: int) -> None:
        """Start a worker process and tell it what to load."""
        self._pipe, theirs = Pipe.pair()
        told = {name: getattr(self._config, name) for name in ("engine", "device", "threads", "spin_us")}
        settings = msgspec.json.encode(told).decode()
        command = [sys.executable, "-m", "delen.daemon.worker", str(theirs.fileno()), settings]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        # One that dies at once closes its end; `receive` finds its last words there, which say why.
        with contextlib.suppress(PipeClosed):
            self._tell(self._pipe)
        self.state = "starting"
        self._missing = set(self._hosted)
        self._started_us = now_us

    def _tell(self, pipe: Pipe) -> None:
        """Hand a new worker its memory, and what to load. Raises PipeClosed."""
        fd, size = Arena.create(hosted.need for hosted in self._hosted.values())
        try:
            self._arena = Arena(fd, size)
            pipe.send(Attach(size), fd)
        finally:
            os.close(fd)
        for name, hosted in self._hosted.items():
            directory = str(hosted.bundle.directory)
            batch_max = self._config.limits.batch_max
            temperatures = tuple(entry.temperature for entry in hosted.bundle.manifest.exits)
            need, file = hosted.need, hosted.profile_file
            pipe.send(Load(name, directory, hosted.bundle.digest, batch_max, need, file, temperatures))

    def stop(self) -> None:
        """End the worker: closing the pipe lets it finish; one that does not is killed."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                self.kill()
                self._process.wait()

    def kill(self) -> None:
        """Kill the worker process at once; `poll` then reports it lost."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def lost(self, now_us: int) -> int:
        """Take note that the worker is gone; returns when the next one should be ready. Doubling back-off."""
        self.kill()
        if self._process is not None:
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        limits = self._config.limits
        # One death is an accident and the next worker starts at once; deaths in a row wait longer and longer.
        exponent = min(self._deaths_in_a_row - 1, 20)
        wait_ms = min(limits.backoff_ms_max, limits.backoff_ms_min * 2**exponent) if self._deaths_in_a_row else 0
        self._deaths_in_a_row += 1
        self.restarts += 1
        self._pipe = self._arena = None
        self._unneeded.clear()
        self.state = "waiting"
        self._retry_us = now_us + wait_ms * 1000
        return self._retry_us + self._took_us

    def wake_at(self) -> int | None:
        """When `tick` has something to do; None when never."""
        if self.state == "waiting":
            return self._retry_us
        return self._started_us + self._config.limits.start_ms_max * 1000 if self.state == "starting" else None

    def tick(self, now_us: int) -> bool:
        """Start a worker whose back-off is over. True when one that starts took too long and must be counted lost."""
        if self.state == "waiting" and now_us >= self._retry_us:
            try:
                self.start(now_us)
            except (OSError, PipeClosed):
                # No memory or no processes left just now, or it died at once: back off as after any death.
                self.lost(now_us)
        return self.state == "starting" and now_us >= self._started_us + self._config.limits.start_ms_max * 1000

    # ---- messages

    def fileno(self) -> int | None:
        """The descriptor to poll, None while there is no worker."""
        return self._pipe.fileno() if self._pipe is not None else None

    def receive(self) -> ToFront | None:
        """Next message, or None. Raises PipeClosed when the worker is gone."""
        return self._pipe.receive_at_front() if self._pipe is not None else None

    def arrange(self, message: ToFront, find: FindProfile, now_us: int) -> bool:
        """Take in a message of the start; True once every network is loaded and has a profile.

        Args:
            find: looks for a profile of a bundle that fits this device; a network without one is measured.
        Raises:
            WorkerFailed: a network cannot be loaded or measured, or has no profile where one is required.
        """
        if isinstance(message, Up):
            self.device = message.device
        elif isinstance(message, Failed):
            raise WorkerFailed(f"network {message.name!r}: {message.message}" if message.name else message.message)
        elif isinstance(message, Loaded):
            self._loaded(message.name, find)
        elif isinstance(message, Measured):
            self._have(message.name, msgspec.json.decode(message.profile, type=Profile))
        if self._missing or self.state == "ready":
            return False
        self.state, self._took_us = "ready", now_us - self._started_us
        return True

    def post(self, run: Run, payloads: Sequence[bytes | memoryview]) -> None:
        """Lay down the inputs of a run and hand it over. Raises PipeClosed."""
        assert self._arena is not None
        need = self._hosted[run.network].need
        for row, payload in enumerate(payloads):
            self._arena.write_input(run.id, need, row, payload)
        self._send(Post(run, self._take_unneeded()))

    def drop(self, tickets: tuple[int, ...]) -> None:
        """The worker may forget these requests; it is told with the next run, for every message wakes it up."""
        if self.state == "ready":
            self._unneeded += tickets

    def tidy(self) -> None:
        """Tell the worker what it may forget though there is no run for it. Raises PipeClosed."""
        if self._unneeded:
            self._send(Drop(self._take_unneeded()))

    def _take_unneeded(self) -> tuple[int, ...]:
        unneeded = tuple(self._unneeded)
        self._unneeded.clear()
        return unneeded

    def ask_yield(self, run_id: int) -> None:
        if self._arena is not None:
            self._arena.ask_yield(run_id)

    def with_logits(self, done: ExitDone, network: str) -> ExitDone:
        """The report with the logits that the worker left in the arena; also proof that it works."""
        assert self._arena is not None
        self._deaths_in_a_row = 0
        need = self._hosted[network].need
        exits, rows_max, count = need.exit_count, need.batch_max, len(done.rows)
        if not 0 <= done.exit < exits or count > rows_max:
            raise PipeClosed
        for step in done.steps:
            if not (0 <= step.index < exits and 0 < step.batch <= rows_max):
                raise PipeClosed
        logits = self._arena.logits(done.run, need, done.exit, count)
        return ExitDone(done.run, done.exit, done.rows, done.steps, logits, done.finished)

    def _loaded(self, name: str, find: FindProfile) -> None:
        assert self.device is not None, "a worker says what it is before it loads"
        profile = self.profiles.get(name) or find(self._hosted[name], self.device)
        if profile is not None:
            self._have(name, profile)
        elif self._config.profile == "require":
            raise WorkerFailed(f"network {name!r} has no profile for this device; take one with: delen profile {name}")
        else:
            self._send(Measure(name, self._config.watts))

    def _have(self, name: str, profile: Profile) -> None:
        self.profiles[name] = profile
        self._missing.discard(name)

    def _send(self, message: Post | Drop | Measure) -> None:
        assert self._pipe is not None
        self._pipe.send(message)
