"""A day with a journal on which networks are swapped: by the core's own events, without a device or a loop.

Role: `swapping_day` plays, as a seed says, requests of tenants of whom one has a worker of its own; their runs, cancels
and labels; deaths of workers; changes that bring a new version of one network, while the other goes on with another
worker and what was learnt of it; and old ones that are forgotten when nothing of theirs is open. Does not: check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Infer, Refusal
from delen.daemon.config import Limits
from delen.daemon.journal import Journal
from delen.daemon.journal_records import Setup
from delen.daemon.recorded import Recorded
from delen.daemon.records import Effect, ExitDone, Restart, RowDone, RunFailed, StepDone
from delen.daemon.simulate import TENSORS
from delen.policies.correction_rivals import correction
from delen.policies.exits import asked
from delen.policies.view import Run, Served
from delen.tests.simulation import served

ASKED = (Bounds(), Bounds(latency_ms=20.0), Bounds(accuracy=0.9), Bounds(latency_ms=10.0, on_miss="drop"))
SETUP = Setup(limits=Limits(queued_max=30, audit_share=0.5), ahead_us=300, canary_ms=20)
EXITS = {"net": 3, "other": 2}


class _Day:
    def __init__(self, path: Path, seed: int) -> None:
        self.random = Random(seed)
        self.now_us = 0
        self.swaps = self.retired = 0
        self.tickets: list[int] = []
        self.runs: list[Run] = []
        self.journal = Journal(path, bytes_max=10_000_000, note=lambda _text: None)
        self.server = Recorded(self.journal, SETUP)
        self.change("net", own=False)
        self.change("other", own=False)

    def change(self, name: str, *, own: bool) -> None:
        """A new version of this network; all others of the same workers go on as they are, under other keys."""
        tenant = "b" if own else None
        self.swaps += 1
        for each in ("net", "other"):
            old = self.server.networks.get(self.server.routes.key("b" if own else "a", each))
            if each != name and old is None:
                continue
            key = f"{each}#{self.swaps}" if self.swaps > 2 else each
            if each == name or old is None:
                made = self.made(name, key)
            else:
                made = replace(old, key=key, away_until_us=0)
            self.server.networks[key] = made
            self.server.routes.lead(each, key, tenant)
            self.server.worker_ready(self.now_us, [key])

    def made(self, name: str, key: str) -> Served:
        segments_us = [self.random.choice((100, 200, 400)) for _ in range(EXITS[name])]
        accuracies = (0.8, 0.9, 0.95)[: EXITS[name]]
        made = served(name, segments_us=segments_us, accuracies=accuracies)
        made.key, made.version = key, str(self.random.choice((1, 2)))
        made.correction = correction(SETUP.correction, miss_target=SETUP.miss_target, p95_over_p50=1.3)
        return made

    # ---- what may happen

    def submit(self) -> None:
        name, tenant = self.random.choice(["net", "other"]), self.random.choice("ab")
        said = self.random.choice(ASKED)
        infer = Infer(VERSION, b"%08d" % len(self.tickets), name, TENSORS, said)
        # Few inputs, so that some are there at several deaths.
        payload = self.random.randrange(20).to_bytes(4, "little")
        verdict, effects = self.server.submit(self.now_us, tenant, infer, asked(said), payload)
        self.tickets += [] if isinstance(verdict, Refusal) else [verdict]
        self.act(effects)

    def cancel(self) -> None:
        if self.tickets:
            self.act(self.server.cancel(self.random.choice(self.tickets[-20:])))

    def post(self) -> None:
        run = self.server.next(self.now_us)
        if run is not None:
            self.runs.append(run)

    def finish(self) -> None:
        if not self.runs:
            return None
        run = self.runs.pop(0)
        if self.random.random() < 0.05:
            return self.act(self.server.advance(self.now_us, RunFailed(run.id, "output", "no")))
        index, rows = run.first, list(run.rows)
        while rows:
            leaves = {row.ticket: self.random.random() for row in rows}
            gone = [row for row in rows if row.stop == index or row.lets_go(index, leaves[row.ticket])]
            told = tuple(
                RowDone(row.ticket, 1, leaves[row.ticket], row in gone, row.lets_go(index, leaves[row.ticket]))
                for row in rows
            )
            rows = [row for row in rows if row not in gone]
            took_us = self.random.randrange(50, 900)
            steps = (StepDone(False, index, len(told), took_us), StepDone(True, index, len(told), 20))
            self.now_us += took_us
            self.act(self.server.advance(self.now_us, ExitDone(run.id, index, told, steps, b"", not rows)))
            index += 1
        return None

    def die(self) -> None:
        key = self.random.choice(sorted(self.server.networks))
        self.lose(key)

    def lose(self, key: str) -> None:
        self.runs = [run for run in self.runs if run.network != key]
        self.act(self.server.worker_lost(self.now_us, self.now_us + 5_000, [key]))
        self.now_us += self.random.randrange(8_000)
        self.server.worker_ready(self.now_us, [key])

    def swap(self) -> None:
        self.change(self.random.choice(["net", "other"]), own=self.random.random() < 0.3)

    def label(self) -> None:
        name, tenant = self.random.choice(["net", "other"]), self.random.choice("ab")
        self.act(self.server.labelled(self.now_us, tenant, name, None, wrong=self.random.random() < 0.5))

    def retire(self) -> None:
        current = {self.server.routes.key(tenant, name) for tenant in "ab" for name in ("net", "other")}
        for key in sorted(self.server.networks.keys() - current):
            if self.server.open_of([key]) == (0, []):
                self.server.forget([key])
                self.retired += 1

    def catch_up(self) -> None:
        """Everything that waits is run."""
        for _ in range(50):
            self.post()
            self.finish()

    def wait(self) -> None:
        self.now_us += self.random.choice((10, 300, 3_000, 40_000))
        self.act(self.server.expire(self.now_us))

    def act(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Restart):
                self.lose(effect.key)


def swapping_day(path: Path, seed: int, *, steps: int = 400) -> tuple[int, int]:
    """Write a journal of such a day; how many changes there were, and how many networks were forgotten."""
    day = _Day(path, seed)
    rare: list[Callable[[], None]] = [day.cancel, day.die, day.swap, day.label, day.retire, day.catch_up]
    often: list[Callable[[], None]] = [day.submit, day.submit, day.post, day.post, day.finish, day.wait]
    for _ in range(steps):
        day.random.choice(often if day.random.random() < 0.85 else rare)()
    day.journal.close()
    return day.swaps, day.retired
