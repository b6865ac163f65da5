"""One worker process as the front holds it: started, told what to load, talked to, killed, and some time gone.

Role: a process, the front's end of its pipe and the memory shared with it; what it has loaded and what is missing.
Nothing here waits for a worker: one that cannot be killed (it hangs in the kernel) is somebody's to give up on, not
ours to wait for. Does not: decide when a worker is started or ended (`supervisor.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ..exits.bundle import Bundle
from ..policies.view import Run
from .arena import Arena, Need
from .config import Config
from .pipe import Attach, Begin, Drop, Load, Measure, Pipe, PipeClosed, Post, ToFront
from .records import ExitDone, Payload
from .worker_early import Early

# No step takes an hour; a worker that says so is not in its right mind.
TOOK_US_MAX = 3_600_000_000


@dataclass(eq=False)
class Hosted:
    """A network as front and worker share it. `profile_file`: what the replay engine replays."""

    bundle: Bundle
    need: Need
    profile_file: str = ""


class WorkerProcess:
    """A worker that was started at `started_us`; `missing`: the networks it has not loaded yet."""

    # Else nobody here knows when it begins.
    started_here = True

    def __init__(
        self,
        config: Config,
        hosted: Mapping[str, Hosted],
        now_us: int,
        *,
        voice: int | None = None,
        early: Early | None = None,
    ) -> None:
        """Start it and tell it what to load. Raises OSError where no process can be started.

        `voice`: descriptor that it says its words to, see `worker_words.py`; None: to where this process does.
        `early`: one that has been started already.
        """
        self._voice = voice
        self._early = early
        self.started_us = now_us
        self.killed_us = 0
        self.abandoned = False
        self.missing = set(hosted)
        self._config = config
        self._hosted = hosted
        self._arena: Arena | None = None
        self._start()

    def _start(self) -> None:
        config = self._config
        if self._early is not None:
            self._begin(self._early)
            return
        self._pipe, theirs = Pipe.pair()
        told = {name: getattr(config, name) for name in ("engine", "device", "threads", "spin_us")}
        settings = msgspec.json.encode(told).decode()
        command = [sys.executable, "-m", "delen.daemon.worker", str(theirs.fileno()), settings]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._voice,
                    stderr=self._voice,
                )
        except OSError:
            self._pipe.close()
            raise
        # One that dies at once closes its end; `receive` finds its last words there, which say why.
        with contextlib.suppress(PipeClosed):
            self._tell()

    def _begin(self, early: Early) -> None:
        """Take this process, and tell it what it would have been started with."""
        self.started_us -= early.take()
        self._pipe, self._process = Pipe.of(early.end), early.process
        config = self._config
        with contextlib.suppress(PipeClosed):
            self._pipe.send(Begin(config.engine, config.device, config.threads, config.spin_us))
            self._tell()

    def _tell(self) -> None:
        """Hand it its memory, and what to load. Raises PipeClosed."""
        fd, size = Arena.create(hosted.need for hosted in self._hosted.values())
        try:
            self._arena = Arena(fd, size)
            self._pipe.send(Attach(size), fd)
        finally:
            os.close(fd)
        for name, hosted in self._hosted.items():
            directory = str(hosted.bundle.directory)
            batch_max = self._config.limits.batch_max
            temperatures = tuple(entry.temperature for entry in hosted.bundle.manifest.exits)
            need, file = hosted.need, hosted.profile_file
            self._pipe.send(Load(name, directory, hosted.bundle.digest, batch_max, need, file, temperatures))

    # ---- life

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, now_us: int) -> None:
        """Kill it and close the pipe; whether that has helped, `gone` says."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._pipe.close()
        self._arena = None
        self.killed_us = now_us

    def kill(self) -> None:
        """Kill it as an accident would: that it is gone is found out by its pipe."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def gone(self) -> bool:
        """Whether the process has ended; never waits."""
        return self._process.poll() is not None

    def stop(self, wait_s: float = 1.0) -> bool:
        """End it in peace: the closed pipe lets it finish, a kill does the rest. False if it outlives both."""
        self._pipe.close()
        for _ in range(2):
            try:
                self._process.wait(timeout=wait_s)
            except subprocess.TimeoutExpired:
                self.kill()
            else:
                return True
        return False

    def said(self) -> str:
        """How it ended, in words; empty while it has not."""
        code = self._process.poll()
        if code is None:
            return ""
        if code >= 0:
            return f"it ended with code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"it was ended by {name}"

    # ---- messages

    def fileno(self) -> int:
        return self._pipe.fileno()

    def receive(self) -> ToFront | None:
        """Its next message, or None. Raises PipeClosed when it is gone."""
        return self._pipe.receive_at_front()

    def send(self, message: Post | Drop | Measure) -> None:
        """Raises PipeClosed."""
        self._pipe.send(message)

    def lay_down(self, run: Run, payloads: Sequence[Payload]) -> None:
        """Write a run's inputs where it will look for them."""
        assert self._arena is not None
        need = self._hosted[run.network].need
        if not payloads and run.first == 0:
            # A canary: nobody's input.
            payloads = [bytes(need.input_bytes)] * len(run.rows)
        for row, payload in enumerate(payloads):
            self._arena.write_input(run.id, need, row, payload)

    def ask_yield(self, run_id: int) -> None:
        """Ask this run to give way; another is not meant."""
        if self._arena is not None:
            self._arena.ask_yield(run_id)

    def with_logits(self, done: ExitDone, network: str) -> ExitDone:
        """The report with the logits that it left in the arena. Raises PipeClosed where the report cannot be true."""
        assert self._arena is not None
        need = self._hosted[network].need
        exits, rows_max, count = need.exit_count, need.batch_max, len(done.rows)
        if not 0 <= done.exit < exits or count > rows_max:
            raise PipeClosed
        for step in done.steps:
            if not (0 <= step.index < exits and 0 < step.batch <= rows_max and 0 <= step.took_us < TOOK_US_MAX):
                raise PipeClosed
        for row in done.rows:
            # A confidence that is none (NaN too) would be handed to tenants as an answer.
            if not 0.0 <= row.confidence <= 1.0 or not 0 <= row.label < need.class_count:
                raise PipeClosed
        logits = self._arena.logits(done.run, need, done.exit, count)
        return ExitDone(done.run, done.exit, done.rows, done.steps, logits, done.finished)
