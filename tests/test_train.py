"""Training does what its plan says: bit for bit again after a kill, and without touching a frozen trunk."""

from __future__ import annotations

import copy
import dataclasses
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")

from delen.exits.checkpoint import Checkpoint, CheckpointError  # noqa: E402  (after the skip above)
from delen.exits.datasets import Labelled, Split  # noqa: E402
from delen.exits.fit_plan import FitPlan, PlanError  # noqa: E402
from delen.exits.predict import predict  # noqa: E402
from delen.exits.train import TrainingError, fit  # noqa: E402
from delen.tests.small_training import PLAN, SHIFTED, finished, same, small_data, small_network  # noqa: E402

FROZEN = dataclasses.replace(PLAN, trunk="frozen", optimiser="adamw", rate=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["weighted", "balanced"])
def test_a_network_learns_what_the_data_shows_and_every_exit_is_reported(loss: Any) -> None:
    plan = dataclasses.replace(PLAN, epochs=12, rate=0.1, loss=loss)
    data = small_data(160)
    network, seen = finished(fit(small_network(), data, plan))
    right = predict(network, data.test.images).argmax(2) == torch.from_numpy(data.test.labels)
    ends = [epoch for epoch in seen if epoch.accuracies is not None]
    assert len(ends) == plan.epochs
    assert ends[-1].accuracies == pytest.approx(tuple(right.float().mean(dim=1).tolist()))
    # A third by guessing.
    assert float(right[2].float().mean()) > 0.8
    assert ends[-1].losses[2] < 0.5 * ends[0].losses[2]
    assert not network.training


@pytest.mark.parametrize("augmented", [False, True])
def test_a_frozen_trunk_and_its_own_head_stay_bit_for_bit_while_the_others_learn(augmented: bool) -> None:
    network = small_network()
    before = copy.deepcopy(network)
    plan = dataclasses.replace(FROZEN, augmentation=SHIFTED if augmented else PLAN.augmentation)
    _, seen = finished(fit(network, small_data(), plan))
    assert same(network.segments, before.segments)
    assert same(network.heads[2], before.heads[2])
    assert not any(same(network.heads[index], before.heads[index]) for index in (0, 1))
    assert {len(epoch.losses) for epoch in seen} == {2}


def test_a_new_last_head_learns_too_and_teaches() -> None:
    network = small_network()
    before = copy.deepcopy(network)
    finished(fit(network, small_data(), dataclasses.replace(FROZEN, last_head="trained")))
    assert same(network.segments, before.segments)
    assert not any(same(ours, was) for ours, was in zip(network.heads, before.heads, strict=True))


@pytest.mark.parametrize(
    ("changed", "runs_expected"),
    [({}, 44), ({"augmentation": SHIFTED}, 5 * 40), ({"kept_bytes_max": 1000}, 8 + 5 * 40)],
    ids=["kept", "augmented", "no-room"],
)
def test_the_trunk_runs_once_per_picture_where_nothing_changes(changed: dict[str, Any], runs_expected: int) -> None:
    runs: list[int] = []
    network = small_network()
    network.segments[0].register_forward_pre_hook(lambda _, inputs: runs.append(len(inputs[0])))
    watched = Labelled(np.zeros((3, 1, 6, 6), np.uint8), np.zeros(3, np.int64))
    plan = dataclasses.replace(FROZEN, epochs=5, **changed)
    finished(fit(network, small_data()._replace(test=watched), plan))
    assert sum(runs) == runs_expected + 3


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 4, 6, 11, 14])
@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        dataclasses.replace(PLAN, augmentation=SHIFTED, precision="bf16", loss="balanced"),
        FROZEN,
        dataclasses.replace(FROZEN, last_head="trained", augmentation=SHIFTED),
    ],
    ids=["joint", "joint-augmented", "frozen", "frozen-augmented"],
)
def test_a_killed_training_goes_on_bit_for_bit(plan: FitPlan, stop_after: int, tmp_path: Path) -> None:
    """Five steps an epoch, saved before every second one; killed after some of the 15."""
    whole, _ = finished(fit(small_network(), small_data(), plan))
    clock = count(0, 30)
    place = tmp_path / "checkpoint.npz"
    first = fit(small_network(), small_data(), plan, checkpoint=Checkpoint(place, clock=lambda: next(clock)))
    for _ in range(stop_after):
        next(first)
    first.close()
    torch.manual_seed(99)
    resumed, seen = finished(fit(small_network(), small_data(), plan, checkpoint=Checkpoint(place)))
    assert same(whole, resumed)
    assert len(seen) <= 15 - (stop_after - 1) // 5 * 5


def test_what_is_resumed_must_be_the_same_training(tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "checkpoint.npz")
    finished(fit(small_network(), small_data(), PLAN, checkpoint=place))
    for plan, network, data, what in (
        (dataclasses.replace(PLAN, epochs=4), small_network(), small_data(), "epochs was 3, now 4"),
        (PLAN, small_network(5), small_data(), "starting weights was"),
        (PLAN, small_network(), small_data(seed=2), "training data was"),
    ):
        with pytest.raises(CheckpointError, match=rf"another training: {what}.*--restart"):
            finished(fit(network, data, plan, checkpoint=place))


def test_the_seed_alone_decides() -> None:
    first, _ = finished(fit(small_network(), small_data(), PLAN))
    second, _ = finished(fit(small_network(), small_data(), PLAN))
    third, _ = finished(fit(small_network(), small_data(), dataclasses.replace(PLAN, seed=8)))
    assert same(first, second)
    assert not same(first, third)


def test_a_loss_that_is_no_number_ends_training_and_says_where() -> None:
    data = small_data()
    broken = Labelled(np.full(data.train.images.shape, np.float32(3e38)), data.train.labels)
    with pytest.raises(TrainingError, match=r"became (nan|inf) in epoch 1, step 1; a lower --rate"):
        finished(fit(small_network(), Split(broken, broken, broken), PLAN))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"exit_weights": (1.0, 1.0)}, "2 exit weights for 3 exits"),
        ({"precision": "fp16"}, "fp16 is for GPUs"),
        ({"batch": 45}, "44 training samples do not fill one batch of 45"),
    ],
)
def test_a_plan_that_does_not_suit_is_refused(changed: dict[str, Any], what: str) -> None:
    with pytest.raises(PlanError, match=what):
        finished(fit(small_network(), small_data(), dataclasses.replace(PLAN, **changed)))


def test_only_pictures_can_be_moved() -> None:
    vectors = Labelled(np.zeros((44, 36), np.float32), np.zeros(44, np.int64))
    with pytest.raises(PlanError, match="no pictures; leave out --shift"):
        finished(
            fit(
                small_network(),
                Split(vectors, vectors, vectors),
                dataclasses.replace(PLAN, augmentation=SHIFTED),
            )
        )
