"""What device time is worth: who moves its price, how far, and how it fades."""

from __future__ import annotations

import pytest

from delen.clients.wire import VERSION, Answer, Failure, Stop, TensorSpec
from delen.policies.scarcity import FADE_US, GAIN, Scarcity, rate_at_best
from delen.policies.view import Waiting
from delen.tests.exact import exact, waits

NET = exact()


def answer(*, stop: Stop = "deadline", total_us: int = 1_000) -> Answer:
    return Answer(
        version=VERSION,
        id=b"1",
        network="net",
        network_version="1",
        tensors=(TensorSpec("float32", (4,)),),
        label=1,
        exit=0,
        confidence=0.5,
        expected_accuracy=0.8,
        certificate="none",
        queue_us=0,
        compute_us=100,
        total_us=total_us,
        batches=(1,),
        energy_mj=None,
        energy_source="unknown",
        broken=(),
        stop=stop,
    )


def held(*, stage: int = 1, deadline_us: int = 10_000, **changed: object) -> Waiting:
    """A request with the answer of the exit before this stage, that could have gone to exit 2."""
    made = waits(1, NET, deadline_us=deadline_us, stage=stage)
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def lost(waiting: Waiting) -> float:
    return rate_at_best(waiting, NET.step(waiting.stage, NET.batch_useful[waiting.stage]).stop)


def test_while_everybody_gets_all_they_could_have_time_costs_nothing() -> None:
    scarcity = Scarcity()
    scarcity.ended(held(stage=3, target=2), answer(stop="last_exit"))
    assert scarcity.price(1_000) == 0


def test_an_answer_shallower_than_it_could_have_been_moves_the_price_towards_what_it_lost() -> None:
    scarcity, waiting = Scarcity(), held()
    scarcity.ended(waiting, answer())
    assert scarcity.price(1_000) == pytest.approx(GAIN * lost(waiting))
    for _ in range(200):
        scarcity.ended(waiting, answer())
    assert scarcity.price(1_000) == pytest.approx(lost(waiting), rel=1e-3)


def test_a_smaller_loss_than_the_price_leaves_it_where_it_is() -> None:
    scarcity, steep, flat = Scarcity(), held(), held(stage=2)
    assert lost(flat) < lost(steep)
    for _ in range(200):
        scarcity.ended(steep, answer())
    price = scarcity.price(1_000)
    scarcity.ended(flat, answer())
    assert scarcity.price(1_000) == pytest.approx(price)


def test_the_price_fades_while_nothing_is_lost() -> None:
    scarcity = Scarcity()
    scarcity.ended(held(), answer())
    assert scarcity.price(1_000 + int(FADE_US)) == pytest.approx(scarcity.price(1_000) / 2.71828, rel=1e-3)


@pytest.mark.parametrize(
    ("waiting", "reply"),
    [
        (held(), answer(stop="gate")),
        (held(), answer(stop="energy")),
        (held(), Failure(VERSION, b"1", "cancelled", "cancelled by the client")),
        (held(deadline_us=2**62), answer(stop="deadline")),
        (held(spare=True), answer()),
        (held(stage=2, target=1), answer()),
        (waits(1, NET, deadline_us=10_000), answer()),
    ],
    ids=["gate", "energy", "no answer", "no deadline", "beyond its share", "as deep as it wanted", "owed its answer"],
)
def test_only_depth_that_time_alone_prevented_counts(waiting: Waiting, reply: Answer | Failure) -> None:
    scarcity = Scarcity()
    scarcity.ended(waiting, reply)
    assert scarcity.price(1_000) == 0
