"""The front's side of the worker process: start it, bring it to ready, notice its death, start it again.

Role: a small state machine: starting -> ready, or waiting (backing off). It turns the worker's messages into what the
loop needs: profiles, readiness, reports of runs. With `spare`, a second worker is kept loaded and takes over at once
where the first dies. A worker that was killed is waited for before another takes its memory, but not for ever: one
that outlives `limits.abandon_ms` is abandoned. A network that fails to load is a fault of the configuration at start
and a reason to back off later.

Does not: read clocks (times are passed in), block, or decide what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from ..policies.view import NEVER_US, Run
from ..profiles.schema import Device, Profile, ProfileError, parse_profile
from .config import Config
from .pipe import Drop, Failed, Loaded, Measure, Measured, PipeClosed, Post, ToFront, Up
from .records import ExitDone, Payload
from .worker_process import Hosted, WorkerProcess

State = Literal["starting", "ready", "waiting"]
# How often to look whether a killed worker is gone, and whether an abandoned one at last is.
REAP_US, ABANDONED_US = 2_000, 1_000_000


class WorkerFailed(RuntimeError):
    """The worker cannot serve this configuration: which network, why."""


FindProfile: TypeAlias = Callable[[Hosted, Device], Profile | None]


class Supervisor:
    """The worker of some networks, its restarts, and its spare."""

    def __init__(
        self,
        config: Config,
        hosted: Mapping[str, Hosted],
        *,
        spare: bool = False,
        make: Callable[[Config, Mapping[str, Hosted], int], WorkerProcess] = WorkerProcess,
    ) -> None:
        """`hosted`: by the key that core and worker know each by. `make`: where workers come from; raises OSError."""
        self.state: State = "waiting"
        self.restarts = 0
        self.abandoned = 0
        self.device: Device | None = None
        self.profiles: dict[str, Profile] = {}
        self.hosted = dict(hosted)
        self._config = config
        self._make = make
        self._wants_spare = spare
        self._worker: WorkerProcess | None = None
        self._spare: WorkerProcess | None = None
        self._spare_us = 0
        self._ended: list[WorkerProcess] = []
        self._looked_us = 0
        self._notes: list[str] = []
        self._unneeded: list[int] = []
        self._took_us = 1_000_000
        self._has_been_ready = self._measured_some = False
        self._retry_us = 0
        self._deaths_in_a_row = 0

    # ---- life

    def start(self, now_us: int) -> None:
        """Start a worker process and tell it what to load. Raises OSError."""
        self._worker = self._make(self._config, self.hosted, now_us)
        self.state, self._measured_some = "starting", False

    def stop(self) -> None:
        """End all workers: closing the pipe lets them finish; those that do not are killed, and not waited for long."""
        for worker in (self._spare, self._worker):
            if worker is not None:
                worker.stop()

    def gone_by_now(self) -> bool:
        """Whether the worker has ended, though nobody has noticed yet."""
        return self._worker is None or self._worker.gone()

    def retire(self, now_us: int) -> None:
        """It is not wanted any more: end all workers; `tick` sees them gone."""
        self.spare_no_more(now_us)
        if self._worker is not None:
            self._let_go(self._worker, now_us)
        self._worker = None
        self.state, self._retry_us = "waiting", NEVER_US

    def spare_no_more(self, now_us: int) -> None:
        """End the spare; there is to be none."""
        if self._spare is not None:
            self._let_go(self._spare, now_us)
        self._spare, self._wants_spare = None, False

    @property
    def hopeless(self) -> bool:
        """Whether worker after worker has died without doing anything."""
        return self._deaths_in_a_row > 1

    def kill(self) -> None:
        """Kill the worker process at once; `receive` then reports it lost."""
        if self._worker is not None:
            self._worker.kill()

    def lost(self, now_us: int) -> int:
        """Take note that the worker is gone; returns when the next one should be ready. Doubling back-off.

        Where a spare stands by, the state is `ready` again at once.
        """
        if self._worker is not None:
            self._let_go(self._worker, now_us)
        # One death is an accident and the next worker starts at once; deaths in a row wait longer and longer.
        wait_us = self._wait_us()
        self._deaths_in_a_row += 1
        self.restarts += 1
        self._worker = None
        self._unneeded.clear()
        self._retry_us = self._spare_us = now_us + wait_us
        if self._spare is not None and not self._spare.missing:
            self._worker, self._spare = self._spare, None
            self.state = "ready"
            return now_us
        self.state = "waiting"
        return self._retry_us + self._took_us

    def _wait_us(self) -> int:
        limits = self._config.limits
        if not self._deaths_in_a_row:
            return 0
        exponent = min(self._deaths_in_a_row - 1, 20)
        return min(limits.backoff_ms_max, limits.backoff_ms_min << exponent) * 1000

    def _let_go(self, worker: WorkerProcess, now_us: int) -> None:
        worker.end(now_us)
        self._ended.append(worker)
        self._looked_us = now_us

    def wake_at(self) -> int | None:
        """When `tick` has something to do; None when never."""
        if self.state == "ready" and not self._ended and not self._wants_spare:
            # As nearly always, and this is asked every turn.
            return None
        due: list[int] = []
        dying = self.dying
        if self._ended:
            due.append(self._looked_us + (REAP_US if dying else ABANDONED_US))
        if self.state == "waiting" and not dying:
            due.append(self._retry_us)
        if self.state == "starting" and self._worker is not None:
            due.append(self._late_us(self._worker))
        if self._spare is not None:
            due += [self._late_us(self._spare)] if self._spare.missing else []
        elif self._wants_spare and self.state == "ready" and not dying:
            due.append(self._spare_us)
        return min(due, default=None)

    def tick(self, now_us: int) -> bool:
        """Start workers whose back-off is over. True when one that starts took too long and must be counted lost."""
        self._reap(now_us)
        if self.state == "waiting" and now_us >= self._retry_us and not self.dying:
            try:
                self.start(now_us)
            except OSError:
                # No memory or no processes left just now: back off as after any death.
                self.lost(now_us)
        if self._wants_spare:
            self._tend_spare(now_us)
        return self.state == "starting" and self._worker is not None and now_us >= self._late_us(self._worker)

    def take_notes(self) -> list[str]:
        """What has happened to workers since the last time, a line each."""
        notes, self._notes = self._notes, []
        return notes

    def _late_us(self, worker: WorkerProcess) -> int:
        """When a worker that starts is given up. One that hangs then should not cost what a first start may."""
        limits = self._config.limits
        allowed_us = limits.start_ms_max * 1000
        if self._has_been_ready and worker.started_here:
            usual_us = max(limits.restart_ms_min * 1000, int(limits.run_factor_max * self._took_us))
            # If it is not a hang but a machine that has become slow, the next has twice the time.
            allowed_us = min(allowed_us, usual_us << min(max(0, self._deaths_in_a_row - 1), 20))
        return worker.started_us + allowed_us

    @property
    def dying(self) -> bool:
        """Whether a killed worker may still hold memory and the device: another would find too little of them."""
        return any(not worker.abandoned for worker in self._ended)

    def _reap(self, now_us: int) -> None:
        """Look after killed workers: those that are gone, and those that will not go."""
        if not self._ended:
            return
        self._looked_us = now_us
        for worker in list(self._ended):
            if worker.gone():
                self._ended.remove(worker)
                if said := worker.said():
                    self._notes.append(f"worker {worker.pid}: {said}")
            elif not worker.abandoned and now_us >= worker.killed_us + self._config.limits.abandon_ms * 1000:
                worker.abandoned = True
                self.abandoned += 1
                said = "cannot be killed (abandon_ms): it hangs in the kernel, perhaps with a device; going on without"
                self._notes.append(f"worker {worker.pid} {said}. Look at `dmesg`; a lost device needs a reboot")

    # ---- the spare

    @property
    def spare(self) -> State | None:
        """How far the spare is; None where there is to be none."""
        if not self._wants_spare:
            return None
        if self._spare is None:
            return "waiting"
        return "starting" if self._spare.missing else "ready"

    def _tend_spare(self, now_us: int) -> None:
        """Start one where there is none; one that is late is given up like one that died."""
        if self._spare is None and self.state == "ready" and now_us >= self._spare_us and not self.dying:
            try:
                self._spare = self._make(self._config, self.hosted, now_us)
            except OSError:
                self._spare_us = now_us + self._config.limits.backoff_ms_max * 1000
        if self._spare is None:
            return
        fault = "it took too long to start" if self._spare.missing and now_us >= self._late_us(self._spare) else ""
        try:
            while not fault and (message := self._spare.receive()) is not None:
                if isinstance(message, Loaded):
                    self._spare.missing.discard(message.name)
                elif isinstance(message, Failed):
                    fault = message.message
        except PipeClosed:
            fault = "it ended"
        if fault:
            self._notes.append(f"the spare worker is lost ({fault}); starting another later")
            self._let_go(self._spare, now_us)
            self._spare, self._spare_us = None, now_us + self._config.limits.backoff_ms_max * 1000

    # ---- messages

    def filenos(self) -> list[int]:
        """The descriptors to poll; `tick` reads the spare's."""
        return [worker.fileno() for worker in (self._worker, self._spare) if worker is not None]

    def receive(self) -> ToFront | None:
        """Next message of the worker, or None. Raises PipeClosed when it is gone."""
        return self._worker.receive() if self._worker is not None else None

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
        elif isinstance(message, Loaded | Measured):
            if message.name not in self.hosted or self.device is None:
                raise WorkerFailed(f"it spoke of network {message.name!r:.80}, which it was not told to load")
            if isinstance(message, Loaded):
                self._loaded(message.name, self.device, find)
            else:
                self._have(message.name, self._measured(message))
                self._measured_some = True
        if self._worker is None or self._worker.missing or self.state == "ready":
            return False
        self.state, self._has_been_ready = "ready", True
        if not self._measured_some:
            # What the next will take, which has nothing to measure.
            self._took_us = now_us - self._worker.started_us
        self._spare_us = now_us
        return True

    def post(self, run: Run, payloads: Sequence[Payload]) -> None:
        """Lay down the inputs of a run and hand it over. Raises PipeClosed."""
        assert self._worker is not None
        self._worker.lay_down(run, payloads)
        self._worker.send(Post(run, self._take_unneeded()))

    def drop(self, tickets: tuple[int, ...]) -> None:
        """The worker may forget these requests; it is told with the next run, for every message wakes it up."""
        if self.state == "ready":
            self._unneeded += tickets

    def tidy(self) -> None:
        """Tell the worker what it may forget though there is no run for it. Raises PipeClosed."""
        if self._unneeded and self._worker is not None:
            self._worker.send(Drop(self._take_unneeded()))

    def _take_unneeded(self) -> tuple[int, ...]:
        unneeded = tuple(self._unneeded)
        self._unneeded.clear()
        return unneeded

    def ask_yield(self, run_id: int) -> None:
        """Ask this run to give way at its next exit."""
        if self._worker is not None:
            self._worker.ask_yield(run_id)

    def with_logits(self, done: ExitDone, network: str) -> ExitDone:
        """The report with the logits that the worker left in the arena; also proof that it works. Raises PipeClosed."""
        assert self._worker is not None
        whole = self._worker.with_logits(done, network)
        self._deaths_in_a_row = 0
        return whole

    def _measured(self, message: Measured) -> Profile:
        """The profile it took. Raises WorkerFailed: it is none of this network."""
        try:
            profile = parse_profile(message.profile, Path(f"what it measured of {message.name}"))
        except ProfileError as error:
            raise WorkerFailed(str(error)) from error
        exits, found = len(self.hosted[message.name].bundle.manifest.exits), len(profile.exits)
        if found != exits:
            raise WorkerFailed(f"what it measured of {message.name} has {found} exits; expected {exits}")
        return profile

    def _loaded(self, name: str, device: Device, find: FindProfile) -> None:
        assert self._worker is not None
        profile = self.profiles.get(name) or find(self.hosted[name], device)
        if profile is not None:
            self._have(name, profile)
        elif self._config.profile == "require":
            raise WorkerFailed(f"network {name!r} has no profile for this device; take one with: delen profile {name}")
        else:
            self._worker.send(Measure(name, self._config.watts, self._config.meter))

    def _have(self, name: str, profile: Profile) -> None:
        assert self._worker is not None
        self.profiles[name] = profile
        self._worker.missing.discard(name)
