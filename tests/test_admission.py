"""Admission: who is let in is served in time and harms nobody, and offers are true."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer, Refusal
from delen.policies.exits import usable_us
from delen.tests.exact import exact
from delen.tests.simulation import Simulation

ACCURACIES = (None, 0.85, 0.95, 0.97)
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 4_000),
        st.sampled_from(["net", "heavy"]),
        st.sampled_from([1.5, 2.0, 3.0, 5.0, 8.0, 20.0]),
        st.sampled_from(ACCURACIES),
    ),
    max_size=30,
)


@given(ARRIVALS)
@settings(max_examples=150)
def test_who_is_admitted_is_in_time_when_runs_take_what_was_predicted(
    arrivals: list[tuple[int, str, float, float | None]],
) -> None:
    simulation = Simulation([exact(), exact("heavy", segments_us=(300, 500, 900))], noise=0.0)
    for when_us, network, latency_ms, accuracy in arrivals:
        simulation.ask(when_us, "a", Bounds(latency_ms=latency_ms, accuracy=accuracy), network)
    for outcome in simulation.run():
        if isinstance(outcome.reply, Refusal):
            continue
        assert isinstance(outcome.reply, Answer)
        assert isinstance(outcome.bounds.latency_ms, float)
        # Not only the bound itself: the guard that is kept for the way back is not used up either.
        assert outcome.ended_us - outcome.sent_us <= usable_us(outcome.bounds.latency_ms) + 5, outcome
        assert outcome.reply.broken == ()
