"""What killed the engine is not run a third time, whoever was beside it is not blamed, and no tenant bars another."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Failure, Infer, Refusal
from delen.daemon.config import Limits
from delen.daemon.noise import NoiseSpec
from delen.daemon.records import Ended, RunFailed
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS, Outcome
from delen.policies.exits import asked
from delen.policies.view import Run
from delen.tests.exact import exact
from delen.tests.mishaps import Deadly
from delen.tests.random_faults import script
from delen.tests.test_lanes import finished

EXACT = NoiseSpec()
FREE = Bounds()


def codes(outcomes: list[Outcome], tenant: str = "a") -> Counter[str]:
    return Counter(getattr(outcome.reply, "code", "answer") for outcome in outcomes if outcome.tenant == tenant)


def deadly(**options: Any) -> Deadly:
    return Deadly([exact()], noise=EXACT, restart_us=1_000, **options)


# ---- poison


def test_an_input_that_kills_two_workers_kills_no_third() -> None:
    simulation = deadly()
    bad = simulation.ask(0, "a", FREE)
    simulation.deadly = {bad[-4:]}
    for when_us in (100_000, 200_000, 300_000):
        simulation.again(when_us, "a", bad)
    outcomes = simulation.run()
    assert simulation.deaths == 2
    assert [type(outcome.reply) for outcome in outcomes] == [Failure, Refusal, Refusal, Refusal]
    assert {outcome.reply.code for outcome in outcomes if not isinstance(outcome.reply, Answer)} == {"poison"}
    refused = outcomes[-1].reply
    assert isinstance(refused, Refusal)
    assert refused.offer is not None
    assert refused.offer.retry_after_ms == pytest.approx(600_000 - 300, abs=10)


def test_who_shared_a_batch_with_poison_is_answered_and_not_suspected_afterwards() -> None:
    simulation = deadly()
    ids = [simulation.ask(0, "a", FREE) for _ in range(8)]
    simulation.deadly = {ids[3][-4:]}
    outcomes = simulation.run()
    assert codes(outcomes) == {"answer": 7, "poison": 1}
    assert simulation.deaths == 2
    again_us = simulation.now_us + 1_000
    simulation.again(again_us, "a", ids[0])
    simulation.kill_worker(again_us + 50)
    assert codes(simulation.run()) == {"answer": 8, "poison": 1}, "one more accident does not make it poison"


def test_the_same_poison_waiting_twice_costs_two_workers_and_not_three() -> None:
    simulation = deadly()
    bad = simulation.ask(0, "a", FREE)
    for number in range(5):
        simulation.again(number, "a", bad)
    simulation.deadly = {bad[-4:]}
    assert codes(simulation.run()) == {"poison": 6}
    assert simulation.deaths == 2


def test_without_retries_poison_is_still_found_with_its_second_request() -> None:
    simulation = deadly(limits=Limits(retries_max=0))
    bad = simulation.ask(0, "a", FREE)
    simulation.deadly = {bad[-4:]}
    for when_us in (100_000, 200_000):
        simulation.again(when_us, "a", bad)
    assert [outcome.reply.code for outcome in simulation.run() if not isinstance(outcome.reply, Answer)] == [
        "engine_crashed",
        "poison",
        "poison",
    ]


def test_a_newcomer_with_a_suspect_input_runs_alone() -> None:
    server = core(retries_max=0)
    submit(server, 0, b"1", payload=b"same")
    assert server.next(0) is not None
    server.worker_lost(10, 20)
    server.worker_ready(20)
    submit(server, 30, b"2", payload=b"same")
    submit(server, 30, b"3", payload=b"else")
    assert len({row.ticket for row in run_of(server, 30).rows}) == 1


def test_an_answer_at_hand_does_not_clear_what_killed_the_engine() -> None:
    simulation = deadly()
    bad = simulation.ask(0, "a", Bounds(latency_ms=2.0))
    # Its first exit is answered by the time the worker dies, and there is no time for another.
    simulation.kill_worker(400)
    for when_us in (100_000, 200_000):
        simulation.at(when_us - 1, simulation.deadly.add, bad[-4:])
        simulation.again(when_us, "a", bad)
    outcomes = simulation.run()
    assert isinstance(outcomes[0].reply, Answer)
    assert codes(outcomes) == {"answer": 1, "poison": 2}
    assert simulation.deaths == 1, "the second of its deaths"


def test_poison_is_one_tenants_and_for_a_while() -> None:
    simulation = deadly()
    bad = simulation.ask(0, "a", FREE)
    simulation.deadly = {bad[-4:]}
    simulation.run()
    simulation.deadly = set()
    simulation.again(10_000, "b", bad)
    simulation.again(599_000_000, "a", bad)
    simulation.again(602_000_000, "a", bad)
    outcomes = simulation.run()
    assert codes(outcomes, "b") == {"answer": 1}
    assert codes(outcomes) == {"poison": 2, "answer": 1}


def test_a_tenant_with_many_poisons_is_kept_from_that_network_and_others_are_not() -> None:
    simulation = deadly(limits=Limits(poison_inputs_max=3))
    bad = [simulation.ask(n * 10_000, "a", FREE) for n in range(6)]
    simulation.deadly = {request_id[-4:] for request_id in bad}
    good = simulation.ask(100_000, "a", FREE)
    simulation.ask(100_000, "b", FREE)
    outcomes = simulation.run()
    assert simulation.deaths == 6, "two for each of three"
    assert codes(outcomes) == {"poison": 7}
    assert codes(outcomes, "b") == {"answer": 1}
    assert good[-4:] not in simulation.deadly


def test_what_was_not_running_when_the_worker_was_taken_away_is_not_blamed() -> None:
    server = core()
    for number in range(2):
        assert isinstance(submit(server, number * 1_000, b"%d" % number), int)
        assert server.next(number * 1_000) is not None
        server.worker_lost(number * 1_000 + 10, number * 1_000 + 20, blame=False)
        server.worker_ready(number * 1_000 + 20)
    assert isinstance(submit(server, 5_000, b"9"), int)
    assert not any(request.suspect for request in server._requests.open.values())


def test_only_so_many_suspects_are_remembered() -> None:
    simulation = deadly(limits=Limits(suspects_max=3, batch_max=8))
    for _ in range(8):
        simulation.ask(0, "a", FREE)
    simulation.kill_worker(50)
    simulation.run(60)
    [known] = simulation.server.quarantine._suspects.values()
    assert len(known) == 3


# ---- what the engine fails on


def core(**limits: Any) -> Server:
    server = Server(Limits(**limits))
    server.networks["net"] = exact()
    server.worker_ready(0)
    return server


def submit(server: Server, now_us: int, request_id: bytes, tenant: str = "a", payload: bytes = bytes(4)) -> Any:
    infer = Infer(VERSION, request_id, "net", TENSORS, FREE)
    verdict, _ = server.submit(now_us, tenant, infer, asked(FREE), payload)
    return verdict


def run_of(server: Server, now_us: int) -> Run:
    run = server.next(now_us)
    assert run is not None
    return run


def fault(server: Server, now_us: int, tenant: str = "a", kind: str = "output", payload: bytes = bytes(4)) -> str:
    """One request on which the engine fails; returns the code of its error, or of its refusal."""
    verdict = submit(server, now_us, b"%d" % now_us, tenant, payload)
    if isinstance(verdict, Refusal):
        return verdict.code
    run = server.next(now_us)
    assert run is not None
    effects = server.advance(now_us, RunFailed(run.id, kind, "no"))
    [reply] = [effect.reply for effect in effects if isinstance(effect, Ended)]
    assert isinstance(reply, Failure)
    return reply.code


def test_three_faults_bar_a_network_for_that_tenant_until_it_is_well() -> None:
    server = core()
    assert [fault(server, n * 1_000) for n in range(4)] == ["output"] * 3 + ["quarantined"]
    assert isinstance(submit(server, 5_000, b"b", "b"), int), "one tenant bars no other"
    assert server.quarantine.doubted() == {"net"}
    server.quarantine.passed("net")
    assert isinstance(submit(server, 6_000, b"c"), int)


def test_faults_of_two_tenants_bar_it_for_all() -> None:
    server = core()
    for tenant in ("a", "b"):
        for number in range(3):
            fault(server, number, tenant)
    refused = submit(server, 10, b"c", "c")
    assert isinstance(refused, Refusal)
    assert refused.code == "quarantined"


def test_faults_far_apart_bar_nothing_and_a_bar_is_over_some_time() -> None:
    server = core()
    assert {fault(server, n * 31_000_000) for n in range(8)} == {"output"}
    server = core()
    assert [fault(server, n) for n in range(4)][-1] == "quarantined"
    assert isinstance(submit(server, 61_000_000, b"x"), int)


def test_a_failed_canary_bars_for_all_and_a_passed_one_lifts_it() -> None:
    server = core()
    server.quarantine.failed(0, "net")
    assert submit(server, 1, b"a").code == "quarantined"
    server.quarantine.passed("net")
    assert isinstance(submit(server, 2, b"b"), int)


@pytest.mark.parametrize(
    ("kind", "code"), [("output", "output"), ("memory", "engine_memory"), ("input", "input"), ("unsupported", "engine")]
)
def test_each_fault_has_its_code(kind: str, code: str) -> None:
    assert fault(core(), 0, kind=kind) == code


def test_an_input_that_is_not_finite_is_its_senders_fault_and_bars_nothing() -> None:
    server, nan = core(), np.array([np.nan], "<f4").tobytes()
    assert {fault(server, n, payload=nan) for n in range(9)} == {"input"}


# ---- among everything else


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_poison_among_random_faults_ends_everybody_once_and_costs_two_workers_each(seed: int) -> None:
    simulation = script(seed)
    poison = Deadly.poison(simulation, share=0.05)
    simulation.run()
    simulation.settled()
    # Each input of each tenant to each network may cost two, and one of them with others' rows beside it.
    assert all(count <= 2 for count in poison.values()), poison


def died(server: Server, now_us: int) -> None:
    server.worker_lost(now_us, now_us + 10)
    server.worker_ready(now_us + 10)


def test_who_cancels_what_is_about_to_kill_the_engine_has_killed_it_all_the_same() -> None:
    server = core()
    for number in range(2):
        ticket = submit(server, number * 1_000, b"%d" % number)
        assert isinstance(ticket, int)
        run_of(server, number * 1_000)
        server.cancel(ticket)
        died(server, number * 1_000 + 10)
    refused = submit(server, 5_000, b"9")
    assert isinstance(refused, Refusal)
    assert refused.code == "poison"


def test_what_had_left_a_run_did_not_end_it() -> None:
    server = core()
    ticket = submit(server, 0, b"1")
    assert isinstance(ticket, int)
    submit(server, 0, b"2", payload=b"else")
    run_of(server, 0)
    server.cancel(ticket)
    flight = server._device.running
    assert flight is not None
    del flight.rows[ticket]
    died(server, 10)
    [known] = server.quarantine._suspects.values()
    assert len(known) == 1


def test_a_tenant_that_kills_the_engine_with_ever_other_inputs_is_stopped() -> None:
    server, deaths = core(suspect_deaths_max=16), 0
    for number in range(40):
        payload = number.to_bytes(4, "big")
        ticket = submit(server, number * 1_000, b"%d" % number, payload=payload)
        if isinstance(ticket, Refusal):
            assert ticket.code == "poison"
            break
        run_of(server, number * 1_000)
        server.cancel(ticket)
        died(server, number * 1_000 + 10)
        deaths += 1
    assert deaths == 16
    assert isinstance(submit(server, 50_000, b"x", "b"), int), "nobody else is"


def test_whose_inputs_are_answered_after_all_is_not_stopped_by_deaths_that_others_caused() -> None:
    server = core(suspect_deaths_max=16)
    ticket = submit(server, 0, b"first", payload=b"left")
    assert isinstance(ticket, int)
    run_of(server, 0)
    server.cancel(ticket)
    died(server, 10)
    for number in range(1, 40):
        now_us = number * 10_000
        assert isinstance(submit(server, now_us, b"%d" % number, payload=number.to_bytes(4, "big")), int)
        run_of(server, now_us)
        died(server, now_us + 10)
        run = run_of(server, now_us + 20)
        [ended] = [effect for effect in server.advance(now_us + 500, finished(run)) if isinstance(effect, Ended)]
        assert isinstance(ended.reply, Answer)
