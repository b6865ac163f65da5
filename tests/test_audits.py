"""Audits: certified answers are run again in idle time, nobody waits for that, and a shift withdraws certificates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from delen.clients.bounds import Bounds
from delen.clients.info import Drift
from delen.clients.wire import Answer, Proof
from delen.daemon.behaviour import Behaviour
from delen.daemon.config import Limits
from delen.daemon.simulate import Outcome, Simulation
from delen.policies.rates import Terms
from delen.tests.simulation import served

ACCURATE = Bounds(accuracy=0.93)
EVERY = Limits(audit_share=1.0)
GAP_US = 10_000
PROOF = Proof(0.93, 0.9, 4000)


def behaviour(wrong_but_sure: float) -> Behaviour:
    """Everybody is sure at the first exit; there a share of them gets another label than at the last."""
    agrees = np.random.default_rng(1).uniform(size=2000) >= wrong_but_sure
    confidence = np.full((2000, 3), 0.999)
    rows = np.stack([agrees, np.ones_like(agrees), np.ones_like(agrees)], axis=1)
    return Behaviour(confidence.tolist(), rows.tolist(), rows.tolist())


def day(
    count: int, *, wrong: float = 0.0, gap_us: int = GAP_US, limits: Limits = EVERY, bounds: Bounds = ACCURATE
) -> Simulation:
    """So many requests of one tenant, evenly; every invariant of the core is checked on the way."""
    simulation = Simulation([served()], limits=limits, behaviours={"net": behaviour(wrong)})
    for number in range(count):
        simulation.ask(number * gap_us, "a", bounds)
    simulation.run()
    return simulation


def drift(simulation: Simulation) -> Drift:
    return simulation.server.assurance.told("a")["net"]


def answers(outcomes: Sequence[Outcome]) -> list[Answer]:
    return [outcome.reply for outcome in outcomes if isinstance(outcome.reply, Answer)]


def test_what_a_gate_let_go_is_run_to_the_last_exit_when_nothing_else_is_to_be_done() -> None:
    simulation = day(20)
    assert drift(simulation) == Drift(withdrawn=False, audits=20, differed=0, skipped=0, labels=0, wrong=0)
    again = [run for run in simulation.runs if run.first > 0]
    assert {row.stop for run in again for row in run.rows} == {2}
    assert {(answer.exit, answer.stop) for answer in answers(simulation.outcomes)} == {(0, "gate")}


def test_the_answer_does_not_wait_for_its_audit_nor_pay_for_it() -> None:
    audited, not_audited = day(20), day(20, limits=Limits(audit_share=0.0))
    assert not not_audited.server.assurance.told("a")["net"].audits
    costs = [[(each.total_us, each.energy_mj) for each in answers(one.outcomes)] for one in (audited, not_audited)]
    assert len(costs[0]) == len(costs[1]) == 20
    assert max(total_us for total_us, _ in costs[0]) < 1.2 * max(total_us for total_us, _ in costs[1])
    assert costs[0][0][1] == pytest.approx(costs[1][0][1])


def test_audits_use_up_nobodys_quota() -> None:
    terms = {"a": Terms(device_share_max=0.02)}
    simulation = Simulation([served()], limits=EVERY, behaviours={"net": behaviour(0.0)}, tenants=terms)
    for number in range(300):
        simulation.ask(number * GAP_US, "a", ACCURATE)
    simulation.run()
    assert len(answers(simulation.outcomes)) == drift(simulation).audits == 300
    assert simulation.server.ledger.account("a").device_us > 300 * 600, "they show in the account"


def test_only_the_share_that_is_configured_is_audited() -> None:
    simulation = day(400, limits=Limits(audit_share=0.1))
    assert 20 <= drift(simulation).audits <= 65


def test_without_idle_time_audits_are_given_up_and_counted() -> None:
    simulation = day(600, gap_us=400, limits=Limits(audit_share=1.0, audits_max=4))
    found = drift(simulation)
    assert found.skipped > 500
    assert found.audits + found.skipped == 600


def test_a_run_of_audits_gives_way_to_whoever_comes() -> None:
    network = served(segments_us=(100, 5_000, 5_000))
    simulation = Simulation([network], limits=EVERY, behaviours={"net": behaviour(0.0)})
    simulation.ask(0, "a", ACCURATE)
    # The audit of the first has begun, and would take 10 ms.
    simulation.ask(4_000, "b", Bounds())
    simulation.run()
    late = next(outcome for outcome in simulation.outcomes if outcome.tenant == "b")
    first = next(run for run in simulation.runs if run.first > 0)
    assert isinstance(late.reply, Answer)
    assert late.reply.queue_us < 5_000, f"it waited for all of {first}"
    assert drift(simulation).audits == 1, "and the audit goes on afterwards"


def test_a_lost_worker_takes_audits_with_it() -> None:
    simulation = Simulation([served()], limits=EVERY, behaviours={"net": behaviour(0.0)})
    simulation.ask(0, "a", ACCURATE)
    simulation.kill_worker(1_500)
    simulation.run()
    assert (drift(simulation).audits, drift(simulation).skipped) == (0, 1)


def test_inputs_that_gates_do_not_fit_withdraw_the_certificate_and_are_answered_as_deep_as_can_be() -> None:
    simulation = day(300, wrong=0.6)
    assert drift(simulation).withdrawn
    told = answers(simulation.outcomes)
    changed = next(index for index, answer in enumerate(told) if answer.certificate == "withdrawn")
    assert changed < 100
    assert {(answer.certificate, answer.exit) for answer in told[:changed]} == {("certified", 0)}
    assert {(answer.certificate, answer.exit, answer.proof) for answer in told[changed:]} == {("withdrawn", 2, None)}


def test_the_certificates_of_others_stand() -> None:
    simulation = Simulation([served()], limits=EVERY, behaviours={"net": behaviour(0.6)})
    for number in range(200):
        simulation.ask(number * GAP_US, "a", ACCURATE)
    simulation.ask(200 * GAP_US, "b", ACCURATE)
    simulation.run()
    assert answers(simulation.outcomes)[-1].certificate == "certified"


def test_inputs_like_the_calibration_samples_raise_no_alarm() -> None:
    assert not drift(day(1_000, wrong=0.01)).withdrawn


def test_audits_run_to_the_exit_that_calibration_compared_with_though_it_is_never_chosen() -> None:
    network = served(accuracies=(0.85, 0.97, 0.96))
    assert network.exit_last == 1
    # Two exits are always right, the last never is.
    rows, sure = [[True, True, False]] * 100, [[0.999] * 3] * 100
    simulation = Simulation([network], limits=EVERY, behaviours={"net": Behaviour(sure, rows)})
    for number in range(10):
        simulation.ask(number * GAP_US, "a", ACCURATE)
    simulation.run()
    assert (drift(simulation).audits, drift(simulation).differed) == (10, 10)


def test_whoever_is_refused_keeps_nobody_from_being_audited() -> None:
    simulation = Simulation([served()], limits=EVERY, behaviours={"net": behaviour(0.0)})
    for number in range(50):
        simulation.ask(number * GAP_US, "a", ACCURATE)
    for number in range(1_000):
        simulation.ask(number * GAP_US // 20, "b", Bounds(latency_ms=0.01))
    simulation.run(49 * GAP_US)
    assert drift(simulation).audits > 40


def test_an_answer_that_waited_while_its_certificate_was_withdrawn_claims_it_no_more() -> None:
    simulation = Simulation([served()], limits=EVERY, behaviours={"net": behaviour(0.0)})
    simulation.ask(0, "a", ACCURATE)
    simulation.at(50, lambda: [simulation.server.labelled(50, "a", "net", PROOF, wrong=True) for _ in range(50)])
    simulation.run()
    [told] = answers(simulation.outcomes)
    assert (told.exit, told.certificate, told.proof, told.broken) == (0, "withdrawn", None, ("accuracy",))


def test_a_stream_that_never_pauses_for_long_is_audited_in_its_short_pauses() -> None:
    # A request every 1.9 ms leaves most of the device idle, and never for as long as IDLE_US.
    simulation = day(1_000, gap_us=1_900, limits=Limits(audit_share=0.2))
    found = drift(simulation)
    assert found.audits > 150
    assert found.skipped == 0
    assert max(answer.total_us for answer in answers(simulation.outcomes)) < 2_500, (
        "nobody waits for more than a segment"
    )
