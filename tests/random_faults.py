"""Random faults: from one seed a script of networks, tenants, bounds and everything that can go wrong, run to its end.

Role: `script(seed)` makes a `DeskSimulation` ready to go, `run(seed)` runs it; every invariant of the core and the desk
is held after every event (`daemon/invariants.py`, `desk_simulation.py`), and a failure names its seed. In it: every
policy, jitter, drift, stalls and steps, lost workers and restarts, inputs the engine refuses, cancels, ids used twice,
floods against small limits, clocks that jump on, reports of runs long over, runs posted ahead, needless yields.

`python -m delen.tests.random_faults --runs 10000 [--json]` runs many, in order, and stops at the first that fails;
`--first SEED --runs 1` replays one. Does not: look at how well anything was served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from random import Random

import click
import msgspec

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.tables import print_json, progress
from delen.clients.wire import VERSION, Answer, Failure, Infer
from delen.daemon.behaviour import Behaviour
from delen.daemon.config import Limits
from delen.daemon.journal import Journal
from delen.daemon.journal_records import Record, Setup
from delen.daemon.noise import NoiseSpec
from delen.daemon.recorded import core
from delen.daemon.simulate import TENSORS
from delen.policies.policy import policy_names
from delen.policies.rates import Terms
from delen.policies.view import Served
from delen.tests.desk_simulation import DeskSimulation
from delen.tests.simulation import served

NAMES = ("a", "b", "c", "d")
# (segments, accuracies, energies known): a light, a heavy one, one with an exit that is dominated, one of one exit.
SHAPES: tuple[tuple[tuple[float, ...], tuple[float, ...], bool], ...] = (
    ((100, 200, 400), (0.85, 0.95, 0.97), True),
    ((700, 900, 1500, 2500), (0.60, 0.75, 0.81, 0.83), True),
    ((60, 80, 150), (0.70, 0.69, 0.90), False),
    ((300,), (0.9,), True),
)
RUNS = 10_000


class Unread(Journal):
    """A journal nobody reads: what cannot be written down is found out, and nothing is kept."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode

    @property
    def open(self) -> bool:
        return True

    def write(self, record: Record) -> None:
        self._encode(record)

    def tick(self, now_us: int) -> None:
        """Nothing waits."""


class Tally(msgspec.Struct, frozen=True):
    """What one script did."""

    seed: int
    policy: str
    answers: int
    failures: int
    refusals: int
    runs: int
    restarts: int
    late: int
    log_hash: str


def run(seed: int, plant: Callable[[DeskSimulation], None] | None = None) -> Tally:
    """One script to its end. Raises AssertionError where anything does not hold. `plant`: break something first."""
    simulation = script(seed)
    if plant is not None:
        plant(simulation)
    outcomes = simulation.run()
    simulation.settled()
    kinds = Counter(type(outcome.reply) for outcome in outcomes)
    return Tally(
        seed=seed,
        policy=simulation.server.policy.name,
        answers=kinds[Answer],
        failures=kinds[Failure],
        refusals=len(outcomes) - kinds[Answer] - kinds[Failure],
        runs=len(simulation.runs),
        restarts=len(simulation.restarts),
        late=sum(1 for o in outcomes if isinstance(o.reply, Answer) and "latency_ms" in o.reply.broken),
        log_hash=simulation.log_hash,
    )


def script(seed: int) -> DeskSimulation:
    """Everything this seed stands for, ready to run."""
    draw = Random(seed)
    networks = [_network(draw, number) for number in draw.sample(range(len(SHAPES)), draw.randint(1, 3))]
    tenants = NAMES[: draw.randint(1, len(NAMES))]
    defaults = {tenant: draw.choice([Bounds(), Bounds(), _bounds(draw)]) for tenant in tenants}
    (policy, options), limits, noise = _policy(draw, seed), _limits(draw), _noise(draw)
    hop_us, ahead_us = draw.choice([0, 0, 80, 400]), draw.choice([0, 0, 100, 1_000])
    terms = {tenant: _terms(draw) for tenant in tenants} if draw.random() < 0.3 else {}
    setup = Setup(limits=limits, policy=policy, options=options, ahead_us=ahead_us, tenants=terms)
    simulation = DeskSimulation(
        networks,
        defaults,
        seed=seed,
        server=core(setup, Unread() if seed % 3 == 0 else None, lambda _name: None, now_us=0, wall=""),
        limits=limits,
        noise=noise,
        behaviours={network.name: _behaviour(len(network.costs.accuracy)) for network in networks},
        hop_us=hop_us,
        restart_us=draw.choice([500, 10_000, 100_000]),
    )
    spoilt = draw.choice([0, 0, 0, 17])
    simulation.spoil = (lambda request_id: sum(request_id) % spoilt == 5) if spoilt else None
    simulation.forgetful = draw.choice([0.0] * 9 + [0.05])
    end_us = draw.choice([10_000, 30_000, 80_000])
    for _ in range(draw.randint(10, 120)):
        _ask(draw, simulation, draw.randrange(end_us), [network.name for network in networks])
    if draw.random() < 0.3:
        _flood(draw, simulation, draw.randrange(end_us), networks[0].name)
    for _ in range(draw.choice([0, 0, 1, 3])):
        simulation.kill_worker(draw.randrange(end_us))
    for _ in range(draw.choice([0, 0, 1, 2])):
        simulation.jump(draw.randrange(end_us), draw.choice([3_000, 200_000, 3_000_000, 100_000_000]))
    for _ in range(draw.choice([0, 2])):
        simulation.stale(draw.randrange(end_us))
    for _ in range(draw.choice([0, 0, 20])):
        simulation.nudge(draw.randrange(end_us))
    return simulation


# ---- who asks for what


def _ask(draw: Random, simulation: DeskSimulation, when_us: int, networks: list[str]) -> None:
    """One request; sometimes cancelled, or sent again: the same, another under its id, or by another tenant."""
    tenants = list(simulation.defaults)
    tenant, request_id = draw.choice(tenants), draw.getrandbits(16).to_bytes(4, "big")
    infer = Infer(VERSION, request_id, draw.choice(networks), TENSORS, _bounds(draw))
    simulation.send(when_us, tenant, infer)
    fate = draw.random()
    later_us = when_us + draw.choice([0, 100, 2_000, 20_000])
    if fate < 0.10:
        simulation.take_back(later_us, tenant, request_id, draw.choice([b"r", b"s"]))
    elif fate < 0.18:
        simulation.send(later_us, tenant, infer, draw.choice([b"r", b"s"]))
    elif fate < 0.22:
        simulation.send(later_us, tenant, msgspec.structs.replace(infer, bounds=_bounds(draw)))
    elif fate < 0.26:
        simulation.send(later_us, draw.choice(tenants), infer)
    elif fate < 0.30:
        simulation.fetch(later_us, tenant, request_id, b"s")


def _flood(draw: Random, simulation: DeskSimulation, when_us: int, network: str) -> None:
    """More than may wait, of one tenant, within a moment."""
    bounds, tenant = _bounds(draw), draw.choice(list(simulation.defaults))
    for number in range(draw.choice([30, 80])):
        request_id = b"flood" + number.to_bytes(2, "big")
        simulation.send(when_us + draw.randrange(300), tenant, Infer(VERSION, request_id, network, TENSORS, bounds))


def _bounds(draw: Random) -> Bounds:
    said: dict[str, object] = {}
    if draw.random() < 0.6:
        said["latency_ms"] = draw.choice([0.2, 1, 1.5, 3, 6, 12, 40, 200])
    if draw.random() < 0.4:
        said["accuracy"] = draw.choice([0.3, 0.6, 0.8, 0.9, 0.95, 0.999])
    if draw.random() < 0.15:
        said["energy_mj"] = draw.choice([0.1, 1, 5, 50])
    if draw.random() < 0.1:
        said = {name: value for name, value in said.items() if name == "latency_ms"}
        test = draw.choice([Condition("confidence", "greater", 0.7), Condition("response_time", "greater", 0.004)])
        said["conditions"] = (ConditionSet(all_of=(test,)),) * draw.choice([3, 3, 4])
    if draw.random() < 0.2:
        said["objective"] = draw.choice(["accuracy", "latency", "energy"])
    if draw.random() < 0.3:
        said["on_miss"] = "drop"
    return msgspec.convert(said, Bounds)


# ---- on what


def _network(draw: Random, number: int) -> Served:
    segments_us, accuracies, energy = SHAPES[number]
    made = served(
        f"net{number}", segments_us=segments_us, accuracies=accuracies, energy=energy, gates=draw.random() < 0.6
    )
    made.hop_us = draw.choice([0.0, 50.0, 300.0])
    return made


@cache
def _behaviour(exit_count: int) -> Behaviour:
    """Inputs on which one exit is as sure as another, or not."""
    draw = Random(exit_count)
    confidence = [[draw.random() for _ in range(exit_count)] for _ in range(97)]
    return Behaviour(confidence, [[sure > 0.3 for sure in sample] for sample in confidence])


def _policy(draw: Random, seed: int) -> tuple[str, dict[str, object]]:
    """Each policy in turn; the default in every other script, with options."""
    names = policy_names()
    if seed % 2:
        turn, place = divmod(seed // 2, len(names))
        waits = names[place] == "fixed-exit" and turn % 2
        return names[place], {"queue_delay_ms": 5.0} if waits else {}
    options: dict[str, object] = {
        "spare_share": draw.choice([0.5, 0.5, 0.9, 0.0]),
        "rebatch": draw.random() < 0.8,
        "fill": draw.random() < 0.8,
    }
    return names[0], options


def _limits(draw: Random) -> Limits:
    return Limits(
        queued_max=draw.choice([5, 25, 1024]),
        queued_bytes_max=draw.choice([40, 2**20]),
        answers_kept_max=draw.choice([3, 1024, 1024]),
        answer_window_ms=draw.choice([20, 60_000]),
        retries_max=draw.choice([0, 1, 2]),
        patience_ms=draw.choice([1, 100]),
        hold_ms=draw.choice([1, 30, 1000]),
        run_ms_min=draw.choice([5, 250]),
    )


def _noise(draw: Random) -> NoiseSpec:
    factor = draw.choice([0.7, 1.3, 4.0])
    return NoiseSpec(
        sigma=draw.choice([0.0, 0.02, 0.3]),
        ar1_rho=0.95,
        ar1_sigma=draw.choice([0.0, 0.0, 0.3]),
        steps=((0.01, factor), (0.03, 1.0)) if draw.random() < 0.3 else (),
        stall_rate_hz=draw.choice([0.0, 0.0, 40.0]),
        stall_ms=draw.choice([1.0, 8.0]),
        stall_cluster=draw.choice([0, 3]),
        stall_gap_ms=2.0,
    )


def _terms(draw: Random) -> Terms:
    return Terms(
        weight=draw.choice([0.5, 1.0, 4.0]),
        rate_hz=draw.choice([None, 50.0, 1_000.0]),
        device_share_max=draw.choice([None, None, 0.3]),
        firm=draw.choice([None, None, (3, 5)]),
    )


# ---- many of them


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=RUNS, show_default=True, help="How many scripts.")
@click.option("--first", type=click.IntRange(min=0), default=0, help="The first seed.")
@click.option("--seconds-max", type=float, default=3600.0, show_default=True, help="Stop after so long, and say so.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def main(runs: int, first: int, seconds_max: float, as_json: bool) -> None:
    """Run random fault scripts, one after the other, until one fails."""
    tallies: list[Tally] = []
    with progress() as bar:
        task = bar.add_task("fault scripts", total=runs)
        for seed in range(first, first + runs):
            took_s = bar.tasks[0].elapsed or 0.0
            if took_s > seconds_max:
                break
            try:
                tallies.append(run(seed))
            except BaseException:
                click.echo(f"failed; replay it: python -m delen.tests.random_faults --first {seed} --runs 1", err=True)
                raise
            bar.update(task, advance=1)
    figures = ("answers", "failures", "refusals", "runs", "restarts", "late")
    found: dict[str, object] = {name: sum(getattr(tally, name) for tally in tallies) for name in figures}
    found.update(scripts=len(tallies), wanted=runs, first=first, took_s=round(took_s, 1))
    found.update(policies=dict(Counter(tally.policy for tally in tallies)))
    if as_json:
        print_json(found)
    else:
        click.echo(", ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
