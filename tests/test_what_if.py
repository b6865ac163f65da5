"""A journal's requests on a simulated device: they come as they came, and only what is to change changes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer
from delen.daemon import what_if
from delen.daemon.canary import TICKET
from delen.daemon.journal_records import Advanced, Cancelled, Chosen, JournalError, Lost, Ready, Setup, Submitted
from delen.daemon.outcomes import Measured, figures, measured
from delen.daemon.records import ExitDone, RowDone
from delen.daemon.replay import Replayed
from delen.daemon.simulate import Simulation
from delen.daemon.what_if import Change, Recording, imagine, noise_of, record
from delen.policies.exits import asked
from delen.policies.view import Row, Run
from delen.profiles.schema import Profile
from delen.tests.recorded_day import recorded_day
from delen.tests.sample_profile import ACCURACIES, SEGMENTS_US, sample_profile

QUIET = Setup()
TIGHT = [Bounds(latency_ms=8.0), Bounds(latency_ms=20.0), Bounds(accuracy=0.955), Bounds()]


Day = tuple[Replayed, Recording]


@pytest.fixture(scope="module")
def quiet_day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """To be looked at; a test that changes something of it takes a copy."""
    path = tmp_path_factory.mktemp("quiet") / "j"
    recorded_day(path, 1, count=400, setup=QUIET, faults=False, asked=TIGHT)
    return record(path)


@pytest.fixture(scope="module")
def unchanged(quiet_day: Day) -> Simulation:
    """The same day, simulated, when it is over."""
    simulation = imagine(*quiet_day, Change())
    simulation.run()
    return simulation


def run(simulation: Simulation) -> Measured:
    simulation.run()
    return measured(simulation)


def profile(times: float) -> Profile:
    """Of the network `net`, everything so many times as long."""
    slower = sample_profile(segments_us=[us * times for us in SEGMENTS_US], accuracies=ACCURACIES)
    return msgspec.structs.replace(slower, network="net")


def test_with_nothing_changed_it_comes_out_much_as_it_did(quiet_day: Day, unchanged: Simulation) -> None:
    replayed, _ = quiet_day
    since_us = replayed.outcomes[0].sent_us
    then = figures(replayed.outcomes, replayed.server.networks, since_us=since_us)
    now = measured(unchanged)
    assert now.requests == then.requests == 400
    assert now.violations_pct == pytest.approx(then.violations_pct, abs=3)
    assert now.effective_accuracy == pytest.approx(then.effective_accuracy, abs=3)
    assert now.mean_exit == pytest.approx(then.mean_exit, abs=0.2)
    assert now.p95_ms == pytest.approx(then.p95_ms, rel=0.25)


def test_requests_come_when_and_as_they_came(tmp_path: Path) -> None:
    simulation = recorded_day(tmp_path / "j", 3)
    replayed, recording = record(tmp_path / "j")
    imagined = imagine(replayed, recording, Change())
    imagined.run()

    def came(simulation: Simulation) -> list[tuple[object, ...]]:
        first_us = min(outcome.sent_us for outcome in simulation.outcomes)
        return sorted(
            (o.sent_us - first_us, o.tenant, o.network, o.bounds.latency_ms or 0, o.bounds.accuracy or 0)
            for o in simulation.outcomes
        )

    assert came(imagined) == came(simulation)


def test_cancels_and_losses_of_the_worker_come_again(quiet_day: Day) -> None:
    wanted = asked(Bounds())
    recording = Recording()
    for now_us in (1_000, 1_500, 1_700):
        recording.take(Submitted(now_us, "a", "net", b"%d" % now_us, 0, 4, "accepted", ()), wanted)
    recording.take(Cancelled(2, ()), None)
    recording.take(Lost(2_000, 9_000, ()), None)
    recording.take(Ready(8_000), None)
    assert (recording.cancelled, recording.lost_us, recording.away_us) == ([(700, 1)], [1_000], [6_000])
    replayed, _ = quiet_day
    outcomes = imagine(replayed, recording, Change()).run()
    assert [type(o.reply).__name__ for o in sorted(outcomes, key=lambda o: o.sent_us)] == [
        "Answer",
        "Failure",
        "Answer",
    ]
    assert max(outcome.ended_us for outcome in outcomes) > 1_000 + 6_000


def test_canaries_are_nobodys_answers_and_keep_no_simulation_going(quiet_day: Day) -> None:
    replayed, _ = quiet_day
    recording = Recording()
    canary = Run(7, "net", 0, (Row(TICKET, 2, (), (), False),), 0, (), 100)
    said = (RowDone(TICKET, 1, 0.5, left=True, gated=False),)
    # The first before anybody came.
    for now_us in (1_000, 3_000):
        recording.take(Chosen(now_us, canary), None)
        recording.take(Advanced(now_us + 100, ExitDone(7, 2, said, (), b"", True), ()), None)
        for request in range(2):
            wanted = Submitted(now_us + 200, "a", "net", b"%d" % (now_us + request), 0, 4, "accepted", ())
            recording.take(wanted, asked(Bounds()))
    assert recording.confidences == {"net": [{}, {}, {}, {}]}
    opened = msgspec.structs.replace(replayed.opened, setup=Setup(canary_ms=5_000))
    simulation = imagine(replayed._replace(opened=opened), recording, Change())
    outcomes = simulation.run(until_us=60_000_000)
    assert len(outcomes) == 4
    assert simulation.now_us < 5_000_000, "nothing is left to happen"


def test_another_policy_decides_otherwise(quiet_day: Day, unchanged: Simulation) -> None:
    other = imagine(*quiet_day, Change(policy="latency-first"))
    assert other.server.policy.name == "latency-first"
    assert run(other).p50_ms < measured(unchanged).p50_ms


def test_options_are_set_on_top_of_those_it_had(tmp_path: Path) -> None:
    then = Setup(options={"rebatch": False})
    assert Change(options={"spare_share": 0.9}).setup(then).options == {"rebatch": False, "spare_share": 0.9}
    assert Change(policy="latency-first").setup(then).options == {}


@pytest.mark.parametrize("times", [0.25, 2.0])
def test_another_profile_is_another_device(quiet_day: Day, unchanged: Simulation, times: float) -> None:
    other = imagine(*quiet_day, Change(profile=profile(times)))
    other.run()

    def compute_us(simulation: Simulation, network: str) -> float:
        took = [
            reply.compute_us
            for outcome in simulation.outcomes
            if isinstance(reply := outcome.reply, Answer)
            and (outcome.network, reply.exit, set(reply.batches)) == (network, 2, {1})
        ]
        return sum(took) / len(took)

    assert compute_us(other, "net") == pytest.approx(times * compute_us(unchanged, "net"), rel=0.4)
    assert compute_us(other, "other") == pytest.approx(compute_us(unchanged, "other"), rel=0.4)


def test_with_another_profile_of_one_network_the_others_stay_as_slow_as_they_were(quiet_day: Day) -> None:
    replayed, recording = quiet_day
    slow = Recording()
    slow.came, slow.confidences = recording.came, recording.confidences
    slow.steps = {
        cell: (n, 3 * took_us, logs, squares) for cell, (n, took_us, logs, squares) in recording.steps.items()
    }
    simulation = imagine(replayed, slow, Change(profile=profile(0.5)))
    simulation.run()
    times: dict[str, list[float]] = {"net": [], "other": []}
    for outcome in simulation.outcomes:
        if isinstance(reply := outcome.reply, Answer) and len(set(reply.batches)) == 1:
            costs = simulation.server.networks[outcome.network].costs
            times[outcome.network].append(reply.compute_us / costs.path_us(0, reply.exit, reply.batches[0]))
    assert min(times["other"]) > 2.5
    assert max(times["net"]) < 1.5


def test_a_fixed_exit_that_no_network_has_is_refused_with_the_range(quiet_day: Day) -> None:
    with pytest.raises(JournalError, match=r"fixed-exit: exit is 9; expected 0 to 2"):
        imagine(*quiet_day, Change(policy="fixed-exit", options={"exit": 9}))
    with pytest.raises(JournalError, match=r"exits\.other is 3; expected 0 to 2"):
        imagine(*quiet_day, Change(policy="fixed-exit", options={"exits": {"other": 3}}))


def test_a_profile_that_does_not_fit_is_refused_in_words(quiet_day: Day) -> None:
    strange = msgspec.structs.replace(profile(1.0), network="elsewhere")
    with pytest.raises(JournalError, match="of network 'elsewhere'; the journal has net, other"):
        imagine(*quiet_day, Change(profile=strange))
    short = msgspec.structs.replace(sample_profile(segments_us=(1, 2), accuracies=(0.5, 0.9)), network="net")
    with pytest.raises(JournalError, match="has 2 exits, the journal 3"):
        imagine(*quiet_day, Change(profile=short))


def test_the_device_is_as_slow_and_as_unsteady_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "j"
    recorded_day(path, 2, count=400, setup=QUIET, faults=False, asked=[Bounds(latency_ms=20.0)])
    replayed, recording = record(path)
    noise = noise_of(recording, replayed.networks)
    assert noise.sigma == pytest.approx(0.02, rel=0.2)
    assert [at_s for at_s, _ in noise.steps] == [0.0]
    assert noise.steps[0][1] == pytest.approx(1.0, rel=0.01)
    twice = {cell: (n, 2 * took, logs, squares) for cell, (n, took, logs, squares) in recording.steps.items()}
    recording.steps = twice
    assert noise_of(recording, replayed.networks).steps[0][1] == pytest.approx(2.0, rel=0.01)
    assert noise_of(recording, replayed.networks, but={"net"}).steps[0][1] == pytest.approx(2.0, rel=0.01)


def test_requests_are_as_sure_as_they_were_and_beyond_like_samples_alike(quiet_day: Day) -> None:
    replayed, recording = quiet_day
    behaviours = what_if._behaviours(recording, replayed.networks, Random(0))
    for name, rows in recording.confidences.items():
        assert len(behaviours[name].confidence) == len(rows)
        for row, reached in zip(behaviours[name].confidence, rows, strict=True):
            assert {exit_index: row[exit_index] for exit_index in reached} == reached
    # As sure at one exit, so as often right there as the samples that were drawn from.
    noted = replayed.networks["net"].samples
    assert noted is not None
    confidence, correct, _, _ = noted.calibration()
    alike = Recording()
    alike.confidences["net"] = [{0: 0.95}] * 500
    drawn = what_if._behaviours(alike, replayed.networks, Random(0))["net"]
    near = abs(confidence[:, 0] - 0.95) < 0.03
    share = sum(row[0] for row in drawn.correct) / 500
    assert share == pytest.approx(correct[near, 0].mean(), abs=0.1)
