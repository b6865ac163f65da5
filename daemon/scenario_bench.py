"""Run a scenario: every case under every policy with every seed, spread over processes, and add up what came of it.

Flow: `run_all` -> jobs -> worker processes (this module as a program: a plan on the first line of its input, then a job
a line, each answered by a line) -> `Result`s, means over seeds with their intervals. With one process all runs happen
in this one, so that a debugger sees them.

Does not: print, draw, or choose cases and policies. JSON between processes, since data must never become code.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO

import msgspec

from .outcomes import Interval, Measured, measured, summary
from .scenario import Scenario, ScenarioError, needs_data, prepare
from .simulate import Simulation


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `check`: test the core's invariants after every event. `per_tenant`: figures of each tenant, too."""

    scenario: Scenario
    seeds: tuple[int, ...]
    data: str | None = None
    check: bool = True
    per_tenant: bool = False


class Job(msgspec.Struct, frozen=True):
    """One run: which case and policy, by their places in the scenario, and the seed."""

    case: int
    policy: int
    seed: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job; `fault` where the scenario cannot be run, else its figures and the time it took."""

    job: Job
    fault: str = ""
    run: Measured | None = None
    tenants: dict[str, Measured] = {}
    took_s: float = 0.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One policy in one case over all seeds. `figures`: mean and interval, None where not known."""

    case: str
    curve: str
    load: float
    policy: str
    name: str
    options: Mapping[str, Any]
    correction: str
    figures: dict[str, Interval | None]
    tenants: dict[str, dict[str, Interval | None]]
    runs: tuple[Measured, ...]


class Skipped(msgspec.Struct, frozen=True):
    """A case that was not run, and why."""

    case: str
    reason: str


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """A whole scenario. `requests`: counted ones of all runs. `run_s`: wall time of all runs, one after the other."""

    results: tuple[Result, ...]
    skipped: tuple[Skipped, ...]
    requests: int
    run_s: float


def runnable(plan: Plan) -> tuple[Plan, tuple[Skipped, ...]]:
    """The plan without the cases that need traces nobody gave, and those cases."""
    scenario = plan.scenario
    left = [case for case in scenario.cases if plan.data is None and needs_data(scenario, case)]
    skipped = tuple(Skipped(case.name, "plays a recorded trace: say where traces lie with --data DIR") for case in left)
    kept = tuple(case for case in scenario.cases if case not in left)
    return msgspec.structs.replace(plan, scenario=msgspec.structs.replace(scenario, cases=kept)), skipped


def run_all(plan: Plan, processes: int, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Findings:
    """Run it all. `on_progress`: runs done, runs in all.

    Raises:
        ScenarioError: it cannot be run, or a run broke an invariant of the core: which, and how to see it alone.
    """
    plan, skipped = runnable(plan)
    scenario = plan.scenario
    # Seeds outermost: whoever interrupts a long bench has had the same number of seeds of everything.
    jobs = [
        Job(case, policy, seed)
        for seed in plan.seeds
        for case in range(len(scenario.cases))
        for policy in range(len(scenario.policies))
    ]
    found: dict[Job, Done] = {}
    inline = processes <= 1 or len(jobs) == 1
    with closing(_inline(plan, jobs) if inline else _spread(plan, jobs, processes)) as ended:
        for done in ended:
            if done.fault:
                raise ScenarioError(done.fault)
            found[done.job] = done
            on_progress(len(found), len(jobs))
    return Findings(
        results=tuple(_results(plan, found)),
        skipped=skipped,
        requests=sum(done.run.requests for done in found.values() if done.run is not None),
        run_s=sum(done.took_s for done in found.values()),
    )


def run_one(plan: Plan, job: Job) -> Done:
    """One run, here. Raises AssertionError where an invariant of the core does not hold."""
    scenario = plan.scenario
    warmup_us = int(scenario.warmup_s * 1e6)
    data = None if plan.data is None else Path(plan.data)
    try:
        simulation = prepare(
            scenario, scenario.cases[job.case], scenario.policies[job.policy], job.seed, data=data, check=plan.check
        )
    except ScenarioError as error:
        return Done(job=job, fault=str(error))
    began_s = time.perf_counter()
    simulation.run()
    took_s = time.perf_counter() - began_s
    tenants = {name: _of(simulation, members, warmup_us) for name, members in _parts(plan).items()}
    return Done(job=job, run=measured(simulation, warmup_us=warmup_us), tenants=tenants, took_s=took_s)


def _parts(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Whose figures are wanted beside those of all: the scenario's groups, and each tenant where asked for."""
    names = list(dict.fromkeys(stream.tenant for stream in plan.scenario.streams)) if plan.per_tenant else []
    return {**plan.scenario.groups, **{name: (name,) for name in names}}


def _of(simulation: Simulation, members: tuple[str, ...], warmup_us: int) -> Measured:
    return measured(simulation, warmup_us=warmup_us, who=lambda outcome: outcome.tenant in members)


def _results(plan: Plan, found: Mapping[Job, Done]) -> Iterator[Result]:
    scenario = plan.scenario
    for at_case, case in enumerate(scenario.cases):
        for at_policy, spec in enumerate(scenario.policies):
            done = [found[Job(at_case, at_policy, seed)] for seed in plan.seeds]
            runs = tuple(each.run for each in done if each.run is not None)
            yield Result(
                case=case.name,
                curve=case.curve,
                load=case.load,
                policy=spec.title,
                name=spec.name,
                options=spec.options,
                correction=spec.correction,
                figures=summary(runs),
                tenants={name: summary([each.tenants[name] for each in done]) for name in done[0].tenants},
                runs=runs,
            )


def _inline(plan: Plan, jobs: Sequence[Job]) -> Generator[Done, None, None]:
    for job in jobs:
        yield run_one(plan, job)


def _spread(plan: Plan, jobs: Sequence[Job], processes: int) -> Generator[Done, None, None]:
    """Worker processes, each fed by a thread that waits for it; done jobs come as they end."""
    waiting: deque[Job] = deque(jobs)
    ended: SimpleQueue[Done] = SimpleQueue()
    command = [sys.executable, "-m", f"{__package__}.scenario_bench"]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(min(processes, len(jobs)))
    ]
    feeders = [Thread(target=_feed, args=(worker, plan, waiting, ended), daemon=True) for worker in workers]
    for feeder in feeders:
        feeder.start()
    try:
        for _ in jobs:
            yield ended.get()
    finally:
        waiting.clear()
        for worker, feeder in zip(workers, feeders, strict=True):
            worker.kill()
            feeder.join()
            # What was written to a worker that is gone cannot be flushed any more.
            with suppress(BrokenPipeError), worker:
                pass


def _feed(worker: subprocess.Popen[bytes], plan: Plan, waiting: deque[Job], ended: SimpleQueue[Done]) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    first = msgspec.json.encode(plan) + b"\n"
    while waiting:
        try:
            job = waiting.popleft()
        except IndexError:
            return
        try:
            worker.stdin.write(first + msgspec.json.encode(job) + b"\n")
            worker.stdin.flush()
            said = worker.stdout.readline()
        except OSError:
            said = b""
        first = b""
        ended.put(msgspec.json.decode(said, type=Done) if said else Done(job=job, fault=_died(plan, job)))


def _died(plan: Plan, job: Job) -> str:
    scenario = plan.scenario
    case, policy = scenario.cases[job.case].name, scenario.policies[job.policy].title
    return (
        f"{scenario.name}, {case}, {policy}, seed {job.seed}: the run ended early, see above; alone: delen simulate "
        f"{scenario.name} --case '{case}' --policy '{policy}' --seeds 1 --seed-first {job.seed} --processes 1"
    )


def work(said: BinaryIO, answers: BinaryIO) -> None:
    """What a worker process does: a plan, then jobs, a line each, until there are no more."""
    plan = msgspec.json.decode(said.readline(), type=Plan)
    for line in said:
        answers.write(msgspec.json.encode(run_one(plan, msgspec.json.decode(line, type=Job))) + b"\n")
        answers.flush()


if __name__ == "__main__":
    work(sys.stdin.buffer, sys.stdout.buffer)
