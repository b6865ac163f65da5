"""Admission: who is let in is served in time and harms nobody, and offers are true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer, Refusal
from delen.policies import admission, load
from delen.policies.admission import Queue
from delen.policies.exits import ExitPlan, asked, plan, usable_us
from delen.policies.load import Chunk, Cost
from delen.tests.exact import exact
from delen.tests.simulation import Outcome, Simulation

NET = exact()


def arrivals(*names: str) -> st.SearchStrategy[list[tuple[int, str, float, float | None]]]:
    """When, for which network, and with which bounds requests come: enough in 4 ms to be too many."""
    one = st.tuples(
        st.integers(0, 4_000),
        st.sampled_from(names),
        st.sampled_from([1.5, 2.0, 3.0, 5.0, 8.0, 20.0]),
        st.sampled_from([None, 0.85, 0.95, 0.97]),
    )
    return st.lists(one, max_size=30)


def served_all(requests: list[tuple[int, str, float, float | None]]) -> list[Outcome]:
    """What became of them on a device that keeps exactly to its profiles."""
    networks = [exact(), exact("heavy", segments_us=(300, 500, 900)), exact("light", segments_us=(30, 40, 90))]
    simulation = Simulation(networks, noise=0.0)
    for when_us, network, latency_ms, accuracy in requests:
        simulation.ask(when_us, "a", Bounds(latency_ms=latency_ms, accuracy=accuracy), network)
    return simulation.run()


@given(arrivals("net"))
def test_who_is_admitted_gets_all_that_was_promised_and_makes_nobody_late(
    requests: list[tuple[int, str, float, float | None]],
) -> None:
    for outcome in served_all(requests):
        if isinstance(outcome.reply, Refusal):
            continue
        assert isinstance(outcome.reply, Answer)
        assert outcome.reply.broken == ()
        # The guard that is kept for the way back to the tenant is not used up either.
        assert isinstance(outcome.bounds.latency_ms, float)
        assert outcome.ended_us - outcome.sent_us <= usable_us(outcome.bounds.latency_ms) + 2


@given(arrivals("net", "heavy", "light"))
def test_across_networks_nobody_admitted_is_late(requests: list[tuple[int, str, float, float | None]]) -> None:
    for outcome in served_all(requests):
        assert not isinstance(outcome.reply, Answer) or "latency_ms" not in outcome.reply.broken


# ---- one request against a queue written down by hand


def queue(*work: tuple[int, float], free_us: int = 0) -> Queue:
    """Work of (deadline, cost), by deadline."""
    return Queue([Chunk(due_us, due_us, Cost(cost_us, 0.0)) for due_us, cost_us in work], free_us)


def refused(
    latency_ms: float, waiting: Queue, accuracy: float | None = None, now_us: int = 0
) -> admission.Refused | None:
    wanted = asked(Bounds(latency_ms=latency_ms, accuracy=accuracy))
    chosen = plan(wanted, NET)
    assert isinstance(chosen, ExitPlan)
    return admission.admit(wanted, chosen, NET, waiting, now_us)


# The first exit takes 110 us; of a bound of 2 ms, 1,300 us are left for waiting and running.
CASES = st.lists(st.tuples(st.integers(100, 4_000), st.integers(1, 900)), max_size=5).map(sorted)


@given(CASES, st.integers(0, 500))
def test_admission_is_earliest_deadline_first_with_the_request_put_in_its_place(
    work: list[tuple[int, float]], free_us: int
) -> None:
    deadline_us = usable_us(2.0)
    cost = load.mandatory(NET, 0, 0, 1).mean_us

    def late(jobs: list[tuple[int, float, int]]) -> set[int]:
        busy_until, result = float(free_us), set()
        for due_us, cost_us, name in jobs:
            busy_until += cost_us
            if busy_until > due_us:
                result.add(name)
        return result

    others = [(due_us, cost_us, name) for name, (due_us, cost_us) in enumerate(work)]
    before = [job for job in others if job[0] <= deadline_us]
    everybody = [*before, (deadline_us, cost, -1), *others[len(before) :]]
    behind = {name for due_us, _, name in others if due_us > deadline_us}
    # What looks late without it too may be in time after all, since costs are estimated high: it is not delayed either.
    harms = late(everybody) & {-1, *behind}
    verdict = refused(2.0, queue(*work, free_us=free_us))
    # Times are rounded up to whole microseconds, so cases on the very edge may go either way.
    edge = late([(due - 2, cost_us, name) for due, cost_us, name in everybody]) != late(everybody)
    assert edge or (verdict is not None) == bool(harms)


def test_a_request_fits_up_to_its_deadline_and_no_further() -> None:
    assert refused(2.0, queue((1_000, 1_300 - 110 - 2))) is None
    assert refused(2.0, queue((1_000, 1_300 - 110 + 1))) is not None
    assert refused(2.0, queue((1_310, 1_310 - 110 - 2))) is None
    assert refused(2.0, queue((1_310, 1_310 - 110 + 2))) is not None
    assert refused(2.0, queue((1_310, 1_311))) is not None, "looks late without it too, and is not made later"


@given(CASES, st.integers(0, 500), st.sampled_from([1.0, 1.5, 2.0]))
def test_an_offer_is_admitted_by_the_same_queue(work: list[tuple[int, float]], free_us: int, latency_ms: float) -> None:
    waiting = queue(*work, free_us=free_us)
    verdict = refused(latency_ms, waiting)
    if verdict is not None:
        assert verdict.offer.latency_ms is not None
        assert verdict.offer.latency_ms > latency_ms
        assert refused(verdict.offer.latency_ms, waiting) is None


def test_a_shallower_exit_is_offered_where_there_is_time_for_one() -> None:
    waiting = queue((900, 800))
    verdict = refused(2.0, waiting, accuracy=0.97)
    assert verdict is not None
    assert verdict.offer.accuracy == 0.95
    assert refused(2.0, waiting, accuracy=0.95) is None


def test_without_a_latency_bound_time_is_no_reason_to_refuse() -> None:
    wanted = asked(Bounds(accuracy=0.9))
    chosen = plan(wanted, NET)
    assert isinstance(chosen, ExitPlan)
    assert admission.admit(wanted, chosen, NET, queue((10, 10**9)), 0) is None
