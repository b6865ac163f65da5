"""A journal played again: every decision and every end is the same, for every policy; a change is found and named."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isfunction
from pathlib import Path

import msgspec
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Failure, Infer
from delen.daemon.config import Limits
from delen.daemon.journal import Journal, read_journal
from delen.daemon.journal_records import (
    Advanced,
    AskedNoted,
    Chosen,
    JournalError,
    NetworkNoted,
    Opened,
    Record,
    Setup,
    Submitted,
)
from delen.daemon.recorded import Recorded, core
from delen.daemon.records import Ended, RunFailed, RunReturned
from delen.daemon.replay import Replayed, replay
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS, Outcome, Simulation
from delen.policies.exits import asked
from delen.policies.policy import policy_names
from delen.policies.rates import Terms
from delen.tests.many import many
from delen.tests.recorded_day import recorded_day
from delen.tests.recorded_swaps import swapping_day
from delen.tests.simulation import served

TERMS = {"a": Terms(rate_hz=100.0, burst=2, firm=(1, 3)), "b": Terms(weight=4.0), "c": Terms(device_share_max=0.2)}


def ends(outcomes: list[Outcome]) -> list[tuple[object, ...]]:
    """How requests ended, in order; logits and ids are not kept in a journal."""
    return [
        (
            outcome.tenant,
            outcome.network,
            outcome.sent_us,
            (reply.exit, reply.stop, reply.total_us, reply.broken, reply.energy_mj, reply.batches)
            if isinstance(reply := outcome.reply, Answer)
            else (reply.code, reply.message),
        )
        for outcome in outcomes
    ]


def exact(path: Path, simulation: Simulation) -> Replayed:
    replayed = replay(path)
    assert replayed.difference is None, f"seed {simulation.seed}: {replayed.difference}"
    assert ends(replayed.outcomes) == ends(simulation.outcomes), f"seed {simulation.seed}"
    assert replayed.decisions == len(simulation.runs)
    return replayed


def rewritten(path: Path, records: Sequence[Record]) -> Path:
    bodies = [msgspec.msgpack.encode(record) for record in records]
    path.write_bytes(b"".join(len(body).to_bytes(4, "little") + body for body in bodies))
    return path


@pytest.mark.parametrize("first", range(0, 200, 20))
@pytest.mark.slow
def test_bad_days_are_reproduced_exactly(tmp_path: Path, first: int) -> None:
    names = policy_names()
    for seed in range(first, first + 20):
        path = tmp_path / str(seed)
        policy, tenants = names[seed % len(names)] if seed % 2 else "stage-edf", TERMS if seed % 3 else {}
        setup = Setup(limits=Limits(queued_max=30), policy=policy, ahead_us=seed % 4 * 100, tenants=tenants)
        exact(path, recorded_day(path, seed, setup=setup))


def test_a_bad_day_is_reproduced_exactly(tmp_path: Path) -> None:
    simulation = recorded_day(tmp_path / "j", 2)
    kinds = {type(outcome.reply).__name__ for outcome in simulation.outcomes}
    assert kinds == {"Answer", "Failure", "Refusal"}
    replayed = exact(tmp_path / "j", simulation)
    assert replayed.ended == "the daemon ended"
    assert replayed.server.pending_count == 0


@pytest.mark.parametrize("policy", policy_names())
@pytest.mark.parametrize("seed", many(range(3), 1))
def test_every_policy_is_reproduced_exactly(tmp_path: Path, policy: str, seed: int) -> None:
    for correction in ("conformal", "static-p95", "last-10-p99")[: 3 if seed or policy == "stage-edf" else 1]:
        path = tmp_path / correction
        setup = Setup(limits=Limits(queued_max=30), policy=policy, correction=correction, ahead_us=200)
        exact(path, recorded_day(path, seed, setup=setup))


def test_every_event_of_the_core_is_recorded() -> None:
    asks = {"account", "can_run", "view", "running", "payloads", "wake_at", "learn", "open_of"}
    events = {name for name, member in vars(Server).items() if isfunction(member) and not name.startswith("_")} - asks
    missing = events - vars(Recorded).keys()
    assert not missing, (
        f"Recorded must write {', '.join(sorted(missing))} down, or this test know them as mere questions"
    )


def test_options_and_promises_are_part_of_the_journal(tmp_path: Path) -> None:
    setup = Setup(options={"spare_share": 0.9, "rebatch": False}, tenants=TERMS)
    replayed = exact(tmp_path / "j", recorded_day(tmp_path / "j", 3, count=150, setup=setup))
    assert replayed.opened.setup == setup


def test_another_decision_is_found_and_named(tmp_path: Path) -> None:
    recorded_day(tmp_path / "j", 4)
    records = list(read_journal(tmp_path / "j"))
    place, chosen = next((n, r) for n, r in enumerate(records) if isinstance(r, Chosen) and r.run and r.run.id == 5)
    assert chosen.run is not None
    first, *others = chosen.run.rows
    run = msgspec.structs.replace(chosen.run, rows=(msgspec.structs.replace(first, stop=first.stop + 1), *others))
    records[place] = msgspec.structs.replace(chosen, run=run)
    found = replay(rewritten(tmp_path / "other", records))
    assert found.difference is not None
    assert found.difference.now_us == chosen.now_us
    assert f"recorded run 5 of {run.network}" in str(found.difference)
    assert f"{first.ticket} to {first.stop + 1}" in found.difference.then
    assert f"{first.ticket} to {first.stop}" in found.difference.now


def test_another_end_is_found_and_named(tmp_path: Path) -> None:
    recorded_day(tmp_path / "j", 5)
    records = list(read_journal(tmp_path / "j"))
    place, came = next((n, r) for n, r in enumerate(records) if isinstance(r, Submitted) and r.said != "accepted")
    records[place] = msgspec.structs.replace(came, said="accepted")
    found = replay(rewritten(tmp_path / "other", records))
    assert found.difference is not None
    assert f"request {came.id.hex()} of tenant {came.tenant}" in str(found.difference)
    assert (found.difference.then, found.difference.now) == ("accepted", came.said)


def test_another_answer_is_found_and_named(tmp_path: Path) -> None:
    recorded_day(tmp_path / "j", 5, faults=False)
    records = list(read_journal(tmp_path / "j"))
    place, told = next((n, r) for n, r in enumerate(records) if isinstance(r, Advanced) and r.heard)
    then = msgspec.structs.replace(told.heard[0], numbers=(0, 1))
    records[place] = msgspec.structs.replace(told, heard=(then, *told.heard[1:]))
    found = replay(rewritten(tmp_path / "other", records))
    assert found.difference is not None
    assert found.difference.what == f"ExitDone of run {told.done.run}"
    assert found.difference.then.startswith(f"{then.what} {then.id.hex()} 0 1")


def test_who_is_dropped_without_a_run_is_dropped_again(tmp_path: Path) -> None:
    setup = Setup(policy="clockwork")
    simulation = recorded_day(tmp_path / "j", 1, setup=setup, faults=False, asked=[Bounds(latency_ms=1.9)])
    assert any(isinstance(r, Chosen) and r.run is None for r in read_journal(tmp_path / "j"))
    assert any(isinstance(outcome.reply, Failure) for outcome in simulation.outcomes)
    exact(tmp_path / "j", simulation)


def test_the_core_is_the_same_with_and_without_a_journal(tmp_path: Path) -> None:
    setup = Setup(Limits(queued_max=7), "latency-first", {"delay_price": 0.5}, tenants={"a": Terms(weight=4.0)})
    journal = Journal(tmp_path / "j", bytes_max=10_000, note=pytest.fail)
    cores = [core(setup, kept, lambda _: None, now_us=0, wall="") for kept in (None, journal)]
    journal.close()
    for server in cores:
        assert (server.policy.name, server.ledger.share("a").weight) == ("latency-first", 4.0)


def test_a_day_that_was_cut_short_is_reproduced_up_to_there(tmp_path: Path) -> None:
    simulation = recorded_day(tmp_path / "j", 6)
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: -len(whole) // 8])
    replayed = replay(tmp_path / "cut")
    assert replayed.difference is None
    assert replayed.ended.startswith("still being written, or cut off")
    assert 0 < len(replayed.outcomes) < len(simulation.outcomes)
    assert ends(replayed.outcomes) == ends(simulation.outcomes)[: len(replayed.outcomes)]


def test_the_daemon_goes_on_where_the_journal_reaches_its_limit(tmp_path: Path) -> None:
    notes: list[str] = []
    simulation = recorded_day(tmp_path / "j", 7, bytes_max=60_000, count=200, notes=notes)
    assert len(simulation.outcomes) == 200
    assert len(notes) == 1
    replayed = replay(tmp_path / "j")
    assert replayed.difference is None
    assert "journal_bytes_max" in replayed.ended
    assert 0 < len(replayed.outcomes) < 200


def test_a_network_that_was_never_noted_is_refused_in_words(tmp_path: Path) -> None:
    recorded_day(tmp_path / "j", 8)
    records = [record for record in read_journal(tmp_path / "j") if not isinstance(record, NetworkNoted)]
    with pytest.raises(JournalError, match=r"a request to network '\w+'.*noted so far are no networks"):
        replay(rewritten(tmp_path / "other", records))


def test_bounds_that_were_never_noted_are_refused_in_words(tmp_path: Path) -> None:
    recorded_day(tmp_path / "j", 8)
    records = [record for record in read_journal(tmp_path / "j") if not isinstance(record, AskedNoted)]
    with pytest.raises(JournalError, match="with bounds 0; noted so far are net, other and 0 bounds"):
        replay(rewritten(tmp_path / "other", records))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "best-ever"}, "policy 'best-ever'; expected one of"),
        ({"options": {"spice": 3}}, "spice"),
        ({"correction": "guess"}, "no correction is called 'guess'"),
        ({"correction": "static-p50"}, "was not served with correction 'static-p50'"),
    ],
)
def test_what_this_delen_cannot_play_is_refused_in_words(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    recorded_day(tmp_path / "j", 9, asked=[Bounds()])
    opened, *records = read_journal(tmp_path / "j")
    assert isinstance(opened, Opened)
    opened = msgspec.structs.replace(opened, setup=msgspec.structs.replace(opened.setup, **changes))
    with pytest.raises(JournalError, match=said):
        replay(rewritten(tmp_path / "other", [opened, *records]))


def test_who_waits_for_company_while_the_worker_is_gone_is_not_asked_for_without_end(tmp_path: Path) -> None:
    setup = Setup(policy="fixed-exit", options={"queue_delay_ms": 50.0})
    journal = Journal(tmp_path / "j", bytes_max=100_000, note=pytest.fail)
    simulation = Simulation([served()], server=Recorded(journal, setup))
    simulation.ask(0, "a", Bounds())
    simulation.kill_worker(10_000)
    (outcome,) = simulation.run()
    journal.close()
    assert isinstance(outcome.reply, Answer)
    exact(tmp_path / "j", simulation)


@pytest.mark.parametrize("returned", [True, False], ids=["returned", "failed"])
def test_what_comes_due_with_a_run_that_did_not_happen_is_part_of_that_event(tmp_path: Path, returned: bool) -> None:
    path = tmp_path / "j"
    journal = Journal(path, bytes_max=1_000_000, note=print)
    recorded = Recorded(journal, Setup())
    recorded.networks["net"] = served()
    recorded.worker_ready(0)
    bounds = Bounds(latency_ms=4.0, on_miss="drop")
    for number in (b"1", b"2"):
        verdict, _ = recorded.submit(0, "a", Infer(VERSION, number, "net", TENSORS, bounds), asked(bounds), b"\0" * 4)
        assert isinstance(verdict, int)
    run = recorded.next(0)
    assert run is not None
    assert len(run.rows) == 2
    effects = recorded.advance(9_000, RunReturned(run.id) if returned else RunFailed(run.id, "output", "NaN"))
    assert [type(effect) for effect in effects] == [Ended, Ended]
    journal.close()
    replayed = replay(path)
    assert replayed.difference is None
    assert len(replayed.outcomes) == 2


@pytest.mark.parametrize("first", many(range(0, 300, 5), 1))
def test_days_with_swaps_are_reproduced_exactly(tmp_path: Path, first: int) -> None:
    forgotten = 0
    for seed in range(first, first + 5):
        path = tmp_path / str(seed)
        swaps, retired = swapping_day(path, seed)
        replayed = replay(path)
        assert replayed.difference is None, f"seed {seed}: {replayed.difference}"
        assert {noted.name for noted in replayed.networks.values()} == {"net", "other"}
        assert {outcome.network for outcome in replayed.outcomes} == {"net", "other"}
        assert swaps > 2
        forgotten += retired
    assert forgotten
