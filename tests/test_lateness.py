"""Who may end the worker is tried when that hurts others least, and never waits for ever."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer
from delen.daemon.config import Limits
from delen.daemon.journal import Journal
from delen.daemon.journal_records import Setup
from delen.daemon.noise import NoiseSpec
from delen.daemon.recorded import core
from delen.daemon.replay import replay
from delen.daemon.simulate import Outcome
from delen.policies.correction_rivals import correction
from delen.tests.exact import exact
from delen.tests.mishaps import Deadly, stand_by
from delen.tests.random_faults import script

TIMED = Bounds(latency_ms=50.0)
FREE = Bounds()
RESTART_US, LOAD_US = 1_000_000, 600_000
BAD_US = 500_000


def attacked(*, end_us: int = 4_000_000, load_us: int = LOAD_US, **options: Any) -> tuple[Deadly, list[int]]:
    """Tenant b asks steadily; tenant a has one input that ends the worker. Returns how long each death took."""
    network = exact()
    if "server" in options:
        # A journal knows corrections by their names.
        network.correction = correction("conformal", miss_target=0.01, p95_over_p50=1.0)
    simulation = Deadly([network], noise=NoiseSpec(), restart_us=RESTART_US, **options)
    away_us = stand_by(simulation, load_us)
    for when_us in range(0, end_us, 10_000):
        simulation.ask(when_us, "b", TIMED)
    simulation.deadly = {simulation.ask(BAD_US, "a", FREE)[-4:]}
    return simulation, away_us


def of(outcomes: list[Outcome], tenant: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.tenant == tenant]


def codes(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(
        getattr(outcome.reply, "code", "late" if outcome.reply.broken else "answer")
        if isinstance(outcome.reply, Answer)
        else outcome.reply.code
        for outcome in outcomes
    )


def test_with_a_spare_the_second_death_too_finds_one_loaded() -> None:
    simulation, away_us = attacked()
    outcomes = simulation.run()
    assert codes(of(outcomes, "b")) == {"answer": 400}
    assert away_us == [0, 0]
    [bad] = of(outcomes, "a")
    assert codes([bad]) == {"poison": 1}
    assert bad.ended_us >= BAD_US + LOAD_US


def test_the_same_input_asked_again_is_held_back_as_well() -> None:
    simulation, away_us = attacked()
    [bad] = simulation.deadly
    for when_us in (BAD_US - 1, BAD_US + 1, BAD_US + 30_000):
        simulation.again(when_us, "a", bad)
    outcomes = simulation.run()
    assert codes(of(outcomes, "b")) == {"answer": 400}
    assert codes(of(outcomes, "a")) == {"poison": 4}
    assert away_us == [0, 0]


def test_who_shared_its_batch_is_answered_once_a_spare_is_loaded() -> None:
    simulation, away_us = attacked()
    beside = [simulation.ask(BAD_US, tenant, FREE) for tenant in "aabb"]
    outcomes = simulation.run()
    assert away_us == [0, 0]
    assert codes(of(outcomes, "a")) == {"poison": 1, "answer": 2}
    assert len(beside) == 4
    assert codes(of(outcomes, "b")) == {"answer": 402}


def test_whoever_is_alone_is_tried_again_at_once() -> None:
    """Nobody would be spared anything, and an accident should cost no more than it must."""
    simulation = Deadly([exact()], noise=NoiseSpec(), restart_us=RESTART_US)
    away_us = stand_by(simulation, LOAD_US)
    for when_us in range(0, 1_000_000, 10_000):
        simulation.ask(when_us, "a", TIMED)
    simulation.kill_worker(500_050)
    assert codes(simulation.run()) == {"answer": 100}
    assert away_us == [0]


def test_a_deadline_holds_while_one_is_held_back() -> None:
    for on_miss, ends in (("drop", "deadline"), ("answer", "late")):
        simulation, away_us = attacked()
        simulation.deadly = set()
        simulation.ask(BAD_US + 5_000, "a", msgspec.convert({"latency_ms": 40.0, "on_miss": on_miss}, Bounds))
        simulation.kill_worker(BAD_US + 5_100)
        outcomes = simulation.run()
        assert away_us == [0]
        last = max(of(outcomes, "a"), key=lambda outcome: outcome.ended_us)
        assert codes([last]) == {ends: 1}
        assert last.ended_us <= BAD_US + 5_000 + (40_000 if on_miss == "drop" else LOAD_US + 60_000)


def test_without_a_spare_it_waits_until_nobody_else_with_a_deadline_does() -> None:
    simulation = Deadly([exact()], noise=NoiseSpec(), restart_us=RESTART_US)
    simulation.ask(0, "b", FREE)
    simulation.deadly = {simulation.ask(10_000, "a", FREE)[-4:]}
    # They come while the worker is away, and all of them are served before it is lost again.
    slow = Bounds(latency_ms=2_000.0)
    for number in range(50):
        simulation.ask(10_500 + number, "b", slow)
    outcomes = simulation.run()
    [bad] = of(outcomes, "a")
    assert codes([bad]) == {"poison": 1}
    assert codes(of(outcomes, "b")) == {"answer": 51}
    assert bad.ended_us > max(outcome.ended_us for outcome in of(outcomes, "b"))


def test_nobody_is_held_back_for_ever() -> None:
    """No spare gets ready, ever: the suspect ends with an error that says so, and kills nothing meanwhile."""
    simulation, _ = attacked(end_us=3_000_000, load_us=100_000_000, limits=Limits(suspect_ms=1_000))
    outcomes = simulation.run()
    [bad] = of(outcomes, "a")
    assert codes([bad]) == {"engine_crashed": 1}
    assert BAD_US + 1_000_000 <= bad.ended_us <= BAD_US + 1_010_000
    assert simulation.deaths == 1
    assert codes(of(outcomes, "b")) == {"answer": 300}


def test_one_that_waits_for_its_turn_is_not_ended_for_having_been_held_back() -> None:
    simulation, _ = attacked(limits=Limits(suspect_ms=int(LOAD_US / 1000) + 1))
    assert codes(of(simulation.run(), "a")) == {"poison": 1}


def test_a_worker_that_is_to_have_no_spare_any_more_tries_them_without() -> None:
    simulation, _ = attacked(end_us=600_000)
    simulation.at(BAD_US + 50_000, lambda: simulation.server.spare(("net",), warm=None))
    simulation.deadly = set()
    simulation.kill_worker(BAD_US + 10)
    outcomes = simulation.run(BAD_US + 100_000)
    assert codes(of(outcomes, "a")) == {"answer": 1}


# ---- among everything else


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_poison_among_random_faults_with_a_spare_ends_everybody_once(seed: int) -> None:
    simulation = script(seed)
    stand_by(simulation, 20_000 + seed * 1_000)
    poison = Deadly.poison(simulation, share=0.05)
    simulation.run()
    simulation.settled()
    assert all(deaths <= 2 for deaths in poison.values()), poison


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_of_it_is_played_again_exactly(tmp_path: Path, seed: int) -> None:
    path, setup = tmp_path / "j", Setup(limits=Limits(), ahead_us=200 * seed)
    journal = Journal(path, bytes_max=2**26, note=lambda *_args, **_named: None)
    server = core(setup, journal, lambda _name: None, now_us=0, wall="")
    simulation, away_us = attacked(end_us=2_000_000, server=server, seed=seed)
    simulation.poisson("c", FREE, 200.0, 0, 2_000_000)
    simulation.kill_worker(1_500_000 + seed)
    simulation.run()
    journal.close()
    replayed = replay(path)
    assert replayed.difference is None
    assert len(away_us) == 3
    assert len(replayed.outcomes) == len(simulation.outcomes)
